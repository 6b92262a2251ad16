"""`Report`: what has been counted of several kinds of images, what was decided and what left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..files import FileError
from .channels import ChannelStats, constant_channels
from .counts import Counts, one_batch

__all__ = ["Report"]


@dataclass
class Report:
    """What has been counted, and what could not be counted.

    >>> import torch
    >>> report = Report(gray=ChannelStats(torch.rand(2, 1, 4, 4)), gray_images=2)
    >>> report.images, report.stats.channels, report.warnings()
    (2, 1, [])

    Args:
        gray, color: statistics of the batches in which no image has colour, and of those in which some have.
        gray_images: number of images with one channel, in all.
        skipped: the files that could not be counted, each with its reason.
        ignored: files that are no images, by their contents and by their names.
        others: number of such members of archives, by suffix.
        sizes: number of images of each (width, height), as counted.
        empty: number of images in which no pixel counts.
        partial: the scan was stopped; these are the files until then.
        done: number of files that have been read, those that could not be counted included.
        listing: a checksum of the names of all files, to be sure that processes share the same ones.
    """

    gray: ChannelStats = field(default_factory=ChannelStats)
    color: ChannelStats = field(default_factory=ChannelStats)
    gray_images: int = 0
    skipped: list[FileError] = field(default_factory=list)
    ignored: list[FileError] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    empty: int = 0
    partial: bool = False
    done: int = 0
    listing: int = 0

    @classmethod
    def of_batch(cls, parts: Iterable[Counts]) -> Report:
        """Of one batch of images, the gray ones among coloured ones counted as R = G = B."""
        parts = list(parts)
        gray = sum(p.images for p in parts if p.channels == 1)
        if any(p.channels > 1 for p in parts):
            mixed = one_batch(p.repeat(3) if p.channels == 1 else p for p in parts)
            return cls(color=ChannelStats.of(mixed), gray_images=gray)
        return cls(gray=ChannelStats.of(one_batch(parts)), gray_images=gray)

    @property
    def stats(self) -> ChannelStats:
        """Statistics of all images; where some have colour, a gray one counts as R = G = B."""
        return self.color + (self.gray.repeat(3) if self.color.count else self.gray)

    @property
    def images(self) -> int:
        """Number of images that have been looked at, those without a pixel that counts included."""
        return self.gray.images + self.color.images + self.empty

    @property
    def notes(self) -> dict[str, int]:
        """What had to be decided about images, and for how many."""
        return self.stats.notes

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
        _append(self.skipped, other.skipped)
        _append(self.ignored, other.ignored)
        self.others.update(other.others)
        self.sizes.update(other.sizes)
        self.empty += other.empty
        self.done += other.done
        self.partial |= other.partial
        return self

    def __add__(self, other: Report) -> Report:
        """``a + b``: a new one, of the files of both, which are different ones."""
        if not isinstance(other, Report):
            return NotImplemented
        return Report().merge(replace(self, listing=0)).merge(replace(other, listing=0))

    def warnings(self) -> list[str]:
        """In sentences, what a careful reader should know about these statistics."""
        stats = self.stats
        found = [
            f"{count} of {stats.images} images: {note}"
            for note, count in stats.notes.items()
            if not note.startswith("read ")
        ]
        if self.gray_images and self.color.images:
            found.append(f"{self.gray_images} of {stats.images} images: gray, counted as R = G = B")
        if self.empty:
            found.append(f"{self.empty} of {self.images} images: no pixel counts, left out")
        if self.skipped:
            found.append(f"{len(self.skipped)} files were skipped: {_listed(self.skipped)}")
        if stats.count and (constant := constant_channels(stats)):
            found.append(constant)
        if self.partial:
            found.append("interrupted: this is only a part of the images")
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything, as lists, dictionaries, strings and numbers: for JSON."""
        state = {name: getattr(self, name) for name in _NUMBERS}
        state |= {name: getattr(self, name).state_dict() for name in ("gray", "color")}
        state |= {
            n: [[e.path, e.reason, e.foreign] for e in getattr(self, n)] for n in ("skipped", "ignored")
        }
        return {**state, "others": dict(self.others), "sizes": [[*size, n] for size, n in self.sizes.items()]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Report:
        """What `state_dict` was taken of.

        Raises:
            ValueError: if it is none.
        """
        try:
            report = cls(**{name: state[name] for name in _NUMBERS})
            for name in ("gray", "color"):
                setattr(report, name, ChannelStats().load_state_dict(state[name]))
            for name in ("skipped", "ignored"):
                setattr(report, name, [FileError(*error) for error in state[name]])
            report.others = Counter(state["others"])
            report.sizes = Counter({(w, h): n for w, h, n in state["sizes"]})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state is not that of a Report: {error!r}") from error
        return report


_NUMBERS = ("gray_images", "empty", "partial", "done", "listing")


def _append(errors: list[FileError], more: list[FileError]) -> None:
    """Keep the order of the paths, without sorting where they come in order, as in a scan they do."""
    sort = errors and more and more[0].path < errors[-1].path
    errors += more
    if sort:
        errors.sort(key=lambda e: e.path)


def _listed(errors: list[FileError]) -> str:
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return "; ".join(map(str, errors[:3])) + more
