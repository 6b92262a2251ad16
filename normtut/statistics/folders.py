"""`scan`: statistics of image files, every kind of file handled deliberately, none dropped silently."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ..files import NO_DATA, FileError, Picture, read_image
from .counts import Counts, Ints, check_size, from_level_sums
from .report import Report
from .sources import Entry, entries, is_archive, places

__all__ = ["progress_bar", "raise_if_empty", "scan"]

Path = str | os.PathLike[str]

_TOGETHER = 8  # files of one task: enough that handing them out costs nothing

_A = TypeVar("_A")
_B = TypeVar("_B")


def scan(
    path: Path | Sequence[Path],
    *,
    key: str | None = None,
    resize: int | None = None,
    crop: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    srgb: bool = False,
    progress: bool = False,
    strict: bool = False,
    share: tuple[int, int] = (0, 1),
    stop: threading.Event | None = None,
    resume: Report | None = None,
    save: Callable[[Report], None] | None = None,
) -> Report:
    """Count the image files of a folder (recursively), or one file; also those in archives, and at addresses.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("RGB", (4, 3), "red").save(f"{folder}/red.png")
    >>> report = scan(folder)
    >>> report.images, report.stats.mean
    (1, (1.0, 0.0, 0.0))

    Files are read by the policy of `normtut.files`, transparency dropped: the pixels are those that a loader
    with ``Image.open(file).convert("RGB")`` would give. A gray image counts as one channel, and as R = G = B
    if other images of the folder have colour.

    A file that is empty, truncated, too large (before or after ``resize``), smaller than ``crop`` or of a
    kind that the policy refuses is skipped and listed with the reason. A file that is no image, neither by
    its contents nor by its name (``labels.csv``), is listed as ignored.

    Archives are read as if they were folders, without unpacking: ``.tar`` (also ``.gz``, ``.bz2``, ``.xz``),
    ``.zip``, and tables with a column of encoded images, ``.parquet`` and ``.arrow`` (these need pyarrow).
    Of one that is cut off, the images before the cut count, and it is listed as skipped.

    Args:
        path: a folder, a file, or an address such as ``s3://bucket/folder`` (through fsspec); or several.
        key: the column of the images in tables, if they have several.
        resize: bring the shorter side to this length first, as torchvision's ``Resize`` does with PIL images.
        crop: then cut this square from the centre, as ``CenterCrop`` does.
        batch_size: files of a batch, for ``batch_stds`` and ``share``.
        workers: threads that decode (Pillow lets them run side by side); 0 decodes in the calling thread.
        srgb: convert images with a colour profile to sRGB, as viewers do and loaders do not.
        progress: show a progress bar, if standard error is a terminal.
        strict: raise the first `FileError` instead of skipping.
        share: (rank, world size): as process ``rank`` of so many, count the batches ``rank``,
            ``rank + world size``, ``rank + 2 · world size``, … only.
        stop: set it (from a signal handler, say) to end early; the report is then marked as partial.
        resume: what an earlier scan of the same files has counted, as ``save`` got it; it is continued.
        save: called after each whole batch, and where the scan is stopped, with what has been counted in
            whole batches until then.

    Returns:
        A `Report`; with ``share``, of this share, to be merged.

    Raises:
        FileNotFoundError, ValueError, OSError: as `image_files`; ValueError also for arguments out of range,
            and if the files are not those that ``resume`` has begun with.
        FileError: with ``strict``; and if no file at all could be read (of a folder that is not shared).
    """
    _check_ranges(share, resize=(resize, 1), crop=(crop, 1), batch_size=(batch_size, 1), workers=(workers, 0))
    rank, world = share
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    unreadable: list[FileError] = []
    files, listing = places(paths, unreadable)
    if strict and unreadable:
        raise unreadable[0]
    report = Report(listing=listing, skipped=[] if rank else unreadable)
    if resume is not None:
        if resume.listing != listing:
            raise ValueError("the files are not those that have been counted in part: some have come or gone")
        report = Report(listing=listing).merge(resume)
        report.partial = False

    def tasks() -> Iterator[tuple[list[Entry], bool]]:
        """A few files at a time, and whether they end a batch."""
        rest = islice(entries(files, key), report.done, None)
        for i, batch in enumerate(iter(lambda: list(islice(rest, batch_size)), [])):
            for j in range(0, len(batch), _TOGETHER) if i % world == rank else ():
                yield batch[j : j + _TOGETHER], j + _TOGETHER >= len(batch)

    def read(task: tuple[list[Entry], bool]) -> tuple[list[_Image | FileError], bool]:
        return [_read(entry, resize, crop, srgb) for entry in task[0]], task[1]

    pool = ThreadPoolExecutor(workers) if workers else None
    total = None if any(map(is_archive, files)) else len(files) // world
    with progress_bar(total, progress) as bar:
        bar.update(report.done)
        try:
            results: list[_Image | FileError] = []
            for some, last in _in_order(pool, 4 * workers, read, tasks()) if pool else map(read, tasks()):
                results += some
                report.partial = stop is not None and stop.is_set()
                if report.partial and not last and save is not None:
                    save(report)  # without the batch that has been broken off
                if last or report.partial:
                    report.merge(_report(results, strict))
                    report.done += len(results) if last else 0
                    bar.update(len(results))
                    results = []
                    if save is not None and last:
                        save(report)
                if report.partial:
                    break
        finally:
            if pool:
                pool.shutdown(cancel_futures=True)
    if world == 1 and not report.partial:
        raise_if_empty(report, ", ".join(os.fspath(p) for p in paths))
    return report


def _check_ranges(share: tuple[int, int], **given: tuple[int | None, int]) -> None:
    """Raise a ValueError for numbers below what they must be at least, and for a share that is none."""
    for name, (value, least) in given.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 <= share[0] < share[1]:
        raise ValueError(f"share must be (rank, world size) with 0 <= rank < world size, got {share}")


def raise_if_empty(report: Report, path: str) -> None:
    """Raise a FileError if no image has been counted."""
    if not report.stats.count:
        left = report.skipped + report.ignored
        of = f"none of {len(left) + sum(report.others.values())} files could be counted"
        raise FileError(path, f"{of}; {left[0]}" if left else of)


def progress_bar(total: int | None, show: bool) -> Any:
    """A tqdm bar on standard error, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit="img", disable=None if show else True)


