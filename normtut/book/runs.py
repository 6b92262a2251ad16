"""Results of trainings that take too long for a chapter: a CSV file, one line for each run."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

__all__ = ["append", "read"]

_Run = TypeVar("_Run")


def read(kind: type[_Run], path: str | Path) -> list[_Run]:
    """The stored runs, of the dataclass ``kind``, in the order in which they were made; none without a file.

    >>> from dataclasses import dataclass
    >>> from tempfile import mkdtemp
    >>> @dataclass
    ... class Run:
    ...     seed: int
    ...     error: float
    >>> path = Path(mkdtemp(), "runs.csv")
    >>> append([Run(0, 0.25)], path)
    >>> append([Run(1, 0.5)], path)
    >>> read(Run, path)
    [Run(seed=0, error=0.25), Run(seed=1, error=0.5)]
    """
    path = Path(path)
    if not path.exists():
        return []
    types = get_type_hints(kind)
    with path.open(newline="", encoding="utf-8") as file:
        return [kind(**{name: types[name](v) for name, v in row.items()}) for row in csv.DictReader(file)]


def append(runs: Iterable[Any], path: str | Path) -> None:
    """Write runs of one dataclass at the end of the file, which is made if there is none."""
    path = Path(path)
    with path.open("a", newline="", encoding="utf-8") as file:
        for run in runs:
            writer = csv.DictWriter(file, [field.name for field in fields(run)], lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow(asdict(run))
