"""The book's figures: one look, colours that survive colour blindness, pictures shown as they are."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .axes import NORMS, axes_explorer, axes_picture, index_sets, not_empty
from .diagrams import style_network
from .explorers import Explorer, clipping_explorer, mixing_explorer, running_explorer
from .in_notebook import store_figures
from .palette import COLORS, NORM_COLORS, RGB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "NORMS",
    "RGB",
    "Explorer",
    "axes_explorer",
    "axes_picture",
    "bars",
    "by_rank",
    "clipping_explorer",
    "curves",
    "descents",
    "error_bars",
    "histograms",
    "index_sets",
    "messages",
    "mixing_explorer",
    "orientations",
    "painted",
    "roundtrip_errors",
    "running_explorer",
    "scatter",
    "setup",
    "show",
    "spreads",
    "stacked",
    "style_network",
]

#: Of a figure, in inches. On a phone an inch has some 75 pixels then, and words of 10 points have ten.
WIDTH = 4.8

_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 5)))


def setup() -> None:
    """Give every figure of a notebook the book's look; call it once, after the imports.

    In a notebook figures are white in light and dark mode alike. Those that hold photographs are stored as
    JPEG, all others as PNG of 256 colours: a notebook stays small, and its lines stay sharp. Beside its
    picture each figure carries `figure_numbers`, which a test can compare, and what the book's page shows in
    its stead: a chart as SVG, a gallery's pictures one by one. Without IPython there is no notebook to store
    them, and only the look is set.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 2.7),
            "figure.dpi": 130,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.prop_cycle": cycler(color=COLORS) + cycler(linestyle=_DASHES),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "lines.linewidth": 2,
            "legend.frameon": False,
            "image.interpolation": "nearest",
        }
    )
    plt.switch_backend(mpl.get_backend())  # now, since it registers formatters that ours then replace
    store_figures()


def show(
    images: Mapping[str, Tensor] | Sequence[Tensor] | Tensor,
    *,
    ncols: int | None = None,
    width: float = 2.1,
    clip: bool = False,
) -> Figure:
    """Draw pictures side by side, each as it is: nothing is rescaled.

    >>> figure = show({"dark": torch.zeros(3, 8, 8), "bright": torch.ones(3, 8, 8)})
    >>> [ax.get_title() for ax in figure.axes]
    ['dark', 'bright']

    Args:
        images: ``{title: picture}``, a sequence of pictures, or one batch; each (3, H, W), (1, H, W),
            (H, W) or a batch of one of these, uint8 or float in [0, 1].
        ncols: pictures in a row; all of them by default.
        width: of one picture, in inches.
        clip: allow floats outside [0, 1], and clip them as ``imshow`` does.

    Returns:
        The figure.

    Raises:
        ValueError: for floats outside [0, 1] (or NaN) without ``clip``, which ``imshow`` would clip silently;
            for another shape, and for pictures without pixels.
        TypeError: for pictures that are no tensors.
    """
    try:
        titled = dict(images) if isinstance(images, Mapping) else dict(enumerate(images))
    except TypeError as error:
        raise TypeError(
            "images must be {title: picture}, a sequence of pictures or a batch, "
            f"got {type(images).__name__} ({error})"
        ) from error
    pictures = {title: _as_picture(title, x, clip) for title, x in titled.items()}
    not_empty("images", pictures)
    ncols = min(ncols or len(pictures), len(pictures))
    nrows = math.ceil(len(pictures) / ncols)
    aspect = max(p.shape[0] / p.shape[1] for p in pictures.values())
    heading = 0.3 if isinstance(images, Mapping) else 0.0
    fig, axes = _gallery(nrows, ncols, width, width * aspect, heading)
    for ax, (title, picture) in zip(axes, pictures.items(), strict=False):
        levels = 255 if picture.dtype == np.uint8 else 1
        ax.imshow(picture, cmap="gray", vmin=0, vmax=levels, interpolation="antialiased")
        if isinstance(images, Mapping):
            ax.set_title(str(title), fontsize=10)
    return fig


