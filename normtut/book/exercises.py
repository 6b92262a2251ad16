"""Exercises that check themselves: your function is tried on hidden cases and told what is wrong.

>>> def my_inverse(z, mean, std):
...     return (z + mean.view(-1, 1, 1)) * std.view(-1, 1, 1)
>>> check("inverse", my_inverse)
✗ inverse: case 1 of 4 differs: the largest error is 0.46, in a result of shape (3, 4, 5).
  It looks as if you added the mean before multiplying by the std.
False
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normtut import core, distributed, functional, images

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
        if problem is None and not _same(args, given):
            # No mistake to look for: the result is right, and a mistake may agree with it in this case.
            print(f"✗ {name}: {where} changes its input in place; work on a copy.")
            return False
        if problem:
            print(f"✗ {name}: {where}{',' if problem.startswith('result ') else ''} {problem}")
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
    if isinstance(a, Tensor | np.ndarray):
        kind = "tensor" if isinstance(a, Tensor) else "array"
        return f"a {a.dtype} {kind} of shape {tuple(a.shape)}"
    if isinstance(a, list):
        return f"[{', '.join(map(_describe, a))}]"
    return repr(a)


def _copy(args: Args) -> Args:
    return tuple(copy.deepcopy(a) for a in args)


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Tensor):  # torch.equal raises where devices or dtypes differ
        return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
    return np.array_equal(a, b)


def _difference(result: Any, expected: Any, atol: float) -> str | None:
    """What is wrong with ``result``, or None. Lists and tuples are compared element by element."""
    if isinstance(expected, tuple | list):
        if not isinstance(result, tuple | list) or len(result) != len(expected):
            return f"should return {len(expected)} results, got {_describe(result)}."
        for i, (r, e) in enumerate(zip(result, expected, strict=True), start=1):
            if problem := _difference(r, e, atol):
                return f"result {i} of {len(expected)} {problem}"
        return None
    # A count is right by its value: 8, 8.0 and a tensor of either are the same number of pixels.
    is_count = isinstance(expected, Tensor) and not expected.ndim and not expected.is_floating_point()
    if isinstance(expected, Tensor) and not isinstance(result, (Tensor | Real) if is_count else Tensor):
        return f"should return a tensor, got {type(result).__name__}."
    r, e = torch.as_tensor(result), torch.as_tensor(expected)
    if r.device != e.device:
        return f"should return a tensor on {e.device}, got {r.device}."
    if r.shape != e.shape:
        return f"should return shape {tuple(e.shape)}, got {tuple(r.shape)}."
    if isinstance(expected, Tensor) and r.dtype != e.dtype and not is_count:
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


def _stats_cases(g: torch.Generator) -> Iterator[Args]:
    yield tuple(map(torch.tensor, images.IMAGENET))
    yield torch.tensor([0.5]), torch.tensor([0.5])
    yield (
        torch.rand(4, generator=g, dtype=torch.float64),
        0.1 + torch.rand(4, generator=g, dtype=torch.float64),
    )


def _opencv_cases(g: torch.Generator) -> Iterator[Args]:
    """Pictures as ``cv2.imread`` returns them; in one of them H = W = C: wrong axes fit as well."""
    for height, width, stats in (
        (4, 5, images.IMAGENET),
        (3, 3, ((0.2, 0.6, 0.4), (0.3, 0.1, 0.2))),  # not ImageNet's, which may be written into a solution
        (1, 7, ((0.5, 0.4, 0.3), (0.5, 0.25, 0.4))),
    ):
        bgr = torch.randint(256, (height, width, 3), generator=g, dtype=torch.uint8).numpy()
        yield bgr, *stats


def _from_opencv(bgr: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    rgb = torch.from_numpy(bgr).flip(-1)
    return core.normalize(rgb.permute(2, 0, 1).float() / 255, mean, std)


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


def _batches_cases(g: torch.Generator) -> Iterator[Args]:
    """Lists of batches (N, C, H, W): the last one smaller, later ones brighter; at last all far from 0."""
    for sizes, hw, offset in (([4, 4, 1], 6, 0), ([3], 4, 0), ([1, 2, 3], 5, 0), ([2, 3], 5, 1e6)):
        yield ([torch.rand(n, 3, hw, hw, generator=g).double() + i + offset for i, n in enumerate(sizes)],)


def _dataset_std(batches: Sequence[Tensor]) -> Tensor:
    return core.moments(torch.cat(list(batches)), (0, 2, 3), keepdim=False)[1]


def _cancelling_std(batches: Sequence[Tensor]) -> Tensor:
    n, total, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
    for x in batches:
        n += x[:, 0].numel()
        total, squares = total + x.sum((0, 2, 3)), squares + (x**2).sum((0, 2, 3))
    return (squares / n - (total / n) ** 2).sqrt()


def _feature_cases(*, params: bool) -> Callable[[torch.Generator], Iterator[Args]]:
    """Features (N, C, H, W) far from zero, γ and β where wanted, and an eps that is large enough to see."""

    def cases(g: torch.Generator) -> Iterator[Args]:
        for shape, dtype, eps in (
            ((4, 3, 5, 6), torch.float32, 0.5),
            ((2, 4, 3, 4), torch.float32, 1e-5),  # W = C: broadcasting along the wrong axis
            ((3, 2, 1, 4), torch.float64, 0.1),
        ):
            x = 2 * torch.rand(shape, generator=g, dtype=dtype)
            x = x + torch.rand(shape[1], 1, 1, generator=g, dtype=dtype) + 1  # channels differ
            weight, bias = torch.rand(2, shape[1], generator=g, dtype=dtype) + 0.5
            yield (x, weight, bias, eps) if params else (x, eps)

    return cases


def _axes_cases(g: torch.Generator) -> Iterator[Args]:
    for shape, dim, eps in (
        ((3, 3, 3), (1,), 0.5),  # all axes equal: statistics that lost an axis broadcast unnoticed
        ((4, 3, 5, 3), (0, 2, 3), 0.5),
        ((5, 5), (1,), 1e-5),
        ((2, 4, 3), (0, 1, 2), 0.1),
    ):
        yield 1 + 2 * torch.rand(shape, generator=g) * torch.rand(shape[-1:], generator=g), dim, eps


def _ghost_cases(g: torch.Generator) -> Iterator[Args]:
    for n, size, eps in ((6, 2, 0.1), (6, 3, 0.5), (4, 4, 0.01)):
        x = torch.rand((n, 3, 2, 3), generator=g) + torch.rand((n, 3, 1, 1), generator=g)
        yield x, size, eps


def _token_cases(*, bias: bool) -> Callable[[torch.Generator], Iterator[Args]]:
    """Sequences (N, L, D), γ and perhaps β of D values, and an eps."""

    def cases(g: torch.Generator) -> Iterator[Args]:
        for shape, dtype, eps in (
            ((2, 3, 8), torch.float32, 0.5),
            ((4, 5, 5), torch.float32, 1e-5),  # L = D: the wrong axis would not raise
            ((1, 1, 6), torch.float64, 0.1),
        ):
            x = 1 + 2 * torch.rand(shape, generator=g, dtype=dtype)
            params = torch.rand(2, shape[-1], generator=g, dtype=dtype) + 0.5
            yield (x, *(params if bias else params[:1]), eps)

    return cases


def _group_cases(g: torch.Generator) -> Iterator[Args]:
    # 9, 12 and 6 channels: neither the number of groups nor their size stays the same.
    for (x, eps), groups in zip(_feature_cases(params=False)(g), (3, 6, 2), strict=True):
        yield torch.cat([x, x.flip(0) + 1, x * 2], dim=1), groups, eps


def _running_cases(g: torch.Generator) -> Iterator[Args]:
    for (x, _), momentum in zip(_feature_cases(params=False)(g), (0.1, 0.3, 0.05), strict=True):
        mean, var = torch.rand(2, x.shape[1], generator=g, dtype=x.dtype)
        yield mean, var, x, momentum


def _folding_cases(g: torch.Generator) -> Iterator[Args]:
    for k, eps in ((3, 0.5), (1, 1e-5)):
        weight = torch.randn(4, 4, k, k, generator=g)  # as many inputs as outputs: the wrong axis fits
        yield weight, *(torch.rand(5, 4, generator=g) + 0.5), eps


def _style_cases(g: torch.Generator) -> Iterator[Args]:
    for x, eps in _feature_cases(params=False)(g):
        yield x, 1 + 3 * torch.rand(*x.shape[:2], 6, 5, generator=g, dtype=x.dtype), eps


def _standard(
    x: Tensor, dim: Sequence[int], eps: float, *, correction: int = 0, outside: bool = False
) -> Tensor:
    """Normalized over ``dim``, and optionally in two of the ways that people get wrong."""
    var, mean = torch.var_mean(x, tuple(dim), correction=correction, keepdim=True)
    return (x - mean) / (var.sqrt() + eps if outside else (var + eps).sqrt())


def _by_channel(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return z * _per_channel(weight) + _per_channel(bias)


def _grouped(norm: Callable[[Tensor], Tensor], x: Tensor, groups: int) -> Tensor:
    return norm(x.reshape(len(x), groups, -1)).reshape(x.shape)


def _ghosts(x: Tensor, size: int, eps: float) -> Tensor:
    return _standard(x.unflatten(0, (-1, size)), (1, 3, 4), eps).view(x.shape)  # type: ignore[no-untyped-call]


def _interleaved_ghosts(x: Tensor, size: int, eps: float) -> Tensor:
    ghosts = x.unflatten(0, (size, -1))  # type: ignore[no-untyped-call]
    return _standard(ghosts, (0, 3, 4), eps).view(x.shape)


def _interleaved(x: Tensor, groups: int, eps: float) -> Tensor:
    n, c, h, w = x.shape
    return _standard(x.view(n, c // groups, groups, h, w), (1, 3, 4), eps).view(x.shape)


def _new_running(m: Tensor, v: Tensor, x: Tensor, momentum: float, correction: int) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, (0, 2, 3), correction=correction)
    return (1 - momentum) * m + momentum * mean, (1 - momentum) * v + momentum * var


def _folded(w: Tensor, b: Tensor, mean: Tensor, var: Tensor, g: Tensor, beta: Tensor, eps: float) -> Args:
    scale = g / (var + eps).sqrt()
    return w * scale.view(-1, 1, 1, 1), (b - mean) * scale + beta


_UNBIASED = "used the unbiased variance, which divides by m − 1 (torch.var and torch.std do unless told)"
_EPS_OUTSIDE = "added eps to the std; it belongs under the square root, with the variance"
_EPS_FORGOTTEN = "forgot eps"


def _part_cases(g: torch.Generator) -> Iterator[Args]:
    """Parts of uneven size, one of them empty, with means far from 0 and, at last, very far."""
    for counts, offset in (([3, 5], 0.0), ([1, 1, 8], 100.0), ([0, 4, 2], 5.0), ([3, 5], 1e6)):
        parts = [
            torch.randn(n, 4, generator=g, dtype=torch.float64) + offset + i for i, n in enumerate(counts)
        ]
        means = torch.stack([p.mean(0) if len(p) else p.new_zeros(4) for p in parts])
        m2s = torch.stack([(p - m).square().sum(0) for p, m in zip(parts, means, strict=True)])
        yield torch.tensor(counts), means, m2s


def _common_mean(counts: Tensor, means: Tensor) -> Tensor:
    return (counts[:, None] * means).sum(0) / counts.sum()


def _merged(counts: Tensor, means: Tensor, m2s: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return counts.sum(), mean, (m2s + counts[:, None] * (means - mean).square()).sum(0)


_CANCELS = "subtracted two nearly equal numbers, Σx²/n − (Σx/n)² or its like, and lost the digits"

_EXERCISES = {
    "dataset_std": Exercise(
        task="the std of all pixels, by channel, of a list of batches (N, C, H, W): dataset_std(batches)",
        reference=_dataset_std,
        cases=_batches_cases,
        mistakes={
            "averaged the stds of the batches": (
                lambda bs: torch.stack([b.std((0, 2, 3), correction=0) for b in bs]).mean(0)
            ),
            "averaged the variances of the batches and forgot the spread of their means": (
                lambda bs: torch.stack([b.var((0, 2, 3), correction=0) for b in bs]).mean(0).sqrt()
            ),
            "averaged the stds of the images": (
                lambda bs: torch.cat([b.std((2, 3), correction=0) for b in bs]).mean(0)
            ),
            "took the std of the images' stds": (
                lambda bs: torch.cat([b.std((2, 3), correction=0) for b in bs]).std(0, correction=0)
            ),
            "gave every batch the same weight, however many images it has": (
                lambda bs: (
                    torch.stack([(b**2).mean((0, 2, 3)) for b in bs]).mean(0)
                    - torch.stack([b.mean((0, 2, 3)) for b in bs]).mean(0) ** 2
                ).sqrt()
            ),
            "divided by n − 1, as torch.std does unless told otherwise": (
                lambda bs: torch.cat(list(bs)).std((0, 2, 3))
            ),
            _CANCELS: _cancelling_std,
        },
    ),
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
    "inverse_stats": Exercise(
        task="find the mean and std with which a second Normalize undoes the first: inverse_stats(mean, std)",
        reference=core.inverse_stats,
        cases=_stats_cases,
        mistakes={
            "lost the minus sign of the new mean": lambda m, s: (m / s, 1 / s),
            "forgot to divide the new mean by the std": lambda m, s: (-m, 1 / s),
            "multiplied the new mean by the std instead of dividing": lambda m, s: (-m * s, 1 / s),
            "kept the std; the new one is its reciprocal": lambda m, s: (-m / s, s),
        },
    ),
    "from_opencv": Exercise(
        task="turn a picture as cv2.imread returns it (a uint8 array of shape H × W × 3, channels in the "
        "order blue, green, red) into a normalized float32 tensor of shape (3, H, W), channels in the order "
        "red, green, blue: from_opencv(picture, mean, std)",
        reference=_from_opencv,
        cases=_opencv_cases,
        mistakes={
            "left the channels in the order blue, green, red": (
                lambda b, m, s: _from_opencv(b[..., ::-1].copy(), m, s)
            ),
            "reversed the channels after normalizing, so that blue met the constants of red": (
                lambda b, m, s: _from_opencv(b[..., ::-1].copy(), m, s).flip(0)
            ),
            "reshaped where the axes must be permuted": (
                lambda b, m, s: core.normalize(
                    torch.from_numpy(b).flip(-1).reshape(3, *b.shape[:2]).float() / 255, m, s
                )
            ),
            "swapped height and width": (lambda b, m, s: _from_opencv(b, m, s).transpose(1, 2)),
            "did not divide by 255": (
                lambda b, m, s: core.normalize(torch.from_numpy(b).flip(-1).permute(2, 0, 1).float(), m, s)
            ),
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
    "normalize_over": Exercise(
        task="normalize a tensor over the axes dim: normalize_over(x, dim, eps)",
        reference=lambda x, dim, eps: core.normalize(x, *core.moments(x, dim, eps=eps)),
        cases=_axes_cases,
        mistakes={
            _UNBIASED: lambda x, dim, eps: _standard(x, dim, eps, correction=1),
            _EPS_OUTSIDE: lambda x, dim, eps: _standard(x, dim, eps, outside=True),
            _EPS_FORGOTTEN: lambda x, dim, eps: _standard(x, dim, 0),
            "averaged over all axes, whatever dim says": (
                lambda x, dim, eps: _standard(x, range(x.ndim), eps)
            ),
            "averaged over the axes that are not in dim": (
                lambda x, dim, eps: _standard(x, [d for d in range(x.ndim) if d not in dim], eps)
            ),
            "lost the averaged axes, so that statistics met the wrong elements; keepdim=True keeps them": (
                lambda x, dim, eps: (x - x.mean(dim)) / (x.var(dim, correction=0) + eps).sqrt()
            ),
        },
    ),
    "ghost_batch_norm": Exercise(
        task="split features (N, C, H, W) into small batches of `size` samples in a row, and normalize each "
        "as batch norm does: ghost_batch_norm(x, size, eps)",
        reference=lambda x, size, eps: torch.cat(
            [functional.batch_norm(part, None, None, training=True, eps=eps) for part in x.split(size)]
        ),
        cases=_ghost_cases,
        mistakes={
            _EPS_FORGOTTEN: lambda x, size, eps: _ghosts(x, size, 0),
            "put every k-th sample into a ghost; a ghost is `size` samples in a row": _interleaved_ghosts,
            "made `size` ghosts; it is the number of samples in each": (
                lambda x, size, eps: _ghosts(x, len(x) // size, eps)
            ),
            "normalized the whole batch": lambda x, size, eps: _standard(x, (0, 2, 3), eps),
            "normalized each sample by itself": lambda x, size, eps: _standard(x, (2, 3), eps),
            "averaged over the channels as well": (
                lambda x, size, eps: torch.cat([_standard(p, (0, 1, 2, 3), eps) for p in x.split(size)])
            ),
        },
    ),
    "batch_norm": Exercise(
        task="normalize features (N, C, H, W) as batch norm does in training, then restore with γ and β: "
        "batch_norm(x, weight, bias, eps)",
        reference=lambda x, w, b, eps: functional.batch_norm(x, None, None, w, b, True, eps=eps),
        cases=_feature_cases(params=True),
        mistakes={
            _UNBIASED: lambda x, w, b, eps: _by_channel(_standard(x, (0, 2, 3), eps, correction=1), w, b),
            _EPS_OUTSIDE: lambda x, w, b, eps: _by_channel(_standard(x, (0, 2, 3), eps, outside=True), w, b),
            _EPS_FORGOTTEN: lambda x, w, b, eps: _by_channel(_standard(x, (0, 2, 3), 0), w, b),
            "averaged over the batch alone; height and width share the statistics too": (
                lambda x, w, b, eps: _by_channel(_standard(x, (0,), eps), w, b)
            ),
            "normalized each sample by itself; that is instance norm": (
                lambda x, w, b, eps: _by_channel(_standard(x, (2, 3), eps), w, b)
            ),
            "averaged over the channels as well": (
                lambda x, w, b, eps: _by_channel(_standard(x, (0, 1, 2, 3), eps), w, b)
            ),
            "added β before multiplying by γ": (
                lambda x, w, b, eps: (_standard(x, (0, 2, 3), eps) + _per_channel(b)) * _per_channel(w)
            ),
            "left out γ and β": lambda x, w, b, eps: _standard(x, (0, 2, 3), eps),
        },
    ),
    "running_stats": Exercise(
        task="update running statistics with one batch (N, C, H, W), as PyTorch does: "
        "update(running_mean, running_var, x, momentum) -> (mean, var)",
        reference=lambda m, v, x, momentum: _new_running(m, v, x, momentum, correction=1),
        cases=_running_cases,
        mistakes={
            "turned the momentum round; in PyTorch it is the weight of the new value": (
                lambda m, v, x, momentum: _new_running(m, v, x, 1 - momentum, correction=1)
            ),
            "kept the biased variance; the running one is unbiased": (
                lambda m, v, x, momentum: _new_running(m, v, x, momentum, correction=0)
            ),
            "turned the momentum round (in PyTorch it is the weight of the new value) and kept the biased "
            "variance": lambda m, v, x, momentum: _new_running(m, v, x, 1 - momentum, correction=0),
            "returned the variance before the mean": (
                lambda m, v, x, momentum: _new_running(m, v, x, momentum, correction=1)[::-1]
            ),
        },
    ),
    "fold_batch_norm": Exercise(
        task="fold a batch norm in eval mode into the convolution before it: "
        "fold(weight, bias, running_mean, running_var, gamma, beta, eps) -> (weight, bias)",
        reference=_folded,
        cases=_folding_cases,
        mistakes={
            "left the old bias unscaled": lambda w, b, m, v, g, beta, eps: (
                _folded(w, b, m, v, g, beta, eps)[0],
                b - m * g / (v + eps).sqrt() + beta,
            ),
            "lost the convolution's own bias": (
                lambda w, b, m, v, g, beta, eps: _folded(w, 0 * b, m, v, g, beta, eps)
            ),
            "divided by the variance, not the std": (
                lambda w, b, m, v, g, beta, eps: _folded(w, b, m, (v + eps) ** 2 - eps, g, beta, eps)
            ),
            _EPS_FORGOTTEN: lambda w, b, m, v, g, beta, eps: _folded(w, b, m, v, g, beta, 0),
            "scaled the input channels of the weight; γ and σ belong to the output channels": (
                lambda w, b, m, v, g, beta, eps: (
                    _folded(w.transpose(0, 1), b, m, v, g, beta, eps)[0].transpose(0, 1),
                    _folded(w, b, m, v, g, beta, eps)[1],
                )
            ),
        },
    ),
    "layer_norm": Exercise(
        task="normalize each token of sequences (N, L, D) over its D features, then restore with γ and β: "
        "layer_norm(x, weight, bias, eps)",
        reference=lambda x, w, b, eps: functional.layer_norm(x, w.shape, w, b, eps),
        cases=_token_cases(bias=True),
        mistakes={
            _UNBIASED: lambda x, w, b, eps: _standard(x, (-1,), eps, correction=1) * w + b,
            _EPS_OUTSIDE: lambda x, w, b, eps: _standard(x, (-1,), eps, outside=True) * w + b,
            _EPS_FORGOTTEN: lambda x, w, b, eps: _standard(x, (-1,), 0) * w + b,
            "averaged over the sequence as well; each token has its own statistics": (
                lambda x, w, b, eps: _standard(x, (1, 2), eps) * w + b
            ),
            "averaged over the sequence instead of the features": (
                lambda x, w, b, eps: _standard(x, (1,), eps) * w + b
            ),
            "normalized over batch and sequence, as batch norm does": (
                lambda x, w, b, eps: _standard(x, (0, 1), eps) * w + b
            ),
            "forgot to subtract the mean": (
                lambda x, w, b, eps: x / (x.var(-1, correction=0, keepdim=True) + eps).sqrt() * w + b
            ),
            "divided by the root mean square; that is RMS norm": (
                lambda x, w, b, eps: functional.rms_norm(x, w.shape, w, eps) + b
            ),
            "left out γ and β": lambda x, w, b, eps: _standard(x, (-1,), eps),
        },
    ),
    "rms_norm": Exercise(
        task="divide each token of sequences (N, L, D) by the root mean square of its D features, and "
        "multiply by γ: rms_norm(x, weight, eps)",
        reference=lambda x, w, eps: functional.rms_norm(x, w.shape, w, eps),
        cases=_token_cases(bias=False),
        mistakes={
            "subtracted the mean; that is layer norm": lambda x, w, eps: _standard(x, (-1,), eps) * w,
            "divided by the std; RMS is measured from zero, not from the mean": (
                lambda x, w, eps: x / (x.var(-1, correction=0, keepdim=True) + eps).sqrt() * w
            ),
            "forgot the root": lambda x, w, eps: x / (x.square().mean(-1, keepdim=True) + eps) * w,
            "summed the squares instead of averaging them": (
                lambda x, w, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * w
            ),
            "averaged over the sequence as well; each token has its own": (
                lambda x, w, eps: x / (x.square().mean((1, 2), keepdim=True) + eps).sqrt() * w
            ),
            _EPS_OUTSIDE.replace("std", "root").replace("variance", "mean square"): (
                lambda x, w, eps: x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * w
            ),
            _EPS_FORGOTTEN: lambda x, w, eps: x / x.square().mean(-1, keepdim=True).sqrt() * w,
            "left out γ": lambda x, w, eps: x / (x.square().mean(-1, keepdim=True) + eps).sqrt(),
        },
    ),
    "instance_norm": Exercise(
        task="normalize each channel of each image (N, C, H, W) by itself: instance_norm(x, eps)",
        reference=lambda x, eps: functional.instance_norm(x, eps=eps),
        cases=_feature_cases(params=False),
        mistakes={
            _UNBIASED: lambda x, eps: _standard(x, (2, 3), eps, correction=1),
            _EPS_OUTSIDE: lambda x, eps: _standard(x, (2, 3), eps, outside=True),
            _EPS_FORGOTTEN: lambda x, eps: _standard(x, (2, 3), 0),
            "averaged over the batch as well; that is batch norm": (
                lambda x, eps: _standard(x, (0, 2, 3), eps)
            ),
            "averaged over the channels as well; that is layer norm": (
                lambda x, eps: _standard(x, (1, 2, 3), eps)
            ),
            "averaged over one spatial axis only": lambda x, eps: _standard(x, (3,), eps),
        },
    ),
    "group_norm": Exercise(
        task="normalize groups of neighbouring channels of each image (N, C, H, W): "
        "group_norm(x, num_groups, eps)",
        reference=lambda x, groups, eps: functional.group_norm(x, groups, eps=eps),
        cases=_group_cases,
        mistakes={
            _UNBIASED: lambda x, groups, eps: _grouped(
                lambda v: _standard(v, (2,), eps, correction=1), x, groups
            ),
            _EPS_OUTSIDE: lambda x, groups, eps: _grouped(
                lambda v: _standard(v, (2,), eps, outside=True), x, groups
            ),
            _EPS_FORGOTTEN: lambda x, groups, eps: _grouped(lambda v: _standard(v, (2,), 0), x, groups),
            "averaged over the batch as well; each image has its own statistics": (
                lambda x, groups, eps: _grouped(lambda v: _standard(v, (0, 2), eps), x, groups)
            ),
            "put every G-th channel into a group; a group is C/G channels in a row": _interleaved,
            "made groups of num_groups channels; it is the number of groups": (
                lambda x, groups, eps: functional.group_norm(x, x.shape[1] // groups, eps=eps)
            ),
            "normalized each channel by itself; that is instance norm": (
                lambda x, groups, eps: _standard(x, (2, 3), eps)
            ),
            "put all channels into one group": lambda x, groups, eps: _standard(x, (1, 2, 3), eps),
        },
    ),
    "adain": Exercise(
        task="give features (N, C, H, W) the channel statistics of others: adain(content, style, eps)",
        reference=functional.adain,
        cases=_style_cases,
        mistakes={
            "swapped content and style": lambda c, s, eps: functional.adain(s, c, eps),
            _EPS_FORGOTTEN: lambda c, s, eps: functional.adain(c, s, 0),
            "added the style's mean before multiplying by its std": (
                lambda c, s, eps: (
                    (_standard(c, (2, 3), eps) + s.mean((2, 3), keepdim=True))
                    * (s.var((2, 3), correction=0, keepdim=True) + eps).sqrt()
                )
            ),
            "shared the statistics among the images of the batch; each has its own": (
                lambda c, s, eps: core.denormalize(
                    _standard(c, (0, 2, 3), eps), *core.moments(s, (0, 2, 3), eps=eps)
                )
            ),
            "forgot to remove the content's own statistics": (
                lambda c, s, eps: core.denormalize(c, *core.moments(s, (2, 3), eps=eps))
            ),
            "used unbiased variances, which divide by m − 1": (
                lambda c, s, eps: (
                    _standard(c, (2, 3), eps, correction=1) * (s.var((2, 3), keepdim=True) + eps).sqrt()
                    + s.mean((2, 3), keepdim=True)
                )
            ),
        },
    ),
    "merge": Exercise(
        task="combine counts (P,), means and squared deviations (both P, C): merge(counts, means, m2s)",
        reference=distributed.merge_moments,
        cases=_part_cases,
        mistakes={
            "averaged the means without weighing them by the counts": lambda n, m, m2: _merged(
                n, m, m2, m.mean(0)
            ),
            "forgot the spread of the parts' means around the common mean": lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                m2.sum(0),
            ),
            "did not weigh the spread of the means by the counts": lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                (m2 + (m - _common_mean(n, m)) ** 2).sum(0),
            ),
            "returned the variance instead of the sum of squared deviations": lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                _merged(n, m, m2, _common_mean(n, m))[2] / n.sum(),
            ),
            _CANCELS: lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                (m2 + n[:, None] * m**2).sum(0) - n.sum() * _common_mean(n, m) ** 2,
            ),
        },
    ),
}
