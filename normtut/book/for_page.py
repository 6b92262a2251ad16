"""What the book's page shows of a figure: a chart as SVG in the page's own colours, pictures one by one.

The picture that a notebook stores is PNG or JPEG, which Jupyter, Colab and GitHub all show. The page wants
more: ink that is dark on a light page and light on a dark one, words in the page's own font, and two pictures
in a row on a phone.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

from .palette import COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_svg", "is_gallery", "panels"]

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
#: What the page calls the colours of the palette; black is its ink, whatever colour that is.
NAMES = {color.lower(): f"var(--plot-{i},{color.lower()})" for i, color in enumerate(COLORS)}
PAPER = "var(--plot-paper,#fff)"
#: What a shape looks like when nothing is said: the same words need not be stored a thousand times.
DEFAULTS = {
    "stroke-linejoin: miter",
    "stroke-linecap: butt",
    "opacity: 1",
    "fill-opacity: 1",
    "stroke-opacity: 1",
}
#: The paths of markers, and the end of a stroke that looks like it.
DOTS = (
    (re.compile(r"M0 ([\d.]+)(?:C[-\d. ]+){8}z"), "round"),
    (re.compile(r"M-([\d.]+) \1L\1 \1L\1 -\1L-\1 -\1z"), "square"),
)


def is_gallery(fig: Figure) -> bool:
    """Whether a figure is nothing but pictures side by side, each with a title at most."""
    axes = [ax for ax in fig.axes if ax.images or ax.collections or ax.lines or ax.axison]
    return (
        any(ax.images for ax in axes)
        and not any(ax.axison or ax.texts for ax in axes)
        and not (fig.texts or fig.legends)
    )


def panels(fig: Figure) -> dict[str, Any]:
    """Where the pictures of a gallery lie in it, as shares of its width and height, with their titles.

    >>> import matplotlib.pyplot as plt
    >>> fig, axes = plt.subplots(1, 2, figsize=(4, 2))
    >>> for ax, name in zip(axes, "ab"):
    ...     ax.set_axis_off()
    ...     _ = ax.imshow([[0, 1]], aspect="auto")
    ...     _ = ax.set(title=name, position=(0 if name == "a" else 0.5, 0, 0.5, 0.75))
    >>> panels(fig)
    {'ncols': 2, 'panels': [['a', 0.0, 0.25, 0.5, 1.0], ['b', 0.5, 0.25, 1.0, 1.0]]}
    >>> plt.close(fig)

    Args:
        fig: a figure of which `is_gallery` holds.

    Returns:
        The number of columns, and for each picture its title, left, top, right and bottom.
    """
    fig.canvas.draw()  # now pictures have taken their places
    found, lefts = [], set()
    for ax in fig.axes:
        if not (ax.images or ax.collections):
            continue  # a spare place
        (left, bottom), (right, top) = ax.get_position().get_points()
        lefts.add(round(left, 3))
        found.append([ax.get_title(), *(round(float(v), 4) for v in (left, 1 - top, right, 1 - bottom))])
    return {"ncols": len(lefts), "panels": found}


def figure_svg(fig: Figure) -> str:
    """A figure as SVG that takes its ink, its paper and its font from the page in which it stands.

    >>> import matplotlib.pyplot as plt
    >>> fig, ax = plt.subplots()
    >>> line = ax.plot([1, 2], color=COLORS[0])
    >>> "stroke:var(--plot-0,#0072b2)" in figure_svg(fig)
    True
    >>> plt.close(fig)

    Grays become mixtures of the page's ink (``currentColor``) and paper (``--plot-paper``), the palette's
    colours ``--plot-0`` to ``--plot-7``, each with the colour as it is where the page does not say another.
    The same figure gives the same text: no date, and no random names.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "normtut", "path.simplify_threshold": 0.3}
    with mpl.rc_context(settings), warnings.catch_warnings():
        fig.savefig(
            buffer,
            format="svg",
            bbox_inches="tight",
            pad_inches=0.04,
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    root = ET.fromstring(buffer.getvalue())
    width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
    _clean(root)
    for node in root.iter():
        node.tag = node.tag.removeprefix(SVG)
        if HREF in node.attrib:
            node.attrib["href"] = node.attrib.pop(HREF)
    root.attrib.clear()
    root.attrib["viewBox"] = f"0 0 {width:.0f} {height:.0f}"
    return ET.tostring(root, encoding="unicode")


def _clean(root: ET.Element) -> None:
    """Shorten what matplotlib writes, to a quarter or so; nothing moves by more than 0.05 points."""
    used = set(re.findall(r"#([\w-]+)", " ".join(v for n in root.iter() for v in n.attrib.values())))
    dots = {node.attrib["id"]: dot for node in root.iter(f"{SVG}path") if (dot := _dot(node))}
    for node in root.iter():
        if node.attrib.get("id") not in used:
            node.attrib.pop("id", None)
        for name in ("d", "x", "y", "width", "height", "points"):
            if name in node.attrib:
                node.attrib[name] = _round(node.attrib[name])
        if "transform" in node.attrib:
            node.attrib["transform"] = _transform(node.attrib["transform"])
            if not node.attrib["transform"]:
                del node.attrib["transform"]
        if "style" in node.attrib:
            _restyle(node)
    for group in root.iter(f"{SVG}g"):
        _join_dots(group, dots)
    _prune(root)


def _restyle(node: ET.Element) -> None:
    said = [part.strip() for part in node.attrib.pop("style").split(";")]
    # Of a font only the size is kept: the family is the page's.
    said = [re.sub(r"^font: .*?([\d.]+)px .*$", r"font-size:\1px", part) for part in said]
    said = [re.sub(r"#[0-9a-f]{6}\b", lambda m: _color(m[0]), part) for part in said]
    kept = [re.sub(r":\s+", ":", part) for part in said if part and part not in DEFAULTS]
    kept = [part for part in kept if not part.startswith("font-family:")]
    if kept:
        node.attrib["style"] = ";".join(kept)


def _color(color: str) -> str:
    """A colour of a figure, in the page's words."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    if red == green == blue:
        ink = round(100 * (1 - red / 255))
        mixed = f"color-mix(in srgb,currentColor {ink}%,{PAPER})"
        return {0: PAPER, 100: "currentColor"}.get(ink, mixed)
    return NAMES.get(color, color)


def _round(text: str) -> str:
    text = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), " ".join(text.split()))
    return re.sub(r" ?([A-Za-z]) ?", r"\1", text)


def _transform(text: str) -> str:
    """A rotation by nothing is none, and a point needs no six decimals."""
    text = re.sub(r"rotate\(-?0 [^)]*\)", "", text).strip()
    return re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)


def _dot(path: ET.Element) -> tuple[float, str] | None:
    """Of a circle or a square: its width, and the end of a stroke that looks like it; else None."""
    way = _round(path.attrib.get("d", ""))
    for shape, cap in DOTS:
        if "id" in path.attrib and (match := shape.fullmatch(way)):
            return 2 * float(match[1]), cap
    return None


def _join_dots(group: ET.Element, dots: dict[str, tuple[float, str]]) -> None:
    """Many equal dots become one path of strokes without length."""
    uses = [node for node in group if node.tag == f"{SVG}use"]
    if len(uses) < 50 or len({(u.attrib[HREF], u.attrib.get("style")) for u in uses}) > 1:
        return
    dot = dots.get(uses[0].attrib[HREF].removeprefix("#"))
    style = uses[0].attrib.get("style", "")
    fill = re.search(r"fill:([^;]+)", style)
    if dot is None or fill is None or fill[1] == "none" or "opacity" in style:
        return
    places = dict.fromkeys(f"M{u.attrib['x']} {u.attrib['y']}h0" for u in uses)
    look = f"stroke:{fill[1]};stroke-width:{dot[0]:.1f};stroke-linecap:{dot[1]}"
    joined = ET.Element(f"{SVG}path", {"d": "".join(places), "style": look})
    group.insert(list(group).index(uses[0]), joined)
    for use in uses:
        group.remove(use)


def _prune(node: ET.Element) -> None:
    """Remove what cannot be seen, and groups that hold nothing or say nothing."""
    kept: list[ET.Element] = []
    for child in node:
        _prune(child)
        child.tail = None
        is_unseen = child.tag in (f"{SVG}metadata", f"{SVG}style") or _is_invisible(child)
        if is_unseen or (child.tag in (f"{SVG}g", f"{SVG}defs") and not len(child)):
            continue
        kept += list(child) if child.tag == f"{SVG}g" and not child.attrib else [child]
    node[:] = []
    for child in kept:
        if len(node) and _look(child) and _look(node[-1]) == _look(child):
            node[-1].attrib["d"] += child.attrib["d"]
        else:
            node.append(child)
    if not (node.text or "").strip():
        node.text = None


def _look(node: ET.Element) -> dict[str, str] | None:
    """All that a path says but its way; None for what cannot be drawn in one go with the path before it."""
    if node.tag != f"{SVG}path" or "id" in node.attrib or "opacity" in node.attrib.get("style", ""):
        return None
    return {name: value for name, value in node.attrib.items() if name != "d"}


def _is_invisible(node: ET.Element) -> bool:
    style = node.attrib.get("style", "")
    return (
        node.tag == f"{SVG}path"
        and "id" not in node.attrib
        and (
            re.search(r"(^|;)opacity:0(;|$)", style) is not None
            or ("fill:none" in style and "stroke:" not in style)
        )
    )
