"""Exercises as a notebook to hand out, in the form that otter-grader or nbgrader takes. Grading is theirs."""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Literal

import torch

import normtut
from normtut.book.exercises import _EXERCISES, Exercise, cases

__all__ = ["Grader", "homework"]

Grader = Literal["otter", "nbgrader"]
Cell = dict[str, Any]

_KEPT = 8  # of the numbers of a hidden result: enough for one that is not right to differ

_HIDDEN = '''\
def {test}({function}):
    """Cases that check does not have, and their results, which nothing done to normtut can change."""
    import normtut
    import torch
    from normtut.exercises import cases, check

    made_with = {version!r}
    assert normtut.__version__ == made_with, f"tests for normtut {{made_with}}: make them anew"
    check({name!r}, {function}, strict=True, seconds={seconds:g})
    expected = {expected}
    for args, right in zip(cases({name!r}, {seed}), expected, strict=True):
        result = {function}(*args)
        result = result if type(result) in (tuple, list) else [result]
        for got, (shape, numbers) in zip(result, right, strict=True):
            got = torch.as_tensor(got).detach().double()
            assert tuple(got.shape) == shape, "a shape is not right in a hidden case"
            got = got.flatten()[:: max(1, got.numel() // {kept})].tolist()
            allowed = {atol:g} * max([1, *map(abs, numbers)])
            errors = [abs(g - n) for g, n in zip(got, numbers, strict=True)]
            assert all(e <= allowed for e in errors), "a number is not right in a hidden case"'''

_VISIBLE = '''\
def {test}({function}):
    """As in the book, but raising what is wrong."""
    from normtut.exercises import check

    check({name!r}, {function}, strict=True, seconds={seconds:g})'''


