"""Diagrams that a chapter draws: boxes, and arrows between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .palette import COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["style_network"]


def style_network() -> Figure:
    """Draw the style network: what goes from the content, what from the style, and where they meet.

    >>> figure = style_network()
    >>> sum(text.get_text() == "AdaIN, twice" for text in figure.axes[0].texts)
    2
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    from normtut.style.network import WIDTHS

    a, b, c = WIDTHS
    maps = (
        ("half", a, "1/2"),
        ("quarter", b, "1/4"),
        *((name, c, "1/8") for name in ("eighth", "deep", "deeper")),
    )
    fig, ax = plt.subplots(figsize=(4.8, 5.2))
    content, decoder, style = COLORS[0], COLORS[2], COLORS[1]
    xs, rows, width, height = {"content": 0.0, "decoder": 1.25, "style": 2.5}, len(maps) + 1, 0.9, 0.56

    def box(column: str, row: int, text: str, color: str) -> None:
        corner = (xs[column] - width / 2, -row - height / 2)
        look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.08", "linewidth": 1.5}
        ax.add_patch(FancyBboxPatch(corner, width, height, fc=color + "30", ec=color, **look))
        ax.text(xs[column], -row, text, ha="center", va="center", fontsize=9)

    def arrow(start: tuple[float, float], end: tuple[float, float], color: str) -> None:
        look = {"arrowstyle": "-|>", "color": color, "lw": 1.6, "shrinkA": 1, "shrinkB": 1}
        ax.annotate("", end, start, arrowprops=look)

    box("content", 0, "content", content)
    box("decoder", 0, "painting", decoder)
    box("style", 0, "style", style)
    for row, (name, channels, part) in enumerate(maps, start=1):
        twice = part != "1/8"  # two maps of one size share a box
        count = f"2 × {channels}" if twice else channels
        box("content", row, f"{name}, {part}\n{count} channels", content)
        box("decoder", row, "AdaIN, twice" if twice else "AdaIN", decoder)
        box("style", row, f"{count} means\n{count} stds", style)
        for column, color in (("content", content), ("style", style)):
            arrow((xs[column], 1 - row - height / 2), (xs[column], -row + height / 2), color)
        arrow((xs["decoder"], -row + height / 2), (xs["decoder"], 1 - row - height / 2), decoder)
        arrow((xs["style"] - width / 2, -row), (xs["decoder"] + width / 2, -row), style)
        if name != "half":
            arrow((xs["content"] + width / 2, -row), (xs["decoder"] - width / 2, -row), content)
    for column, text in (("content", "encoder"), ("decoder", "decoder"), ("style", "the same encoder")):
        ax.text(xs[column], 0.45, text, ha="center", va="bottom", fontsize=9.5, style="italic")
    ax.set(xlim=(-0.5, 3.0), ylim=(0.4 - rows, 0.75))
    ax.set_axis_off()
    return fig
