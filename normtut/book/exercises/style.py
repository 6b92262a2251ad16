"""Exercises of chapters 11 to 13: statistics that come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from normtut import core, functional
from normtut.book.exercises.engine import Args, Exercise
from normtut.book.exercises.ingredients import (
    EPS_FORGOTTEN,
    EPS_OUTSIDE,
    STD_PLUS_EPS,
    UNBIASED,
    UNBIASED_NO_EPS,
    feature_cases,
    standard,
)

__all__ = ["EXERCISES"]


def _style_cases(g: torch.Generator) -> Iterator[Args]:
    for x, eps in feature_cases(params=False)(g):
        # Of another size, or the m − 1 of both stds would cancel.
        yield x, 1 + 3 * torch.rand(*x.shape[:2], 7, 3, generator=g, dtype=x.dtype), eps


def _std(x: Tensor, eps: float, correction: int, outside: bool) -> Tensor:
    var = x.var((2, 3), correction=correction, keepdim=True)
    return var.sqrt() + eps if outside else (var + eps).sqrt()


def _adain_with(
    *, correction: int = 0, outside: bool = False, content_eps: bool = True, style_eps: bool = True
) -> Callable[..., Tensor]:
    """AdaIN with stds that are taken in one of the ways that people get wrong."""

    def adain(content: Tensor, style: Tensor, eps: float) -> Tensor:
        sc, ss = (
            _std(x, eps * used, correction, outside)
            for x, used in ((content, content_eps), (style, style_eps))
        )
        return (content - content.mean((2, 3), keepdim=True)) / sc * ss + style.mean((2, 3), keepdim=True)

    return adain


_CONTENT_ONLY = (
    "used eps for the content only; it belongs to the style's std as well, or AdaIN(x, x) is not x"
)
_STYLE_ONLY = "used eps for the style only; it belongs to the content's std as well, or AdaIN(x, x) is not x"
_OUTSIDE = ", and under the roots, with the variances"
_UNBIASED = ", and the variances that are wanted divide by m, while torch.std divides by m − 1 unless told"


def _picture_cases(g: torch.Generator) -> Iterator[Args]:
    """Pictures of different sizes, whose channels go together or against each other."""
    for a, b in (((6, 5), (4, 7)), ((3, 3), (3, 3)), ((8, 2), (5, 5))):
        x, y = (torch.rand(3, *size, generator=g, dtype=torch.float64) for size in (a, b))
        mix = torch.randn(3, 3, generator=g, dtype=torch.float64)
        yield x, torch.einsum("ij,jhw->ihw", mix, y) + 1


def _whiten_and_colour(x: Tensor, y: Tensor, correction: int = 0, mean: bool = True) -> Tensor:
    a, b = x.flatten(1), y.flatten(1)
    root_a, root_b = (torch.linalg.cholesky(p.cov(correction=correction)) for p in (a, b))
    z = torch.linalg.solve_triangular(root_a, a - a.mean(1, keepdim=True), upper=False)
    coloured: Tensor = root_b @ z + (b if mean else a).mean(1, keepdim=True)
    return coloured.view(x.shape)


def _triple_cases(g: torch.Generator) -> Iterator[Args]:
    for shape in ((1, 3, 8, 8), (2, 4, 6, 5)):
        yield tuple(scale * torch.rand(shape, generator=g) + scale for scale in (1.0, 3.0, 9.0))


EXERCISES = {
    "adain": Exercise(
        title="AdaIN",
        signature="adain(content, style, eps)",
        task="gives features (N, C, H, W) the channel statistics of others, with the biased variance and eps "
        "under both roots",
        reference=functional.adain,
        cases=_style_cases,
        mistakes={
            "swapped content and style": lambda c, s, eps: functional.adain(s, c, eps),
            UNBIASED: _adain_with(correction=1),
            EPS_OUTSIDE: _adain_with(outside=True),
            STD_PLUS_EPS: _adain_with(correction=1, outside=True),
            EPS_FORGOTTEN: _adain_with(content_eps=False, style_eps=False),
            UNBIASED_NO_EPS: _adain_with(correction=1, content_eps=False, style_eps=False),
            _CONTENT_ONLY: _adain_with(style_eps=False),
            _STYLE_ONLY: _adain_with(content_eps=False),
            _CONTENT_ONLY + _OUTSIDE: _adain_with(style_eps=False, outside=True),
            _STYLE_ONLY + _OUTSIDE: _adain_with(content_eps=False, outside=True),
            _CONTENT_ONLY + _UNBIASED: _adain_with(style_eps=False, correction=1),
            _STYLE_ONLY + _UNBIASED: _adain_with(content_eps=False, correction=1),
            _CONTENT_ONLY + _OUTSIDE + _UNBIASED: _adain_with(style_eps=False, outside=True, correction=1),
            _STYLE_ONLY + _OUTSIDE + _UNBIASED: _adain_with(content_eps=False, outside=True, correction=1),
            "added the style's mean before multiplying by its std": (
                lambda c, s, eps: (
                    (standard(c, (2, 3), eps) + s.mean((2, 3), keepdim=True))
                    * (s.var((2, 3), correction=0, keepdim=True) + eps).sqrt()
                )
            ),
            "shared the statistics among the images of the batch; each has its own": (
                lambda c, s, eps: core.denormalize(
                    standard(c, (0, 2, 3), eps), *core.moments(s, (0, 2, 3), eps=eps)
                )
            ),
            "forgot to remove the content's own statistics": (
                lambda c, s, eps: core.denormalize(c, *core.moments(s, (2, 3), eps=eps))
            ),
        },
    ),
    "whiten_and_colour": Exercise(
        title="What two numbers a channel leave out",
        signature="whiten_and_colour(x, y)",
        task="gives the pixels of x (3, H, W) the mean and the covariance (divided by n) of those of y, "
        "which is (3, H, W) too, through the Cholesky factors of both",
        reference=_whiten_and_colour,
        cases=_picture_cases,
        mistakes={
            "matched each channel by itself, as AdaIN does": (
                lambda x, y: core.denormalize(
                    core.normalize(x, *core.moments(x, (1, 2))), *core.moments(y, (1, 2))
                )
            ),
            "kept the mean of x": lambda x, y: _whiten_and_colour(x, y, mean=False),
            "swapped x and y": lambda x, y: _whiten_and_colour(y, x),
            "divided both covariances by n − 1, which torch.cov does unless told (correction=0)": (
                lambda x, y: _whiten_and_colour(x, y, correction=1)
            ),
        },
    ),
    "adain_of_adain": Exercise(
        title="AdaIN of an AdaIN",
        signature="both(x, y, z)",
        task="returns AdaIN(AdaIN(x, y), z) for features (N, C, H, W), with one call of functional.adain",
        reference=lambda x, y, z: functional.adain(functional.adain(x, y), z),
        cases=_triple_cases,
        mistakes={
            "kept the first style; the last one wins": lambda x, y, z: functional.adain(x, y),
            "styled the style; the content is still x": lambda x, y, z: functional.adain(y, z),
            "used the content as the style": lambda x, y, z: functional.adain(z, x),
        },
        atol=1e-3,
    ),
}
