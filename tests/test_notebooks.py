"""How chapters are stored: what the book, Colab and a reader on GitHub rely on, and no execution can show.

That the stored outputs are right is checked by nbval, which re-runs every chapter (`make test`).
"""

from __future__ import annotations

import base64
import copy
import itertools
import math
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from common import chapters, pages, repository_url, version
from folds import FOLDS, fold
from install_cell import TAG, install_cell
from nbnumbers import Number, read_lines
from set_repository import forms

ROOT = Path(__file__).resolve().parents[1]

MAX_PICTURE = 120_000  # bytes, of a gallery with all its pixels: what is stored stays in the history for good
MAX_CHART = 60_000  # of the page's copy of a chart, which grows with what is drawn
MAX_SHOWPIECE = 200_000  # one picture in a chapter may be worth printing
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
NUMBERS = "application/vnd.normtut.figure+json"
CAPTION = re.compile(r"\*\*Figure (\d+\.\d+)\.\*\* ")
APPROX = re.compile(r"approx-\d+(\.\d+)?%?")
#: Every tag that a cell may have; those that refresh writes stand last.
TAGS = {
    *FOLDS,
    "exercise-cell",
    TAG,
    "nbval-ignore-output",
    "raises-exception",
    "hide-cell",
    "hide-input",
    "hide-output",
}
PAPERS = re.compile(
    r"https?://(?:arxiv\.org/abs/|doi\.org/|proceedings\.|openaccess\.|openreview\.net/)[^\s)>\"]+"
)
# What only MyST understands: directives, roles, targets and its own link syntax.
MYST = re.compile(r"^\s*:::|^\s*```+\{|\{[a-z][\w:-]*\}`|^\([\w-]+\)=\s*$|^%\s|\[\]\(#", flags=re.MULTILINE)
HEADING = re.compile(r"^(#{1,6}) +(.+)$", flags=re.MULTILINE)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def prose(notebook: nbformat.NotebookNode) -> str:
    """All Markdown of a notebook without its fenced code."""
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code"]


def show(cell: nbformat.NotebookNode) -> str:
    return (cell.source.splitlines() or [""])[0][:80]


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def has_picture(cell: nbformat.NotebookNode) -> bool:
    return any(kind in o.get("data", {}) for o in cell.get("outputs", []) for kind in PICTURES)


def captions(notebook: nbformat.NotebookNode) -> list[str]:
    """The numbers of the figures, in the order of their captions."""
    cells = [c for c in notebook.cells if c.cell_type == "markdown"]
    return [match[1] for c in cells if (match := CAPTION.match(c.source))]


def printed_lines(cells: list[nbformat.NotebookNode]) -> list[str]:
    """What code cells print or return, line by line; pictures and web pages say nothing here."""
    outputs = [o for c in cells for o in c.outputs]
    texts = [
        o.get("text")
        or ("" if set(o.get("data", {})) - {"text/plain"} else o.get("data", {}).get("text/plain", ""))
        for o in outputs
    ]
    return [line for text in texts for line in text.splitlines() if line.strip()]


def test_every_notebook_is_in_the_book() -> None:
    stray = {p.name for p in (ROOT / "book").glob("*.ipynb")} - {p.name for p in chapters()}
    assert not stray, f"not in _toc.yml: {sorted(stray)}"


