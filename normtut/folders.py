"""Statistics of a folder of image files: every kind of file handled deliberately, none dropped silently."""

from __future__ import annotations

import math
import os
import threading
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .statistics import ChannelStats, Ints, constant_channels, from_level_sums, one_batch, progress_bar

__all__ = ["FileError", "Report", "image_files", "scan", "to_array"]

# What may hold pixels. Of the others that Pillow knows, EPS would run Ghostscript.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "TGA", "PCX", "ICO", "SGI", "XBM"),
    *("MPO", "JPEG2000", "AVIF", "QOI"),
)
_ORIENTATION = 0x0112  # the EXIF tag
_TOGETHER = 8  # files of one task: enough that handing them out costs nothing
_LEVELS = np.arange(256, dtype=np.int64)

_A = TypeVar("_A")
_B = TypeVar("_B")


class FileError(ValueError):
    """A file that holds no image that can be counted; its message begins with the path."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Report:
    """What `scan` has counted, and what it could not count.

    Args:
        gray, color: statistics of the batches in which no image has colour, and of those in which some have.
        gray_images: number of images with one channel, in all.
        skipped: the files that could not be counted, each with its reason.
        sizes: number of images of each (width, height), as counted.
        notes: number of images for which something had to be decided, by what was decided.
        partial: the scan was stopped; these are the files until then.
        listing: a checksum of the names of all files, to be sure that processes share the same ones.
    """

    gray: ChannelStats = field(default_factory=ChannelStats)
    color: ChannelStats = field(default_factory=ChannelStats)
    gray_images: int = 0
    skipped: list[FileError] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    partial: bool = False
    listing: int = 0

    @property
    def stats(self) -> ChannelStats:
        """Statistics of all images; where some have colour, a gray one counts as R = G = B."""
        return self.color + self.gray.repeat(3) if self.color.count else ChannelStats().merge(self.gray)

    def merge(self, other: Report) -> Report:
        """Add what another process has counted of the same files. Returns ``self``.

        Raises:
            ValueError: if the processes did not see the same files.
        """
        if 0 != self.listing != other.listing != 0:
            raise ValueError("the two reports are shares of different lists of files")
        self.listing = self.listing or other.listing
        self.gray.merge(other.gray)
        self.color.merge(other.color)
        self.gray_images += other.gray_images
        self.skipped = sorted(self.skipped + other.skipped, key=lambda e: e.path)
        self.sizes += other.sizes
        self.notes += other.notes
        self.partial |= other.partial
        return self

    def warnings(self) -> list[str]:
        """In sentences, what a careful reader should know about these statistics."""
        found = [
            f"{count} of {self.stats.images} images: {note}" for note, count in sorted(self.notes.items())
        ]
        if self.gray_images and self.color.images:
            found.append(f"{self.gray_images} of {self.stats.images} images: gray, counted as R = G = B")
        if self.skipped:
            listed = "; ".join(str(e) for e in self.skipped[:3])
            more = f"; and {len(self.skipped) - 3} more" if len(self.skipped) > 3 else ""
            found.append(f"{len(self.skipped)} files were skipped: {listed}{more}")
        if self.stats.count and (constant := constant_channels(self.stats)):
            found.append(constant)
        if self.partial:
            found.append("interrupted: this is only a part of the images")
        return found


def image_files(path: str | os.PathLike[str]) -> list[str]:
    """The files of a folder and its subfolders, sorted; names that begin with a dot are left out.

    Every other file counts as meant to be an image, whatever its name ends in. Links are followed, each
    folder visited once. A path of a file gives that file.

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
        raise error

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


