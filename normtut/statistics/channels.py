"""`ChannelStats`: the statistics of each channel, as an object that batches are given to."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .counts import Counts
from .exact import Sums
from .items import ChannelDim, batch_of, counted

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ChannelStats", "constant_channels", "gather"]


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
    images came in. Threads may share one.

    Args:
        data: batches to begin with, as for `update`.
    """

    def __init__(self, *data: torch.Tensor | NDArray[Any] | Image) -> None:
        self._counts = Counts()
        self._lock = threading.Lock()
        for batch in data:
            self.update(batch)

    @classmethod
    def of(cls, counts: Counts) -> ChannelStats:
        """With what has been counted already."""
        stats = cls()
        stats._counts = counts
        return stats

    # -- counting ---------------------------------------------------------------------------------------

    def update(
        self,
        batch: torch.Tensor | NDArray[Any] | Image,
        *,
        channel_dim: ChannelDim = None,
        mask: torch.Tensor | NDArray[Any] | Image | None = None,
        ignore: float | None = None,
    ) -> None:
        """Count the images of one batch.

        >>> stats = ChannelStats()
        >>> stats.update(torch.rand(8, 3, 4, 4))
        >>> stats.update(np.zeros((2, 4, 4, 3), np.uint8), channel_dim=-1)
        >>> stats.images, stats.count
        (10, 160)

        The voxels of a scan whose label is not 0, as segmentation of medical images normalizes them:

        >>> scan = torch.tensor([-1000.0, 40, 60, 80]).view(1, 1, 1, 2, 2)  # (N, C, D, H, W) in HU
        >>> label = torch.tensor([0, 1, 2, 1]).view(1, 1, 2, 2)
        >>> foreground = ChannelStats()
        >>> foreground.update(scan, channel_dim=1, mask=label)
        >>> foreground.count, foreground.mean
        (3, (60.0,))

        Args:
            batch: a tensor or an array (N, C, H, W), or one image (C, H, W), of dtype uint8, uint16 or a
                floating type, on any device; or a PIL image, converted as `normtut.files` describes. An empty
                batch changes nothing.
            channel_dim: the axis of the channels where it is another one: −1 for (N, H, W, C), 1 for volumes
                (N, C, D, H, W), 2 for clips (N, T, C, H, W); ``"gray"`` if there is none. The first axis is
                then that of the images, unless there are only three or it holds the channels; all others
                hold pixels.
            mask: which pixels count: those where it is not 0. Its shape is that of the batch, without the
                axis of the channels, or with it: then in all of them. The mask of a masked array of NumPy is
                honoured without being asked.
            ignore: a value that stands for "no data", or NaN: pixels of which any channel has it do not
                count.

        Raises:
            TypeError: for any other dtype: there is no agreed level that stands for 1.
            ValueError: for fewer than three axes, or more than four without a ``channel_dim``; for another
                number of channels than before; for pixels that look like (N, H, W, C) without a
                ``channel_dim`` that says so (floats in a tensor may be a network's features, and are taken at
                their word); for a mask of another shape; or for NaN or infinity (or anything beyond
                1e150) among the floats. Nothing of the batch has been counted then.
        """
        self._add(counted(batch_of(batch, channel_dim, mask).without(ignore)))

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
        self._add(other.counts)
        return self

    def __add__(self, other: ChannelStats) -> ChannelStats:
        """``a + b``: a new one with the images of both."""
        return self.of(self.counts + other.counts) if isinstance(other, ChannelStats) else NotImplemented

    def all_reduce(self, group: Any = None) -> ChannelStats:
        """Merge over all processes of a ``torch.distributed`` group; each ends with the statistics of all.

        Every process of the group must call it, also one that has counted nothing. What travels is a few
        integers, so that the result is the same in every digit for every world size. Returns ``self``.

        >>> from normtut.distributed import run_workers
        >>> run_workers(lambda rank: ChannelStats(torch.full((1, 1, 2, 2), float(rank))).all_reduce().mean)
        [(0.5,), (0.5,)]

        Args:
            group: the process group; the default group if None.

        Raises:
            RuntimeError: if there is no process group, or a process of it has died or does not answer within
                the timeout given to ``init_process_group``.
            ValueError: on every process, if they counted different numbers of channels.
        """
        self._counts = sum(gather(self.counts, group), Counts())
        return self

    def _add(self, counts: Counts) -> None:
        with self._lock:
            self._counts = self._counts + counts

    # -- results ----------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """What has been counted until now: a value that does not change."""
        return self._counts

    @property
    def channels(self) -> int:
        """Number of channels; 0 before the first image."""
        return self.counts.channels

    @property
    def images(self) -> int:
        """Number of images."""
        return self.counts.images

    @property
    def count(self) -> int:
        """Number of pixels of each channel."""
        return self.counts.pixels.count

    @property
    def notes(self) -> dict[str, int]:
        """What had to be decided about images (transparency, colour profiles, axes), and for how many."""
        return dict(sorted(self.counts.notes.items()))

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of all pixels, by channel."""
        return self._some().pixels.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of all pixels (biased: divided by n), by channel. What ``Normalize`` wants."""
        return self._some().pixels.std

    @property
    def min(self) -> tuple[float, ...]:
        """Smallest pixel, by channel."""
        return self._some().min

    @property
    def max(self) -> tuple[float, ...]:
        """Largest pixel, by channel."""
        return self._some().max

    @property
    def image_means(self) -> Sums:
        """``.mean`` and ``.std``, over the images, of each image's mean."""
        return self._some().image_means

    @property
    def image_stds(self) -> Sums:
        """``.mean`` and ``.std``, over the images, of each image's std. Neither is the std of the pixels."""
        return self._some().image_stds

    @property
    def batch_stds(self) -> Sums:
        """``.mean`` and ``.std``, over the calls of `update`, of each batch's std. Depends on the batches."""
        return self._some().batch_stds

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
        counts = self._some()
        shift, scale = _per_channel("mean", mean, counts), _per_channel("std", std, counts)
        if not all(s > 0 for s in scale):
            raise ValueError(f"std must be positive, got {std}")
        try:
            return self.of(counts.affine(shift, scale))
        except OverflowError:
            raise ValueError(
                f"mean {mean} and std {std} take the pixels out of the range of floats"
            ) from None

    def repeat(self, channels: int) -> ChannelStats:
        """Of the same images with their only channel repeated: gray shown as R = G = B.

        >>> ChannelStats(torch.rand(2, 1, 4, 4)).repeat(3).channels
        3

        Raises:
            ValueError: if there is more than one channel.
        """
        if self.channels > 1:
            raise ValueError(f"only images with one channel can be repeated, these have {self.channels}")
        return self.of(self.counts.repeat(channels))

    def __repr__(self) -> str:
        if not self.channels:
            return "ChannelStats()"
        return f"transforms.Normalize(mean={list(self.mean)}, std={list(self.std)})"

    def __eq__(self, other: object) -> bool:
        """The same counts; notes do not matter."""
        return isinstance(other, ChannelStats) and self.counts == other.counts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def state_dict(self) -> dict[str, Any]:
        """Everything that has been counted, as lists of integers and floats: for ``torch.save`` or JSON."""
        return self.counts.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> ChannelStats:
        """Replace what has been counted by a `state_dict`. Returns ``self``.

        >>> stats = ChannelStats(torch.rand(2, 3, 4, 4))
        >>> ChannelStats().load_state_dict(stats.state_dict()) == stats
        True

        Raises:
            ValueError: if ``state`` is not the state of a `ChannelStats`.
        """
        self._counts = Counts.from_state(state)
        return self

    def __getstate__(self) -> Counts:
        return self._counts  # a lock cannot be pickled, nor copied

    def __setstate__(self, counts: Counts) -> None:
        self._counts, self._lock = counts, threading.Lock()

    def _some(self) -> Counts:
        if not self.channels:
            raise ValueError("no pixels have been counted yet: there are no statistics")
        return self._counts


def _per_channel(name: str, values: float | Sequence[float], counts: Counts) -> list[Fraction]:
    listed = np.asarray(values, dtype=np.float64).ravel()
    if len(listed) not in (1, counts.channels):
        raise ValueError(f"{name} has {len(listed)} values, but there are {counts.channels} channels")
    if not np.isfinite(listed).all():
        raise ValueError(f"{name} must be finite, got {values}")
    return [Fraction(v) for v in np.broadcast_to(listed, counts.channels).tolist()]


def constant_channels(stats: ChannelStats) -> str | None:
    """What to say where a channel never changes."""
    constant = [c for c, std in enumerate(stats.std) if std == 0]
    return f"channels {constant} are constant: Normalize cannot divide by their std, 0" if constant else None


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