def _in_order(
    pool: ThreadPoolExecutor, ahead: int, f: Callable[[_A], _B], items: Iterable[_A]
) -> Iterator[_B]:
    """``pool.map`` with at most so many results ahead: memory stays constant."""
    waiting: deque[Future[_B]] = deque()
    for item in items:
        waiting.append(pool.submit(f, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# -- one file -------------------------------------------------------------------------------------------


@dataclass
class _Image:
    """Sums over one image, (C,) each, and what `Report` keeps about it."""

    pixels: int
    s1: Ints
    s2: Ints
    low: Ints
    high: Ints
    top: int
    size: tuple[int, int]
    notes: tuple[str, ...]


def _read(entry: Entry, resize: int | None, crop: int | None, srgb: bool) -> _Image | FileError:
    try:
        if isinstance(entry.data, FileError):
            return entry.data
        data = entry.data() if callable(entry.data) else entry.data
        picture = read_image(data, name=entry.name, srgb=srgb)
        if resize is not None and picture.valid() is not None:
            raise ValueError("it has pixels without data, which resizing would blend with the others")
        return _sums(replace(picture, image=_fit(picture.image, resize, crop)))
    except FileError as error:
        error.member = entry.kind == "member"
        error.foreign &= entry.kind != "row"
        return error
    except Exception as error:  # a storage failed, or the image does not fit
        return FileError(entry.name, str(error) or type(error).__name__)


def _sums(picture: Picture) -> _Image:
    image, notes = picture.image, picture.notes
    pixels = image.width * image.height
    if (valid := picture.valid()) is not None:
        pixels = int(valid.sum())
        notes = (*notes, NO_DATA)
    if not pixels:
        raise ValueError("no pixel with data")
    if picture.sixteen_bit:
        check_size(image.height, image.width)
        found = picture.array() if valid is None else picture.array()[valid]
        counts, top = np.bincount(found.ravel(), minlength=65536)[None], 65535
    else:
        # Counting in C, without a copy of the pixels: far cheaper than turning them into an array.
        mask = None if valid is None else Image.fromarray(valid.astype(np.uint8))
        counts, top = np.array(image.histogram(mask), dtype=np.int64).reshape(-1, 256), 255
    levels = np.arange(top + 1)
    low, high = (counts > 0).argmax(axis=1), top - (counts[:, ::-1] > 0).argmax(axis=1)
    sums = counts @ levels, counts @ levels**2
    return _Image(pixels, *sums, low, high, top, image.size, notes)


def _report(results: Sequence[_Image | FileError], strict: bool) -> Report:
    """The report of one batch."""
    alike: dict[tuple[int, int], list[_Image]] = {}
    for r in results:
        if isinstance(r, _Image):
            alike.setdefault((len(r.s1), r.top), []).append(r)
        elif strict and not r.foreign:
            raise r
    report = Report.of_batch(map(_counts, alike.values()))
    report.sizes.update(i.size for images in alike.values() for i in images)
    for r in results:
        if isinstance(r, FileError) and r.foreign and r.member:  # as many labels as images
            report.others[os.path.splitext(r.path)[1].lower() or "without a suffix"] += 1
        elif isinstance(r, FileError):
            (report.ignored if r.foreign else report.skipped).append(r)
    return report


def _counts(images: Sequence[_Image]) -> Counts:
    """Of images with as many channels and the same top level."""
    n = np.array([i.pixels for i in images])
    s1, s2, low, high = (np.stack([getattr(i, name) for i in images]) for name in ("s1", "s2", "low", "high"))
    notes = Counter(note for i in images for note in i.notes)
    counts = from_level_sums(n, s1, s2, low.min(axis=0), high.max(axis=0), images[0].top)
    return replace(counts, notes=notes)


def _fit(image: Image.Image, resize: int | None, crop: int | None) -> Image.Image:
    if resize is None and crop is None:
        return image
    from torchvision.transforms import functional

    if image.mode.startswith("I"):  # Pillow resizes 32-bit integers, but not everywhere 16-bit ones
        image = Image.fromarray(Picture(image).array().astype(np.int32))
    if resize is not None:
        # The size that it will have, computed as torchvision does: a thin image becomes a huge one.
        w, h = (resize * side // min(image.size) for side in image.size)
        if w * h > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise ValueError(
                f"resized to {w} × {h} it has more pixels than PIL.Image.MAX_IMAGE_PIXELS "
                f"({Image.MAX_IMAGE_PIXELS:,})"
            )
        image = functional.resize(image, resize)
    if crop is not None:
        if min(image.size) < crop:
            raise ValueError(f"{image.width} × {image.height} pixels are fewer than the crop of {crop}")
        image = functional.center_crop(image, crop)
    return image
