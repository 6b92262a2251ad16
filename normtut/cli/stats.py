"""``normtut stats PATH``: the statistics of a folder of images, from a shell."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normtut.statistics import Report

__all__ = ["add_parser", "run"]

_EVERY = 10.0  # seconds between two states that are saved
_FORMAT = 1  # the version of their form

# What torchrun tells each of its processes.
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_STATS = """\
Statistics of all pixels of the images in a folder and its subfolders: exact, and the same in every digit for
every number of workers and processes. Several processes share the files:

    torchrun --standalone --nproc-per-node 4 -m normtut stats PATH

What one run has saved another continues, and several are added up:

    normtut stats PATH --save a.json --resume
    normtut stats a.json b.json

exit status: 0 all images counted (files that are no images are listed, and ignored), 1 some skipped or a
failure, 2 wrong usage, 130 interrupted (partial result), 141 nobody reads the output any more
"""


def add_parser(commands: Any) -> None:
    """Add ``stats`` to the subcommands of ``normtut``."""
    parser = commands.add_parser(
        "stats",
        help="mean, std, minimum and maximum of each channel of a folder of images",
        description=_STATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="folders, images, archives (.tar, .zip, .parquet, .arrow), addresses (s3://…), or saved states",
    )
    parser.add_argument("--key", metavar="NAME", help="the column of the images in tables (.parquet, .arrow)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--resize", type=_positive, metavar="N", help="resize the shorter side to N first")
    parser.add_argument("--crop", type=_positive, metavar="N", help="then cut N × N pixels from the centre")
    parser.add_argument(
        "--workers", type=_natural, metavar="N", help="decoding threads (default: one per CPU)"
    )
    parser.add_argument(
        "--srgb", action="store_true", help="convert images with a colour profile to sRGB (loaders do not)"
    )
    parser.add_argument(
        "--max-pixels",
        type=_natural,
        metavar="N",
        help="skip larger images (default: Pillow's limit; 0: none)",
    )
    parser.add_argument(
        "--save", metavar="FILE", help="write what has been counted to FILE (.json), while counting and after"
    )
    parser.add_argument("--resume", action="store_true", help="continue what the FILE of --save has, if any")
    parser.add_argument("--strict", action="store_true", help="stop at the first file that cannot be counted")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--backend", choices=("gloo", "nccl"), default="gloo", help="of torch.distributed, under torchrun"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=1800, metavar="S", help="seconds to wait for the other processes"
    )
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    return _at_least(1, text)


def _seconds(text: str) -> int:
    return min(_positive(text), 10**9)  # torch counts in nanoseconds, in 64 bits


def _natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    with suppress(ValueError):
        if int(text) >= least:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")


def run(args: argparse.Namespace) -> int:
    """Run ``normtut stats`` and return the exit status."""
    from PIL import Image

    from normtut.statistics import FileError
    from normtut.statistics.channels import gather
    from normtut.statistics.folders import raise_if_empty

    rank, world, printing = 0, 1, False
    limit = Image.MAX_IMAGE_PIXELS
    try:
        if args.max_pixels is not None:
            Image.MAX_IMAGE_PIXELS = args.max_pixels or None
        with _processes(args) as (rank, world), _stoppable(world) as stop:
            report = _added(args) or _counted(args, rank, world, stop)
            if not report.partial:
                raise_if_empty(report, ", ".join(args.paths))
            printing = True
            if rank == 0:
                print(_as_json(report) if args.json else _as_table(report), flush=True)
            if world > 1:
                # torchrun kills all processes as soon as one exits with an error: all wait for the printing.
                with suppress(RuntimeError):
                    gather(None)
    except FileError as error:
        return _fail(error, rank, 1)
    except (OSError, ValueError) as error:
        if printing:
            raise
        return _fail(error, rank, 2)
    except RuntimeError as error:
        return _fail(error, 0, 1)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return 130 if report.partial else 1 if report.skipped else 0


def _counted(args: argparse.Namespace, rank: int, world: int, stop: threading.Event) -> Report:
    """What all processes together have counted."""
    from normtut.statistics import Report, scan
    from normtut.statistics.channels import gather
    from normtut.statistics.sources import places

    def share(f: Callable[[], Any]) -> list[Any]:
        """What ``f`` gives in every process; an error of one is raised in all, so that none waits in vain."""
        try:
            value = f()
        except (OSError, ValueError) as error:
            value = error
        values = gather(value) if world > 1 else [value]
        for v in values:
            if isinstance(v, Exception):
                raise v
        return values

    if world > 1 and len(set(share(lambda: places(args.paths, [])[1]))) > 1:
        raise ValueError(f"the processes see different files in {', '.join(args.paths)}")
    saved = _Saved(args, world) if args.save else None
    parts = share(
        lambda: scan(
            args.paths,
            key=args.key,
            resize=args.resize,
            crop=args.crop,
            workers=_cpus() if args.workers is None else args.workers,
            srgb=args.srgb,
            progress=not args.quiet and rank == 0,
            strict=args.strict,
            share=(rank, world),
            stop=stop,
            resume=saved.begun if saved else None,
            save=saved.now_and_then if saved and world == 1 else None,
        )
    )
    report = Report()
    for part in parts:
        report.merge(part)
    if saved and rank == 0 and not report.partial:
        saved.write(report)
    return report


class _Saved:
    """The file of ``--save``: what has been counted, and of what."""

    def __init__(self, args: argparse.Namespace, world: int) -> None:
        self.path, self.written = args.save, time.monotonic()
        self.options = {name: getattr(args, name) for name in ("resize", "crop", "srgb", "key")}
        self.paths = [p if "://" in p else os.path.abspath(p) for p in args.paths]
        self.begun: Report | None = None
        if args.resume and world > 1:
            raise ValueError("--resume continues one process, not several")
        if os.path.exists(self.path):
            if not os.path.isfile(self.path):  # reading a named pipe would wait for somebody to write
                raise ValueError(f"{self.path} for --save is not a regular file")
            if not args.resume:
                raise ValueError(f"{self.path} exists already: --resume continues it")
            self.begun, state = _load(self.path)
            if state["options"] != self.options:
                raise ValueError(f"{self.path} has been counted with other options: {state['options']}")
        elif not os.path.isdir(folder := os.path.dirname(os.path.abspath(self.path))):
            raise ValueError(f"the folder {folder} for --save does not exist")

    def now_and_then(self, report: Report) -> None:
        """Write, but not again and again."""
        if report.partial or time.monotonic() - self.written >= _EVERY:
            self.write(report)

    def write(self, report: Report) -> None:
        """Write aside and move over: the file is always whole."""
        about = {"normtut stats": _FORMAT, "paths": self.paths, "options": self.options}
        state = {**about, **report.state_dict()}
        aside = f"{self.path}.{os.getpid()}"
        with open(aside, "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(state, file)
        os.replace(aside, self.path)
        self.written = time.monotonic()


def _load(path: str) -> tuple[Report, dict[str, Any]]:
    from normtut.statistics import Report

    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        if state["normtut stats"] != _FORMAT:
            raise ValueError(f"it is of format {state['normtut stats']}, not {_FORMAT}")
        return Report.from_state(state), {name: state[name] for name in ("paths", "options")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not what normtut stats --save writes: {error!r}") from error


def _added(args: argparse.Namespace) -> Report | None:
    """The sum of saved states, if these are what has been given."""
    from normtut.statistics import Report

    if not all(p.endswith(".json") and os.path.isfile(p) for p in args.paths):
        return None
    if args.save:
        raise ValueError("--save is for images; what has been saved is added up, and printed")
    total = Report()
    seen: dict[Any, str] = {}
    for path in args.paths:
        report, state = _load(path)
        same = report.listing, *state["paths"]
        if same in seen:
            raise ValueError(f"{path} has counted the same files as {seen[same]}: they would count twice")
        seen[same] = path
        total += report
    return total


def _fail(error: Exception, rank: int, status: int) -> int:
    if rank == 0:
        print(f"normtut stats: {error}", file=sys.stderr, flush=True)
    return status


def _cpus() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // _from_environment("LOCAL_WORLD_SIZE", 1, least=1))


def _from_environment(name: str, default: int, least: int = 0) -> int:
    """A number in an environment variable, which torchrun or anyone else may have set."""
    text = os.environ.get(name, str(default))
    try:
        return _at_least(least, text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"the environment's {name} {error}") from None


@contextmanager
def _processes(args: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(rank, world size), with the process group that torchrun has prepared, if it has."""
    world = _from_environment("WORLD_SIZE", 1, least=1)
    # Some job schedulers set RANK and WORLD_SIZE for purposes of their own, without an address to meet at.
    if world == 1 or not all(name in os.environ for name in _TORCHRUN):
        yield 0, 1
        return
    rank, _ = _from_environment("RANK", 0), _from_environment("MASTER_PORT", 0)
    if rank >= world:
        raise ValueError(f"the environment's RANK must be below its WORLD_SIZE {world}, got {rank}")
    import torch
    import torch.distributed as dist

    if args.backend == "nccl":
        if not torch.cuda.is_available():
            raise ValueError("--backend nccl needs a CUDA device: leave it out")
        torch.cuda.set_device(_from_environment("LOCAL_RANK", 0))
    dist.init_process_group(args.backend, timeout=timedelta(seconds=args.timeout))
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


