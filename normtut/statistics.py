"""Statistics of a whole data set, exact: the same digits for every batch size, worker count and machine.

`ChannelStats` counts in integers and fractions and rounds once, at the end. So nothing depends on the order
in which pixels arrive, two halves add up to the whole, and even the textbook formula Σx²/n − (Σx/n)², which
fails in floating point, is right.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._exact import Floats, Moments
from ._items import all_images, as_tensor, channels_last, chw, image_of, pixels_in_memory

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.data import DataLoader

__all__ = ["ChannelStats", "Moments", "dataset_stats"]

#: Pixels that are converted at once: what fits into the cache of a processor core.
_PIECE = 2**19

#: Above this, squares leave the range of float64.
_HUGE = 1e150

_T = TypeVar("_T")

Ints = NDArray[np.int64]

#: Numbers of pixels, by channel and by level of uint8.
Levels = tuple[tuple[int, ...], ...]

#: The level that stands for 1.0, by the dtype of the pixels.
TOP = {torch.uint8: 255, torch.uint16: 65535}


class ChannelStats:
    """Mean, standard deviation, minimum and maximum of each channel of a set of images, exactly.

    >>> stats = ChannelStats()
    >>> stats.update(torch.tensor([0, 51, 255, 255], dtype=torch.uint8).view(1, 1, 2, 2))
    >>> stats.count, stats.min, stats.max
    (4, (0.0,), (1.0,))
    >>> stats
    transforms.Normalize(mean=[0.55], std=[0.45552167895721496])

    Pixels of dtype uint8 are divided by 255 and those of dtype uint16 by 65535; floats are taken as they are.
    Sums are kept as integers and fractions. Hence ``mean`` is the mean of the pixels and ``std`` their
    √(Σ(x − mean)²/n), both correctly rounded, whatever the order, the batches and the processes that the
    images came in.

    Args:
        data: batches to begin with, as for `update`.
        levels: also count how many pixels have each of the 256 levels of uint8, for `quantile` and `median`.
            It takes about twice the time.
    """

    def __init__(self, *data: Tensor | NDArray[Any] | Image, levels: bool = False) -> None:
        self._count_levels = levels
        self._levels: Levels | None = None
        self._pixels: Moments | None = None
        self._image_means: Moments | None = None
        self._image_stds: Moments | None = None
        self._batch_stds: Moments | None = None
        self._min: tuple[float, ...] = ()
        self._max: tuple[float, ...] = ()
        for batch in data:
            self.update(batch)

    # -- counting ---------------------------------------------------------------------------------------

    def update(self, batch: Tensor | NDArray[Any] | Image, *, channel_dim: int | None = None) -> None:
        """Count the images of one batch.

        >>> stats = ChannelStats()
        >>> stats.update(torch.rand(8, 3, 4, 4))
        >>> stats.update(np.zeros((2, 4, 4, 3), np.uint8), channel_dim=-1)
        >>> stats.images, stats.count
        (10, 160)

        Args:
            batch: a tensor or an array (…, C, H, W), of dtype uint8, uint16 or a floating type, on any
                device; or a PIL image, converted as `normtut.folders.scan` describes. An empty batch changes
                nothing.
            channel_dim: the axis of the channels, if it is not the third from the end: −1 for (…, H, W, C).

        Raises:
            TypeError: for any other dtype: there is no agreed level that stands for 1.
            ValueError: for fewer than three axes, another number of channels than before, pixels that look
                like (…, H, W, C) without a ``channel_dim`` that says so (floats in a tensor may be a
                network's features, and are taken at their word), or NaN or infinity (or anything beyond
                1e150) among the floats. Nothing of the batch has been counted then.
        """
        x = as_tensor(batch)
        if x.ndim < 3:
            raise ValueError(f"batch must be (…, C, H, W), got shape {tuple(x.shape)}")
        pixels = isinstance(batch, np.ndarray) or not x.is_floating_point()  # and no features of a network
        if channel_dim is None and pixels and channels_last(x.shape):
            raise ValueError(
                f"batch of shape {tuple(x.shape)} looks like (…, H, W, C): say so with channel_dim=-1, "
                f"or with channel_dim=-3 that it does have {x.shape[-3]} channels"
            )
        self._update(x if channel_dim is None else x.movedim(channel_dim, -3))

    def _update(self, x: Tensor) -> ChannelStats:
        """Count (…, C, H, W)."""
        if not (x.dtype in TOP or x.is_floating_point()):
            raise TypeError(
                f"batch must be uint8, uint16 or floating point, got {x.dtype} of shape {tuple(x.shape)}: "
                "convert it to one of them, so that it is clear which level is 1.0"
            )
        if x.numel():
            x = x.detach().reshape(-1, *x.shape[-3:])
            self._add(_of_levels(x, self._count_levels) if x.dtype in TOP else _of_floats(x))
        return self

    def merge(self, other: ChannelStats) -> ChannelStats:
        """Count what ``other`` has counted, too; the order does not matter. Returns ``self``.

        >>> a, b = torch.rand(2, 3, 4, 4), torch.rand(5, 3, 7, 2)
        >>> ChannelStats(a).merge(ChannelStats(b)).mean == ChannelStats(b, a).mean
        True

        Raises:
            ValueError: if the numbers of channels differ.
        """
        if not isinstance(other, ChannelStats):
            raise TypeError(f"other must be ChannelStats, got {type(other).__name__}; images go to update()")
        self._add(other)
        return self

    def __add__(self, other: ChannelStats) -> ChannelStats:
        """``a + b``: a new one with the images of both."""
        if not isinstance(other, ChannelStats):
            return NotImplemented
        return ChannelStats().merge(self).merge(other)

    def all_reduce(self, group: Any = None) -> ChannelStats:
        """Merge over all processes of a ``torch.distributed`` group; each ends with the statistics of all.

        Every process of the group must call it, also one that has counted nothing. What travels is a few
        integers, so that the result is the same in every digit for every world size. Returns ``self``.

        Args:
            group: the process group; the default group if None.

        Raises:
            RuntimeError: if there is no process group, or a process of it has died or does not answer within
                the timeout given to ``init_process_group``.
            ValueError: on every process, if they counted different numbers of channels.
        """
        states = gather(self.state_dict(), group)
        merged = ChannelStats()
        for state in states:
            merged.merge(ChannelStats().load_state_dict(state))
        return self._become(merged)

    def _add(self, other: ChannelStats) -> None:
        if other._pixels is None:
            return
        if self._pixels is None:
            self._become(other)
            return
        if other.channels != self.channels:
            raise ValueError(
                f"images with {other.channels} channels cannot be counted with images of {self.channels}: "
                "convert them to one kind first"
            )
        for name in _PARTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._min = tuple(map(min, self._min, other._min))
        self._max = tuple(map(max, self._max, other._max))
        if self._levels and other._levels:
            rows = zip(self._levels, other._levels, strict=True)
            self._levels = tuple(tuple(map(operator.add, a, b)) for a, b in rows)
        else:
            self._levels = None

    def _become(self, other: ChannelStats) -> ChannelStats:
        for name in _STATE:
            setattr(self, name, getattr(other, name))
        return self

    # -- results ----------------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """Number of channels; 0 before the first image."""
        return len(self._min)

    @property
    def images(self) -> int:
        """Number of images."""
        return self._image_means.count if self._image_means else 0

    @property
    def count(self) -> int:
        """Number of pixels of each channel."""
        return self._pixels.count if self._pixels else 0

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of all pixels, by channel."""
        return self._counted(self._pixels).mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of all pixels (biased: divided by n), by channel. What ``Normalize`` wants."""
        return self._counted(self._pixels).std

    @property
    def min(self) -> tuple[float, ...]:
        """Smallest pixel, by channel."""
        self._counted(self._pixels)
        return self._min

    @property
    def max(self) -> tuple[float, ...]:
        """Largest pixel, by channel."""
        self._counted(self._pixels)
        return self._max

    @property
    def median(self) -> tuple[float, ...]:
        """Median of all pixels, by channel: ``quantile(0.5)``."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> tuple[float, ...]:
        """The value below which a share ``q`` of the pixels lies, by channel; as `numpy.quantile` has it.

        >>> pixels = torch.arange(5, dtype=torch.uint8).view(1, 1, 1, 5)
        >>> [255 * v for v in ChannelStats(pixels, levels=True).quantile(0.3)]
        [1.2]

        Normalizing keeps the order of pixels, and so the quantiles of `after` are these, normalized.

        Args:
            q: from 0 to 1.

        Raises:
            ValueError: for ``q`` outside [0, 1]; or if the levels have not been counted: without
                ``levels=True``, of pixels that are not uint8, or after `after`.
        """
        self._counted(self._pixels)
        if not 0 <= q <= 1:
            raise ValueError(f"q must be between 0 and 1, got {q}")
        if self._levels is None:
            raise ValueError("there are quantiles of uint8 pixels only, counted with levels=True")
        place = Fraction(q) * (self.count - 1)
        below = math.floor(place)
        found = []
        for counts in self._levels:
            low, high = np.searchsorted(np.cumsum(counts), (below, math.ceil(place)), side="right").tolist()
            found.append(float((low + (place - below) * (high - low)) / 255))
        return tuple(found)

    @property
    def image_means(self) -> Moments:
        """``.mean`` and ``.std``, over the images, of each image's mean."""
        return self._counted(self._image_means)

    @property
    def image_stds(self) -> Moments:
        """``.mean`` and ``.std``, over the images, of each image's std. Neither is the std of the pixels."""
        return self._counted(self._image_stds)

    @property
    def batch_stds(self) -> Moments:
        """``.mean`` and ``.std``, over the calls of `update`, of each batch's std. Depends on the batches."""
        return self._counted(self._batch_stds)

    def after(self, mean: float | Sequence[float], std: float | Sequence[float]) -> ChannelStats:
        """The statistics that ``Normalize(mean, std)`` gives these images, without looking at them again.

        >>> stats = ChannelStats(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
        >>> stats.after(0.5, 0.25)
        transforms.Normalize(mean=[0.0], std=[2.0])

        Args:
            mean, std: a number, or one for each channel.

        Raises:
            ValueError: for another number of values than channels, values that are not finite, a std that is
                not positive, or results beyond the range of floats.
        """
        pixels = self._counted(self._pixels)
        shift, scale = self._per_channel("mean", mean), self._per_channel("std", std)
        if not all(s > 0 for s in scale):
            raise ValueError(f"std must be positive, got {std}")
        centred, zero = (shift, scale), ([Fraction(0)] * self.channels, scale)
        result = ChannelStats()
        result._pixels = pixels.affine(*centred)
        result._image_means = self.image_means.affine(*centred)
        result._image_stds = self.image_stds.affine(*zero)
        result._batch_stds = self.batch_stds.affine(*zero)
        try:
            result._min, result._max = (
                tuple(float((Fraction(v) - m) / s) for v, m, s in zip(values, shift, scale, strict=True))
                for values in (self._min, self._max)
            )
            for name in _PARTS:  # exact, unlike minimum and maximum: may leave the range where these do not
                _ = getattr(result, name).mean, getattr(result, name).std
        except OverflowError:
            raise ValueError(
                f"mean {mean} and std {std} take the pixels out of the range of floats"
            ) from None
        return result

    def repeat(self, channels: int) -> ChannelStats:
        """Of the same images with their only channel repeated: gray shown as R = G = B.

        Raises:
            ValueError: if there is more than one channel.
        """
        if self.channels > 1:
            raise ValueError(f"only images with one channel can be repeated, these have {self.channels}")
        result = ChannelStats().merge(self)
        for name in _PARTS if self.channels else ():
            part = getattr(self, name)
            setattr(result, name, Moments(part.count, part.total * channels, part.squares * channels))
        result._min, result._max = self._min * channels, self._max * channels
        result._levels = self._levels and self._levels * channels
        return result

    def __repr__(self) -> str:
        if self._pixels is None:
            return "ChannelStats()"
        return f"transforms.Normalize(mean={list(self.mean)}, std={list(self.std)})"

    def __eq__(self, other: object) -> bool:
        """The same counts; levels only matter where both have counted them."""
        return isinstance(other, ChannelStats) and all(
            getattr(self, name) == getattr(other, name)
            for name in _STATE
            if name != "_levels" or (self._levels and other._levels)
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def state_dict(self) -> dict[str, Any]:
        """Everything that has been counted, as lists of integers and floats: for ``torch.save`` or JSON."""
        state: dict[str, Any] = {"min": list(self._min), "max": list(self._max)}
        state["levels"] = self._levels and [list(counts) for counts in self._levels]
        for name in _PARTS:
            part = getattr(self, name)
            state[name[1:]] = part and [
                part.count,
                *([list(f.as_integer_ratio()) for f in fs] for fs in (part.total, part.squares)),
            ]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> ChannelStats:
        """Replace what has been counted by a `state_dict`. Returns ``self``.

        >>> stats = ChannelStats(torch.rand(2, 3, 4, 4))
        >>> ChannelStats().load_state_dict(stats.state_dict()) == stats
        True

        Raises:
            ValueError: if ``state`` is not the state of a `ChannelStats`.
        """
        loaded = ChannelStats()
        try:
            loaded._min, loaded._max = tuple(state["min"]), tuple(state["max"])
            for name in _PARTS:
                if (part := state[name[1:]]) is not None:
                    count, *sums = part
                    total, squares = (tuple(Fraction(*ratio) for ratio in fs) for fs in sums)
                    setattr(loaded, name, Moments(count, total, squares))
            if state.get("levels") is not None:
                loaded._levels = tuple(map(tuple, state["levels"]))
            if any(getattr(loaded, name) for name in _STATE):
                loaded._check()
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state is not that of a ChannelStats: {error!r}") from error
        return self._become(loaded)

    def _check(self) -> None:
        """Raise a ValueError that says which parts contradict each other, or that no numbers have."""
        for name, part in ((name[1:], getattr(self, name)) for name in _PARTS):
            if part is None:
                raise ValueError(f"{name} is missing")
            if not (isinstance(part.count, int) and part.count > 0):
                raise ValueError(f"the count of {name} must be a positive number, got {part.count!r}")
            if not 0 < len(part.total) == len(part.squares) == len(self._min) == len(self._max):
                raise ValueError("numbers of channels differ")
            if any(part.count * q < t * t for t, q in zip(part.total, part.squares, strict=True)):
                raise ValueError(f"no numbers have the count, sum and sum of squares of {name}")
        numbers = all(isinstance(v, int | float) for v in self._min + self._max)
        ranges = zip(self._min, self._max, strict=True)
        if not (numbers and all(-math.inf < low <= high < math.inf for low, high in ranges)):
            raise ValueError(f"min and max must be finite, and in order, got {self._min} and {self._max}")
        pixels, means, stds, batches = (getattr(self, name).count for name in _PARTS)
        if not batches <= means == stds <= pixels:
            raise ValueError(f"{pixels} pixels, {means} and {stds} images, {batches} batches do not agree")
        if self._levels is not None:
            found = [
                (len(c), min(c) >= 0, sum(c), sum(map(operator.mul, c, range(256)))) for c in self._levels
            ]
            if found != [(256, True, pixels, 255 * t) for t in self._counted(self._pixels).total]:
                raise ValueError("levels are not those of all pixels")

    def _counted(self, part: Moments | None) -> Moments:
        if part is None:
            raise ValueError("no pixels have been counted yet: there are no statistics")
        return part

    def _per_channel(self, name: str, values: float | Sequence[float]) -> list[Fraction]:
        listed = np.asarray(values, dtype=np.float64).reshape(-1)
        if len(listed) not in (1, self.channels):
            raise ValueError(f"{name} has {len(listed)} values, but there are {self.channels} channels")
        if not np.isfinite(listed).all():
            raise ValueError(f"{name} must be finite, got {values}")
        return [Fraction(v) for v in np.broadcast_to(listed, self.channels).tolist()]


def gather(value: Any, group: Any = None) -> list[Any]:
    """The ``value`` of each process of a ``torch.distributed`` group, by rank, on all of them."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "all_reduce needs a process group: call torch.distributed.init_process_group() first, "
            "in processes that torchrun has started"
        )
    values: list[Any] = [None] * dist.get_world_size(group)
    try:
        dist.all_gather_object(values, value, group=group)
    except RuntimeError as error:
        raise RuntimeError(
            f"process {dist.get_rank()} could not collect the statistics of the {len(values)} processes: "
            "one of them has died or did not answer in time"
        ) from error
    return values


_PARTS = ("_pixels", "_image_means", "_image_stds", "_batch_stds")
_STATE = (*_PARTS, "_min", "_max", "_levels")


# -- one batch ------------------------------------------------------------------------------------------


def from_level_sums(
    n: Ints, s1: Ints, s2: Ints, low: Ints, high: Ints, top: int, levels: Ints | None = None
) -> ChannelStats:
    """Statistics of one batch from the sums over each of its images.

    Args:
        n: (N,) pixels of each image.
        s1, s2: (N, C) sums of levels and of squared levels over each image.
        low, high: (C,) lowest and highest level.
        top: the level that stands for 1.
        levels: (C, 256) numbers of pixels of each level, if they have been counted.
    """
    total, squares = (s.sum(axis=0).tolist() for s in (s1, s2))
    # Sums of squares around the integer nearest to the mean are at least twice as large as what is subtracted
    # from them: unlike Σx²/n − (Σx/n)² in floats, this loses no digits.
    n = n[:, None]
    centre = np.rint(s1 / n).astype(np.int64)
    offset = (s1 - n * centre) / n
    stds = np.sqrt((s2 - 2 * centre * s1 + n * centre**2) / n - offset**2) / top
    result = _batch(
        Moments(
            int(n.sum()), tuple(Fraction(t, top) for t in total), tuple(Fraction(q, top**2) for q in squares)
        ),
        s1 / (n * top),
        stds,
        tuple((low / top).tolist()),
        tuple((high / top).tolist()),
    )
    result._levels = None if levels is None else tuple(map(tuple, levels.tolist()))
    return result


def _batch(
    pixels: Moments, means: Floats, stds: Floats, low: tuple[float, ...], high: tuple[float, ...]
) -> ChannelStats:
    """Statistics of one batch; ``means`` and ``stds``, of each image, are (N, C)."""
    images = Moments.of(np.concatenate([means, stds], axis=1).T)
    c = len(low)
    result = ChannelStats()
    result._pixels = pixels
    result._image_means = Moments(images.count, images.total[:c], images.squares[:c])
    result._image_stds = Moments(images.count, images.total[c:], images.squares[c:])
    result._batch_stds = _single(pixels.std)
    result._min, result._max = low, high
    return result


def _single(values: tuple[float, ...]) -> Moments:
    exact = tuple(map(Fraction, values))
    return Moments(1, exact, tuple(v * v for v in exact))


def _of_levels(x: Tensor, count_levels: bool) -> ChannelStats:
    """Statistics of integer pixels (N, C, H, W)."""
    n, c, h, w = x.shape
    top = TOP[x.dtype]
    count_levels &= top == 255
    channels_last = not x.is_contiguous()  # as arrays of images are: read them as they lie in memory
    low, high = np.full(c, top), np.zeros(c, np.int64)
    step = max(1, _PIECE // (c * h * w))

    def count(start: int) -> tuple[Ints, Ints, Ints, Ints, Ints | int]:
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
        each: Ints | int = 0
        if count_levels:
            channels = piece.unbind(3 if channels_last else 1)
            each = np.stack([v.reshape(-1).bincount(minlength=256).cpu().numpy() for v in channels])
        return s1.cpu().numpy(), s2.cpu().numpy(), least, most, each

    sums, levels = [], np.zeros((c, 256), np.int64)
    for s1, s2, least, most, each in _in_threads(count, range(0, n, step), x.device):
        sums.append((s1, s2))
        low, high = np.minimum(low, least), np.maximum(high, most)
        levels += each
    s1, s2 = (np.concatenate(parts) for parts in zip(*sums, strict=True))
    return from_level_sums(np.full(n, h * w), s1, s2, low, high, top, levels if count_levels else None)


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


def _split(x: Tensor, size: int, dim: int = 0) -> Iterator[Tensor]:
    """``x.split(size, dim)``, one at a time."""
    return (x.narrow(dim, i, min(size, x.shape[dim] - i)) for i in range(0, x.shape[dim], size))


def _nothing(channels: int) -> Moments:
    return Moments(0, (Fraction(0),) * channels, (Fraction(0),) * channels)


def _of_floats(x: Tensor) -> ChannelStats:
    """Statistics of floating-point pixels (N, C, H, W)."""
    if not bool((x.abs() < _HUGE).all()):  # NaN is not smaller either
        raise ValueError(
            f"batch of shape {tuple(x.shape)} contains {int(x.isnan().sum())} NaN and "
            f"{int((x.abs() >= _HUGE).sum())} infinite values (or beyond {_HUGE:g}): they have no std"
        )
    n, c, h, w = x.shape
    step = max(1, _PIECE // (c * h * w))
    means, stds = np.empty((n, c)), np.empty((n, c))
    pixels = _nothing(c)
    for i in range(0, n, step):
        piece = x[i : i + step].cpu().double()
        images = _nothing(c)
        for part in _split(piece, max(1, _PIECE // (len(piece) * c * w)), dim=2):
            images += Moments.of(part.transpose(0, 1).reshape(c, -1).numpy())
        pixels += images
        if step == 1:
            means[i], stds[i] = images.mean, images.std
        else:
            flat = piece.reshape(-1, c, h * w).numpy()
            means[i : i + step], stds[i : i + step] = flat.mean(axis=2), flat.std(axis=2)
    low, high = (tuple(f(x, (0, 2, 3)).double().tolist()) for f in (torch.amin, torch.amax))
    return _batch(pixels, means, stds, low, high)


# -- a whole data set -----------------------------------------------------------------------------------


def dataset_stats(
    data: Any,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    progress: bool = True,
    channel_dim: int | None = None,
    levels: bool = False,
) -> ChannelStats:
    """Statistics of every image of a data set, in constant memory.

    >>> import normtut
    >>> stats = dataset_stats(normtut.data.PhotoPatches(train=True), progress=False)
    >>> stats.images, [round(m, 4) for m in stats.mean]
    (1141, [0.4765, 0.3776, 0.3456])

    Args:
        data: what to count:

            - a **Dataset** (anything with a length and items): an item is an image, or a tuple or list that
              begins with one, or a dict with one under ``"image"``, ``"img"`` or ``"pixel_values"``. An image
              is a tensor (C, H, W), a PIL image, or an array (H, W, C) or (H, W). Items are taken as the data
              set's transform leaves them; sizes may differ. Where its uint8 pixels lie in ``data.data`` and
              there is no transform (CIFAR-10 and its like), they are read from there;
            - a **DataLoader**: its batches are what counts as a batch in ``batch_stds``. A batch is a tensor
              (N, C, H, W), or a tuple, list or dict with one as in an item; or a list of nothing but images,
              from a ``collate_fn`` of your own;
            - a **tensor** (C, H, W) or (N, C, H, W), or an **array** of images (N, H, W, C);
            - a **folder** (or a single file): every image in it and in its subfolders, as
              `normtut.folders.scan` reads it. Files that cannot be read are warned about.
        batch_size: images of a batch: 32 if None, 8192 where the pixels are in memory. Only ``batch_stds``
            depends on it, and speed.
        num_workers: processes that load the items of a data set, or threads that decode the files of a
            folder, beside this one. An ``IterableDataset`` must divide its items among them by itself, as
            `torch.utils.data.DataLoader` explains; else each of them counts all.
        progress: show a progress bar, if standard error is a terminal.
        channel_dim: the axis of the channels in a tensor or array, if it is not where it is expected.
        levels: also count levels, for ``median`` and ``quantile`` (see `ChannelStats`). In a folder they are
            counted anyway.

    Returns:
        The statistics, the same whatever ``batch_size`` and ``num_workers`` are, except for ``batch_stds``.

    Raises:
        ValueError: if there are no images, if they have different numbers of channels, if they contain NaN
            or infinity, or if the channels cannot be told from the other axes.
        TypeError: for data or items of any other kind.

    Warns:
        UserWarning: if a DataLoader leaves images out or repeats some (``drop_last``, a sampler), unless it
            gives one of several processes its share. Also if floats below 0 or above 1 show that the images
            are already normalized, or were not scaled; the statistics are right, but they are those *after*
            what has been done. And if a channel is constant, which no Normalize can divide by.
    """
    batch_size = None if batch_size is None else _integer("batch_size", batch_size, at_least=1)
    num_workers = _integer("num_workers", num_workers, at_least=0)
    if channel_dim is not None and not isinstance(data, Tensor | np.ndarray):
        raise ValueError(f"channel_dim is for tensors and arrays only, got a {type(data).__name__}")
    if isinstance(data, str | PathLike):
        from .folders import scan

        report = scan(data, batch_size=batch_size or 32, workers=num_workers, progress=progress)
        for message in report.warnings():
            warnings.warn(message, stacklevel=2)
        return report.stats
    pixels = pixels_in_memory(data, channel_dim)
    parts = (
        _parts(data, batch_size or 32, num_workers, levels)
        if pixels is None
        else (ChannelStats(levels=levels)._update(x) for x in _split(pixels, batch_size or 8192))
    )
    stats = ChannelStats()
    with progress_bar(_length(data), progress) as bar:
        for part in parts:
            stats.merge(part)
            bar.update(part.images)
    if not stats.count:
        raise ValueError(f"data ({type(data).__name__}) holds no images: there are no statistics")
    for doubt in (_left_out(data, stats.images), constant_channels(stats)):
        if doubt:
            warnings.warn(doubt, stacklevel=2)
    if min(stats.min) < 0 or max(stats.max) > 1:
        warnings.warn(
            f"values from {min(stats.min):.4g} to {max(stats.max):.4g}, outside [0, 1]: "
            f"the images have been {'normalized already' if min(stats.min) < 0 else 'left unscaled'}. "
            "These statistics are of the images as they come, not of pixels in [0, 1]",
            stacklevel=2,
        )
    return stats


def _integer(name: str, value: Any, at_least: int) -> int:
    """Also of NumPy, whose integers are none to a DataLoader."""
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    return number


def constant_channels(stats: ChannelStats) -> str | None:
    """What to say where a channel never changes."""
    constant = [c for c, std in enumerate(stats.std) if std == 0]
    return f"channels {constant} are constant: Normalize cannot divide by their std, 0" if constant else None


def progress_bar(total: int | None, show: bool) -> Any:
    """A tqdm bar on standard error, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit="img", disable=None if show else True)


