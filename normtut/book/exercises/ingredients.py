"""What several exercises of the catalogue are made of: features, wrong normalizations and their sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from normtut.book.exercises.engine import Args

__all__ = [
    "CANCELS",
    "EPS_FORGOTTEN",
    "EPS_OUTSIDE",
    "STD_PLUS_EPS",
    "UNBIASED",
    "UNBIASED_NO_EPS",
    "by_channel",
    "feature_cases",
    "per_channel",
    "standard",
    "wrong_stds",
]

UNBIASED = "used the unbiased variance, which divides by m − 1 (torch.var and torch.std do unless told)"
EPS_OUTSIDE = "added eps to the std; it belongs under the square root, with the variance"
EPS_FORGOTTEN = "forgot eps"
STD_PLUS_EPS = (
    "divided by x.std(…) + eps: eps belongs under the square root, with the variance, and the variance that "
    "is wanted divides by m, while torch.std divides by m − 1 unless told"
)
CANCELS = "subtracted two nearly equal numbers, Σx²/n − (Σx/n)² or its like, and lost the digits"
UNBIASED_NO_EPS = "divided by x.std(…), which divides by m − 1 unless told, and forgot eps"


def standard(
    x: Tensor, dim: Sequence[int], eps: float, *, correction: int = 0, outside: bool = False
) -> Tensor:
    """Normalized over ``dim``, and optionally in two of the ways that people get wrong."""
    var, mean = torch.var_mean(x, tuple(dim), correction=correction, keepdim=True)
    return (x - mean) / (var.sqrt() + eps if outside else (var + eps).sqrt())


def wrong_stds(norm: Callable[..., Tensor]) -> dict[str, Callable[..., Tensor]]:
    """The mistakes about a std, for the norm ``norm(standard, *arguments of the exercise)``."""
    wrong = {
        UNBIASED: partial(standard, correction=1),
        EPS_OUTSIDE: partial(standard, outside=True),
        STD_PLUS_EPS: partial(standard, correction=1, outside=True),
        EPS_FORGOTTEN: lambda x, dim, eps: standard(x, dim, 0),
        UNBIASED_NO_EPS: lambda x, dim, eps: standard(x, dim, 0, correction=1),
    }
    return {sentence: partial(norm, function) for sentence, function in wrong.items()}


def per_channel(stats: Tensor) -> Tensor:
    """One value per channel, shaped to meet the channels of (…, C, H, W)."""
    return stats.view(-1, 1, 1)


def by_channel(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """γ and β, put on the channels of (…, C, H, W)."""
    return z * per_channel(weight) + per_channel(bias)


def feature_cases(*, params: bool) -> Callable[[torch.Generator], Iterator[Args]]:
    """Features (N, C, H, W) far from zero, γ and β where wanted, and an eps that is large enough to see."""

    def cases(g: torch.Generator) -> Iterator[Args]:
        for shape, dtype, eps in (
            ((4, 3, 5, 6), torch.float32, 0.5),
            ((2, 4, 3, 4), torch.float32, 1e-5),  # W = C, so that the wrong axis fits too
            ((3, 2, 1, 4), torch.float64, 0.1),
        ):
            x = 2 * torch.rand(shape, generator=g, dtype=dtype)
            x = x + torch.rand(shape[1], 1, 1, generator=g, dtype=dtype) + 1  # channels differ
            weight, bias = torch.rand(2, shape[1], generator=g, dtype=dtype) + 0.5
            yield (x, weight, bias, eps) if params else (x, eps)

    return cases