def histograms(
    x: Mapping[str, Tensor],
    *,
    bins: int = 64,
    value_range: tuple[float, float] | None = None,
    ncols: int | None = None,
    height: float = 2.2,
) -> Figure:
    """Draw the distribution of each channel, one panel for each tensor, on one common horizontal axis.

    >>> figure = histograms({"noise": torch.rand(2, 3, 8, 8)})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['R', 'G', 'B']

    Args:
        x: ``{title: tensor}``, each (…, C, H, W) with C = 3 (drawn in red, green, blue) or 1.
        bins: number of bins over the range.
        value_range: lowest and highest value; the common range of all tensors by default.
        ncols: panels in a row; all of them by default.
        height: of a panel, in inches.

    Raises:
        ValueError: for tensors of another shape, and for those without values.
    """
    import matplotlib.pyplot as plt

    not_empty("x", x)
    for title, v in x.items():
        if v.ndim < 3 or v.numel() == 0:
            raise ValueError(f"x[{title!r}] must be (…, C, H, W) and not empty, got {tuple(v.shape)}")
    channels = {t: v.detach().double().cpu().movedim(-3, 0).flatten(1).numpy() for t, v in x.items()}
    if value_range is None:
        value_range = (min(c.min() for c in channels.values()), max(c.max() for c in channels.values()))
    ncols = min(ncols or len(x), len(x))
    nrows = math.ceil(len(x) / ncols)
    fig, axes = plt.subplots(
        nrows,
        ncols,
        squeeze=False,
        sharex=True,
        sharey=True,
        figsize=(WIDTH, 0.4 + height * nrows),
    )
    for ax, (title, values) in zip(axes.flat, channels.items(), strict=False):
        colors = RGB if len(values) == 3 else COLORS
        for c, (v, color, dash) in enumerate(zip(values, colors, _DASHES, strict=False)):
            density, edges = np.histogram(v, bins=bins, range=value_range, density=True)
            label = "RGB"[c] if len(values) == 3 else f"channel {c}"
            ax.stairs(density, edges, color=color, linestyle=dash, linewidth=1.6, label=label)
        ax.set_title(title, fontsize=11)
    _finish_columns(axes, len(x), "value")
    for ax in axes[:, 0]:
        ax.set_ylabel("density")
    axes[0, 0].legend(fontsize=9)
    return fig