@pytest.fixture(params=chapters(), ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    return read(path)


def test_is_a_valid_notebook(path: Path, notebook) -> None:
    nbformat.validate(notebook)
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert notebook.metadata.kernelspec.name == "python3"
    assert "jupytext" not in notebook.metadata, "run `make refresh`"


def test_first_code_cell_installs_normtut(notebook) -> None:
    first, expected = code_cells(notebook)[0], install_cell(repository_url(), version())
    assert first.source == expected["source"], "run `make refresh` or `make set-repository`"
    assert dict(first.metadata) == expected["metadata"]
    assert sum(TAG in c.metadata.get("tags", []) for c in notebook.cells) == 1


def test_was_executed_from_top_to_bottom(notebook) -> None:
    counts = [c.execution_count for c in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run `make refresh`"


def test_has_no_error_nor_stderr(notebook) -> None:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                assert "raises-exception" in cell.metadata.get("tags", []), show(cell)
            assert output.get("name") != "stderr", show(cell)


def test_tags_are_known_and_folds_follow_from_them(notebook) -> None:
    """A misspelt tag would do nothing; a fold that was set by hand would be lost."""
    for cell in notebook.cells:
        unknown = {tag for tag in tags(cell) - TAGS if not APPROX.fullmatch(tag)}
        assert not unknown, f"{sorted(unknown)}: {show(cell)}"
    folded = copy.deepcopy(notebook)
    fold(folded)
    for after, before in zip(folded.cells, notebook.cells, strict=True):
        assert after.metadata == before.metadata, f"run `make refresh`: {show(before)}"


def test_figures_have_alt_text(notebook) -> None:
    for cell in code_cells(notebook):
        if has_picture(cell):
            assert len(cell.outputs) == 1, f"a figure is the only output of its cell: {show(cell)}"
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) >= 5, f"alt text says what is to be seen: {show(cell)}"
            assert "\n" not in alt, show(cell)


def test_figures_have_captions(path: Path, notebook) -> None:
    """A visible paragraph after each picture, numbered in order; no mention of a figure that is not there."""
    chapter = path.stem.split("_")[0].lstrip("0")
    for cell, after in itertools.pairwise([*notebook.cells, nbformat.v4.new_markdown_cell()]):
        is_caption = after.cell_type == "markdown" and CAPTION.match(after.source)
        assert has_picture(cell) == bool(is_caption), f"picture and caption: {show(cell)} | {show(after)}"
        assert "figure" not in cell.metadata.get("mystnb", {}), f"a caption in the metadata: {show(cell)}"
        if has_picture(cell):
            assert "draw-cell" in tags(cell) or cell.source.startswith("# @title"), show(cell)
            assert NUMBERS in cell.outputs[0].data, f"a picture without its numbers: {show(cell)}"
            assert "\n\n" not in after.source.strip(), f"a caption is one paragraph: {show(after)}"
            assert len(after.source.split()) >= 7, show(after)
    found = captions(notebook)
    assert found == [f"{chapter}.{i + 1}" for i in range(len(found))]
    for name in re.findall(r"\b(?:Figures?|Fig\.) (\d+\.\d+)", prose(notebook)):
        assert name in found or name.split(".")[0] != chapter, f"there is no Figure {name}"


def test_every_prediction_can_be_made(notebook) -> None:
    """A Predict says what may be answered, and what comes next is the answer, folded."""
    for index, cell in enumerate(notebook.cells):
        settings = cell.metadata.get("normtut", {}).get("predict")
        is_predict = cell.cell_type == "markdown" and "> **Predict.**" in cell.source
        assert is_predict == (settings is not None), f"a Predict has metadata, and nothing else: {show(cell)}"
        if not is_predict:
            continue
        lines = cell.source.splitlines()
        assert lines[0].startswith("> **Predict.** "), show(cell)
        assert all(line.startswith(">") for line in lines), f"a cell of its own: {show(cell)}"
        check_prediction(settings, " ".join(cell.source.replace("\n>", " ").split()))
        after = itertools.takewhile(
            lambda c: "> **Predict.**" not in c.source or c.cell_type == "code", notebook.cells[index + 1 :]
        )
        following = [c for c in after if c.cell_type == "code"]
        assert following, show(cell)
        assert "answer-cell" in tags(following[0]), f"no answer-cell after: {show(cell)}"
        if "number" in settings:
            outputs = printed_lines([c for c in following if "answer-cell" in tags(c)])
            assert answers(settings["number"], outputs), f"{settings}, but the answer prints {outputs}"


def check_prediction(settings: dict, text: str) -> None:
    if "choices" in settings:
        assert set(settings) == {"choices", "answer"}, settings
        choices = settings["choices"]
        assert 2 <= len(choices) <= 5, choices
        assert len(set(choices)) == len(choices), choices
        assert settings["answer"] in range(len(choices)), settings
        for letter, choice in zip("abcde", choices, strict=False):
            assert f"({letter}) {choice}" in text, f"({letter}) {choice} is not in the text: {text}"
        assert f"({'abcdef'[len(choices)]}) " not in text, (
            f"a choice of the text is not in the metadata: {text}"
        )
    else:
        assert set(settings) == {"number", "unit"}, settings
        assert type(settings["number"]) in (int, float), settings
        assert math.isfinite(settings["number"]), settings
        assert isinstance(settings["unit"], str), settings


def answers(number: float, lines: list[str]) -> bool:
    """Whether the number to be predicted is among those printed, roughly; a figure may answer too."""
    tokens = [token for text in lines for line in read_lines(text) for token in line.tokens]
    printed = [float(t.value) for t in tokens if isinstance(t, Number)]
    near = [abs(scale * v - number) <= 0.1 * abs(number) for v in printed for scale in (1, 100)]
    return any(near) or not lines


def test_a_number_that_the_answer_does_not_print_is_found() -> None:
    assert answers(15, ["in order: 15.4 %", "mixed: 56.1 %"])
    assert answers(15, ["in order: 0.154"])
    assert not answers(15, ["in order: 61.0 %, mixed: 56.1 %"])
    assert answers(15, [])


@pytest.mark.parametrize(
    "settings",
    [
        {"choices": ["15 %", "61 %"], "answer": 2},
        {"choices": ["15 %"], "answer": 0},
        {"choices": ["15 %", "61 %", "9 %"], "answer": 0},
        {"choices": ["61 %", "15 %"], "answer": 0},
        {"choices": ["15 %"] * 2, "answer": 0},
        {"number": "15", "unit": "%"},
        {"number": 15},
        {"number": float("nan"), "unit": ""},
        {},
    ],
)
def test_a_prediction_that_cannot_be_made_is_found(settings: dict) -> None:
    text = "> **Predict.** How much? (a) 15 %, or (b) 61 %?"
    check_prediction({"choices": ["15 %", "61 %"], "answer": 1}, text)
    check_prediction({"number": 15, "unit": "%"}, text)
    with pytest.raises(AssertionError):
        check_prediction(settings, text)


def test_folded_cells_are_what_their_tags_say(notebook) -> None:
    for cell in code_cells(notebook):
        if "plots.setup()" in cell.source:
            assert "setup-cell" in tags(cell), show(cell)
        if "check-cell" in tags(cell):
            assert re.search(r"^\s*assert\b", cell.source, flags=re.MULTILINE), (
                f"checks nothing: {show(cell)}"
            )
            assert not cell.outputs, f"a check prints nothing: {show(cell)}"


def test_pictures_are_small(notebook) -> None:
    sizes = sorted(
        (len(data if kind.endswith("xml") else base64.b64decode(data)), show(cell))
        for cell in code_cells(notebook)
        for output in cell.outputs
        for kind, data in output.get("data", {}).items()
        if kind in PICTURES
    )
    assert all(size < MAX_PICTURE for size, _ in sizes[:-1]), sizes
    assert all(size < MAX_SHOWPIECE for size, _ in sizes[-1:]), sizes
    for cell in code_cells(notebook):
        for output in cell.outputs:
            page = output.get("data", {}).get(NUMBERS, {}).get("page", {})
            assert len(page.get("svg", "")) < MAX_CHART, f"a chart of too many shapes: {show(cell)}"


def test_markdown_needs_nothing_but_markdown(notebook) -> None:
    found = MYST.findall(prose(notebook))
    assert not found, f"MyST syntax, which neither Colab nor GitHub shows: {found}"


def test_headings(notebook) -> None:
    """One title, and no level skipped."""
    levels = [len(marks) for marks, _ in HEADING.findall(prose(notebook))]
    assert levels[:1] == [1]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_equations_are_numbered_once_and_referred_to(path: Path, notebook) -> None:
    text = prose(notebook)
    tags = re.findall(r"\\tag\{([^}]+)\}", text)
    assert len(tags) == len(set(tags)), tags
    mine = path.stem.split("_")[0].lstrip("0")
    for name in re.findall(r"\bequations? \((\d+\.\d+)\)", text):
        chapter = name.split(".")[0]
        if chapter == mine:
            assert name in tags, f"there is no equation ({name})"
    assert not re.search(r"\\begin\{align\*?\}", text), "KaTeX and MathJax agree on aligned, not on align"
    assert text.count("$$") % 2 == 0


def test_links_lead_somewhere(path: Path, notebook) -> None:
    """Colab opens those to notebooks, and none to other files of the repository."""
    own_url, published, *_ = forms(repository_url())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(notebook)):
        if target.startswith(("http://", "https://")):
            if "github.com" in target and "/normtut" in target:
                assert target.startswith(own_url), target
            if target.startswith(published):
                page = target.removeprefix(published).partition("#")[0].removesuffix(".html")
                assert page in [p.relative_to(ROOT).with_suffix("").as_posix() for p in pages()], target
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page in [p.resolve() for p in pages()], f"no page of the book: {target}"
        assert page.suffix == ".ipynb", f"write {published}….html for {target}"
        if anchor:
            text = prose(read(page)) if page.suffix == ".ipynb" else page.read_text(encoding="utf-8")
            slugs = {
                re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for _, t in HEADING.findall(text)
            }
            assert anchor in slugs, f"no such heading: {target}"


