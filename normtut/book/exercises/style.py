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


def _style_loss_cases(g: torch.Generator) -> Iterator[Args]:
    for (n, c), a, b, eps in (((2, 3), (6, 5), (4, 7), 1e-5), ((3, 2), (4, 4), (5, 3), 0.5)):
        painted = torch.randn(n, c, *a, generator=g, dtype=torch.float64)
        offset = torch.arange(c, dtype=torch.float64)[:, None, None]
        yield painted, 2 * torch.rand(n, c, *b, generator=g, dtype=torch.float64) + offset, eps


def _style_loss(
    x: Tensor,
    style: Tensor,
    eps: float,
    *,
    std: bool = True,
    mean: bool = True,
    correction: int = 0,
    scale: Callable[[Tensor, Tensor], Tensor] = lambda x, style: style.flatten(1).var(1),
    over: tuple[int, ...] = (1,),
) -> Tensor:
    shift = (x.mean((2, 3)) - style.mean((2, 3))).square()
    spread = (_std(x, eps, correction, False) - _std(style, eps, correction, False)).square()[..., 0, 0]
    return (shift * mean + spread * std).mean(over) / scale(x, style)


def _triple_cases(g: torch.Generator) -> Iterator[Args]:
    for shape in ((1, 3, 8, 8), (2, 4, 6, 5)):
        yield tuple(scale * torch.rand(shape, generator=g) + scale for scale in (1.0, 3.0, 9.0))


def _film_cases(g: torch.Generator) -> Iterator[Args]:
    for shape in ((2, 3, 4, 5), (3, 4, 3, 4), (1, 2, 1, 1)):  # in the second γ would fit H and W as well
        yield torch.randn(shape, generator=g), *torch.randn(2, *shape[:2], generator=g)


def _each(v: Tensor) -> Tensor:
    return v[:, :, None, None]


def _demodulation_cases(g: torch.Generator) -> Iterator[Args]:
    for n, o, i, k, eps in ((2, 3, 4, 3, 0.5), (3, 4, 4, 1, 1e-8), (1, 2, 5, 2, 0.1)):
        yield torch.randn(o, i, k, k, generator=g), 2 * torch.rand(n, i, generator=g) + 0.1, eps


def _demodulated(weight: Tensor, style: Tensor, eps: float, dim: tuple[int, ...] = (2, 3, 4)) -> Tensor:
    w = weight[None] * style[:, None, :, None, None]
    return w / (w.square().sum(dim, keepdim=True) + eps).sqrt()


def _token_cases(g: torch.Generator) -> Iterator[Args]:
    for (n, tokens, d), eps in (((2, 3, 4), 0.1), ((3, 3, 5), 1e-5), ((1, 4, 2), 0.5)):
        h = 1 + 2 * torch.randn(n, tokens, d, generator=g)
        yield h, *torch.randn(3, n, d, generator=g), torch.tanh, eps
    yield h, *torch.randn(2, n, d, generator=g), torch.zeros(n, d), torch.exp, eps  # a gate that is closed