def painted(x: Tensor) -> tuple[Tensor, list[str]]:
    """What ``plt.imshow`` makes of a tensor: the pixels that it paints, and what it says about them.

    >>> pixels, messages = painted(torch.tensor([-2.0, 0.0, 0.5, 1.0, 3.0]).expand(3, 1, 5))
    >>> pixels[0]
    tensor([[  0,   0, 127, 255, 255]], dtype=torch.uint8)
    >>> messages[0].split(" (")[0]
    'Clipping input data to the valid range for imshow with RGB data'

    Nothing is clipped or rescaled here: matplotlib draws on a canvas with one dot for each pixel of the
    picture, and the dots are read back. Its log messages are caught instead of being written to stderr.

    Args:
        x: (3, H, W), (1, H, W) or (H, W); any values that ``imshow`` accepts.

    Returns:
        ``(pixels, messages)``: uint8 of shape (3, H, W), and the texts that matplotlib logged.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = _channels_last("x", x)
    height, width = picture.shape[:2]
    dpi = 100  # its value does not matter: width and height below make one dot of each pixel
    fig = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    canvas = FigureCanvasAgg(fig)
    with _log_of("matplotlib.image") as messages:
        ax.imshow(picture, aspect="auto", interpolation="nearest")
        canvas.draw()  # type: ignore[no-untyped-call]
    dots = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return torch.from_numpy(dots).movedim(-1, 0), messages


def roundtrip_errors(
    offsets: Mapping[str, Mapping[str, Tensor]], safe: Mapping[str, tuple[float, float]]
) -> Figure:
    """Draw how far from its own level each of the 256 levels comes back, one panel below the other.

    >>> figure = roundtrip_errors({"rounded": {"float32": torch.zeros(256)}}, {"rounded": (-0.5, 0.5)})
    >>> figure.axes[0].get_title()
    'rounded'

    Args:
        offsets: ``{recipe: {label: offsets}}``, each tensor of shape (C, 256) or (256,): what the recipe has
            just before it drops or rounds the fraction, minus the level that went in.
        safe: ``{recipe: (low, high)}``: the offsets that still give the right level; drawn as a band.
    """
    import matplotlib.pyplot as plt

    not_empty("offsets", offsets)
    size = (WIDTH, 0.9 + 1.6 * len(offsets))
    fig, axes = plt.subplots(len(offsets), 1, squeeze=False, sharex=True, figsize=size)
    for ax, (recipe, series) in zip(axes.flat, offsets.items(), strict=True):
        ax.axhspan(*safe[recipe], color="0.88", zorder=0, label="right level")
        for (label, offset), color, marker in zip(series.items(), COLORS, "osv^", strict=False):
            values = offset.detach().double().cpu().reshape(-1, 256)
            levels = torch.arange(256).expand_as(values)
            ax.plot(
                levels.flatten(), values.flatten(), marker, color=color, ms=2.4, ls="", mew=0, label=label
            )
        ax.set_title(recipe, fontsize=11)
        ax.set(ylim=(-1.15, 1.15), xticks=(0, 64, 128, 192, 255), ylabel="levels too high")
    axes[-1, 0].set_xlabel("level that went in")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, markerscale=3)
    return fig


def curves(
    ys: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    xlabel: str = "step",
    ylabel: str = "loss",
) -> Axes:
    """Draw one labelled line for each entry of ``ys``, told apart by colour and by dash.

    >>> ax = curves({"batch": [2.3, 1.1, 0.7], "group": [2.3, 1.3, 0.9]})
    >>> [line.get_label() for line in ax.lines]
    ['batch', 'group']

    Args:
        ys: ``{label: values}``.
        x: where the values are; 0, 1, … by default.
        xlabel: what ``x`` is.
        ylabel: what a value is.
    """
    import matplotlib.pyplot as plt

    not_empty("ys", ys)
    ax = plt.subplots()[1]
    for (label, y), look in zip(ys.items(), _looks(ys), strict=True):
        ax.plot(range(len(y)) if x is None else x, y, label=label, **look)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def descents(
    panels: Mapping[str, tuple[Callable[[Tensor], Tensor], Tensor, Tensor]], *, xlabel: str, ylabel: str
) -> Figure:
    """Draw the contours of losses of two weights, and a path of gradient descent over each.

    >>> path = torch.tensor([[0.0, 0.0], [0.8, 0.4], [1.0, 0.9]])
    >>> bowl = lambda w: (w - 1).square().sum(-1)
    >>> figure = descents({"a bowl": (bowl, path, torch.ones(2))}, xlabel="first", ylabel="second")
    >>> figure.axes[0].get_title()
    'a bowl'

    Both axes have one scale, so a valley is as narrow as it looks.

    Args:
        panels: ``{title: (loss, path, lowest)}``: a function from points (…, 2) to losses (…), the points
            (steps + 1, 2) that the descent went through, and the point (2,) of the lowest loss, which
            becomes a star.
        xlabel: of every panel.
        ylabel: of every panel.
    """
    import matplotlib.pyplot as plt

    not_empty("panels", panels)
    fig, axes = plt.subplots(len(panels), 1, squeeze=False, figsize=(WIDTH, 2.1 * len(panels)))
    for ax, (title, (loss, path, lowest)) in zip(axes.flat, panels.items(), strict=True):
        path, lowest = path.detach(), lowest.detach()
        points = torch.cat([path, lowest[None]])
        margin = 0.15 * (points.amax(0) - points.amin(0)).max()
        low, high = points.amin(0) - margin, points.amax(0) + margin
        axis = [torch.linspace(float(a), float(b), 101) for a, b in zip(low, high, strict=True)]
        grid = torch.stack(torch.meshgrid(*axis, indexing="xy"), dim=-1).to(path)
        bottom, start = float(loss(lowest)), float(loss(path[0]))
        # Evenly spaced contours of a bowl: its loss grows with the square of the distance.
        levels = [bottom + (start - bottom) * (k / 6) ** 2 for k in range(1, 8)]
        ax.contour(*axis, loss(grid).cpu(), levels=levels, colors="0.7", linewidths=1)
        ax.plot(*path.cpu().T, "o-", color=COLORS[5], ms=3.5, lw=1.4, zorder=3)
        ax.plot(*lowest.cpu(), "*", color=COLORS[0], ms=13, zorder=4)
        for point, name, above in ((path[0], "start", 9), (lowest, "lowest loss", -19)):
            where = {"xytext": (0, above), "textcoords": "offset points", "ha": "center"}
            ax.annotate(name, point.tolist(), fontsize=10, **where)
        ax.set(title=title, aspect="equal", xlabel=xlabel, ylabel=ylabel)
        ax.grid(visible=False)
    return fig


def bars(
    panels: Mapping[str, Mapping[str, float]],
    *,
    xlabel: str = "",
    marks: Mapping[str, float] | None = None,
    percent: bool = False,
) -> Figure:
    """Draw named values as bars with their numbers written beside them, one panel for each group.

    >>> figure = bars({"chapter 3": {"pixels": 0.25, "images": 0.2}}, xlabel="std")
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['0.25', '0.2']

    Args:
        panels: ``{title: {name: value}}``; the names of the first panel label all of them.
        xlabel: what a value is.
        marks: ``{title: value}``, a dotted line in that panel; for what chance would give, for instance.
        percent: write values as percentages.
    """
    import matplotlib.pyplot as plt

    not_empty("panels", panels)
    rows = max(map(len, panels.values()))
    size = (WIDTH, 1.0 + 0.42 * rows)
    fig, axes = plt.subplots(1, len(panels), squeeze=False, sharey=True, figsize=size)
    for ax, (title, values) in zip(axes.flat, panels.items(), strict=True):
        drawn = ax.barh(list(values), list(values.values()), color=COLORS[: len(values)], height=0.65)
        ax.bar_label(drawn, [f"{v:.0%}" if percent else f"{v:.3g}" for v in values.values()], padding=3)
        if marks and title in marks:
            ax.axvline(marks[title], color="black", linestyle=":", linewidth=1.5)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel(xlabel)
        ax.margins(x=0.16)
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    if percent:
        for ax in axes.flat:
            ax.set(xlim=(0, 1.15), xticks=(0, 0.5, 1))
            ax.xaxis.set_major_formatter("{x:.0%}")
    return fig


def stacked(parts: Mapping[str, Sequence[float]], labels: Sequence[str], *, xlabel: str = "") -> Figure:
    """Draw one bar for each label, made up of the parts, each part with its number.

    >>> figure = stacked({"within": [0.04, 0.05], "between": [0.02, 0.01]}, labels=["red", "green"])
    >>> len(figure.axes[0].patches)
    4

    Args:
        parts: ``{name: one value for each label}``.
        labels: of the bars.
        xlabel: what the length of a bar is.
    """
    import matplotlib.pyplot as plt

    not_empty("parts", parts)
    fig, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.2 * len(parts) + 0.45 * len(labels)))
    left = np.zeros(len(labels))
    for (name, values), color in zip(parts.items(), COLORS, strict=False):
        drawn = ax.barh(list(labels), values, left=left, label=name, color=color, height=0.65, alpha=0.75)
        ax.bar_label(drawn, fmt=lambda v: f"{v:.3f}".lstrip("0"), label_type="center", fontsize=9)
        left = left + np.asarray(values)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)
    fig.legend(loc="outside upper center", fontsize=9)
    return fig


def spreads(means: Sequence[float], stds: Sequence[float], *, ylabel: str = "value") -> Figure:
    """Draw each image as a dot at its mean with a bar of one std either way, from dark to bright.

    >>> figure = spreads(means=[0.7, 0.2], stds=[0.1, 0.3])
    >>> figure.axes[0].lines[1].get_ydata()
    array([0.2, 0.7])

    A line and a band show the mean of all pixels and one std of theirs either way, for images of equal size.

    Args:
        means, stds: one number for each image.
        ylabel: what is measured.
    """
    import matplotlib.pyplot as plt

    m, s = np.asarray(means), np.asarray(stds)
    order = m.argsort()
    centre, std = m.mean(), math.sqrt((s**2).mean() + m.var())
    fig, ax = plt.subplots(figsize=(WIDTH, 3.2))
    ax.axhspan(centre - std, centre + std, color=COLORS[1], alpha=0.25, label="all pixels: mean ± std")
    ax.axhline(centre, color=COLORS[1], lw=1.5)
    ax.errorbar(range(len(m)), m[order], s[order], fmt="o", ms=4, capsize=3, label="one image: mean ± std")
    ax.set(xlabel="image, from dark to bright", ylabel=ylabel, xticks=[])
    fig.legend(loc="outside upper center", ncols=2, fontsize=9)
    return fig


def by_rank(panels: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Draw one vector for each process as dots, channel by channel, one panel for each way to get them.

    >>> figure = by_rank({"each for itself": [torch.rand(4), torch.rand(4)]})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['rank 0', 'rank 1']

    Args:
        panels: ``{title: [running variances of rank 0, those of rank 1, …]}``, all of the same length.
    """
    import matplotlib.pyplot as plt

    not_empty("panels", panels)
    figsize = (WIDTH, 0.5 + 2.1 * len(panels))
    fig, axes = plt.subplots(len(panels), 1, squeeze=False, sharex=True, sharey=True, figsize=figsize)
    for ax, (title, vectors) in zip(axes.flat, panels.items(), strict=True):
        for rank, (v, marker, size) in enumerate(zip(vectors, "os^D", (90, 30, 30, 30), strict=False)):
            look = {"s": size, "c": COLORS[rank], "marker": marker, "zorder": 3}
            ax.scatter(range(len(v)), v.tolist(), label=f"rank {rank}", **look)
        ax.set(title=title, ylabel="running variance", xticks=range(len(v)))
    axes[-1, 0].set_xlabel("channel")
    axes[0, 0].legend()
    return fig


