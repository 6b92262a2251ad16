"""Exercises as notebooks to hand out: what they hold, and the marks that the graders themselves give."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest

from normtut import cli, exercises
from normtut.book.exercises import _EXERCISES
from normtut.book.homework import homework

ROOT = Path(__file__).resolve().parents[1]
GRADERS = ("otter", "nbgrader")


def sources(notebook: dict[str, Any], ending: str) -> dict[str, str]:
    """The sources of the cells whose names end so, by the name of the exercise."""
    cells = {cell["id"]: cell["source"] for cell in notebook["cells"]}
    return {id.removesuffix(ending): source for id, source in cells.items() if id.endswith(ending)}


def silently(source: str, scope: dict[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        exec(source, scope)


@pytest.mark.parametrize("grader", [None, *GRADERS])
def test_every_exercise_can_be_homework(grader):
    notebook = homework(exercises.names(), grader, seed=1)
    nbformat.validate(nbformat.from_dict(notebook))
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    text = "\n".join(cell["source"] for cell in notebook["cells"])
    for task in exercises.tasks():
        assert f". {task.title}\n\nWrite `{task.signature}`, which {task.task}." in text
        assert f"def {task.signature}:\n" in text
    assert text.count("BEGIN SOLUTION\n    from") == (0 if grader is None else len(_EXERCISES))


def test_for_practice_the_stub_and_the_check_run_and_nothing_is_hidden(capsys):
    notebook = homework(["inverse", "running_stats"])
    scope: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and cell["id"] != "install":
            exec(cell["source"], scope)
    out = capsys.readouterr().out
    assert "✗ inverse: case 1 of 4 should return a tensor, got None." in out
    assert "✗ running_stats: case 1 of 3 should return 2 results, got None." in out
    assert not any(word in json.dumps(notebook) for word in ("solution(", "hidden", "SOLUTION"))


@pytest.mark.parametrize("grader", GRADERS)
def test_the_solution_in_the_master_passes_its_tests(grader):
    notebook = homework(["inverse", "population"], grader)
    for ending in ("-solution", "-visible", "-hidden"):
        for name, source in sources(notebook, ending).items():
            scope: dict[str, Any] = {}
            silently(sources(notebook, "-solution")[name], scope)
            silently(source, scope)


HIDDEN = sources(homework(exercises.names(), "nbgrader", seed=4711), "-hidden")


@pytest.mark.parametrize("name", exercises.names())
def test_hidden_tests_do_not_rest_on_check(name, monkeypatch):
    """Also if `check` has been replaced, the solution passes and every mistake fails: by their numbers."""
    monkeypatch.setattr(exercises, "check", lambda *args, **kwargs: True)
    function = _EXERCISES[name].signature.partition("(")[0]
    silently(HIDDEN[name], {function: _EXERCISES[name].reference})
    for what, mistake in _EXERCISES[name].mistakes.items():
        try:
            silently(HIDDEN[name], {function: mistake})
        except Exception:
            continue
        pytest.fail(f"a function that {what} passes")


def test_hidden_cases_are_others_for_another_seed():
    def hidden(seed: int | None) -> str:
        return sources(homework(["inverse"], "otter", seed=seed), "-hidden")["inverse"]

    assert hidden(1) == hidden(1)
    assert len({hidden(1), hidden(2), hidden(None), hidden(None)}) == 4
    z = [exercises.cases("inverse", seed)[0][0] for seed in (0, 0, 3)]
    assert z[0].equal(z[1])
    assert not z[0].equal(z[2])


def test_hidden_tests_of_another_version_say_so(monkeypatch):
    monkeypatch.setattr("normtut.__version__", "9.9")
    with pytest.raises(AssertionError, match=r"tests for normtut .*: make them anew"):
        silently(HIDDEN["inverse"], {"inverse": exercises.solution("inverse")})


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        ([], {}, "got none"),
        (["inverse", "inverse"], {}, "each once; got inverse, inverse"),
        (["inverse", "nope"], {}, "no exercise named nope; there are normalize, "),
        (["inverse"], {"grader": "okpy"}, "got 'okpy'"),
        (["inverse"], {"seconds": 0}, "seconds must be positive; got 0"),
    ],
)
def test_what_cannot_be_homework_is_refused(names, options, reason):
    with pytest.raises((ValueError, KeyError), match=reason):
        homework(names, **options)


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_lists_and_writes(tmp_path, capsys):
    assert cli.main(["homework"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == exercises.names()
    out = tmp_path / "hw.ipynb"
    command = ["homework", "adain", "-o", str(out), "--for", "otter", "--title", 'Style: "1"']
    assert cli.main(command) == 0
    assert f"{out}: 1 exercise" in (said := capsys.readouterr().out)
    assert "otter assign hw.ipynb dist" in said
    notebook = nbformat.read(out, as_version=4)
    nbformat.validate(notebook)
    assert "# Style: " in notebook.cells[1].source
    assert cli.main(command) == 2
    assert "hw.ipynb" in capsys.readouterr().err
    assert cli.main([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["inverse"], "say where to write"),
        (["inverse", "-o", "hw.txt"], "must end in .ipynb"),
        (["nope", "-o", "hw.ipynb"], "no exercise named nope; there are normalize, "),
        (["inverse", "-o", "no/such/folder/hw.ipynb"], "No such file"),
        (["inverse", "-o", "hw.ipynb", "--seconds", "-1"], "seconds must be positive"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["homework", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("normtut homework: ")
    assert reason in said
    assert not list(tmp_path.iterdir())


# --- the graders: their own commands, on what pupils hand in ------------------------------------------------

RIGHT = "def inverse(z, mean, std):\n    return z * std.view(-1, 1, 1) + mean.view(-1, 1, 1)"
SUBMISSIONS = {
    "right": RIGHT,
    "printing": RIGHT.replace("    return", '    print("hello", z.shape)\n    return') + '\nprint("done")',
    "wrong": "def inverse(z, mean, std):\n    return (z + mean.view(-1, 1, 1)) * std.view(-1, 1, 1)",
    "crashing": "def inverse(z, mean, std):\n    return z @ mean.exit()",
    "exiting": "def inverse(z, mean, std):\n    raise SystemExit",
    "endless": "def inverse(z, mean, std):\n    while True:\n        pass",
    "cheating": "import normtut.exercises\n\nnormtut.exercises.check = lambda *_, **__: True\n"
    "def inverse(z, mean, std):\n    return z",
}
#: Points of the visible check and of the hidden tests, and a part of what the feedback says.
MARKS = {
    "right": (1, 1, ""),
    "printing": (1, 1, ""),
    "wrong": (0, 0, "It looks as if you added the mean before multiplying by the std."),
    "crashing": (0, 0, "raised AttributeError: 'Tensor' object has no attribute 'exit'"),
    "exiting": (0, 0, "raised SystemExit"),
    "endless": (0, 0, "was not done after 2 s: is there a loop that does not end?"),
    "cheating": (1, 0, "a number is not right in a hidden case"),
}


def command(*words: object, cwd: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": programs}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def master(folder: Path, grader: str) -> Path:
    out = folder / "hw.ipynb"
    arguments = ["inverse", "--for", grader, "-o", str(out), "--seconds", "2", "--seed", "7"]
    assert cli.main(["homework", *arguments]) == 0
    return out


def hand_in(student: Path, out: Path, source: str) -> None:
    """What a pupil does with the notebook: fill in the stub, which has neither solution nor hidden tests."""
    notebook = nbformat.read(student, as_version=4)
    assert "solution(" not in student.read_text()
    assert "cases(" not in student.read_text()
    (stub,) = [c for c in notebook.cells if c.cell_type == "code" and c.source.startswith("def inverse(")]
    stub.source = source
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)


def by_otter(folder: Path) -> dict[str, tuple[float, float, str]]:
    command("otter", "assign", master(folder, "otter"), "dist", cwd=folder)
    (graded_by,) = (folder / "dist" / "autograder").glob("*.zip")
    marks = {}
    for who, source in SUBMISSIONS.items():
        hand_in(folder / "dist/student/hw.ipynb", folder / who / "hw.ipynb", source)
        command("otter", "run", "-a", graded_by, "hw.ipynb", "--no-logo", cwd=folder / who)
        results = json.loads((folder / who / "results.json").read_text())["tests"]
        (question,) = [r for r in results if r["name"] == "inverse"]
        said = " ".join(question["output"].split())
        passed = [f"inverse - {i} result: ✅" in said or "All test cases passed" in said for i in (1, 2)]
        assert question["score"] == sum(passed)
        assert question["max_score"] == 2
        marks[who] = (*map(int, passed), "" if all(passed) else said)
    return marks


def by_nbgrader(folder: Path) -> dict[str, tuple[float, float, str]]:
    source = folder / "source" / "hw"
    source.mkdir(parents=True)
    shutil.move(master(folder, "nbgrader"), source)
    (folder / "nbgrader_config.py").write_text('c = get_config()\nc.CourseDirectory.course_id = "x"\n')
    command("nbgrader", "generate_assignment", "hw", cwd=folder)
    for who, text in SUBMISSIONS.items():
        hand_in(folder / "release/hw/hw.ipynb", folder / "submitted" / who / "hw" / "hw.ipynb", text)
    command("nbgrader", "autograde", "hw", cwd=folder)
    command("nbgrader", "generate_feedback", "hw", cwd=folder)
    marks = {}
    with contextlib.closing(sqlite3.connect(folder / "gradebook.db")) as book:
        rows = book.execute(
            "SELECT s.student_id, b.name, g.auto_score FROM grade g "
            "JOIN grade_cells c ON c.id = g.cell_id JOIN base_cell b ON b.id = c.id "
            "JOIN submitted_notebook n ON n.id = g.notebook_id "
            "JOIN submitted_assignment s ON s.id = n.assignment_id"
        ).fetchall()
    scores = {(who, cell): score for who, cell, score in rows}
    for who in SUBMISSIONS:
        feedback = (folder / "feedback" / who / "hw" / "hw.html").read_text(encoding="utf-8")
        told = nbformat.read(folder / "autograded" / who / "hw" / "hw.ipynb", as_version=4)
        errors = [o.evalue for c in told.cells for o in c.get("outputs", []) if o.output_type == "error"]
        assert ("AssertionError" in feedback) == bool(errors)
        text = " ".join(" ".join(errors).split())
        marks[who] = (scores[who, "inverse-visible"], scores[who, "inverse-hidden"], text)
    return marks


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("grade", [by_otter, by_nbgrader], ids=GRADERS)
def test_marks_and_feedback(grade, tmp_path):
    if find_spec(module := grade.__name__[3:]) is None:
        pytest.skip(f"{module} is not installed: pip install .[graders]")
    marks = grade(tmp_path)
    assert {who: mark[:2] for who, mark in marks.items()} == {who: mark[:2] for who, mark in MARKS.items()}
    for who, (*points, told) in marks.items():
        assert MARKS[who][2] in told
        assert (points == [1, 1]) == (told == "")


# --- the page for teachers ----------------------------------------------------------------------------------

PAGE = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")


def test_the_page_for_teachers_is_what_happens():
    """Its Python is run, and prints what stands there."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.S | re.M)
    scope: dict[str, Any] = {}
    ran = 0
    for (language, code), (following, output) in itertools.pairwise(blocks):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, scope)
            assert following == ""
            assert printed.getvalue() == output
            ran += 1
    assert ran == 3