def test_papers_are_in_the_bibliography(notebook) -> None:
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    # An entry holds the address in `url`, or the last part of it in `doi`.
    cited = {url: url.removeprefix("https://doi.org/") for url in PAPERS.findall(prose(notebook))}
    missing = {url for url, name in cited.items() if name not in bibliography}
    assert not missing, f"add to book/references.bib: {sorted(missing)}"


def test_cells_are_short(notebook) -> None:
    """About six lines of code, blank ones apart."""
    lengths = [
        sum(bool(x.strip()) for x in c.source.splitlines()) for c in code_cells(notebook)[1:] if c.source
    ]
    assert max(lengths) <= 15
    assert statistics.median(lengths) <= 7, sorted(lengths)


def test_lines_fit_the_page(notebook) -> None:
    """A screen of 1280 pixels shows 92 columns; `book/ruff.toml` cannot break a long string."""
    long = [line for c in code_cells(notebook) for line in c.source.splitlines() if len(line) > 92]
    assert not long, long


def test_solutions_are_folded(notebook) -> None:
    """Every exercise has a solution after it, folded in the book, in Colab and in Jupyter."""
    exercises = re.findall(r"^### Exercise (\d+\.\d+)", prose(notebook), flags=re.MULTILINE)
    solutions = {}
    for cell in code_cells(notebook):
        if match := re.match(r"# @title Solution (\d+\.\d+)", cell.source):
            solutions[match[1]] = cell
    assert exercises, "a chapter ends with exercises"
    assert sorted(solutions) == sorted(exercises)
    for cell in solutions.values():
        assert "hide-cell" in cell.metadata.tags
        assert cell.metadata.cellView == "form"
        assert cell.metadata.jupyter.source_hidden is True
        assert cell.metadata.mystnb.code_prompt_show == "Show the solution"


