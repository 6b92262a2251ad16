"""How long `make book` and `make test` take. Only run when it is asked for: it takes as long as they do."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from ._measure import Results

ROOT = Path(__file__).resolve().parents[1]


def seconds(*target: str) -> float:
    # Of the variables of the `make bench` around it, none should meet this one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    start = time.perf_counter()
    subprocess.run(["make", "--quiet", *target], cwd=ROOT, env=environment, check=True)
    return round(time.perf_counter() - start, 1)


def run(results: Results, quick: bool = False) -> None:
    shutil.rmtree(ROOT / "_build", ignore_errors=True)
    rows = [("make book, everything new", seconds("book")), ("make book, nothing new", seconds("book"))]
    if not quick:
        rows.append(("make test, with an up-to-date book", seconds("test")))
    results.facts("Seconds to make and to test the book", rows)