def messages(panels: Mapping[str, Sequence[tuple[str, str]]], *, ranks: int = 2) -> Figure:
    """Draw who sends what when: a lane of work for each process, and an arrow where they exchange a message.

    >>> figure = messages({"one sum": [("count", "n"), ("go on", "")]})
    >>> [text.get_text() for text in figure.axes[0].texts if text.get_text()]  # an arrow has no words
    ['count', 'count', 'n', 'go on', 'go on']

    Time goes to the right, and every panel is as wide as the others, whatever it takes.

    Args:
        panels: ``{title: [(work, message after it), …]}``; where the message is empty, none is sent.
        ranks: number of lanes; all of them do the same work.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    not_empty("panels", panels)
    fig, axes = plt.subplots(len(panels), 1, squeeze=False, figsize=(WIDTH, 1.75 * len(panels)))
    for ax, (title, steps) in zip(axes.flat, panels.items(), strict=True):
        gap = min(0.33 / len(steps), 0.18)  # for the arrows
        width = 1 / len(steps) - gap
        for i, (work, message) in enumerate(steps):
            left = i * (width + gap)
            for rank in range(ranks):
                box: dict[str, Any] = {
                    "facecolor": COLORS[rank],
                    "alpha": 0.2,
                    "edgecolor": COLORS[rank],
                    "linewidth": 1.5,
                }
                ax.add_patch(Rectangle((left, -rank - 0.27), width, 0.54, **box))
                ax.text(left + width / 2, -rank, work, ha="center", va="center", fontsize=9)
            if message:
                middle = left + width + gap / 2
                ends = {"arrowstyle": "<->", "color": COLORS[5], "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", (middle, 0.2), (middle, 0.8 - ranks), arrowprops=ends)
                ax.text(middle, 0.3, message, ha="center", va="bottom", fontsize=9, color=COLORS[5])
        ax.set(xlim=(-0.01, 1.0), ylim=(0.55 - ranks, 0.65), xticks=[])
        ax.set_yticks([-rank for rank in range(ranks)], [f"rank {rank}" for rank in range(ranks)])
        ax.tick_params(left=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.grid(visible=False)
        ax.set_title(title, fontsize=11, loc="left")
    return fig


def scatter(panels: Mapping[str, Tensor], *, marks: Tensor | None = None, limit: float) -> Figure:
    """Draw points of the plane, one panel for each tensor (N, 2), from −``limit`` to ``limit`` on both axes.

    >>> figure = scatter({"noise": torch.randn(100, 2), "nothing": torch.zeros(1, 2)}, limit=3)
    >>> [ax.get_title() for ax in figure.axes]
    ['noise', 'nothing']

    Two panels stand side by side, and more in rows of two, so that a phone can show them.

    Args:
        panels: ``{title: points}``.
        marks: points (M, 2) drawn as circles in every panel.
        limit: half the width of a panel; points beyond it are drawn on its edge.
    """
    import matplotlib.pyplot as plt

    not_empty("panels", panels)
    ncols = min(2, len(panels))
    nrows = math.ceil(len(panels) / ncols)
    side = WIDTH / 2
    fig, axes = plt.subplots(
        nrows, ncols, squeeze=False, sharex=True, sharey=True, figsize=(side * ncols, nrows * (side + 0.2))
    )
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, points) in zip(axes.flat, panels.items(), strict=False):
        if marks is not None:
            ax.plot(*marks.detach().cpu().T, "o", color=COLORS[1], ms=13, mfc="none", mew=2)
        x, y = points.detach().cpu().clamp(-limit, limit).T
        ax.plot(x, y, ".", color=COLORS[0], ms=2.5, ls="")
        ax.set(
            title=title,
            aspect="equal",
            xlim=(-1.05 * limit, 1.05 * limit),
            ylim=(-1.05 * limit, 1.05 * limit),
        )
    return fig


def error_bars(
    panels: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]],
    *,
    xlabel: str,
    ylabel: str = "test error",
) -> Figure:
    """Draw the mean of repeated runs as a line, and a bar from the lowest run to the highest.

    >>> figure = error_bars({"photo": {"batch": {2: [0.3, 0.4], 8: [0.2, 0.1]}}}, xlabel="batch size")
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['2', '8']

    Args:
        panels: ``{title: {label: {x: values of the runs}}}``, the same labels and x in all panels; the x are
            drawn on a logarithmic axis of base 2.
        xlabel: of the lowest panel.
        ylabel: of every panel.
    """
    import matplotlib.pyplot as plt

    not_empty("panels", panels)
    size = (WIDTH, 0.4 + 2.5 * len(panels))
    fig, axes = plt.subplots(len(panels), 1, squeeze=False, sharey=True, figsize=size)
    for ax, (title, series) in zip(axes.flat, panels.items(), strict=True):
        for (label, runs), look in zip(series.items(), _looks(series), strict=True):
            means = [statistics.mean(v) for v in runs.values()]  # exact: never outside the runs
            below = [m - min(v) for m, v in zip(means, runs.values(), strict=True)]
            above = [max(v) - m for m, v in zip(means, runs.values(), strict=True)]
            bars: dict[str, Any] = {"label": label, "marker": "o", "ms": 4, "capsize": 3, **look}
            ax.errorbar(list(runs), means, (below, above), **bars)
        ax.set_xscale("log", base=2)
        ax.set_xticks(list(runs), [str(x) for x in runs])
        ax.set_title(title, fontsize=11)
        ax.set_ylabel(ylabel)
    axes[-1, 0].set_xlabel(xlabel)
    axes[0, 0].set_ylim(bottom=0)
    labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(*labels, loc="outside upper center", ncols=3, fontsize=9)
    return fig


def orientations(panels: Mapping[str, Tensor], *, ncols: int, width: float = 2.4) -> Figure:
    """Draw pictures, and gradient histograms as strokes, side by side.

    >>> figure = orientations({"noise": torch.rand(3, 16, 16), "its edges": torch.rand(9, 4, 4)}, ncols=2)
    >>> [ax.get_title() for ax in figure.axes]
    ['noise', 'its edges']

    A cell of a histogram becomes a star: one stroke along the edges of each direction, the darker the more of
    them there are.

    Args:
        panels: ``{title: tensor}``, pictures (3, H, W) in [0, 1], or histograms (bins, rows, columns), drawn
            white at 0 and black from 1 on. The bins divide the directions from 0 to π of the gradient.
        ncols: panels in a row.
        width: of one panel, in inches.
    """
    not_empty("panels", panels)
    nrows = math.ceil(len(panels) / ncols)
    fig, axes = _gallery(nrows, ncols, width, width, 0.3)
    for ax, (title, x) in zip(axes, panels.items(), strict=False):
        ax.set_title(title, fontsize=10)
        if x.shape[0] == 3:
            ax.imshow(_as_picture(title, x, clip=False))
        else:
            _strokes(ax, x.detach().double().cpu().numpy())
    return fig


def _looks(labels: Iterable[str]) -> list[dict[str, Any]]:
    """A colour and a dash for each label: a norm's own, where one label alone names it; else the next."""
    named = [next((c for word, c in NORM_COLORS.items() if word in f" {label} "), None) for label in labels]
    own = [number if named.count(number) == 1 else None for number in named]
    free = [number for number in range(len(COLORS)) if number not in own]
    chosen = [free.pop(0) if number is None else number for number in own]
    return [{"color": COLORS[number], "linestyle": _DASHES[number]} for number in chosen]


