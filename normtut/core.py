"""The one idea of the book: normalizing removes statistics, denormalizing puts statistics back.

Everything else in `normtut` is a choice of three things: which axes share statistics, where the
statistics come from, and whose statistics are put back.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["denormalize", "inverse_stats", "moments", "normalize"]

#: Statistics: one number for everything, one per channel, or a tensor that broadcasts.
Stats = float | Sequence[float] | np.ndarray | Tensor

_S = TypeVar("_S", Tensor, np.ndarray)


def moments(
    x: Tensor, dim: int | Sequence[int], *, eps: float = 0.0, keepdim: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Mean and standard deviation over the axes that share them.

    >>> x = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    >>> mean, std = moments(x, dim=1)
    >>> mean
    tensor([[ 2.],
            [20.]])
    >>> normalize(x, mean, std)
    tensor([[-1.2247,  0.0000,  1.2247],
            [-1.2247,  0.0000,  1.2247]])

    .. math:: \mu = \frac{1}{m}\sum_k x_k, \qquad
              \sigma = \sqrt{\frac{1}{m}\sum_k (x_k - \mu)^2 + \epsilon}

    with the biased variance (divided by *m*, not *m* − 1), as every normalization layer uses it:
    Ioffe & Szegedy 2015, Algorithm 1; Wu & He 2018, equation (2).

    Args:
        x: floating-point tensor of any shape. Half-precision input is accumulated, and its statistics
            returned, in float32: a variance squares the range, and float16 ends at 65504.
        dim: the axis or axes to average over.
        eps: added to the variance. With 0, a constant input has std 0 and its gradient is NaN.
        keepdim: keep the reduced axes with size 1, so that the result broadcasts against ``x``.

    Returns:
        ``(mean, std)``.

    Raises:
        TypeError: if ``x`` is not floating point.
        ValueError: if ``eps`` is negative, ``dim`` is empty, or there is nothing to average over.
        IndexError: if ``x`` has no such axis.
    """
    _check_float("x", x)
    if not eps >= 0:
        raise ValueError(f"eps must be >= 0, got {eps}")
    dims = tuple(dim) if isinstance(dim, Iterable) else (operator.index(dim),)
    if not dims:  # torch would average over all axes
        raise ValueError(f"dim is empty: name the axes of x, of shape {tuple(x.shape)}, to average over")
    if not all(-x.ndim <= d < x.ndim for d in dims):
        raise IndexError(f"dim={dim} names an axis that x of shape {tuple(x.shape)} does not have")
    if math.prod([x.shape[d] for d in dims]) == 0:
        raise ValueError(f"x of shape {tuple(x.shape)} has no elements over dim={dim}: they have no mean")
    # var_mean makes two passes (or merges, Chan et al. 1983); never E[x²] − E[x]², which cancels.
    var, mean = torch.var_mean(at_least_float32(x), dims, correction=0, keepdim=keepdim)
    return mean, (var + eps if eps else var).sqrt()


def normalize(x: Tensor, mean: Stats, std: Stats) -> Tensor:
    r"""Remove statistics: :math:`z = (x - \mu) / \sigma`.

    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> normalize(x, 0.5, 0.25)
    tensor([-2.,  0.,  2.])

    Args:
        x: floating-point tensor.
        mean, std: a number; a sequence or 1-D tensor with one value per channel (the third axis from the
            end of an image batch (…, C, H, W), the last axis of anything with fewer axes); or a tensor
            that broadcasts against ``x``, as `moments` returns it.

    Returns:
        A tensor with the dtype of ``x``. It is computed in the wider of the dtypes of ``x`` and the
        statistics, at least float32, and rounded once; but as everywhere in PyTorch, a tensor of shape ()
        makes nothing wider.

    Raises:
        TypeError: if ``x`` is not floating point, or ``mean`` or ``std`` is not made of numbers.
        ValueError: if ``mean`` or ``std`` does not fit the channels of ``x`` or would change its shape, or if
            a ``std`` given as numbers is zero or not finite in the dtype of the computation. (Tensors are not
            looked into, which would make a GPU wait: where they are zero, the result is inf or NaN.)
    """
    mean, divisor = _as_stats("mean", mean, x), _as_stats("std", std, x)
    if not isinstance(std, Tensor):
        limits = torch.finfo(divisor.dtype)
        zero = limits.tiny * limits.eps / 2  # no larger number survives rounding: 1e-60 is 0 in float32
        if not all(zero < abs(s) <= limits.max for s in _listed(std)):
            raise ValueError(f"std must be finite and not zero in {divisor.dtype}, got {std}")
    return ((at_least_float32(x) - mean) / divisor).to(x.dtype)


