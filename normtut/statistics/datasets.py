"""`dataset_stats`: every image of a data set, however it is kept."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .channels import ChannelStats
from .folders import progress_bar, scan
from .items import ChannelDim, Pixels, chosen, counted, is_image, joined, pixels_in_memory, pixels_of
from .report import Report

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["dataset_stats"]


def dataset_stats(
    data: Any,
    *,
    key: str | int | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    progress: bool = True,
    channel_dim: ChannelDim = None,
    mask: Any = None,
    ignore: float | None = None,
) -> ChannelStats:
    """Statistics of every image of a data set, in constant memory.

    >>> import normtut
    >>> stats = dataset_stats(normtut.data.PhotoPatches(train=True), progress=False)
    >>> stats.images, [round(m, 4) for m in stats.mean]
    (1141, [0.4765, 0.3776, 0.3456])

    Args:
        data: what to count:

            - a **Dataset** (anything with a length and items): an item is an image, or a tuple or list that
              begins with one, or a dict with one under a usual name (``"image"``, ``"img"``,
              ``"pixel_values"``, ``"jpg"``, ``"png"``, …). An image is a tensor (C, H, W), a PIL image, or an
              array (H, W, C), (C, H, W) or (H, W). Items are taken as the data set's transform leaves them;
              sizes may differ, and gray images among coloured ones count as R = G = B. (torchvision's
              ``ImageFolder`` has clipped images of 16 bits to 8 by then: almost all white. Give the folder);
            - an **IterableDataset**: the same, or batches of such images: tensors or arrays with four axes,
              or lists of images;
            - a **DataLoader**: its batches are what counts as a batch in ``batch_stds``. A batch is a tensor
              (N, C, H, W), or a tuple, list or dict with one as in an item; or a list of nothing but images,
              from a ``collate_fn`` of your own;
            - a **tensor** (C, H, W) or (N, C, H, W), or an **array** of images (N, H, W, C) or (N, C, H, W);
            - a **folder** (or a single file, an archive, an address, or a list of these): every image in it
              and in its subfolders, as `scan` reads it. Files that cannot be read are warned about.
        key: which part of an item or batch is the image: the key of a dict, the place in a tuple; the
            column of a Parquet or Arrow table.
        batch_size: images of a batch: 32 if None, 8192 where the pixels are in memory. Only ``batch_stds``
            depends on it, and speed.
        num_workers: processes that load the items of a data set, or threads that decode the files of a
            folder, beside this one. An ``IterableDataset`` must divide its items among them by itself, as
            `torch.utils.data.DataLoader` explains; else each of them counts all.
        progress: show a progress bar, if standard error is a terminal.
        channel_dim: the axis of the channels in an item of a data set, a batch of a loader, a tensor or an
            array: needed where no axis, or more than one, could be theirs (they are expected to be at most
            four), and for volumes and clips; ``"gray"`` if there is none. All other axes, but the first of a
            batch, hold pixels: a volume is one image.
        mask: which part of an item or batch says which pixels count (those where it is not 0): the key of a
            dict, the place in a tuple. Its shape is that of the image, without the axis of the channels or
            with it. For a tensor or an array, the mask itself. Masked arrays of NumPy need none.
        ignore: a value that stands for "no data", or NaN: pixels of which any channel has it do not count.

    Returns:
        The statistics, the same whatever ``batch_size`` and ``num_workers`` are, except for ``batch_stds``.
        Their ``notes`` say what had to be decided.

    Raises:
        ValueError: if there are no images, if they have different numbers of channels (but gray and colour),
            if they contain NaN or infinity, or if the channels cannot be told from the other axes.
        TypeError: for data or items of any other kind.

    Warns:
        UserWarning: if a DataLoader leaves images out or repeats some (``drop_last``, a sampler), unless it
            gives one of several processes its share. If transparency or a colour profile was left aside, or
            gray counted as colour. If floats below 0 or above 1 show that the images are already normalized,
            or were not scaled; the statistics are right, but they are those *after* what has been done. And
            if a channel is constant, which no Normalize can divide by.
    """
    batch_size = None if batch_size is None else _integer("batch_size", batch_size, at_least=1)
    num_workers = _integer("num_workers", num_workers, at_least=0)
    if isinstance(data, str | PathLike) or _are_paths(data):
        for name, given in (("channel_dim", channel_dim), ("mask", mask), ("ignore", ignore)):
            if given is not None:
                raise ValueError(f"{name}={given!r} has no meaning for the files of a folder")
        if isinstance(key, int):
            raise ValueError(f"key={key!r} has no meaning for files: it names the column of tables")
        report = scan(data, key=key, batch_size=batch_size or 32, workers=num_workers, progress=progress)
        _warn(report.warnings())
        return report.stats
    pixels = pixels_in_memory(data, channel_dim, mask)
    if pixels is None:
        parts = _parts(data, batch_size or 32, num_workers, _Finder(key, channel_dim, mask, ignore))
    else:
        parts = (_report([part.without(ignore)]) for part in pixels.split(batch_size or 8192))
    report = Report()
    with progress_bar(_length(data), progress) as bar:
        for part in parts:
            report.merge(part)
            bar.update(part.images)
    stats = report.stats
    if not stats.count:
        raise ValueError(f"data ({type(data).__name__}) holds no images: there are no statistics")
    _warn([*_left_out(data, report.images), *report.warnings(), *_out_of_range(stats)])
    return stats


def _are_paths(data: Any) -> bool:
    return (
        isinstance(data, tuple | list) and len(data) > 0 and all(isinstance(p, str | PathLike) for p in data)
    )


def _warn(messages: Sequence[str]) -> None:
    for message in messages:
        warnings.warn(message, stacklevel=3)


def _integer(name: str, value: Any, at_least: int) -> int:
    """Also of NumPy, whose integers are none to a DataLoader."""
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    return number


def _length(data: Any) -> int | None:
    try:
        return len(getattr(data, "dataset", data))
    except TypeError:  # an IterableDataset has no length
        return None


# -- batches --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Finder:
    """Finds the images of items and batches, as the arguments of `dataset_stats` say."""

    key: str | int | None
    channel_dim: ChannelDim
    mask: Any
    ignore: float | None
    stream: bool = False  # items of an IterableDataset, which may be batches

    def images(self, sample: Any, key: str | int | None) -> Iterator[Pixels]:
        """The pixels of each image in a list of images, which is part of a sample."""
        images = chosen(sample, key)
        masks = [None] * len(images) if self.mask is None else sample[self.mask]
        one = replace(self, key=0, mask=None if self.mask is None else 1)
        return map(one.item, zip(images, masks, strict=True))

    def item(self, item: Any) -> Pixels:
        """The pixels of one item of a data set."""
        image = chosen(item, self.key)
        batch = self.stream and self.channel_dim is None and getattr(image, "ndim", None) == 4
        found = self.pixels(image, item, batch)
        if (
            self.key is None
            and isinstance(item, tuple | list)
            and len(item) > 1
            and is_image(item[1])
            and not isinstance(item[1], bytes)
        ):
            found = replace(found, notes=(*found.notes, "read as the first of several images in an item"))
        return found

    def pixels(self, image: Any, sample: Any, batch: bool) -> Pixels:
        """The pixels of an image or batch, of which ``sample`` may hold the mask."""
        mask = None if self.mask is None else sample[self.mask]
        return pixels_of(image, self.channel_dim, batch=batch, mask=mask).without(self.ignore)

    def __call__(self, items: Sequence[Any]) -> Report:
        """What has been counted of one batch of items, whose images may differ in size."""
        found: list[Pixels] = []
        for item in items:
            batch = self.stream and _only_images(chosen(item, self.key))
            found += self.images(item, self.key) if batch else [self.item(item)]
        return _together(found)


def _parts(data: Any, batch_size: int, num_workers: int, find: _Finder) -> Iterator[Report]:
    """What has been counted of each batch of a Dataset or DataLoader."""
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(data, DataLoader):
        yield from (_of_batch(batch, data, find) for batch in data)
        return
    stream = isinstance(data, IterableDataset)
    if not stream and (
        not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, bytes | Mapping)
    ):
        raise TypeError(
            f"data must be a Dataset, a DataLoader, a tensor, an array or a folder, got {type(data).__name__}"
            + (f"; choose one of its parts {list(data)}" if isinstance(data, Mapping) else "")
        )
    # A worker sends a few integers, not its images.
    collate = replace(find, stream=stream)
    yield from DataLoader(data, batch_size, num_workers=num_workers, collate_fn=collate)


def _of_batch(batch: Any, loader: DataLoader[Any], find: _Finder) -> Report:
    """What has been counted of one batch of a DataLoader. A batch is, without ``key``, in this order:

    1. from a ``collate_fn`` of one's own, a list of nothing but images: each of them;
    2. else of a tuple or list the first part, of a dict the one under a usual name;
    3. in a loader without batches, if that has two or three axes or is a PIL image: this one image;
    4. else a stack of images along its first axis, with four axes unless ``channel_dim`` is given.
    """
    from torch.utils.data import default_collate, default_convert

    alone = loader.batch_sampler is None
    if find.key is None and _only_images(batch) and loader.collate_fn is not default_collate:
        own = loader.collate_fn is not default_convert
        if len(batch) == 1 or (own and len(batch) <= (loader.batch_size or math.inf)):
            return find(batch)
        raise ValueError(
            f"a batch may be {len(batch)} images, or an image and what belongs to it: name the image with "
            "key=0, or give the data set itself"
        )
    images = chosen(batch, find.key)
    if _only_images(images):
        return _together(find.images(batch, find.key))
    if alone and is_image(images):
        return find([batch])
    if find.channel_dim is None and isinstance(images, Tensor) and images.ndim == 3:
        raise ValueError(
            f"a batch of shape {tuple(images.shape)} may be one image (C, H, W) or gray images (N, H, W): "
            "for these, say channel_dim='gray'; or give the data set itself"
        )
    return _report([find.pixels(images, batch, batch=True)])


def _only_images(batch: Any) -> bool:
    """Whether a batch is a list of nothing but images.

    Images (N, H, W) with soft labels (N, K) are none: they differ in their numbers of axes.
    """
    return (
        isinstance(batch, tuple | list)
        and len(batch) > 0
        and all(map(is_image, batch))
        and len({x.ndim for x in batch if hasattr(x, "ndim")}) <= 1
    )


def _together(found: Iterable[Pixels]) -> Report:
    """What has been counted of the images of one batch, which may differ in size."""
    alike: dict[Any, list[Pixels]] = {}
    for pixels in found:
        kind = (pixels.x.shape[1:], pixels.x.dtype, pixels.notes, pixels.valid is None)
        alike.setdefault(kind, []).append(pixels)
    return _report(map(joined, alike.values()))


def _report(batch: Iterable[Pixels]) -> Report:
    """What has been counted of the images of one batch."""
    batch = list(batch)
    counts = [counted(pixels) for pixels in batch]
    report = Report.of_batch(counts)
    report.empty = sum(len(p.x) for p in batch if p.x.numel()) - sum(c.images for c in counts)
    return report


# -- doubts ---------------------------------------------------------------------------------------------


def _left_out(data: Any, images: int) -> Iterator[str]:
    """What to say where a DataLoader has not given each image of its data set once."""
    import torch.distributed as dist
    from torch.utils.data import DataLoader, IterableDataset

    # Without batches of its own, a loader's items may be batches, as may those of an IterableDataset.
    if not isinstance(data, DataLoader) or data.batch_sampler is None:
        return
    total = None if isinstance(data.dataset, IterableDataset) else _length(data)
    sampler = getattr(data.batch_sampler, "sampler", data.sampler)
    if total is None:
        return
    if hasattr(sampler, "num_replicas"):
        dealt = getattr(sampler, "total_size", total)
        if dealt != total:
            yield (
                f"the DataLoader's sampler deals {dealt} images to {sampler.num_replicas} processes, of a "
                f"data set of {total}: it repeats some or leaves some out, so that all get as many. "
                "To count each of them once, use sampler=range(rank, len(data), world_size)"
            )
        return
    # One of several processes should get its share only.
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return
    drawn = ", drawn with replacement," if getattr(sampler, "replacement", False) else ""
    if images != total or drawn:
        yield (
            f"the DataLoader gave {images} images{drawn} of a data set of {total}: its drop_last or sampler "
            "leaves some out or repeats some. To count each of them once, give the data set itself"
        )


def _out_of_range(stats: ChannelStats) -> Iterator[str]:
    """What to say of floats that are no pixels in [0, 1]."""
    low, high = min(stats.min), max(stats.max)
    if low >= 0 and high <= 1:
        return
    if low < 0 and high < 10 and low > -10:
        what = "have been normalized already"
    else:
        what = "have been left unscaled, or are in units of their own"
    yield (
        f"values from {low:.4g} to {high:.4g}, outside [0, 1]: the images {what}. These statistics are of "
        "the images as they come, not of pixels in [0, 1]"
    )