def test_exercises_have_one_section_and_a_stub_each(notebook) -> None:
    titles = [(len(marks), title) for marks, title in HEADING.findall(prose(notebook))]
    section = None
    for level, title in titles:
        section = title if level == 2 else section
        if title.startswith("Exercise "):
            assert (level, section) == (3, "Exercises"), title
            assert re.fullmatch(r"Exercise \d+\.\d+ \S.*", title), title
    assert [title for _, title in titles].count("Exercises") == 1
    heading, stubs = None, []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^### Exercise (\d+\.\d+)", cell.source, flags=re.MULTILINE)
            heading = [heading, *found][-1]
        elif "exercise-cell" in tags(cell):
            stubs.append(heading)
            assert not cell.outputs, f"a stub prints nothing: {show(cell)}"
        elif match := re.match(r"# @title Solution (\d+\.\d+)", cell.source):
            assert match[1] in stubs, f"no stub (exercise-cell) before {match[0]}"


def test_output_lines_fit_the_page(notebook) -> None:
    long = [line for line in printed_lines(code_cells(notebook)) if len(line) > 92]
    assert not long, long


def test_the_book_shows_numbers_rather_than_booleans() -> None:
    """To the question "how much?", True is no answer. The aim is one line in ten; the bound only falls."""
    lines = [line for path in chapters() for line in printed_lines(code_cells(read(path)))]
    booleans = [line for line in lines if re.search(r"(?<!=)\b(True|False)\b", line)]
    assert len(booleans) <= len(lines) / 10, f"{len(booleans)} of {len(lines)} output lines"


def test_ignored_outputs_give_their_reason(notebook) -> None:
    for cell in code_cells(notebook):
        tags = set(cell.metadata.get("tags", []))
        if tags & {"nbval-ignore-output", "nbval-skip", "skip-execution"}:
            assert "#" in cell.source, f"an ignored output without a reason: {show(cell)}"


def test_checks_itself(notebook) -> None:
    """Numbers that are as they were stored may still not bear out the text: a chapter asserts what it claims,
    checks a solution, or prints verdicts."""
    cells = code_cells(notebook)
    source = "\n".join(c.source for c in cells)
    printed = "".join(o.get("text", "") for c in cells for o in c.outputs)
    checks = len(re.findall(r"^\s*assert\b|\bcheck\(", source, flags=re.MULTILINE))
    assert checks + len(re.findall(r"\bTrue\b", printed)) >= 3
