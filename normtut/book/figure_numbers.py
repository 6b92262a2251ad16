"""What a figure shows, as numbers, stored beside its picture so that a test can compare what was drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = ["MIME_TYPE", "figure_numbers"]

#: The type under which a notebook stores `figure_numbers` beside a picture.
MIME_TYPE = "application/vnd.normtut.figure+json"

_POINTS = 32  # So many values of a longer series are kept, evenly spaced.
_SIDES = ((2, 12), (8, 8), (10**9, 6))  # Up to so many images, thumbnails have so many pixels a side.

Floats = NDArray[np.float64]


def figure_numbers(fig: Figure) -> dict[str, Any]:
    """Read off a figure what it shows: words, limits, curves, bars, points, and each image as a thumbnail.

    >>> import matplotlib.pyplot as plt
    >>> fig, ax = plt.subplots()
    >>> line = ax.plot([3, 2, 1.23456], label="loss", color="red")
    >>> figure_numbers(fig)["axes"][0]["lines"]
    [{'label': 'loss', 'n': 3, 'x': '0 … 2', 'y': '3 2 1.235', 'rgb': 'ff0000'}]
    >>> plt.close(fig)

    Args:
        fig: a figure of matplotlib; nothing in it is changed.

    Returns:
        What JSON can hold. Numbers have four significant digits and stand in one string for each series,
        since notebooks give every item of a list a line of its own. Keys that begin with ``x`` or ``y``
        are in the units of that axis. A series of more than 32 values is thinned to 32; then the lowest
        value within the axis, the mean and the highest are added (``xrange``, ``yrange``). Colours and
        thumbnails are hexadecimal RGB. Of an image there are also the standard deviation of each channel
        (``std``) and the mean step between neighbours (``step``), both in levels of 255.
    """
    images = sum(len(ax.images) for ax in fig.axes)
    side = next(side for count, side in _SIDES if images <= count)
    found = {
        "texts": [t.get_text() for t in _titles(fig) if t.get_text()],
        "legend": [t.get_text() for legend in fig.legends for t in legend.get_texts()],
        "axes": [numbers for ax in fig.axes if (numbers := _axes(ax, side))],
    }
    return _without_empty(found)


def _titles(fig: Figure) -> list[Any]:
    own = (getattr(fig, name, None) for name in ("_suptitle", "_supxlabel", "_supylabel"))
    titles = [t for t in own if t is not None]
    return titles + [t for t in fig.texts if t not in titles]


def _axes(ax: Axes, side: int) -> dict[str, Any]:
    legend = ax.get_legend()
    found = _without_empty(
        {
            "title": ax.get_title(),
            "lines": [_line(line, ax) for line in ax.lines],
            "bars": [_boxes(_label(c), c.patches) for c in ax.containers if hasattr(c, "patches")],
            "patches": _patches(ax),
            "collections": [_collection(c, ax, side) for c in ax.collections],
            "images": [_thumbnail(im, im.get_array(), side) for im in ax.images],
            "texts": [t.get_text() for t in ax.texts if t.get_text()],
            "legend": [t.get_text() for t in legend.get_texts()] if legend else [],
        }
    )
    if not found and not ax.axison:
        return {}  # a spare panel
    if ax.axison:
        found |= _without_empty(
            {
                "xlabel": ax.get_xlabel(),
                "ylabel": ax.get_ylabel(),
                "xticks": _tick_names(ax.xaxis),
                "yticks": _tick_names(ax.yaxis),
                "xscale": ax.get_xscale().replace("linear", ""),
                "yscale": ax.get_yscale().replace("linear", ""),
            }
        )
    return found | {"xlim": _write(ax.get_xlim()), "ylim": _write(ax.get_ylim())}


def _line(line: Any, ax: Axes) -> dict[str, Any]:
    return _series(line, line.get_xdata(orig=False), line.get_ydata(orig=False), [line.get_color()], ax)


def _patches(ax: Axes) -> list[dict[str, Any]]:
    """Those that belong to no bars: steps and polygons with their corners, all others with their boxes."""
    from matplotlib.patches import FancyArrowPatch, Polygon, StepPatch

    in_bars = {id(p) for c in ax.containers for p in getattr(c, "patches", ())}
    found, boxes = [], []
    for patch in ax.patches:
        if id(patch) in in_bars or isinstance(patch, FancyArrowPatch):
            continue  # an arrow's path depends on the layout
        color = [patch.get_facecolor() if patch.get_fill() else patch.get_edgecolor()]
        if isinstance(patch, StepPatch):
            values, edges, _ = patch.get_data()
            found.append(_series(patch, edges, values, color, ax))
        elif isinstance(patch, Polygon) and len(patch.get_xy()) > 5:
            found.append(_series(patch, patch.get_xy()[:, 0], patch.get_xy()[:, 1], color, ax))
        else:  # a span is a polygon in matplotlib 3.8, and a rectangle later
            boxes.append(patch)
    return found + ([_boxes("", boxes)] if boxes else [])


def _boxes(label: str, patches: Sequence[Patch]) -> dict[str, Any]:
    boxes = np.array(
        [p.get_path().transformed(p.get_patch_transform()).get_extents().extents for p in patches]
    ).reshape(-1, 4)
    columns = {name: _write(_thin(v)) for name, v in zip(("x0", "y0", "x1", "y1"), boxes.T, strict=True)}
    return _entry(label, len(boxes), columns, [p.get_facecolor() for p in patches])


def _collection(collection: Any, ax: Axes, side: int) -> dict[str, Any]:
    from matplotlib.collections import PathCollection, QuadMesh

    if isinstance(collection, QuadMesh) and (values := collection.get_array()) is not None:
        rows, columns = (n - 1 for n in np.shape(collection.get_coordinates())[:2])
        if values.size == rows * columns:
            return _thumbnail(collection, values.reshape(rows, columns), side)
    collection.update_scalarmappable()  # as drawing does: values become colours
    filled = collection.get_facecolor()
    colors = filled if len(filled) else collection.get_edgecolor()
    if isinstance(collection, PathCollection):
        points: Floats = np.ma.filled(np.ma.asarray(collection.get_offsets(), dtype=float), np.nan)
    else:
        paths = [path.vertices for path in collection.get_paths() if len(path.vertices)]
        points = np.concatenate([np.empty((0, 2)), *paths])
    return _series(collection, points[:, 0], points[:, 1], colors, ax)


def _thumbnail(mappable: Any, values: Any, side: int) -> dict[str, Any]:
    """An image as it is seen: after the colour map, in ``side``² means of its pixels, and how busy it is."""
    from PIL import Image

    rgb = np.ascontiguousarray(mappable.to_rgba(values, bytes=True)[..., :3])
    small = Image.fromarray(rgb).resize((side, side), Image.Resampling.BOX)
    levels = rgb.astype(float)
    steps = [np.abs(np.diff(levels, axis=axis)).ravel() for axis in (0, 1)]
    step = np.concatenate(steps).mean() if levels[..., 0].size > 1 else 0.0
    return {
        "size": f"{rgb.shape[0]} × {rgb.shape[1]}",
        "std": " ".join(f"{s:.1f}" for s in levels.std((0, 1))),
        "step": f"{step:.2f}",
        "rgb": small.tobytes().hex(),
    }


def _series(artist: Artist | Any, x: Any, y: Any, colors: Iterable[Any], ax: Axes) -> dict[str, Any]:
    columns = {}
    for name, values, limits in (("x", _floats(x), ax.get_xlim()), ("y", _floats(y), ax.get_ylim())):
        n = len(values)
        if name == "x" and n > 2 and np.array_equal(values, np.arange(n) + values[0]):
            columns[name] = f"{values[0]:g} … {values[-1]:g}"  # such as steps, epochs or channels
            continue
        columns[name] = _write(_thin(values))
        low, high = sorted(limits)
        edge = 1e-6 * (high - low)  # what lies on the edge is seen
        seen = values[(low - edge <= values) & (values <= high + edge)]
        if n > _POINTS and len(seen):
            columns[f"{name}range"] = _write([seen.min(), seen.mean(), seen.max()])
    return _entry(_label(artist), len(_floats(y)), columns, colors)


def _entry(label: str, n: int, columns: dict[str, str], colors: Iterable[Any]) -> dict[str, Any]:
    from matplotlib.colors import to_rgb

    rgb = [to_rgb(color) for color in colors]
    rgb = rgb[:1] if len(set(rgb)) == 1 else [rgb[i] for i in _picks(len(rgb))]
    levels = (np.array(rgb).reshape(-1, 3) * 255).round().astype(np.uint8)
    return {**({"label": label} if label else {}), "n": n, **columns, "rgb": levels.tobytes().hex()}


def _label(artist: Artist | Any) -> str:
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label


def _tick_names(axis: Axis) -> list[str]:
    """The names on an axis of names; numbers on ticks follow from the limits."""
    from matplotlib.category import StrCategoryFormatter
    from matplotlib.ticker import FixedFormatter

    formatter = axis.get_major_formatter()
    if not isinstance(formatter, (FixedFormatter, StrCategoryFormatter)):
        return []
    return [str(name) for name in formatter.format_ticks(list(axis.get_majorticklocs()))]


def _picks(n: int) -> NDArray[np.int64]:
    return np.linspace(0, n - 1, min(n, _POINTS)).round().astype(np.int64)


def _thin(values: Floats) -> Floats:
    return values[_picks(len(values))]


def _floats(values: Any) -> Floats:
    return np.asarray(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)).ravel()


def _write(values: Iterable[float]) -> str:
    return " ".join(f"{float(v) + 0.0:.4g}" for v in values)


def _without_empty(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if value}