def scan(
    path: str | os.PathLike[str],
    *,
    resize: int | None = None,
    crop: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = False,
    strict: bool = False,
    share: tuple[int, int] = (0, 1),
    stop: threading.Event | None = None,
) -> Report:
    """Count the image files of a folder (recursively), or one file.

    How each kind of file is counted:

    ==================  ==================================================================================
    gray, 1 bit         one channel; as R = G = B if other images of the folder have colour
    palette, CMYK,      converted to RGB, as ``Image.convert("RGB")`` does it
    YCbCr, HSV
    alpha channel       dropped, not blended with a background: what lies under transparent pixels counts
    16-bit gray         one channel, divided by 65535
    16-bit colour       Pillow reads the upper 8 bits of each channel; noted in the report
    32-bit int, float,  skipped: there is no agreed level for white (LAB: no agreed RGB)
    LAB
    other TIFF          skipped: signed integers; with more than 8 bits, all gray but 16 bits, BlackIsZero
    EXIF orientation    applied, so that ``resize`` and ``crop`` see the picture as a viewer shows it
    several frames      the first one
    ==================  ==================================================================================

    A file that is empty, truncated, not an image, a decompression bomb (more pixels than
    ``PIL.Image.MAX_IMAGE_PIXELS``, before or after ``resize``) or smaller than ``crop`` is skipped and listed
    with the reason.

    Args:
        path: the folder; see `image_files`.
        resize: bring the shorter side to this length first, as torchvision's ``Resize`` does with PIL images.
        crop: then cut this square from the centre, as ``CenterCrop`` does.
        batch_size: files of a batch, for ``batch_stds`` and ``share``.
        workers: threads that decode (Pillow lets them run side by side); 0 decodes in the calling thread.
        progress: show a progress bar, if standard error is a terminal.
        strict: raise the first `FileError` instead of skipping.
        share: (rank, world size): count only every so-manieth batch, as one of so many processes.
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
    files = image_files(path)
    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)][rank::world]
    report = Report(
        listing=zlib.crc32("\0".join(os.path.relpath(f, path) for f in files).encode(errors="replace"))
    )
    pool = ThreadPoolExecutor(workers) if workers else None
    with warnings.catch_warnings(), progress_bar(sum(map(len, batches)), progress) as bar:
        # Pillow only warns above its limit, and refuses above twice the limit.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        tasks = (b[i : i + _TOGETHER] for b in batches for i in range(0, len(b), _TOGETHER))

        def read_all(paths: Sequence[str]) -> list[_Image | FileError]:
            return [_read(f, resize, crop) for f in paths]

        read = _in_order(pool, 4 * workers, read_all, tasks) if pool else map(read_all, tasks)
        try:
            for batch in batches:
                results: list[_Image | FileError] = []
                while len(results) < len(batch):
                    results += next(read)
                    if stop is not None and stop.is_set():
                        report.partial = True
                        break
                report.merge(_count(results, strict))
                bar.update(len(results))
                if report.partial:
                    break
        finally:
            if pool:
                pool.shutdown(cancel_futures=True)
    if not report.stats.count and world == 1 and not report.partial:
        raise FileError(os.fspath(path), f"none of {len(files)} files could be counted; {report.skipped[0]}")
    return report


def to_array(image: Image.Image) -> NDArray[Any]:
    """Pixels of a PIL image, (H, W) or (H, W, 3), uint8 or uint16, converted as described at `scan`.

    >>> to_array(Image.new("CMYK", (3, 2))).shape
    (2, 3, 3)

    Raises:
        TypeError: for what is no PIL image.
        ValueError: for a mode in which there is no agreed level for white.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL image, got {type(image).__name__}")
    image, _ = _standard(image)
    return _sixteen_bit(image) if image.mode[0] == "I" else np.asarray(image)


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
    notes: list[str]
    levels: Ints | None = None  # (C, 256), of 8-bit images


def _read(path: str, resize: int | None, crop: int | None) -> _Image | FileError:
    try:
        if not os.path.isfile(path):
            return FileError(path, "not a regular file")
        if not os.path.getsize(path):
            return FileError(path, "empty file (0 bytes)")
        Image.init()
        with Image.open(path, formats=[f for f in _FORMATS if f in Image.OPEN]) as opened:
            sixteen_bit_color = any(";16" in str(tile[3]) for tile in opened.tile) and opened.mode == "RGB"
            opened.load()
            image, notes = _standard(opened)
            if opened.getexif().get(_ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
        if sixteen_bit_color:
            notes.append("16-bit colour, of which Pillow reads the upper 8 bits")
        image = _fit(image, resize, crop)
        if image.mode[0] == "I":
            levels = _sixteen_bit(image).astype(np.int64)[..., None]
            flat = levels.reshape(-1, 1)
            return _Image(
                len(flat),
                flat.sum(0),
                (flat * flat).sum(0),
                flat.min(0),
                flat.max(0),
                65535,
                image.size,
                notes,
            )
        # Counting in C, without a copy of the pixels: far cheaper than turning them into an array.
        counts = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)
        low, high = (counts > 0).argmax(axis=1), 255 - (counts[:, ::-1] > 0).argmax(axis=1)
        sums = counts @ _LEVELS, counts @ _LEVELS**2
        return _Image(image.width * image.height, *sums, low, high, 255, image.size, notes, counts)
    except UnidentifiedImageError:
        return FileError(path, "not an image of a known format")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return FileError(path, f"more pixels than PIL.Image.MAX_IMAGE_PIXELS ({Image.MAX_IMAGE_PIXELS:,})")
    except Exception as error:  # whatever a decoder makes of a damaged file
        return FileError(path, str(error) or type(error).__name__)


