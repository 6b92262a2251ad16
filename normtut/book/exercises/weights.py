"""Exercises of chapter 10: weights instead of activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from normtut.book.exercises.engine import Args, Exercise

__all__ = ["EXERCISES"]


def _weight_cases(g: torch.Generator) -> Iterator[Args]:
    for shape in ((3, 5), (6, 4), (4, 4)):
        weight, grad = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
        yield 3 * weight, grad


def _with_parts(formula: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A gradient at W, from ``formula(G, W, σ, u vᵀ)``."""

    def solution(weight: Tensor, grad: Tensor) -> Tensor:
        u, s, vt = torch.linalg.svd(weight)
        return formula(grad, weight, s[0], torch.outer(u[:, 0], vt[0]))

    return solution


def _by_autograd(weight: Tensor, grad: Tensor) -> Tensor:
    w = weight.detach().requires_grad_()
    (w / torch.linalg.matrix_norm(w, 2)).backward(grad)
    assert w.grad is not None
    return w.grad


EXERCISES = {
    "spectral_grad": Exercise(
        title="The gradient through a spectral norm",
        signature="spectral_grad(weight, grad)",
        task="returns the gradient at the matrix weight, where grad is the gradient at weight / σ, and σ the "
        "largest singular value of weight",
        reference=_by_autograd,
        cases=_weight_cases,
        mistakes={
            "took σ for a constant; it depends on the weight too": _with_parts(lambda g, w, s, uv: g / s),
            "forgot the factor 1/σ in front": _with_parts(lambda g, w, s, uv: g - (g * w / s).sum() * uv),
            "took the inner product with the weight; it is taken with weight / σ": _with_parts(
                lambda g, w, s, uv: (g - (g * w).sum() * uv) / s
            ),
            "lost a sign: the second term is subtracted": _with_parts(
                lambda g, w, s, uv: (g + (g * w / s).sum() * uv) / s
            ),
            "multiplied element by element; the inner product is one number, a sum": (
                _with_parts(lambda g, w, s, uv: (g - g * w / s * uv) / s)
            ),
        },
    ),
}
