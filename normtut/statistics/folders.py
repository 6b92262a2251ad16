"""Statistics of a folder of image files: every kind of file handled deliberately, none dropped silently."""

from __future__ import annotations

import math
import os
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ..files import NO_DATA, FileError, Picture, read_image
from .counts import Counts, Ints, check_size, from_level_sums
from .report import Report

__all__ = ["image_files", "progress_bar", "scan"]

_TOGETHER = 8  # files of one task: enough that handing them out costs nothing

_A = TypeVar("_A")
_B = TypeVar("_B")


def image_files(path: str | os.PathLike[str], *, unreadable: list[FileError] | None = None) -> list[str]:
    """The files of a folder and its subfolders, sorted; names that begin with a dot are left out.

    Links are followed, each folder visited once. A path of a file gives that file.

    Args:
        path: the folder.
        unreadable: a list to which subfolders that cannot be read are added, instead of raising.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if the folder holds no files.
        OSError: if a folder cannot be read.
    """
    root = os.fspath(path)
    if not os.path.exists(root):
        raise FileNotFoundError(f"no such file or folder: {root}")
    if not os.path.isdir(root):
        return [root]

    def fail(error: OSError) -> None:
        if unreadable is None or error.filename == root:
            raise error
        unreadable.append(FileError(str(error.filename), f"folder not read: {error.strerror}"))

    found, visited = [], set()
    for folder, subfolders, files in os.walk(root, onerror=fail, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(d for d in subfolders if d[0] != ".")  # the same ones on every machine
        found += [os.path.join(folder, f) for f in files if f[0] != "."]
    if not found:
        raise ValueError(f"no files in the folder {root}")
    return sorted(found)


def checksum(path: str | os.PathLike[str], files: Sequence[str]) -> int:
    """A number that tells one list of files in a folder from another, on whatever machine it lies."""
    return zlib.crc32("\0".join(os.path.relpath(f, path) for f in files).encode(errors="replace"))


def scan(
    path: str | os.PathLike[str],
    *,
    resize: int | None = None,
    crop: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    srgb: bool = False,
    progress: bool = False,
    strict: bool = False,
    share: tuple[int, int] = (0, 1),
    stop: threading.Event | None = None,
) -> Report:
    """Count the image files of a folder (recursively), or one file.

    Files are read by the policy of `normtut.files`, transparency dropped: the pixels are those that a loader
    with ``Image.open(file).convert("RGB")`` would give. A gray image counts as one channel, and as R = G = B
    if other images of the folder have colour.

    A file that is empty, truncated, too large (before or after ``resize``), smaller than ``crop`` or of a
    kind that the policy refuses is skipped and listed with the reason. A file that is no image, neither by
    its contents nor by its name (``labels.csv``), is listed as ignored.

    Args:
        path: the folder; see `image_files`.
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

    Returns:
        A `Report`; with ``share``, of this share, to be merged.

    Raises:
        FileNotFoundError, ValueError, OSError: as `image_files`; ValueError also for arguments out of range.
        FileError: with ``strict``; and if no file at all could be read (of a folder that is not shared).
    """
    for name, value, least in (
        ("resize", resize, 1),
        ("crop", crop, 1),
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    rank, world = share
    if not 0 <= rank < world:
        raise ValueError(f"share must be (rank, world size) with 0 <= rank < world size, got {share}")
    unreadable: list[FileError] = []
    files = image_files(path, unreadable=unreadable)
    if strict and unreadable:
        raise unreadable[0]
    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)][rank::world]
    report = Report(listing=checksum(path, files), skipped=[] if rank else unreadable)

    def read_all(paths: Sequence[str]) -> list[_Image | FileError]:
        return [_read(f, resize, crop, srgb) for f in paths]

    pool = ThreadPoolExecutor(workers) if workers else None
    tasks = (b[i : i + _TOGETHER] for b in batches for i in range(0, len(b), _TOGETHER))
    read = _in_order(pool, 4 * workers, read_all, tasks) if pool else map(read_all, tasks)
    with progress_bar(sum(map(len, batches)), progress) as bar:
        try:
            for batch in batches:
                results: list[_Image | FileError] = []
                while len(results) < len(batch):
                    results += next(read)
                    if stop is not None and stop.is_set():
                        report.partial = True
                        break
                report.merge(_report(results, strict))
                bar.update(len(results))
                if report.partial:
                    break
        finally:
            if pool:
                pool.shutdown(cancel_futures=True)
    if world == 1 and not report.partial:
        raise_if_empty(report, path)
    return report


def raise_if_empty(report: Report, path: str | os.PathLike[str]) -> None:
    """Raise a FileError if no image has been counted."""
    if not report.stats.count:
        left = report.skipped + report.ignored
        raise FileError(os.fspath(path), f"none of {len(left)} files could be counted; {left[0]}")


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


def _read(path: str, resize: int | None, crop: int | None, srgb: bool) -> _Image | FileError:
    try:
        picture = read_image(path, srgb=srgb)
        if resize is not None and picture.valid() is not None:
            return FileError(path, "it has pixels without data, which resizing would blend with the others")
        return _sums(replace(picture, image=_fit(picture.image, resize, crop)))
    except FileError as error:
        return error
    except (ValueError, MemoryError) as error:
        return FileError(path, str(error) or type(error).__name__)


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
        counts, top = np.bincount(found.reshape(-1), minlength=65536)[None], 65535
    else:
        # Counting in C, without a copy of the pixels: far cheaper than turning them into an array.
        mask = None if valid is None else Image.fromarray(valid.astype(np.uint8) * 255)
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
    errors = [r for r in results if isinstance(r, FileError)]
    report.skipped, report.ignored = (
        [e for e in errors if e.foreign == foreign] for foreign in (False, True)
    )
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

    if image.mode[0] == "I":  # Pillow resizes 32-bit integers, but not everywhere 16-bit ones
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