def denormalize(z: Tensor, mean: Stats, std: Stats) -> Tensor:
    r"""Put statistics back: :math:`x = z\,\sigma + \mu`. The inverse of `normalize` where they are the same.

    >>> denormalize(torch.tensor([-2.0, 0.0, 2.0]), 0.5, 0.25)
    tensor([0.0000, 0.5000, 1.0000])

    With learned numbers for ``std`` and ``mean`` these are the γ and β of a normalization layer (Ioffe &
    Szegedy 2015, Algorithm 1); with those of another image it is AdaIN (Huang & Belongie 2017,
    equation (8)). Arguments, dtypes and errors are those of `normalize`, but ``std`` is not looked into: a
    learned γ may be zero.
    """
    shift, scale = _as_stats("mean", mean, z), _as_stats("std", std, z)
    wide = at_least_float32(z)
    if isinstance(mean, Tensor) or isinstance(std, Tensor):
        x = wide * scale + shift
    else:  # In place, which is faster, but which torch.vmap forbids where it has made many of a tensor.
        x = (wide * scale if wide is z else wide.mul_(scale)).add_(shift)
    return x if x.dtype == z.dtype else x.to(z.dtype)


@overload
def inverse_stats(mean: _S, std: _S) -> tuple[_S, _S]: ...
@overload
def inverse_stats(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]: ...
def inverse_stats(mean, std):  # type: ignore[no-untyped-def]
    r"""Statistics with which `normalize` undoes itself: :math:`(-\mu/\sigma,\; 1/\sigma)`.

    >>> inverse_stats([0.5], [0.25])
    ((-2.0,), (4.0,))

    .. math:: \frac{z - (-\mu/\sigma)}{1/\sigma} = \sigma z + \mu = x

    For pipelines that only accept a second ``Normalize``. `denormalize` says the same with one rounding
    fewer. Sequences of floats give tuples of floats; tensors and arrays give their own kind.

    Raises:
        TypeError: if mean or std is not a sequence of numbers, a tensor or an array.
        ValueError: if they are not of the same kind and length, if a std is zero or not finite, or if a
            result would not be.
    """
    given = isinstance(mean, Tensor | np.ndarray)
    if given and not isinstance(std, Tensor if isinstance(mean, Tensor) else np.ndarray):
        raise ValueError(
            "mean and std must be both tensors, both arrays or both sequences of numbers, "
            f"got {type(mean).__name__} and {type(std).__name__}"
        )
    m, s = (mean, std) if given else (np.array(numbers("mean", mean)), np.array(numbers("std", std)))
    if m.shape != s.shape:
        raise ValueError(f"mean and std must have the same shape, got {tuple(m.shape)} and {tuple(s.shape)}")
    if not (_finite(s) and bool((s != 0).all())):
        raise ValueError(f"std must be finite and not zero, got {std}")
    with np.errstate(over="ignore"):  # which is refused below
        m, s = 0.0 - m / s, 1.0 / s  # not −m/s, which would be −0.0 for a mean of 0
    if not (_finite(m) and _finite(s)):
        raise ValueError(f"−mean/std and 1/std must be finite, but are not: got mean {mean} and std {std}")
    return (m, s) if given else (tuple(m.tolist()), tuple(s.tolist()))


