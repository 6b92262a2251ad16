"""How a notebook stores a figure: PNG or JPEG, and beside it its numbers and what the book's page shows."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .figure_numbers import MIME_TYPE, figure_numbers
from .for_page import figure_svg, is_gallery, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["dpi_of", "render", "store_figures"]


def store_figures() -> None:
    """Let the notebook that is running store figures so; without IPython there is none."""
    try:
        from IPython import get_ipython
        from IPython.core.formatters import JSONFormatter
    except ImportError:  # only the book requires it
        return
    shell = get_ipython()
    if shell is not None:
        from matplotlib.figure import Figure

        formatters = shell.display_formatter.formatters
        formatters["image/png"].for_type(Figure, _as_png)
        formatters["image/jpeg"].for_type(Figure, _as_jpeg)
        formatters[MIME_TYPE] = JSONFormatter(parent=shell.display_formatter)
        formatters[MIME_TYPE].for_type(Figure, _as_numbers)


def _has_photo(fig: Figure) -> bool:
    return any(np.ndim(np.asarray(image.get_array())) == 3 for ax in fig.axes for image in ax.images)


def dpi_of(fig: Figure) -> float:
    """Of a figure with photographs: a dot for each pixel, but no more than twice what a page shows of it."""
    fig.canvas.draw()
    pictures = [(image.get_size()[1], ax.get_position().width) for ax in fig.axes for image in ax.images]
    sharp = max(pixels / (width * fig.get_figwidth()) for pixels, width in pictures)
    return float(min(max(sharp, fig.dpi), 200))


def render(fig: Figure, format: str, **options: Any) -> bytes:
    """A figure as a file of this format."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format=format, **options)
    return buffer.getvalue()


def _as_png(fig: Figure) -> bytes | None:
    """Of 256 colours: a third of the bytes, and nobody sees it in a chart."""
    if _has_photo(fig):
        return None
    drawn = Image.open(io.BytesIO(render(fig, "png", bbox_inches="tight"))).convert("RGB")
    buffer = io.BytesIO()
    drawn.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _as_jpeg(fig: Figure) -> bytes | None:
    """As large as the figure is, to the dot: the page cuts the pictures of a gallery out of it."""
    return render(fig, "jpeg", dpi=dpi_of(fig), pil_kwargs={"quality": 85}) if _has_photo(fig) else None


def _as_numbers(fig: Figure) -> dict[str, Any]:
    page = panels(fig) if is_gallery(fig) and _has_photo(fig) else {"svg": figure_svg(fig)}
    return {**figure_numbers(fig), "page": page}