def test_the_commands_on_the_page_for_teachers_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source" / "hw").mkdir(parents=True)
    commands = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^normtut .*", PAGE, re.M)]
    assert len(commands) == 3
    for command in commands:
        assert cli.main(command) == 0


def test_the_table_of_marks_is_what_the_graders_give():
    """`test_marks_and_feedback` holds them to MARKS."""
    rows = re.findall(r"^\| (.*?) \| (\d) \| (\d) \| (.*?) ?\|$", PAGE, re.M)
    whose = {
        "the right function": ["right"],
        "the right function, which also prints": ["printing"],
        "mean and std in the wrong order": ["wrong"],
        "a function that crashes, or exits": ["crashing", "exiting"],
        "an endless loop": ["endless"],
        "a `check` replaced by one that is always content": ["cheating"],
    }
    assert [row[0] for row in rows] == list(whose)
    assert sorted(itertools.chain(*whose.values())) == sorted(MARKS)
    for what, visible, hidden, told in rows:
        for who in whose[what]:
            assert MARKS[who][:2] == (int(visible), int(hidden))
        expected = MARKS[whose[what][0]][2].replace(" 2 s", " 10 s")
        assert expected.startswith(told.partition(" …")[0])


def test_where_the_address_is_not_known_nothing_is_installed(monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    assert "install" in [cell["id"] for cell in homework(["inverse"], seed=1)["cells"]]
    monkeypatch.setattr(metadata, "metadata", unknown)  # as for a folder that has only been copied
    assert "install" not in [cell["id"] for cell in homework(["inverse"], seed=1)["cells"]]