def numbers(name: str, values: Sequence[float] | NDArray[Any] | Tensor) -> tuple[float, ...]:
    """One number per channel, as floats; tensors and arrays may also have shape (C, 1, 1) or (1, C, 1, 1)."""
    if isinstance(values, Tensor | np.ndarray) and values.ndim:
        if values.ndim > 1 and (values.ndim < 3 or math.prod(values.shape) != values.shape[-3]):
            raise ValueError(
                f"{name} must have one number per channel: shape (C,) or, as `moments` gives it, "
                f"(1, C, 1, 1); got {tuple(values.shape)}"
            )
        values = values.reshape(-1).tolist()
    try:
        if isinstance(values, str | bytes):  # the characters of "123" would pass for numbers
            raise TypeError
        return tuple(map(float, values))
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a sequence of numbers, such as (0.5,), a tensor or an array; got {values!r}"
        ) from None


def _finite(values: Any) -> bool:  # a tensor or an array
    return bool((abs(values) < math.inf).all())


def check_tensor(name: str, x: Tensor) -> Tensor:
    """``x``, unless it is no tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    return x


def _check_float(name: str, x: Tensor) -> None:
    if check_tensor(name, x).is_floating_point():
        return
    scale = "torchvision's v2.ToDtype(torch.float32, scale=True)"
    advice = {
        torch.uint8: f"divide pixels by 255 first, as {scale} does",
        torch.uint16: f"divide pixels by 65535 first, as {scale} does",
        torch.int16: "ToTensor() makes it of a 16-bit picture, and levels above 32767 have become negative: "
        f"v2.ToImage() gives uint16, which {scale} divides by 65535",
    }.get(x.dtype, "make it floating point first; pixels are divided by the level that is white")
    raise TypeError(f"{name} must be floating point, got {x.dtype} of shape {tuple(x.shape)}; {advice}")


def _listed(numbers: Any) -> list[float]:
    """In plain Python as far as it goes, which `torch.compile` follows."""
    if isinstance(numbers, (int, float)):
        return [float(numbers)]
    if isinstance(numbers, (tuple, list)):
        return [number for part in numbers for number in _listed(part)]
    flat: list[float] = np.asarray(numbers, np.float64).ravel().tolist()
    return flat


def from_numpy(array: NDArray[Any]) -> Tensor:
    """`torch.from_numpy`, of a copy where that takes none: reversed, read-only or of the other byte order."""
    if array.dtype.byteorder not in "=|" or any(s < 0 for s in array.strides) or not array.flags.writeable:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array)


_WIDE = (torch.float32, torch.float64)


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, or a copy of it in float32 where it has less precision than that."""
    return x if x.dtype in _WIDE else x.float()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in _WIDE else torch.float32


def _as_stats(name: str, stats: Stats, x: Tensor) -> Tensor:
    """``stats`` as a tensor that broadcasts against ``x`` without changing its shape."""
    _check_float("x", x)
    if isinstance(stats, Tensor):  # a wider dtype makes the result wider, as everywhere in PyTorch
        t = stats.to(x.device, stats.dtype if stats.is_floating_point() else torch.float64)
    else:
        try:
            array = from_numpy(stats) if isinstance(stats, np.ndarray) else stats
            t = torch.as_tensor(array, dtype=_wide(x.dtype), device=x.device)
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be numbers, a tensor or an array, got {stats!r}") from None
    if t.ndim == 1:
        is_image = x.ndim >= 3
        channel_axis = x.ndim - (3 if is_image else 1)
        if channel_axis < 0 or t.numel() not in (1, x.shape[channel_axis]):
            last = is_image and x.shape[-1] == t.numel()
            raise ValueError(
                f"{name} has values for {t.numel()} channels, but x of shape {tuple(x.shape)} has "
                + (f"{x.shape[channel_axis]} (axis {channel_axis})" if x.ndim else "no axes")
                + ("; is it channels-last? then x.movedim(-1, -3)" if last else "")
            )
        if not torch.compiler.is_compiling() and is_image and x.stride(-3) == 1 < t.numel():
            # Channels follow each other in memory. A loop over three of them is slow, one over a row is not.
            return t.repeat(x.shape[-1]).view(-1, 1, t.numel()).transpose(0, 2)
        return t.view(-1, 1, 1) if is_image else t
    if t.ndim > x.ndim or any(t.shape[-i] not in (1, x.shape[-i]) for i in range(1, t.ndim + 1)):
        raise ValueError(
            f"{name} of shape {tuple(t.shape)} does not broadcast to x of shape {tuple(x.shape)}"
        )
    return t