@contextmanager
def _stoppable(world: int) -> Iterator[threading.Event]:
    """An event that Ctrl-C sets. A second Ctrl-C ends a single process at once."""
    stop = threading.Event()

    def handle(number: int, _frame: Any) -> None:
        stop.set()
        # torchrun passes the terminal's signal on, so that under it a second one follows at once.
        if world == 1:
            signal.signal(number, before[signal.Signals(number)])

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_json(report: Report) -> str:
    stats = report.stats
    numbers = {
        name: list(getattr(stats, name)) if stats.count else [] for name in ("mean", "std", "min", "max")
    }
    return json.dumps(
        {
            "images": stats.images,
            "count": stats.count,
            **numbers,
            "skipped": [{"path": e.path, "reason": e.reason} for e in report.skipped],
            "ignored": [e.path for e in report.ignored],
            "others": dict(sorted(report.others.items())),
            "notes": report.notes,
            "gray": report.gray_images,
            "partial": report.partial,
        }
    )


def _as_table(report: Report) -> str:
    stats, lines = report.stats, []
    if report.partial:
        lines.append("PARTIAL: interrupted; only the files until then are counted")
    sizes = [f"{count:,} of {w} × {h}" for (w, h), count in sorted(report.sizes.items(), key=_most_common)]
    listed = ", ".join(sizes[:3]) + (f", and {len(sizes) - 3:,} other sizes" if len(sizes) > 3 else "")
    lines.append(f"images   {stats.images:,}" + (f" ({listed})" if listed else ""))
    if stats.count:
        lines += [f"pixels   {stats.count:,} of each channel", ""]
        lines.append(f"{'channel':8}{'min':>10}{'max':>10}{'mean':>12}{'std':>12}")
        names = ("gray",) if stats.channels == 1 else ("R", "G", "B")
        for name, low, high, mean, std in zip(
            names, stats.min, stats.max, stats.mean, stats.std, strict=True
        ):
            lines.append(f"{name:8}{low:10.4f}{high:10.4f}{mean:12.6f}{std:12.6f}")
        lines += ["", repr(stats)]
    notes = report.warnings()
    if report.skipped:
        notes = [n for n in notes if "were skipped" not in n] + [f"{len(report.skipped):,} skipped:"]
    lines += ["", *notes] if notes else []
    lines += [f"  {error}" for error in report.skipped]
    if report.ignored:
        lines += ["", f"{len(report.ignored):,} ignored, which are no images:"]
        lines += [f"  {error}" for error in report.ignored]
    if report.others:
        others = ", ".join(f"{n:,} {suffix}" for suffix, n in sorted(report.others.items()))
        lines += ["", f"members of archives that are no images: {others}"]
    return "\n".join(lines)


def _most_common(item: tuple[tuple[int, int], int]) -> tuple[int, tuple[int, int]]:
    return -item[1], item[0]