def _length(data: Any) -> int | None:
    try:
        return len(getattr(data, "dataset", data))
    except TypeError:  # an IterableDataset
        return None


def _parts(data: Any, batch_size: int, num_workers: int, levels: bool) -> Iterator[ChannelStats]:
    """The statistics of each batch of a Dataset or DataLoader."""
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(data, DataLoader):
        yield from (_of_batch(batch, data, levels) for batch in data)
    elif isinstance(data, IterableDataset) or (
        hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, bytes | Mapping)
    ):
        # A worker sends a few integers, not its images.
        collate = partial(_of_items, levels=levels)
        yield from DataLoader(data, batch_size, num_workers=num_workers, collate_fn=collate)
    else:
        raise TypeError(
            f"data must be a Dataset, a DataLoader, a tensor, an array or a folder, got {type(data).__name__}"
            + (f"; choose one of its parts {list(data)}" if isinstance(data, Mapping) else "")
        )


def _left_out(data: Any, images: int) -> str | None:
    """What to say where a DataLoader has not given each image of its data set once."""
    import torch.distributed as dist
    from torch.utils.data import DataLoader, IterableDataset

    # Without batches of its own, a loader's items may be batches, as may those of an IterableDataset.
    if not isinstance(data, DataLoader) or data.batch_sampler is None:
        return None
    total = None if isinstance(data.dataset, IterableDataset) else _length(data)
    sampler = getattr(data.batch_sampler, "sampler", data.sampler)
    # One of several processes should get its share only.
    shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if total is None or shared or hasattr(sampler, "num_replicas"):
        return None
    drawn = ", drawn with replacement," if getattr(sampler, "replacement", False) else ""
    if images == total and not drawn:
        return None
    return (
        f"the DataLoader gave {images} images{drawn} of a data set of {total}: its drop_last or sampler "
        "leaves some out or repeats some. To count each of them once, give the data set itself"
    )


