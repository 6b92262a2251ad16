"""The book's figures: one look, colours that survive colour blindness, pictures shown as they are."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "RGB", "curves", "histograms", "setup", "show"]

#: Okabe & Ito's palette (2008), told apart by people with any of the common colour-vision deficiencies.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")

#: For the red, green and blue channel: members of the same palette, each paired with its own line style.
RGB = ("#D55E00", "#009E73", "#0072B2")

_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 5)))


def setup() -> None:
    """Give every figure of a notebook the book's look; call it once, after the imports.

    Figures are white in light and dark mode alike. Those that hold photographs are stored as JPEG, all others
    as PNG: a notebook stays small, and its lines stay sharp.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.2),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 11,
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
    plt.close("all")  # the first figure of a notebook makes the backend install its own formatters; then ours
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        formatters = shell.display_formatter.formatters
        formatters["image/png"].for_type(mpl.figure.Figure, _as_png)
        formatters["image/jpeg"].for_type(mpl.figure.Figure, _as_jpeg)


def show(
    images: Mapping[str, Tensor] | Sequence[Tensor] | Tensor,
    *,
    ncols: int | None = None,
    width: float = 2.1,
    clip: bool = False,
) -> Figure:
    """Draw pictures side by side, each as it is: nothing is rescaled.

    Args:
        images: ``{title: picture}``, a sequence of pictures, or one batch; each (3, H, W), (1, H, W) or
            (H, W), uint8 or float in [0, 1].
        ncols: pictures in a row; all of them by default.
        width: of one picture, in inches.
        clip: allow floats outside [0, 1], and clip them as ``imshow`` does.

    Returns:
        The figure.

    Raises:
        ValueError: for floats outside [0, 1] (or NaN) without ``clip``, which ``imshow`` would clip silently.
    """
    import matplotlib.pyplot as plt

    titled = dict(images) if isinstance(images, Mapping) else dict(enumerate(images))
    pictures = {title: _as_picture(title, x, clip) for title, x in titled.items()}
    if not pictures:
        raise ValueError("images is empty: there is nothing to show")
    ncols = min(ncols or len(pictures), len(pictures))
    nrows = math.ceil(len(pictures) / ncols)
    aspect = max(p.shape[0] / p.shape[1] for p in pictures.values())
    heading = 0.3 if isinstance(images, Mapping) else 0.0
    fig, axes = plt.subplots(
        nrows, ncols, squeeze=False, figsize=(width * ncols, (width * aspect + heading) * nrows)
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
        if isinstance(images, Mapping):
            ax.set_title(title, fontsize=10)
    return fig


def histograms(
    x: Mapping[str, Tensor], *, bins: int = 64, value_range: tuple[float, float] | None = None
) -> Figure:
    """Draw the distribution of each channel, one panel for each tensor, on one common horizontal axis.

    Args:
        x: ``{title: tensor}``, each (…, C, H, W) with C = 3 (drawn in red, green, blue) or 1.
        bins: number of bins over the range.
        value_range: lowest and highest value; the common range of all tensors by default.
    """
    import matplotlib.pyplot as plt

    channels = {t: v.detach().double().cpu().movedim(-3, 0).flatten(1).numpy() for t, v in x.items()}
    if value_range is None:
        value_range = (min(c.min() for c in channels.values()), max(c.max() for c in channels.values()))
    fig, axes = plt.subplots(1, len(x), squeeze=False, sharey=True, figsize=(3.2 * len(x), 2.6))
    for ax, (title, values) in zip(axes.flat, channels.items(), strict=True):
        colors = RGB if len(values) == 3 else COLORS
        for c, (v, color, dash) in enumerate(zip(values, colors, _DASHES, strict=False)):
            density, edges = np.histogram(v, bins=bins, range=value_range, density=True)
            label = "RGB"[c] if len(values) == 3 else f"channel {c}"
            ax.stairs(density, edges, color=color, linestyle=dash, linewidth=1.6, label=label)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("value")
    axes[0, 0].set_ylabel("density")
    axes[0, 0].legend(fontsize=9)
    return fig


def curves(
    ys: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    xlabel: str = "step",
    ylabel: str = "loss",
    ax: Axes | None = None,
) -> Axes:
    """Draw one labelled line for each entry of ``ys``, told apart by colour and by dash."""
    import matplotlib.pyplot as plt

    ax = plt.subplots()[1] if ax is None else ax
    for label, y in ys.items():
        ax.plot(range(len(y)) if x is None else x, y, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def _as_picture(title: object, x: Tensor, clip: bool) -> np.ndarray:
    """(H, W, 3) or (H, W), uint8 or float in [0, 1]."""
    if x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[0] not in (1, 3)):
        raise ValueError(f"picture {title!r} must be (3, H, W), (1, H, W) or (H, W), got {tuple(x.shape)}")
    a: np.ndarray = (x if x.ndim == 2 else x.movedim(0, -1).squeeze(-1)).detach().cpu().numpy()
    if a.dtype == np.uint8:
        return a
    if not clip and not (a.min() >= 0 and a.max() <= 1):
        raise ValueError(
            f"picture {title!r} has values from {a.min():.3g} to {a.max():.3g}; show() needs floats in "
            "[0, 1]. Denormalize it first, or pass clip=True to see what imshow makes of it"
        )
    return a.clip(0, 1)


def _has_photo(fig: Figure) -> bool:
    return any(np.ndim(np.asarray(image.get_array())) == 3 for ax in fig.axes for image in ax.images)


def _render(fig: Figure, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format=format, bbox_inches="tight", **options)
    return buffer.getvalue()


def _as_png(fig: Figure) -> bytes | None:
    return None if _has_photo(fig) else _render(fig, "png", metadata={"Software": None})


def _as_jpeg(fig: Figure) -> bytes | None:
    return _render(fig, "jpeg", pil_kwargs={"quality": 88}) if _has_photo(fig) else None
