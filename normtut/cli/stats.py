"""``normtut stats PATH``: the statistics of a folder of images, from a shell."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normtut.statistics import Report

__all__ = ["add_parser", "run"]

# What torchrun tells each of its processes.
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_STATS = """\
Statistics of all pixels of the images in a folder and its subfolders: exact, and the same in every digit for
every number of workers and processes. Several processes share the files:

    torchrun --standalone --nproc-per-node 4 -m normtut stats PATH

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
    parser.add_argument("path", metavar="PATH", help="a folder of images, or one image")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--resize", type=_positive, metavar="N", help="resize the shorter side to N first")
    parser.add_argument("--crop", type=_positive, metavar="N", help="then cut N × N pixels from the centre")
    parser.add_argument(
        "--workers", type=_natural, metavar="N", help="decoding threads (default: one per CPU)"
    )
    parser.add_argument(
        "--srgb", action="store_true", help="convert images with a colour profile to sRGB (loaders do not)"
    )
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
    from normtut.statistics import FileError, Report, scan
    from normtut.statistics.channels import gather
    from normtut.statistics.folders import checksum, image_files, raise_if_empty

    def share(value: Any) -> list[Any]:
        """The value of every process; an error of one is raised in all, so that none waits for it in vain."""
        values = gather(value) if world > 1 else [value]
        for v in values:
            if isinstance(v, Exception):
                raise v
        return values

    def attempt(f: Callable[[], Any]) -> Any:
        try:
            return f()
        except (OSError, ValueError) as error:
            return error

    def counted() -> Report:
        return scan(
            args.path,
            resize=args.resize,
            crop=args.crop,
            workers=_cpus() if args.workers is None else args.workers,
            srgb=args.srgb,
            progress=not args.quiet and rank == 0,
            strict=args.strict,
            share=(rank, world),
            stop=stop,
        )

    def listed() -> int:
        return checksum(args.path, image_files(args.path, unreadable=[]))

    rank, world, printing = 0, 1, False
    try:
        with _processes(args) as (rank, world), _stoppable(world) as stop:
            if world > 1 and len(set(share(attempt(listed)))) > 1:
                raise ValueError(f"the processes see different files in {args.path}")
            report = Report()
            for part in share(attempt(counted)):
                report.merge(part)
            if not report.partial:
                raise_if_empty(report, args.path)
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
    return 130 if report.partial else 1 if report.skipped else 0


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
        if (
            world == 1
        ):  # under torchrun a second signal follows the terminal's at once: it passes the first on
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
    return "\n".join(lines)


def _most_common(item: tuple[tuple[int, int], int]) -> tuple[int, tuple[int, int]]:
    return -item[1], item[0]
