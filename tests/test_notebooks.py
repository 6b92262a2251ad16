"""How chapters are stored: what the book, Colab and a reader on GitHub rely on, and no execution can show.

That the stored outputs are right is checked by nbval, which re-runs every chapter (`make test`).
"""

from __future__ import annotations

import base64
import itertools
import re
import statistics
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))
from common import chapters, pages, repository_url  # noqa: E402
from install_cell import TAG, install_cell  # noqa: E402

MAX_PICTURE = 80_000  # bytes: every new picture stays in the history for good
MAX_SHOWPIECE = 200_000  # one picture in a chapter may be worth printing
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
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


def slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def show(cell: nbformat.NotebookNode) -> str:
    return (cell.source.splitlines() or [""])[0][:80]


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
    first, expected = code_cells(notebook)[0], install_cell(repository_url())
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


def test_figures_have_alt_text_and_caption(notebook) -> None:
    names = set()
    for cell in code_cells(notebook):
        drawn = [o for o in cell.outputs if any(kind in o.get("data", {}) for kind in PICTURES)]
        settings = cell.metadata.get("mystnb", {})
        if not drawn:
            assert "figure" not in settings, f"a figure's metadata on a cell that draws none: {show(cell)}"
            continue
        assert len(cell.outputs) == 1, f"a figure is the only output of its cell: {show(cell)}"
        alt = settings.get("image", {}).get("alt", "")
        figure = settings.get("figure", {})
        assert len(alt.split()) >= 5, f"alt text says what is to be seen: {show(cell)}"
        assert "\n" not in alt, show(cell)
        assert len(figure.get("caption", "").split()) >= 5, f"no caption: {show(cell)}"
        assert re.fullmatch(r"fig-[a-z0-9-]+", figure.get("name", "")), f"figure name: {show(cell)}"
        assert figure["name"] not in names, figure["name"]
        names.add(figure["name"])


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
    own_url = repository_url()
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(notebook)):
        if target.startswith(("http://", "https://")):
            if "github.com" in target and "/normtut" in target:
                assert target.startswith(own_url), target
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page in [p.resolve() for p in pages()], f"no page of the book: {target}"
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


def test_ignored_outputs_give_their_reason(notebook) -> None:
    for cell in code_cells(notebook):
        tags = set(cell.metadata.get("tags", []))
        if tags & {"nbval-ignore-output", "nbval-skip", "skip-execution"}:
            assert "#" in cell.source, f"an ignored output without a reason: {show(cell)}"


def test_checks_itself(notebook) -> None:
    """A stored picture proves nothing, since nbval does not compare pictures: a chapter asserts, checks a
    solution, or prints verdicts, which nbval does compare."""
    cells = code_cells(notebook)
    source = "\n".join(c.source for c in cells)
    printed = "".join(o.get("text", "") for c in cells for o in c.outputs)
    checks = len(re.findall(r"^\s*assert\b|\bcheck\(", source, flags=re.MULTILINE))
    assert checks + len(re.findall(r"\bTrue\b", printed)) >= 3