def _ada_ln_zero(
    h: Tensor,
    gamma: Tensor,
    beta: Tensor,
    gate: Tensor,
    f: Callable[[Tensor], Tensor],
    eps: float,
    one: float = 1,
) -> Tensor:
    z = standard(h, (-1,), eps)
    return h + gate[:, None] * f((one + gamma[:, None]) * z + beta[:, None])


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
    "style_loss": Exercise(
        title="The style loss",
        signature="style_loss(features, style, eps)",
        task="compares features (N, C, H, W) with those of a style: mean squared difference of the means and "
        "that of the stds (biased, eps under the root), over the variance of the style's features; (N,)",
        reference=_style_loss,
        cases=_style_loss_cases,
        mistakes={
            "compared the means only": lambda x, s, eps: _style_loss(x, s, eps, std=False),
            "compared the stds only": lambda x, s, eps: _style_loss(x, s, eps, mean=False),
            UNBIASED: lambda x, s, eps: _style_loss(x, s, eps, correction=1),
            EPS_FORGOTTEN: lambda x, s, eps: _style_loss(x, s, 0.0),
            "divided by the variance of the painting's features; the unit is the style's": (
                lambda x, s, eps: _style_loss(x, s, eps, scale=lambda x, s: x.flatten(1).var(1))
            ),
            "forgot to divide by the variance of the style's features": (
                lambda x, s, eps: _style_loss(x, s, eps, scale=lambda x, s: x.new_ones(()))
            ),
            "divided by the mean of the channels' variances, without the variance between their means": (
                lambda x, s, eps: _style_loss(
                    x, s, eps, scale=lambda x, s: s.var((2, 3), correction=0).mean(1)
                )
            ),
            "averaged over the images of the batch as well": (
                lambda x, s, eps: _style_loss(x, s, eps, over=(0, 1), scale=lambda x, s: s.var()).expand(
                    len(x)
                )
            ),
            "compared variances instead of standard deviations": (
                lambda x, s, eps: (
                    (
                        (x.mean((2, 3)) - s.mean((2, 3))).square().mean(1)
                        + (x.var((2, 3), correction=0) - s.var((2, 3), correction=0)).square().mean(1)
                    )
                    / s.flatten(1).var(1)
                )
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
    "film": Exercise(
        title="FiLM by hand",
        signature="film(x, gamma, beta)",
        task="multiplies features (N, C, H, W) by gamma and adds beta, both (N, C): one of each for every "
        "channel of every sample",
        reference=lambda x, gamma, beta: core.denormalize(x, mean=_each(beta), std=_each(gamma)),
        cases=_film_cases,
        mistakes={
            "added β before multiplying by γ": lambda x, g, b: (x + _each(b)) * _each(g),
            "multiplied by 1 + γ; some networks do, this function does not": (
                lambda x, g, b: x * (1 + _each(g)) + _each(b)
            ),
            "swapped γ and β": lambda x, g, b: x * _each(b) + _each(g),
            "normalized the features as well; that has been done before": (
                lambda x, g, b: standard(x, (2, 3), 1e-5) * _each(g) + _each(b)
            ),
            "used the γ and β of the first sample for all": lambda x, g, b: x * _each(g[:1]) + _each(b[:1]),
            "averaged γ and β over the samples": (
                lambda x, g, b: x * _each(g.mean(0, keepdim=True)) + _each(b.mean(0, keepdim=True))
            ),
        },
    ),
    "demodulate": Exercise(
        title="Demodulation",
        signature="demodulate(weight, style, eps)",
        task="multiplies the input channels of weight (O, I, K, K) by style (N, I), then divides the weights "
        "of each output by the root of the sum of their squares plus eps: (N, O, I, K, K)",
        reference=_demodulated,
        cases=_demodulation_cases,
        mistakes={
            "summed over the outputs as well; each output has a scale of its own": (
                lambda w, s, eps: _demodulated(w, s, eps, (1, 2, 3, 4))
            ),
            "summed over the kernel only, and not over the input channels": (
                lambda w, s, eps: _demodulated(w, s, eps, (3, 4))
            ),
            "summed over the outputs instead of the inputs": lambda w, s, eps: _demodulated(
                w, s, eps, (1, 3, 4)
            ),
            EPS_FORGOTTEN: lambda w, s, eps: _demodulated(w, s, 0.0),
            "added eps outside of the root": lambda w, s, eps: (
                (m := w[None] * s[:, None, :, None, None])
                / (m.square().sum((2, 3, 4), keepdim=True).sqrt() + eps)
            ),
            "forgot the root": lambda w, s, eps: (
                (m := w[None] * s[:, None, :, None, None]) / (m.square().sum((2, 3, 4), keepdim=True) + eps)
            ),
            "stopped after the modulation": lambda w, s, eps: w[None] * s[:, None, :, None, None],
            "demodulated first and modulated afterwards": lambda w, s, eps: (
                (w / (w.square().sum((1, 2, 3), keepdim=True) + eps).sqrt()) * s[:, None, :, None, None]
            ),
        },
    ),
    "ada_ln_zero": Exercise(
        title="The gate",
        signature="ada_ln_zero(h, gamma, beta, gate, f, eps)",
        task="adds to tokens h (N, L, D) gate times f of them after layer norm with 1 + gamma and beta; "
        "gamma, beta and gate are (N, D), the same for all tokens of a sample",
        reference=_ada_ln_zero,
        cases=_token_cases,
        mistakes={
            "multiplied by γ instead of 1 + γ": lambda h, g, b, a, f, eps: _ada_ln_zero(
                h, g, b, a, f, eps, 0
            ),
            "put the gate on everything, so that nothing passes when it is closed": (
                lambda h, g, b, a, f, eps: (
                    a[:, None] * (h + f((1 + g[:, None]) * standard(h, (-1,), eps) + b[:, None]))
                )
            ),
            "forgot the gate": lambda h, g, b, a, f, eps: _ada_ln_zero(h, g, b, torch.ones_like(a), f, eps),
            "forgot to add h": lambda h, g, b, a, f, eps: _ada_ln_zero(h, g, b, a, f, eps) - h,
            "used 1 + gate; the gate itself starts at zero": (
                lambda h, g, b, a, f, eps: _ada_ln_zero(h, g, b, 1 + a, f, eps)
            ),
            "forgot to normalize": lambda h, g, b, a, f, eps: (
                h + a[:, None] * f((1 + g[:, None]) * h + b[:, None])
            ),
            "normalized over the tokens instead of the channels": lambda h, g, b, a, f, eps: (
                h + a[:, None] * f((1 + g[:, None]) * standard(h, (1,), eps) + b[:, None])
            ),
            EPS_FORGOTTEN: lambda h, g, b, a, f, eps: _ada_ln_zero(h, g, b, a, f, 0.0),
            EPS_OUTSIDE: lambda h, g, b, a, f, eps: (
                h + a[:, None] * f((1 + g[:, None]) * standard(h, (-1,), eps, outside=True) + b[:, None])
            ),
        },
    ),
}