def homework(
    names: Sequence[str],
    grader: Grader | None = None,
    *,
    title: str = "Homework",
    seconds: float = 10.0,
    seed: int | None = None,
) -> dict[str, Any]:
    """A notebook with exercises: for each its text, a stub, a visible check and, for a grader, hidden tests.

    >>> notebook = homework(["inverse", "adain"])
    >>> [cell["cell_type"] for cell in notebook["cells"][-3:]]
    ['markdown', 'code', 'code']

    For a grader it is the master, with solutions and hidden tests, of which the grader makes what pupils get.
    Each exercise is worth two points, one for the visible check and one for the hidden tests.

    Args:
        names: of `exercises.tasks`, in the order in which they will stand.
        grader: ``"otter"`` for ``otter assign``, ``"nbgrader"`` for ``nbgrader generate_assignment``; without
            one the notebook is for practice, and nothing is hidden.
        title: its heading.
        seconds: how long a function may take for one case.
        seed: of the hidden cases; drawn, if it is not given.

    Returns:
        A notebook of format 4.5, to be written as JSON.

    Raises:
        KeyError: for an unknown name; it lists the known ones.
        ValueError: for no name, one name twice, another grader, or ``seconds`` that are not positive.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(f"homework needs names of exercises, each once; got {', '.join(names) or 'none'}")
    if unknown := [name for name in names if name not in _EXERCISES]:
        raise KeyError(f"no exercise named {', '.join(unknown)}; there are {', '.join(_EXERCISES)}")
    if grader not in (None, "otter", "nbgrader"):
        raise ValueError(f'grader must be "otter", "nbgrader" or None; got {grader!r}')
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be positive; got {seconds}")
    seed = secrets.randbelow(10**9) if seed is None else seed
    cells = [_markdown("title", f"# {title}"), *_install()]
    for number, name in enumerate(names, start=1):
        task = _EXERCISES[name]
        text = _markdown(name, f"## {number}. {task.title}\n\nWrite `{task.signature}`, which {task.task}.")
        if grader is None:
            stub = _code(f"{name}-stub", f"def {task.signature}:\n    ...  # your code")
            call = f'check("{name}", {_function(task)})'
            cells += [text, stub, _code(f"{name}-check", f"from normtut.exercises import check\n\n{call}")]
        else:
            exercise = _for_otter if grader == "otter" else _for_nbgrader
            cells += exercise(name, task, text, _tests(name, task, seconds, seed))
    if grader == "otter":
        cells.insert(
            0, _raw("assignment", _OTTER.format(title=json.dumps(title), requirements=_requirement()))
        )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _function(task: Exercise) -> str:
    return task.signature.partition("(")[0]


def _tests(name: str, task: Exercise, seconds: float, seed: int) -> list[str]:
    """The source of the visible and of the hidden test: functions that raise, for both graders the same."""
    facts = {"name": name, "function": _function(task), "seconds": seconds}
    expected = [_summary(task.reference(*args)) for args in cases(name, seed)]
    rows = "".join(f"\n        {row}," for row in expected)
    return [
        _VISIBLE.format(test=f"test_{_function(task)}", **facts),
        _HIDDEN.format(
            test=f"test_{_function(task)}_hidden",
            version=normtut.__version__,
            expected=f"[{rows}\n    ]",
            seed=seed,
            kept=_KEPT,
            atol=task.atol,
            **facts,
        ),
    ]


def _summary(result: Any) -> str:
    """The shape and some numbers of each tensor of a result, as source code."""
    tensors = [
        torch.as_tensor(r).detach() for r in (result if isinstance(result, tuple | list) else [result])
    ]
    rows = [(tuple(t.shape), t.flatten()[:: max(1, t.numel() // _KEPT)].tolist()) for t in tensors]
    return str([(shape, [float(f"{v:.9g}") for v in numbers]) for shape, numbers in rows])


def _solution(name: str, task: Exercise) -> str:
    """A stub with the solution between the marks that both graders know."""
    parameters = task.signature.partition("(")[2]
    return (
        f"def {task.signature}:\n"
        "    ### BEGIN SOLUTION\n"
        "    from normtut.exercises import solution\n\n"
        f'    return solution("{name}")({parameters}\n'
        "    ### END SOLUTION"
    )


# --- otter-grader: https://otter-grader.readthedocs.io/en/latest/otter_assign/notebook_format.html ----

_OTTER = """\
# ASSIGNMENT CONFIG
name: {title}
requirements: {requirements}
generate: true
export_cell: false
tests:
    ok_format: false"""


def _for_otter(name: str, task: Exercise, text: Cell, tests: list[str]) -> list[Cell]:
    call = f"({_function(task)})"
    solved = _solution(name, task).replace("### ", "# ")
    first, second = (f"{test}\n\n{test[4 : test.index('(')]}{call}" for test in tests)
    return [
        _raw(f"{name}-begin", f"# BEGIN QUESTION\nname: {name}\npoints: 2"),
        text,
        _raw(f"{name}-begin-solution", "# BEGIN SOLUTION"),
        _code(f"{name}-solution", solved),
        _raw(f"{name}-end-solution", "# END SOLUTION"),
        _raw(f"{name}-begin-tests", "# BEGIN TESTS"),
        _code(f"{name}-visible", first),
        _code(f"{name}-hidden", f"# HIDDEN\n{second}"),
        _raw(f"{name}-end-tests", "# END TESTS"),
        _raw(f"{name}-end", "# END QUESTION"),
    ]


# --- nbgrader: https://nbgrader.readthedocs.io/en/stable/user_guide/creating_and_grading_assignments.html


def _for_nbgrader(name: str, task: Exercise, text: Cell, tests: list[str]) -> list[Cell]:
    call = f"({_function(task)})"
    first, second = (f"{test}\n\n\n{test[4 : test.index('(')]}{call}" for test in tests)
    hidden = f"# Hidden tests stand here.\n### BEGIN HIDDEN TESTS\n{second}\n### END HIDDEN TESTS"
    return [
        _nbgrader(text, name, locked=True),
        _nbgrader(_code(f"{name}-solution", _solution(name, task)), f"{name}-solution", solution=True),
        _nbgrader(_code(f"{name}-visible", first), f"{name}-visible", grade=True, locked=True),
        _nbgrader(_code(f"{name}-hidden", hidden), f"{name}-hidden", grade=True, locked=True),
    ]


def _nbgrader(
    cell: Cell, grade_id: str, *, grade: bool = False, solution: bool = False, locked: bool = False
) -> Cell:
    about = {"schema_version": 3, "grade_id": grade_id, "cell_type": cell["cell_type"], "task": False}
    about |= {"grade": grade, "solution": solution, "locked": locked} | ({"points": 1} if grade else {})
    return cell | {"metadata": {"nbgrader": about}}


# --- cells ---


def _install() -> list[Cell]:
    """For Colab, if it is known where normtut comes from."""
    if not (requirement := _requirement()):
        return []
    source = (
        "# In Colab this installs normtut; where it is already installed, nothing happens.\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("normtut") is None:\n'
        f'    %pip install -q "{requirement[0]}"'
    )
    return [_code("install", source)]


def _requirement() -> list[str]:
    """What pip installs to get this normtut; nothing where its address is not known."""
    try:
        urls = metadata.metadata("normtut").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # imported from a folder
        return []
    found = [re.fullmatch(r"Repository, (\S+)", url) for url in urls]
    tag = "" if "dev" in normtut.__version__ else f"@v{normtut.__version__}"
    return [f"normtut @ git+{match[1]}{tag}" for match in found if match]


def _markdown(id: str, source: str) -> Cell:
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": source}


def _raw(id: str, source: str) -> Cell:
    return {"cell_type": "raw", "id": id, "metadata": {}, "source": source}


def _code(id: str, source: str) -> Cell:
    cell = {"cell_type": "code", "id": id, "metadata": {}, "source": source}
    return cell | {"execution_count": None, "outputs": []}
