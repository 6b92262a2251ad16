"""What importing costs, beside the packages that are imported with it."""

from __future__ import annotations

import subprocess
import sys

from ._measure import OURS, Case, Results, in_turns, on_the_wall

LINES = {
    OURS: "import normtut",
    "torch": "import torch",
    "torch and torchvision": "import torch, torchvision",
    "all public names of normtut": "from normtut import *",
    "Python alone": "pass",
}


def run(results: Results, quick: bool = False) -> None:
    def python(line: str) -> Case:
        return lambda: subprocess.run([sys.executable, "-c", line], check=True)

    cases = {name: python(line) for name, line in LINES.items()}
    times = in_turns(cases, seconds=1 if quick else 25, least=3, most=15, watch=on_the_wall)
    add = results.table("Import", "A new process each time, the start of Python included.")
    add("import normtut", times, floors=list(LINES)[1:])
    command: dict[str, Case] = {
        "normtut --help": lambda: subprocess.run(
            [sys.executable, "-m", "normtut", "--help"], check=True, stdout=subprocess.DEVNULL
        ),
        "Python alone": cases["Python alone"],
    }
    times = in_turns(command, seconds=1 if quick else 10, least=3, most=15, watch=on_the_wall)
    add("normtut --help", times, ours="normtut --help", floors=["Python alone"])