def _gallery(
    nrows: int, ncols: int, width: float, height: float, heading: float
) -> tuple[Figure, list[Axes]]:
    """Places for pictures of so many inches, each with room for a title above it, and nothing else."""
    import matplotlib.pyplot as plt

    gap = 0.06
    across, down = ncols * (width + gap) - gap, nrows * (height + heading + gap) - gap
    fig = plt.figure(figsize=(across, down))
    fig.set_layout_engine("none")
    axes = []
    for row in range(nrows):
        for column in range(ncols):
            left, top = column * (width + gap), row * (height + heading + gap) + heading
            box = (left / across, 1 - (top + height) / down, width / across, height / down)
            axes.append(fig.add_axes(box))
            axes[-1].set_axis_off()
    return fig, axes


def _finish_columns(axes: np.ndarray, count: int, xlabel: str) -> None:
    """Hide the axes after the first ``count``, and label the lowest that is left in each column."""
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    for ax in axes.flat[count - axes.shape[1] : count]:
        ax.set_xlabel(xlabel)
        ax.tick_params(labelbottom=True)


def _strokes(ax: Axes, histogram: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    bins, rows, columns = histogram.shape
    edge = np.pi * (np.arange(bins) + 0.5) / bins + np.pi / 2  # an edge is at right angles to its gradient
    step = 0.45 * np.stack([np.cos(edge), np.sin(edge)], axis=-1)
    row, column = np.mgrid[:rows, :columns]
    center = np.stack([column, row], axis=-1)[None]
    ends = np.stack([center - step[:, None, None], center + step[:, None, None]], axis=-2)
    strength = histogram.clip(0, 1).reshape(-1)
    # The faintest are left out, and the strongest are drawn last, on top.
    order = strength.argsort(kind="stable")[(strength < 0.1).sum() :]
    gray = np.repeat(1 - strength[order, None], 3, axis=1)
    ax.add_collection(LineCollection(list(ends.reshape(-1, 2, 2)[order]), colors=gray, linewidths=1.0))
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal")


def _as_picture(title: object, x: Tensor, clip: bool) -> np.ndarray:
    """(H, W, 3) or (H, W), uint8 or float in [0, 1]."""
    one = isinstance(x, Tensor) and x.ndim == 4 and len(x) == 1
    a = _channels_last(f"picture {title!r}", x[0] if one else x)
    if a.dtype == np.uint8:
        return a
    if not clip and not (a.min() >= 0 and a.max() <= 1):
        raise ValueError(
            f"picture {title!r} has values from {a.min():.3g} to {a.max():.3g}; show() needs floats in "
            "[0, 1]. Denormalize it first, or pass clip=True to see what imshow makes of it"
        )
    return a.clip(0, 1)


def _channels_last(name: str, x: Tensor) -> np.ndarray:
    if not isinstance(x, Tensor):  # an array may have its channels first or last
        raise TypeError(f"{name} must be a torch.Tensor, channels first, got {type(x).__name__}")
    if x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[0] not in (1, 3)) or x.numel() == 0:
        raise ValueError(f"{name} must be (3, H, W), (1, H, W) or (H, W) and not empty, got {tuple(x.shape)}")
    last = x if x.ndim == 2 else x.movedim(0, -1).squeeze(-1)
    # NumPy has no bfloat16, and matplotlib cannot draw float16.
    return (last.float() if x.dtype in (torch.float16, torch.bfloat16) else last).detach().cpu().numpy()


@contextmanager
def _log_of(name: str) -> Iterator[list[str]]:
    """Collect what a logger says, instead of letting it reach stderr."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger(name), Collect()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
