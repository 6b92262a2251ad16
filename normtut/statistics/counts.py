"""Counting one batch of images: its pixels, whatever their dtype, become a value that can be added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .exact import Floats, Sums

__all__ = ["TOP", "Counts", "Ints", "check_size", "count_pixels", "from_level_sums", "one_batch"]

#: Pixels that are converted at once: what fits into the cache of a processor core.
_PIECE = 2**19

#: Above this, squares leave the range of float64.
_HUGE = 1e150

#: Squares of the levels of one image of 16 bits and so many pixels stay within 64 bits.
_LARGEST = 2**30

_T = TypeVar("_T")

Ints = NDArray[np.int64]

#: The level that stands for 1.0, by the dtype of the pixels.
TOP = {torch.uint8: 255, torch.uint16: 65535}

_NONE = Sums()

_ADVICE = {
    torch.bool: "x.float() makes 0.0 and 1.0 of it",
    torch.int16: "ToTensor() makes it of 16-bit images, and bright levels negative; v2.PILToTensor() does "
    "not, nor do the PIL images themselves. Other units, such as Hounsfield's, are counted as x.float()",
    torch.int64: "x.to(torch.uint8) says that 255 is white, x.to(torch.uint16) that 65535 is; x.float() "
    "counts the numbers as they are",
}


@dataclass(frozen=True)
class Counts:
    """What has been counted of some images, without rounding error; ``a + b`` is that of both.

    >>> a, b = torch.rand(2, 3, 4, 4), torch.rand(5, 3, 7, 2)
    >>> (count_pixels(a) + count_pixels(b)).images
    7

    Args:
        pixels: of all pixels, by channel.
        image_means, image_stds: of the mean and of the std of each image.
        batch_stds: of the std of each batch.
        min, max: smallest and largest pixel, by channel.
        notes: number of images for which something had to be decided, by what was decided.
    """

    pixels: Sums = _NONE
    image_means: Sums = _NONE
    image_stds: Sums = _NONE
    batch_stds: Sums = _NONE
    min: tuple[float, ...] = ()
    max: tuple[float, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def channels(self) -> int:
        """Number of channels; 0 where nothing has been counted."""
        return len(self.min)

    @property
    def images(self) -> int:
        """Number of images."""
        return self.image_means.count

    def __add__(self, other: Counts) -> Counts:
        if not self.channels or not other.channels:
            return self if self.channels else other
        if other.channels != self.channels:
            raise ValueError(
                f"images with {other.channels} channels cannot be counted with images of {self.channels}: "
                "convert them to one kind first"
            )
        return Counts(
            self.pixels + other.pixels,
            self.image_means + other.image_means,
            self.image_stds + other.image_stds,
            self.batch_stds + other.batch_stds,
            tuple(map(min, self.min, other.min)),
            tuple(map(max, self.max, other.max)),
            Counter(self.notes) + Counter(other.notes),
        )

    def affine(self, shift: Sequence[Fraction], scale: Sequence[Fraction]) -> Counts:
        """Of (x − shift) / scale instead of x.

        Raises:
            OverflowError: for results beyond the range of floats.
        """
        zero = [Fraction(0)] * self.channels

        def each(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(float((Fraction(v) - m) / s) for v, m, s in zip(values, shift, scale, strict=True))

        result = Counts(
            self.pixels.affine(shift, scale),
            self.image_means.affine(shift, scale),
            self.image_stds.affine(zero, scale),
            self.batch_stds.affine(zero, scale),
            each(self.min),
            each(self.max),
            self.notes,
        )
        for sums in result.parts().values():  # exact, unlike the minimum: may be out of range where it is not
            _ = sums.mean, sums.std
        return result

    def repeat(self, channels: int) -> Counts:
        """Of the same images, each channel so many times in a row."""

        def times(part: Sums) -> Sums:
            return Sums(part.count, part.total * channels, part.squares * channels)

        parts = {name: times(part) for name, part in self.parts().items()}
        return Counts(**parts, min=self.min * channels, max=self.max * channels, notes=self.notes)

    def parts(self) -> dict[str, Sums]:
        """The four sums, by name."""
        return {name: getattr(self, name) for name in ("pixels", "image_means", "image_stds", "batch_stds")}

    def state_dict(self) -> dict[str, Any]:
        """As lists of integers and floats."""
        state: dict[str, Any] = {"min": list(self.min), "max": list(self.max), "notes": dict(self.notes)}
        for name, part in self.parts().items():
            sums = ([list(f.as_integer_ratio()) for f in fs] for fs in (part.total, part.squares))
            state[name] = [part.count, *sums] if self.channels else None
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Counts:
        """What `state_dict` was taken of.

        Raises:
            ValueError: if it is none; it says which parts contradict each other, or that no numbers have.
        """
        try:
            parts = {}
            for name in Counts().parts():
                if (part := state[name]) is not None:
                    count, *sums = part
                    total, squares = (tuple(Fraction(*ratio) for ratio in fs) for fs in sums)
                    parts[name] = Sums(count, total, squares)
            notes = {str(note): int(n) for note, n in state.get("notes", {}).items()}
            loaded = cls(**parts, min=tuple(state["min"]), max=tuple(state["max"]), notes=notes)
            if parts or loaded.min or loaded.max:
                loaded._check(parts)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state is not that of a ChannelStats: {error!r}") from error
        return loaded

    def _check(self, given: Mapping[str, Sums]) -> None:
        for name, part in self.parts().items():
            if name not in given:
                raise ValueError(f"{name} is missing")
            if not (isinstance(part.count, int) and part.count > 0):
                raise ValueError(f"the count of {name} must be a positive number, got {part.count!r}")
            if not 0 < len(part.total) == len(part.squares) == len(self.min) == len(self.max):
                raise ValueError("numbers of channels differ")
            if any(part.count * q < t * t for t, q in zip(part.total, part.squares, strict=True)):
                raise ValueError(f"no numbers have the count, sum and sum of squares of {name}")
        numbers = all(isinstance(v, int | float) for v in self.min + self.max)
        ranges = zip(self.min, self.max, strict=True)
        if not (numbers and all(-math.inf < low <= high < math.inf for low, high in ranges)):
            raise ValueError(f"min and max must be finite, and in order, got {self.min} and {self.max}")
        pixels, means, stds, batches = (part.count for part in self.parts().values())
        if not batches <= means == stds <= pixels:
            raise ValueError(f"{pixels} pixels, {means} and {stds} images, {batches} batches do not agree")


def one_batch(parts: Iterable[Counts]) -> Counts:
    """The sum of the parts of one batch: they count as one in ``batch_stds``."""
    total = sum(parts, Counts())
    return replace(total, batch_stds=Sums.single(total.pixels.std)) if total.channels else total


def count_pixels(x: Tensor, valid: Tensor | None = None) -> Counts:
    """Count a batch of images (N, C, H, W), or their pixels where ``valid`` (N, H, W) is true.

    Images without such a pixel are not counted.

    Raises:
        TypeError: for a dtype that is neither uint8 nor uint16 nor floating point.
        ValueError: for NaN, infinity or anything beyond 1e150 among the floats.
    """
    if not (x.dtype in TOP or x.is_floating_point()):
        raise TypeError(
            f"batch must be uint8, uint16 or floating point, got {x.dtype} of shape {tuple(x.shape)}: "
            + _ADVICE.get(x.dtype, _ADVICE[torch.int64])
        )
    if not x.numel():
        return Counts()
    if valid is not None and not bool(valid.all()):
        bits = x.view(torch.int16) if x.dtype == torch.uint16 else x  # torch cannot index uint16
        kept = (image[:, inside].view(x.dtype) for image, inside in zip(bits, valid, strict=True))
        return one_batch(count_pixels(pixels[None, :, None]) for pixels in kept)
    return _of_levels(x.detach()) if x.dtype in TOP else _of_floats(x.detach())


# -- integers -------------------------------------------------------------------------------------------


def from_level_sums(n: Ints, s1: Ints, s2: Ints, low: Ints, high: Ints, top: int) -> Counts:
    """Counts of one batch from the sums over each of its images.

    Args:
        n: (N,) pixels of each image.
        s1, s2: (N, C) sums of levels and of squared levels over each image.
        low, high: (C,) lowest and highest level.
        top: the level that stands for 1.
    """
    total = tuple(Fraction(t, top) for t in _total(s1))
    squares = tuple(Fraction(q, top**2) for q in _total(s2))
    # Sums of squares around the integer nearest to the mean are at least twice as large as what is subtracted
    # from them: unlike Σx²/n − (Σx/n)² in floats, this loses no digits.
    n = n[:, None]
    centre = np.rint(s1 / n).astype(np.int64)
    offset = (s1 - n * centre) / n
    stds = np.sqrt((s2 - 2 * centre * s1 + n * centre**2) / n - offset**2) / top
    pixels = Sums(int(n.sum()), total, squares)
    return _batch(pixels, s1 / (n * top), stds, tuple((low / top).tolist()), tuple((high / top).tolist()))


def _total(sums: Ints) -> list[int]:
    """Sums over the images, as Python's integers: bright images of 16 bits may need more than 64."""
    high, low = (sums >> 32).sum(axis=0).tolist(), (sums & 0xFFFFFFFF).sum(axis=0).tolist()
    return [(h << 32) + rest for h, rest in zip(high, low, strict=True)]