def _standard(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The image in mode L, RGB, I or I;16…, and what had to be decided for it."""
    mode, notes = image.mode, []
    if mode in ("F", "LAB"):
        raise ValueError(f"mode {mode} has no agreed levels for black and white")
    if tags := getattr(image, "tag_v2", None):
        # A TIFF. Pillow knows of no sign in 8 bits, and leaves levels of more than 8 bits as they are.
        bits, kinds, photometric = tags.get(258, (1,)), tags.get(339, (1,)), tags.get(262, 0)
        if 2 in kinds or (mode[0] == "I" and (bits, photometric) != ((16,), 1)):
            raise ValueError(
                f"TIFF of {max(bits)} bits, {'signed' if 2 in kinds else 'unsigned'}, "
                f"{'White' if photometric == 0 else 'Black'}IsZero: of the gray ones with more than 8 bits, "
                "only 16 bits, unsigned, BlackIsZero are counted"
            )
    elif mode == "I" and image.format not in ("PNG", "PPM"):  # in these two 65535 is white
        raise ValueError("mode I, 32-bit integers, has no agreed level for white: 16 bits are mode I;16")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        notes.append("transparency dropped")
    if mode in ("CMYK", "YCbCr", "HSV"):
        notes.append(f"converted from {mode} to RGB")
    if mode[0] == "I" or mode in ("L", "RGB"):
        return image, notes
    if mode in ("La", "RGBa", "PA", "P"):  # premultiplied; or of a palette with transparent colours
        image = image.convert("LA" if mode == "La" else "RGBA")
    return image.convert("L" if mode in ("1", "LA", "La") else "RGB"), notes


def _sixteen_bit(image: Image.Image) -> NDArray[np.uint16]:
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"levels from {levels.min()} to {levels.max()} do not fit into 16 bits")
    return levels.astype(np.uint16)


def _fit(image: Image.Image, resize: int | None, crop: int | None) -> Image.Image:
    if resize is None and crop is None:
        return image
    from torchvision.transforms import functional

    if image.mode[0] == "I":  # Pillow resizes 32-bit integers, but not everywhere 16-bit ones
        image = Image.fromarray(_sixteen_bit(image).astype(np.int32))
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


# -- many files -----------------------------------------------------------------------------------------


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


def _count(results: Sequence[_Image | FileError], strict: bool) -> Report:
    """The report of one batch."""
    report = Report()
    alike: dict[tuple[int, int], list[_Image]] = {}
    for r in results:
        if isinstance(r, FileError):
            if strict:
                raise r
            report.skipped.append(r)
        else:
            alike.setdefault((len(r.s1), r.top), []).append(r)
            report.sizes[r.size] += 1
            report.notes.update(r.notes)
    parts = [_sums(images) for images in alike.values()]
    if any(p.channels == 3 for p in parts):
        report.color = one_batch(p if p.channels == 3 else p.repeat(3) for p in parts)
    else:
        report.gray = one_batch(parts)
    report.gray_images = sum(p.images for p in parts if p.channels == 1)
    return report


def _sums(images: Sequence[_Image]) -> ChannelStats:
    """Statistics of images with as many channels and the same top level."""
    n = np.array([i.pixels for i in images])
    s1, s2, low, high = (np.stack([getattr(i, name) for i in images]) for name in ("s1", "s2", "low", "high"))
    counted = [i.levels for i in images if i.levels is not None]
    levels = sum(counted, np.zeros_like(counted[0])) if len(counted) == len(images) else None
    return from_level_sums(n, s1, s2, low.min(axis=0), high.max(axis=0), images[0].top, levels)
