"""Exercises that check themselves: your function is tried on hidden cases and told what is wrong.

>>> def my_inverse(z, mean, std):
...     return (z + mean.view(-1, 1, 1)) * std.view(-1, 1, 1)
>>> check("inverse", my_inverse)
✗ inverse: case 1 of 4 differs: the largest error is 0.46, in a result of shape (3, 4, 5).
  It looks as if you added the mean before multiplying by the std.
False
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import core, images

__all__ = ["Exercise", "check", "names"]

Args = tuple[Any, ...]


@dataclass(frozen=True)
class Exercise:
    """What `check` needs to know about one exercise.

    Args:
        task: what the reader's function must do, in a sentence that ends with its signature.
        reference: a correct solution.
        cases: makes the hidden inputs from a seeded generator.
        mistakes: wrong solutions that people write, by the sentence that explains them; it completes
            "It looks as if you …".
        atol: largest allowed difference, relative to the largest value of the right result (or to 1).
    """

    task: str
    reference: Callable[..., Any]
    cases: Callable[[torch.Generator], Iterator[Args]]
    mistakes: dict[str, Callable[..., Any]] = field(default_factory=dict)
    atol: float = 1e-5


def check(name: str, attempt: Callable[..., Any]) -> bool:
    """Try ``attempt`` on the hidden cases of an exercise; print what is wrong, and return the verdict.

    >>> check("inverse", lambda z, mean, std: z * std.view(-1, 1, 1) + mean.view(-1, 1, 1))
    ✓ inverse: all 4 cases agree.
    True

    Raises:
        KeyError: for an unknown name; it lists the known ones.
    """
    if name not in _EXERCISES:
        raise KeyError(f"no exercise named {name!r}; there are {', '.join(_EXERCISES)}")
    exercise = _EXERCISES[name]
    cases = list(exercise.cases(torch.Generator().manual_seed(0)))
    for i, args in enumerate(cases, start=1):
        where = f"case {i} of {len(cases)}"
        expected = exercise.reference(*_copy(args))
        given = _copy(args)
        try:
            result = attempt(*given)
        except Exception as error:
            print(f"✗ {name}: {where} raised {type(error).__name__}: {error}")
            return _explain(f"The task: {exercise.task}", args)
        problem = _difference(result, expected, exercise.atol)
        if problem is None and not all(_same(a, b) for a, b in zip(args, given, strict=True)):
            problem = "changes its input in place; work on a copy"
        if problem:
            print(f"✗ {name}: {where} {problem}")
            for explanation, mistake in exercise.mistakes.items():
                if _difference(result, mistake(*_copy(args)), exercise.atol) is None:
                    return _explain(f"It looks as if you {explanation}.")
            return _explain(f"The task: {exercise.task}", args)
    print(f"✓ {name}: all {len(cases)} cases agree.")
    return True


def names() -> list[str]:
    """The names of all exercises.

    >>> "inverse" in names()
    True
    """
    return list(_EXERCISES)


def _explain(text: str, args: Args = ()) -> bool:
    print(f"  {text}")
    if args:
        print("  The arguments were " + ", ".join(_describe(a) for a in args) + ".")
    return False


def _describe(a: Any) -> str:
    return f"a {a.dtype} tensor of shape {tuple(a.shape)}" if isinstance(a, Tensor) else repr(a)


def _copy(args: Args) -> Args:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in args)


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else True


def _difference(result: Any, expected: Any, atol: float) -> str | None:
    """What is wrong with ``result``, or None. Lists and tuples are compared element by element."""
    if isinstance(expected, tuple | list):
        if not isinstance(result, tuple | list) or len(result) != len(expected):
            return f"should return {len(expected)} results, got {_describe(result)}."
        problems = (_difference(r, e, atol) for r, e in zip(result, expected, strict=True))
        return next((p for p in problems if p), None)
    if isinstance(expected, Tensor) and not isinstance(result, Tensor):
        return f"should return a tensor, got {type(result).__name__}."
    r, e = torch.as_tensor(result), torch.as_tensor(expected)
    if r.shape != e.shape:
        return f"should return shape {tuple(e.shape)}, got {tuple(r.shape)}."
    if isinstance(expected, Tensor) and r.dtype != e.dtype:
        return f"should return {e.dtype}, got {r.dtype}."
    if not e.numel():
        return None
    if bool(r.isnan().any()) and not bool(e.isnan().any()):
        return f"returns NaN, in a result of shape {tuple(r.shape)}."
    error = (r.double() - e.double()).abs().max().item()
    if error <= atol * max(1.0, e.double().abs().max().item()):
        return None
    return f"differs: the largest error is {error:.2g}, in a result of shape {tuple(r.shape)}."


def _image_cases(g: torch.Generator) -> Iterator[Args]:
    """Images with per-channel statistics, as (C, H, W) and as batches, float32 and float64."""
    for shape, dtype in (
        ((3, 4, 5), torch.float32),
        ((2, 3, 4, 3), torch.float32),  # W = C: broadcasting along the wrong axis would pass unnoticed
        ((0, 3, 2, 2), torch.float32),
        ((1, 6, 6), torch.float64),
    ):
        c = shape[-3]
        mean, std = torch.rand(c, generator=g), 0.1 + torch.rand(c, generator=g)
        yield torch.rand(shape, generator=g, dtype=dtype), mean.to(dtype), std.to(dtype)


def _per_channel(stats: Tensor) -> Tensor:
    return stats.view(-1, 1, 1)


def _byte_cases(g: torch.Generator) -> Iterator[Args]:
    levels = torch.arange(256) / 255
    yield (levels.view(1, 16, 16),)
    yield (
        images.InverseNormalize(*images.IMAGENET)(
            images.Normalize(*images.IMAGENET)(levels.view(16, 16).expand(3, 16, 16))
        ),
    )
    yield (torch.linspace(-0.5, 1.5, 99),)


_EXERCISES = {
    "normalize": Exercise(
        task="remove per-channel statistics from images (…, C, H, W): normalize(x, mean, std)",
        reference=core.normalize,
        cases=_image_cases,
        mistakes={
            "multiplied by the std instead of dividing": (
                lambda x, m, s: (x - _per_channel(m)) * _per_channel(s)
            ),
            "divided before subtracting the mean": (lambda x, m, s: x / _per_channel(s) - _per_channel(m)),
            "divided by the variance, not the std": (
                lambda x, m, s: (x - _per_channel(m)) / _per_channel(s) ** 2
            ),
        },
    ),
    "inverse": Exercise(
        task="put per-channel statistics back into images (…, C, H, W): denormalize(z, mean, std)",
        reference=core.denormalize,
        cases=_image_cases,
        mistakes={
            "added the mean before multiplying by the std": (
                lambda z, m, s: (z + _per_channel(m)) * _per_channel(s)
            ),
            "subtracted the mean instead of adding it": (
                lambda z, m, s: z * _per_channel(s) - _per_channel(m)
            ),
            "normalized a second time": (lambda z, m, s: core.normalize(z, m, s)),
        },
    ),
    "to_uint8": Exercise(
        task="turn float pixels in [0, 1] into uint8 levels, clamped and rounded: to_uint8(x)",
        reference=images.to_uint8,
        cases=_byte_cases,
        mistakes={
            "truncated instead of rounding": lambda x: x.clamp(0, 1).mul(255).byte(),
            "truncated ×256": lambda x: x.clamp(0, 1).mul(256).clamp(max=255).byte(),
            "did not clamp, so that values outside [0, 1] wrapped around": (
                lambda x: x.mul(255).round().to(torch.int64).remainder(256).byte()
            ),
        },
        atol=0,
    ),
}