def _of_batch(batch: Any, loader: DataLoader[Any], levels: bool) -> ChannelStats:
    """Statistics of one batch of a DataLoader: images, perhaps with labels, or a list of images."""
    from torch.utils.data import default_collate, default_convert

    listed = all_images(batch)
    own = loader.collate_fn not in (default_collate, default_convert)
    # torch's functions make no such lists, but keep an image and its mask apart.
    if listed and own and len(batch) <= (loader.batch_size or math.inf):
        return _of_items(batch, levels)
    images = image_of(batch)
    shape = tuple(getattr(images, "shape", ()))
    single = loader.batch_sampler is None and len(shape) == 3 and shape[0] <= 4
    advice = "give the data set itself, or images with the axes (C, H, W)"
    if listed and len(batch) > 1 and (own or single or not shape):
        raise ValueError(f"a batch may be {len(batch)} images, or an image and what belongs to it: {advice}")
    if len(shape) == 3 and not single:
        raise ValueError(
            f"a batch of shape {shape} may be one image (C, H, W) or gray images (N, H, W): {advice}"
        )
    if len(shape) > 3 and channels_last(shape):
        raise ValueError(f"a batch of shape {shape} looks like (N, H, W, C): {advice}")
    return ChannelStats(images, levels=levels)


def _of_items(items: Sequence[Any], levels: bool) -> ChannelStats:
    """Statistics of one batch of items, whose images may differ in size."""
    by_kind: dict[Any, list[Tensor]] = {}
    for item in items:
        image = chw(image_of(item))
        by_kind.setdefault((image.shape, image.dtype), []).append(image)
    return one_batch(ChannelStats(levels=levels)._update(torch.stack(x)) for x in by_kind.values())


def one_batch(parts: Iterable[ChannelStats]) -> ChannelStats:
    """Merge parts of one batch: they count as one in ``batch_stds``."""
    stats = ChannelStats()
    for part in parts:
        stats.merge(part)
    if stats._pixels is not None:
        stats._batch_stds = _single(stats._pixels.std)
    return stats
