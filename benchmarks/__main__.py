"""``make bench``, or ``python -m benchmarks [section …] [--quick]``: measure, and store the results as JSON.

Without sections all are run but ``make``, which takes as long as the tests do.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ._measure import FOLDER, Results

SECTIONS = ("pixels", "layers", "statistics", "growth", "sync", "style", "package", "make")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--quick", action="store_true", help="a look, in a fraction of the time; nothing is stored"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where to store the results")
    options = parser.parse_args(argv)
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section named {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    begun = time.perf_counter()
    for name in options.sections or [s for s in SECTIONS if s != "make"]:
        print(f"\n==== {name}")
        start = time.perf_counter()
        torch.set_num_threads(1)  # where a section does not say otherwise
        results = Results(name)
        importlib.import_module(f"benchmarks.{name}").run(results, options.quick)
        took = time.perf_counter() - start
        if not options.quick:
            results.save(options.out, took=round(took))
        print(f"\n{name} took {took:.0f} s", flush=True)
    print(f"\nall of it: {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
