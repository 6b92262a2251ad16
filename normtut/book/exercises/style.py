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
}
