"""Who shares statistics with whom: the axes picture, drawn from what the functions themselves do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from normtut import functional as F
from normtut.book.explorers import Explorer, fill
from normtut.book.palette import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NORMS", "axes_explorer", "axes_picture", "index_sets"]

#: The normalizations of the picture, as functions of features (N, C, *).
NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "Batch": lambda x: F.batch_norm(x, None, None, training=True),
    "Layer": lambda x: F.layer_norm(x, x.shape[1:]),
    "Instance": F.instance_norm,
    "Group (2)": lambda x: F.group_norm(x, 2),
    "Layer, per position": lambda x: F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1),
    "RMS, per position": lambda x: F.rms_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1),
}

_SHAPE = (3, 6, 4)  # samples, channels, positions: H and W are drawn as one axis, as in Wu & He 2018
_AXES = ("sample", "channel", "position")


def index_sets(norm: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    r"""Find out which elements share statistics, by asking the function.

    >>> index_sets(lambda x: F.batch_norm(x, None, None, training=True), (2, 3))
    tensor([[0, 1, 2],
            [0, 1, 2]])
    >>> index_sets(lambda x: F.layer_norm(x, (3,)), (2, 3))
    tensor([[0, 0, 0],
            [1, 1, 1]])

    Element k belongs to the index set S_i of element i (Wu & He 2018, equation (2)) where the output
    :math:`z_i` depends on the input :math:`x_k`, that is where :math:`\partial z_i / \partial x_k \neq 0`.

    Args:
        norm: takes a float64 tensor of this shape, and returns one.
        shape: of the input; small, since every output is differentiated by every input.

    Returns:
        An int64 tensor of this shape: elements with the same number share statistics. The sets are numbered
        in the order in which they first occur.

    Raises:
        ValueError: if the output has another shape, or the sets overlap, as windows that slide do.
    """
    # The inputs are small compared with eps. Otherwise two elements would always become ±1, whatever their
    # values, and no dependence would be seen.
    x = 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = norm(x.requires_grad_())
    if z.shape != x.shape:
        raise ValueError(f"norm must keep the shape {tuple(shape)} of its input, got {tuple(z.shape)}")
    rows = [torch.autograd.grad(zi, x, retain_graph=True)[0].flatten().abs() for zi in z.flatten()]
    jacobian = torch.stack(rows)
    shares = (jacobian > 1e-9 * jacobian.max()) | torch.eye(x.numel(), dtype=torch.bool)
    first = shares.int().argmax(1)  # the first member of each element's set
    if not torch.equal(shares, first[:, None] == first[None, :]):
        raise ValueError("the elements that norm averages over overlap without being the same: no index sets")
    number = (first == torch.arange(len(first))).cumsum(0) - 1  # 0, 1, … for the first member of each set
    return number[first].view(shape)


def axes_picture(norms: Mapping[str, Callable[[Tensor], Tensor]] | None = None) -> Figure:
    """Draw, for each norm, a block of features; elements of one colour share statistics.

    >>> figure = axes_picture({"Instance": F.instance_norm})
    >>> figure.axes[0].get_title()
    'Instance'

    Args:
        norms: ``{title: function}``; `NORMS` by default. Each is asked by `index_sets`.
    """
    import matplotlib.pyplot as plt

    norms = NORMS if norms is None else norms
    not_empty("norms", norms)
    ncols = 2 if len(norms) == 4 else min(3, len(norms))
    nrows = -(-len(norms) // ncols)
    fig, axes = plt.subplots(nrows, ncols, squeeze=False, figsize=(1.6 * ncols, 1.4 * nrows))
    for ax in axes.flat:
        ax.set_axis_off()
        ax.set_aspect("equal")
    for ax, (title, norm) in zip(axes.flat, norms.items(), strict=False):
        _block(ax, index_sets(norm, _SHAPE))
        ax.set_title(title, fontsize=10)
    return fig


def not_empty(name: str, given: Sized) -> None:
    """Of an empty figure matplotlib would say that it has no rows."""
    if not len(given):
        raise ValueError(f"{name} is empty: there is nothing to draw")


def _block(ax: Axes, sets: Tensor) -> None:
    """The three visible faces: channels to the right, positions downwards, samples into the depth."""
    from matplotlib.collections import PolyCollection

    samples, channels, positions = sets.shape
    # A face is spanned by two of the axes (n, c, p), from a corner; its cells lie on the block's surface.
    faces = (
        [(0, c, p, (0, c, p), (0, 1, 0), (0, 0, 1)) for c in range(channels) for p in range(positions)]
        + [(n, c, 0, (n, c, 0), (1, 0, 0), (0, 1, 0)) for n in range(samples) for c in range(channels)]
        + [
            (n, channels - 1, p, (n, channels, p), (1, 0, 0), (0, 0, 1))
            for n in range(samples)
            for p in range(positions)
        ]
    )
    corners, fills, colors = [], [], _colors(sets)
    for n, c, p, origin, u, v in faces:
        steps = ((0, 0), (1, 0), (1, 1), (0, 1))
        points = [[o + i * a + j * b for o, a, b in zip(origin, u, v, strict=True)] for i, j in steps]
        corners.append([(0.55 * pn + pc, 0.45 * pn - pp) for pn, pc, pp in points])
        fills.append(colors[sets[n, c, p]])
    ax.add_collection(PolyCollection(corners, facecolors=fills, edgecolors="white", linewidths=0.8))
    ax.autoscale_view()
    ax.text(channels / 2, -positions - 0.25, "C", ha="center", va="top", fontsize=10)
    ax.text(-0.25, -positions / 2, "HW", ha="right", va="center", fontsize=10)
    ax.text(0.275 * samples - 0.3, 0.225 * samples + 0.1, "N", ha="right", va="bottom", fontsize=10)


def _colors(sets: Tensor) -> list[str]:
    """A colour for each set, from six hues in three tints; where the hues run out, a tint for each sample."""
    total = int(sets.max()) + 1
    cycle = total if total <= 6 else min(6, int(sets[0].max()) + 1)
    return [_tint(COLORS[i % cycle], (0.0, 0.4, 0.68)[i // cycle % 3]) for i in range(total)]


def _tint(color: str, white: float) -> str:
    rgb = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(v + (255 - v) * white):02x}" for v in rgb)


def axes_explorer(
    norms: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    *,
    shape: tuple[int, int, int] = _SHAPE,
    name: str = "axes",
) -> Explorer:
    """The axes picture to play with: who shares an element's statistics, and whom does its value move?

    >>> axes_explorer({"Instance": F.instance_norm})
    Explorer(index sets of Instance)

    It needs no network, and is worked by mouse, finger or keyboard. Without scripts (GitHub) it says so.

    Args:
        norms: ``{title: function}``; `NORMS` by default. Each is asked by `index_sets`. The outputs that are
            shown are computed from these sets by equation (4.1), without γ and β.
        shape: samples, channels, positions.
        name: makes the element's id, ``normtut-{name}``, unique on a page.
    """
    norms = NORMS if norms is None else norms
    sets = {title: index_sets(norm, shape) for title, norm in norms.items()}
    numbers = {
        "shape": shape,
        "sets": ["".join(chr(48 + k) for k in s.flatten()) for s in sets.values()],
        "centers": [_centers(norm, shape) for norm in norms.values()],
        "colors": [_colors(s) for s in sets.values()],
        "x": _inputs(shape).flatten().tolist(),
    }
    values = {
        "@ID@": f"normtut-{name}",
        "@WIDTH@": str(34 * shape[1]),
        "@BUTTONS@": "".join(f'<button type="button">{title}</button>' for title in sets),
        "@SLIDERS@": "".join(
            f'<label><span>{axis}</span><input type="range" aria-label="{axis}" min="0" max="{size - 1}" '
            f'value="{size // 2}"><output></output></label>'
            for axis, size in zip(_AXES, shape, strict=True)
        ),
    }
    return Explorer(fill("axes.html", values, numbers), f"index sets of {', '.join(sets)}")


def _inputs(shape: tuple[int, int, int]) -> Tensor:
    """Whole numbers from -9 to 9, the same in every run."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(4))


def _centers(norm: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> bool:
    """Whether a norm removes the mean: then a constant added to the input changes nothing."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.allclose(norm(x), norm(x + 1), atol=1e-6)
