"""``normtut homework NAME… -o hw.ipynb``: exercises of the book as a notebook to hand out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["add_parser", "run"]

_NEXT = {
    None: "nothing in it is hidden: it is for practice",
    "otter": "the master, with solutions and hidden tests: otter assign {out} dist",
    "nbgrader": "the master, with solutions and hidden tests: put it at source/NAME/{out} of your course, "
    "then nbgrader generate_assignment NAME",
}


def add_parser(subparsers: Any) -> None:
    """Add ``homework`` to the subcommands of ``normtut``."""
    parser = subparsers.add_parser(
        "homework",
        help="a notebook with exercises, as otter-grader and nbgrader take it",
        description="Write a notebook with exercises. Without names: list the exercises.",
        epilog="Exit status: 0 done; 2 nothing was written, and the message says why.",
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="an exercise: normtut homework lists them")
    parser.add_argument("-o", "--out", metavar="FILE", help="notebook to write (.ipynb)")
    parser.add_argument("--for", dest="grader", choices=("otter", "nbgrader"), help="with tests for a grader")
    parser.add_argument("--title", default="Homework", help="heading of the notebook (default: Homework)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="time for each case (default: 10)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the hidden cases (default: drawn)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``normtut homework`` and return the exit status."""
    if not args.names:
        from normtut.book.exercises import tasks

        width = max(len(task.name) for task in tasks())
        for task in tasks():
            print(f"{task.name:{width}}  {task.title}")
        return 0
    try:
        print(_write(args))
    except (OSError, ValueError, KeyError) as error:
        said = error.args[0] if isinstance(error, KeyError) else error
        print(f"normtut homework: {said}", file=sys.stderr)
        return 2
    return 0


def _write(args: argparse.Namespace) -> str:
    """Write the notebook; return the line to print."""
    if not args.out:
        raise ValueError("say where to write the notebook: -o hw.ipynb")
    out = Path(args.out)
    if out.suffix != ".ipynb":
        raise ValueError(f"{out} must end in .ipynb")
    from normtut.book.homework import homework

    notebook = homework(args.names, args.grader, title=args.title, seconds=args.seconds, seed=args.seed)
    with out.open("w" if args.force else "x", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    count = "1 exercise" if len(args.names) == 1 else f"{len(args.names)} exercises"
    return f"{out}: {count}; " + _NEXT[args.grader].format(out=out.name)
