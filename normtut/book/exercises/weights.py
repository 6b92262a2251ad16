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


def _power_cases(g: torch.Generator) -> Iterator[Args]:
    for (rows, columns), steps in (((3, 5), 3), ((6, 4), 1), ((4, 4), 2), ((5, 2), 30)):
        matrix = 3 * torch.randn(rows, columns, generator=g, dtype=torch.float64)
        yield matrix, torch.randn(columns, generator=g, dtype=torch.float64), steps


def _rounds(matrix: Tensor, v: Tensor, steps: int, *, rescale: bool = True) -> tuple[Tensor, Tensor]:
    for _ in range(steps):
        u = matrix @ v
        u = u / u.norm() if rescale else u
        v = matrix.mT @ u
        v = v / v.norm() if rescale else v
    return u, v


def _sigma(matrix: Tensor, v: Tensor, steps: int) -> Tensor:
    u, v = _rounds(matrix, v, steps)
    return u @ matrix @ v


def _sigma_unscaled(matrix: Tensor, v: Tensor, steps: int) -> Tensor:
    u, v = _rounds(matrix, v, steps, rescale=False)
    return u @ matrix @ v


EXERCISES = {
    "sigma": Exercise(
        title="Power iteration",
        signature="sigma(matrix, v, steps)",
        task="makes so many rounds of power iteration (10.3) from v, and returns its estimate of the largest "
        "singular value of matrix, a tensor without axes",
        reference=_sigma,
        cases=_power_cases,
        mistakes={
            "returned σ², by which a vector grows that is multiplied by W and by its transpose": (
                lambda matrix, v, steps: _sigma(matrix, v, steps) ** 2
            ),
            "made one round, whatever steps says": lambda matrix, v, steps: _sigma(matrix, v, 1),
            "left out the last round": lambda matrix, v, steps: _sigma(matrix, v, steps - 1),
            "never divided u and v by their lengths": _sigma_unscaled,
            "took the length of W v without dividing by the length of v": (
                lambda matrix, v, steps: (matrix @ _rounds(matrix, v, steps, rescale=False)[1]).norm()
            ),
            "used numpy's or torch's norm of the matrix without saying which: that is the Frobenius norm": (
                lambda matrix, v, steps: torch.linalg.norm(matrix)
            ),
            "asked for the exact σ; here the estimate after so many rounds is wanted": (
                lambda matrix, v, steps: torch.linalg.matrix_norm(matrix, 2)
            ),
        },
    ),
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