def _batch(
    pixels: Sums, means: Floats, stds: Floats, low: tuple[float, ...], high: tuple[float, ...]
) -> Counts:
    """Counts of one batch; ``means`` and ``stds``, of each image, are (N, C)."""
    images = Sums.of(np.concatenate([means, stds], axis=1).T)
    c = len(low)
    return Counts(
        pixels,
        Sums(images.count, images.total[:c], images.squares[:c]),
        Sums(images.count, images.total[c:], images.squares[c:]),
        Sums.single(pixels.std),
        low,
        high,
    )


def check_size(height: int, width: int) -> None:
    """Raise a ValueError for an image whose sums might need more than 64 bits."""
    if height * width > _LARGEST:
        raise ValueError(
            f"an image of {height} × {width} pixels is too large to be counted: cut it into tiles"
        )


def _of_levels(x: Tensor) -> Counts:
    """Counts of integer pixels (N, C, H, W)."""
    n, c, h, w = x.shape
    top = TOP[x.dtype]
    check_size(h, w)
    channels_last = not x.is_contiguous()  # as arrays of images are: read them as they lie in memory
    low, high = np.full(c, top), np.zeros(c, np.int64)
    step = max(1, _PIECE // (c * h * w))

    def count(start: int) -> tuple[Ints, Ints, Ints, Ints]:
        piece = x[start : start + step]
        piece = piece if x.dtype == torch.uint8 else piece.to(torch.int32)  # torch has no minimum of uint16
        if channels_last:
            piece = piece.permute(0, 2, 3, 1).contiguous()
            s1, s2 = (s.view(-1, w, c).sum(1) for s in _column_sums(piece.view(-1, h, w * c), top))
        else:
            s1, s2 = (s.view(-1, c, w).sum(2) for s in _column_sums(piece.view(-1, h, w), top))
        least, most = low, high
        if low.any() or (high < top).any():  # else black and white have been seen in every channel
            # Over the images, over the rows, over the columns: much faster than over all at once.
            axes = (0, 0, 0) if channels_last else (0, 1, 1)
            least, most = (_reduce(f, piece, axes) for f in (torch.amin, torch.amax))
        return s1.cpu().numpy(), s2.cpu().numpy(), least, most

    sums = []
    for s1, s2, least, most in _in_threads(count, range(0, n, step), x.device):
        sums.append((s1, s2))
        low, high = np.minimum(low, least), np.maximum(high, most)
    s1, s2 = (np.concatenate(parts) for parts in zip(*sums, strict=True))
    return from_level_sums(np.full(n, h * w), s1, s2, low, high, top)


def _in_threads(f: Callable[[int], _T], items: Sequence[int], device: torch.device) -> Iterator[_T]:
    """``map`` in as many threads as torch would use.

    Torch's own threads wait for one another after every operation, which makes them slow on a busy machine;
    these work on one piece each.
    """
    threads = min(torch.get_num_threads(), len(items)) if device.type == "cpu" else 1
    if threads == 1:
        yield from map(f, items)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(f, items)
    finally:
        torch.set_num_threads(before)


def _column_sums(rows: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Sums of levels and of squared levels over the middle axis of a contiguous tensor (K, H, L).

    In floating point, which is faster than integers, and exact: up to 256 squares of uint8 levels are summed
    to integers below 2²⁴ in float32, as many of uint16 levels to integers below 2⁵³ in float64.
    """
    k, h, w = rows.shape
    size = max(1, min(256, h, _PIECE // (k * w)))
    # A buffer: with fresh memory for every part, the system would take longer than the arithmetic.
    buffer = torch.empty(k, size, w, dtype=torch.float32 if top == 255 else torch.float64, device=rows.device)
    sums: list[Tensor] = []
    for part in _split(rows, size, dim=1):
        x = buffer[:, : part.shape[1]].copy_(part)
        new = x.sum(1).to(torch.int64), x.mul_(x).sum(1).to(torch.int64)
        sums = [a.add_(b) for a, b in zip(sums, new, strict=True)] if sums else list(new)
    return sums[0], sums[1]


def _reduce(f: Callable[[Tensor, int], Tensor], x: Tensor, axes: Iterable[int]) -> Ints:
    """``f`` over one axis after the other."""
    for axis in axes:
        x = f(x, axis)
    return x.cpu().numpy().astype(np.int64)


def _split(x: Tensor, size: int, dim: int) -> Iterator[Tensor]:
    """``x.split(size, dim)``, one at a time."""
    return (x.narrow(dim, i, min(size, x.shape[dim] - i)) for i in range(0, x.shape[dim], size))


# -- floats ---------------------------------------------------------------------------------------------


def _of_floats(x: Tensor) -> Counts:
    """Counts of floating-point pixels (N, C, H, W)."""
    if not bool((x.abs() < _HUGE).all()):  # NaN is not smaller either
        raise ValueError(
            f"batch of shape {tuple(x.shape)} contains {int(x.isnan().sum())} NaN and "
            f"{int((x.abs() >= _HUGE).sum())} infinite values (or beyond {_HUGE:g}): they have no std"
        )
    n, c, h, w = x.shape
    step = max(1, _PIECE // (c * h * w))
    means, stds = np.empty((n, c)), np.empty((n, c))
    pixels = Sums.nothing(c)
    for i in range(0, n, step):
        # In one order, whatever that of the axes in memory: the stds of images are rounded.
        piece = x[i : i + step].cpu().double().contiguous()
        images = Sums.nothing(c)
        for part in _split(piece, max(1, _PIECE // (len(piece) * c * w)), dim=2):
            images += Sums.of(part.transpose(0, 1).reshape(c, -1).numpy())
        pixels += images
        if step == 1:
            means[i], stds[i] = images.mean, images.std
        else:
            flat = piece.reshape(-1, c, h * w).numpy()
            means[i : i + step], stds[i : i + step] = flat.mean(axis=2), flat.std(axis=2)
    low, high = (tuple(f(x, (0, 2, 3)).double().tolist()) for f in (torch.amin, torch.amax))
    return _batch(pixels, means, stds, low, high)
