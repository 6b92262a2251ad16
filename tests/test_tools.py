"""The book's tools: refreshing chapters, setting the address, building, making the environment."""

from __future__ import annotations

import base64
import copy
import datetime
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image

import missing
import release
import set_repository
from common import chapters, repository_url, version
from folds import fold
from install_cell import TAG, repair

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "book" / "_tools"
FIGURE_NUMBERS = "application/vnd.normtut.figure+json"


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )


def store(path: Path, *sources: str) -> Path:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# Title")]
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(notebook, path)
    return path


def refresh(*paths: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, TOOLS / "refresh.py", *paths, **options)


def test_refresh_is_deterministic_and_uses_this_interpreter(tmp_path: Path) -> None:
    source = "import sys, os\nprint(sys.executable, os.getcwd())\nprint(list({'a', 'b', 'c'}))"
    path = store(tmp_path / "a.ipynb", source)
    # A kernel that somebody registered as `python3` must not be the one that runs.
    kernel = tmp_path / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["false"], "display_name": "x", "language": "python"}')
    environment = os.environ | {"JUPYTER_PATH": str(tmp_path / "share")}
    contents = []
    for _ in range(2):
        done = refresh(path, env=environment)
        assert done.returncode == 0, done.stderr
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert f"{sys.executable} {tmp_path}" in notebook.cells[-1].outputs[0].text
    assert [c.execution_count for c in notebook.cells[1:]] == [1, 2]
    assert TAG in notebook.cells[1].metadata.tags
    assert b"transient" not in contents[0]
    assert b'"execution"' not in contents[0]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nprint('oops', file=sys.stderr)", "wrote to stderr"),
        ("import os\nos._exit(1)", "kernel died"),
    ],
    ids=["error", "stderr", "dead kernel"],
)
def test_a_failing_chapter_stops_refresh_and_stays_as_it_was(
    tmp_path: Path, source: str, reason: str
) -> None:
    good, bad = store(tmp_path / "good.ipynb", "1"), store(tmp_path / "bad.ipynb", "x = 1", source)
    never = store(tmp_path / "never.ipynb", "1")
    before = bad.read_bytes(), never.read_bytes()
    done = refresh(good, bad, never)
    assert done.returncode == 1
    assert "bad.ipynb, cell 4 of 4" in done.stderr
    assert source.splitlines()[0] in done.stderr
    assert reason in done.stderr
    assert (bad.read_bytes(), never.read_bytes()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.ipynb", "good.ipynb", "never.ipynb"]


def test_refresh_names_a_file_that_is_no_notebook(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text("{")
    done = refresh(path)
    assert done.returncode == 1
    assert "broken.ipynb: not a readable notebook" in done.stderr
    assert path.read_text() == "{"


def test_repair_replaces_an_old_install_cell_and_nothing_else(tmp_path: Path) -> None:
    notebook = nbformat.read(store(tmp_path / "a.ipynb", "x = 1", "y = 2"), as_version=4)
    repair(notebook, "https://github.com/old/normtut", "1.0.dev0")
    repair(notebook, "https://github.com/new/normtut", "1.0.dev0")
    assert [c.cell_type for c in notebook.cells] == ["markdown", "code", "code", "code"]
    assert "https://github.com/new/normtut" in notebook.cells[1].source
    assert "old" not in notebook.cells[1].source


def test_a_chapter_of_a_release_installs_that_release(tmp_path: Path) -> None:
    notebook = nbformat.read(store(tmp_path / "a.ipynb", "x = 1"), as_version=4)
    url = "https://github.com/you/normtut"
    for new, installed in (("1.2.0", f"{url}@v1.2.0"), ("1.3.0.dev0", url)):
        repair(notebook, url, new)
        assert f'%pip install -q "normtut @ git+{installed}"' in notebook.cells[1].source


def cell(source: str, *tags: str, **metadata: object) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags), **metadata})


@pytest.mark.parametrize(
    ("source", "tags", "fold_tag", "prompt"),
    [
        ("import torch", ["setup-cell"], "hide-input", "Show the imports"),
        ("assert True", ["check-cell"], "hide-cell", "Show the check"),
        ("plot()", ["draw-cell", "approx-20%"], "hide-input", "Show the code of this figure"),
        ("plot()", ["draw-cell", "answer-cell"], "hide-cell", "Reveal the answer"),
        ("# @title Solution 5.1\n1", [], "hide-cell", "Show the solution"),
        ("# @title Check of solution 5.1\n1", [], "hide-cell", "Show the check"),
    ],
)
def test_folds_follow_from_tags(source: str, tags: list[str], fold_tag: str, prompt: str) -> None:
    alt = {"image": {"alt": "What is to be seen."}}
    notebook = nbformat.v4.new_notebook(cells=[cell(source, *tags, mystnb=alt)])
    for _ in range(2):  # folding what is folded changes nothing
        fold(notebook)
        metadata = notebook.cells[0].metadata
        assert metadata.tags == [*tags, fold_tag]
        assert metadata.mystnb.code_prompt_show == prompt
        assert metadata.mystnb.code_prompt_hide.startswith("Hide the ")
        assert metadata.mystnb.image == alt["image"]
        assert ("cellView" in metadata) == ("jupyter" in metadata) == source.startswith("# @title")


def test_a_fold_goes_with_its_tag() -> None:
    solution = "# @title Solution 5.1\n1"
    notebook = nbformat.v4.new_notebook(
        cells=[cell("plot()", "draw-cell", "answer-cell"), cell("1", "check-cell"), cell(solution)]
    )
    fold(notebook)
    figure, check, solved = notebook.cells
    figure.metadata.tags.remove("answer-cell")
    check.metadata.tags.remove("check-cell")
    solved.source = "1"
    fold(notebook)
    assert figure.metadata.tags == ["draw-cell", "hide-input"]
    assert figure.metadata.mystnb.code_prompt_show == "Show the code of this figure"
    assert check.metadata == solved.metadata == {}


def test_folds_leave_other_metadata_alone() -> None:
    own = {"code_prompt_show": "Show both tables in full", "code_prompt_hide": "Hide the tables"}
    cells = [
        cell("1", "hide-output", mystnb=own),
        cell("2"),
        nbformat.v4.new_markdown_cell("# @title Solution 1.1"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    before = copy.deepcopy(notebook)
    fold(notebook)
    assert notebook == before


def test_refresh_folds_and_stores_a_figure_with_its_numbers(tmp_path: Path) -> None:
    source = "from normtut import plots\nplots.setup()\nax = plots.curves({'loss': [3, 2, 1]})"
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell(source, "draw-cell")]), path)
    done = refresh(path)
    assert done.returncode == 0, done.stderr
    drawn = nbformat.read(path, as_version=4).cells[-1]
    assert drawn.metadata.tags == ["draw-cell", "hide-input"]
    numbers = drawn.outputs[0].data[FIGURE_NUMBERS]
    assert numbers["axes"][0]["lines"][0]["y"] == "3 2 1"
    assert "image/png" in drawn.outputs[0].data


# --- the address --------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The files that may hold the address, in a folder of their own."""
    for path in set_repository.files(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def test_set_repository_changes_every_place_and_back(copied: Path) -> None:
    original = {path: path.read_bytes() for path in set_repository.files(copied)}
    old = repository_url(copied)
    set_repository.set_repository("https://github.com/Some-One/my.book.git", copied)
    assert repository_url(copied) == "https://github.com/Some-One/my.book"
    for form in set_repository.forms(old):
        assert not [p for p in original if form in p.read_text(encoding="utf-8")], form
    changed = {p.relative_to(copied).as_posix() for p, before in original.items() if p.read_bytes() != before}
    expected = {"pyproject.toml", "_config.yml", "README.md", "CITATION.cff"}
    assert expected <= changed
    assert {f"book/{p.name}" for p in (copied / "book").glob("*.ipynb")} <= changed
    set_repository.set_repository(old, copied)
    original[copied / "README.md"] = without_placeholder(original[copied / "README.md"])
    assert {path: path.read_bytes() for path in original} == original


def without_placeholder(readme: bytes) -> bytes:
    paragraphs = readme.decode().split("\n\n")
    return "\n\n".join(p for p in paragraphs if "The address is a placeholder" not in p).encode()


@pytest.mark.parametrize(
    "url", ["", "normtut", "http://github.com/a/b", "https://gitlab.com/a/b", "https://github.com/a"]
)
def test_set_repository_refuses_what_colab_cannot_open(copied: Path, url: str) -> None:
    before = (copied / "pyproject.toml").read_bytes()
    with pytest.raises(ValueError, match=r"must look like https://github.com/you/normtut"):
        set_repository.set_repository(url, copied)
    assert (copied / "pyproject.toml").read_bytes() == before


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository as it would be committed now, elsewhere."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    there = tmp_path / "clone"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, there / name)
    for words in ("init -q", "add -A"):
        assert run("git", *words.split(), cwd=there).returncode == 0
    return there


@pytest.mark.parametrize(
    ("repository", "page"),
    [
        ("Some-One/my.book", "https://some-one.github.io/my.book/"),
        ("Some-One/some-one.github.io", "https://some-one.github.io/"),
    ],
)
def test_where_github_publishes_a_repository(repository: str, page: str) -> None:
    url = f"https://github.com/{repository}"
    assert set_repository.forms(url)[1] == page
    from normtut_book.pages import find_address  # what the pages say is the same

    config = SimpleNamespace(html_theme_options={"repository_url": url}, html_baseurl="")
    find_address(None, config)
    assert config.html_baseurl == page


@pytest.mark.slow
def test_another_address_and_a_release_leave_a_repository_whose_tests_pass_and_say_what_comes_next(
    clone: Path,
) -> None:
    url = "https://github.com/" + "Another-One/her.book"  # in two: this file must not hold the address
    done = run(sys.executable, "book/_tools/set_repository.py", url, cwd=clone)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[-3:]
    assert [line[:3] for line in lines] == ["1. ", "2. ", "3. "]
    assert f"git push {url} HEAD:main" in lines[0]
    assert f'{url}/settings/pages choose "GitHub Actions"' in lines[1]
    assert "https://another-one.github.io/her.book/" in lines[1]
    assert "owner Another-One, repository her.book, workflow release.yml, environment pypi" in lines[2]
    if version(clone).endswith(".dev0"):
        new = version(clone).removesuffix(".dev0")
        done = run(sys.executable, "book/_tools/release.py", new, cwd=clone)
        assert done.returncode == 0, done.stderr
        assert f"git tag v{new} && git push origin v{new}" in done.stdout
        (after,) = re.findall(r"make release VERSION=(\S+)", done.stdout)
        assert release.VERSION.fullmatch(after)
        assert after.endswith(".dev0")
    tests = ["tests/test_repository.py", "tests/test_notebooks.py", "-m", "not slow"]
    environment = os.environ | {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = run(*command, cwd=clone, env=environment)
    assert done.returncode == 0, done.stdout


# --- a release ----------------------------------------------------------------------------------------------


@pytest.fixture
def released(copied: Path) -> Path:
    for name in ("_toc.yml", "index.md", "normtut/__init__.py", "book/references.bib"):
        (copied / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copied / name)
    shutil.copytree(ROOT / "book/api", copied / "book/api", dirs_exist_ok=True)
    (copied / "README.md").write_text(f'pip install "normtut @ git+{repository_url(copied)}"\n')
    (copied / "CHANGELOG.md").write_text("# Changes\n\n## Unreleased\n\n- News.\n\n## 0.0.1 (2020-01-01)\n")
    return copied


def test_a_release_pins_the_chapters_and_what_follows_takes_the_pins_away(released: Path) -> None:
    day, url = datetime.date(2030, 2, 1), repository_url(released)
    release.set_version("7.8.9", day, released)
    assert (released / "README.md").read_text() == "pip install normtut\n"
    before = {path: path.read_bytes() for path in chapters(released)}
    assert version(released) == "7.8.9"
    assert len(before) >= 14
    for path in before:
        notebook = nbformat.read(path, as_version=4)
        (install,) = [c for c in notebook.cells if TAG in c.metadata.get("tags", [])]
        assert f"normtut @ git+{url}@v7.8.9" in install.source
        assert any(c.get("outputs") for c in notebook.cells), "outputs stay as they were"
    changes = (released / "CHANGELOG.md").read_text()
    assert changes == "# Changes\n\n## 7.8.9 (2030-02-01)\n\n- News.\n\n## 0.0.1 (2020-01-01)\n"
    release.set_version("7.9.0.dev0", day, released)
    assert version(released) == "7.9.0.dev0"
    assert (released / "README.md").read_text() == "pip install normtut\n"
    for path, pinned in before.items():
        assert path.read_bytes() == pinned.replace(b"@v7.8.9", b"")
    assert "# Changes\n\n## Unreleased\n\n## 7.8.9 (" in (released / "CHANGELOG.md").read_text()
    with pytest.raises(ValueError, match=r"has nothing under .## Unreleased. to be released"):
        release.set_version("7.9.0", day, released)
    assert version(released) == "7.9.0.dev0"


@pytest.mark.parametrize("wrong", ["", "1.2", "v1.2.3", "1.2.3-beta", "1.2.3.dev1"])
def test_a_version_that_cannot_be_released_changes_nothing(released: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match="VERSION must look like"):
        release.set_version(wrong, datetime.date(2030, 2, 1), released)
    assert version(released) == version()


# --- building -----------------------------------------------------------------------------------------------


def small_book(folder: Path, page: str) -> Path:
    """The book's machinery around one page."""
    for name in ("_config.yml", "pyproject.toml", "book/references.bib"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("_tools", "_ext", "_assets", "_vendor"):
        shutil.copytree(ROOT / "book" / name, folder / "book" / name)
    (folder / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: book/bibliography\n")
    shutil.copy(ROOT / "book" / "bibliography.md", folder / "book")
    (folder / "index.md").write_text(page)
    return folder


def test_the_script_engine_is_closed_before_the_interpreter_ends() -> None:
    """On Python 3.13 a build would never end otherwise; here, that it is closed is what can be seen."""
    script = """
import atexit, sys
def look():  # registered first, called last
    try:
        print("open", engine.eval("1"))
    except AssertionError:
        print("closed")
atexit.register(look)
sys.path.insert(0, sys.argv[1])
from normtut_book.maths import javascript
engine = javascript()
"""
    done = run(sys.executable, "-c", script, ROOT / "book" / "_ext")
    assert done.stdout == "closed\n", done.stderr


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, folder / "book/_tools/build.py", cwd=folder)


def test_build_renders_maths_and_call_outs_and_does_nothing_twice(tmp_path: Path) -> None:
    book = small_book(tmp_path, "# T\n\n> **Predict.** What?\n\n$$ x^2 \\tag{1.1} $$\n\nFor $y$.\n")
    done = build(book)
    assert done.returncode == 0, done.stderr
    page = book / "_build" / "html" / "index.html"
    assert str(page) in done.stdout
    html = page.read_text(encoding="utf-8")
    assert '<blockquote class="callout callout-predict">' in html
    assert html.count('class="katex-display"') == 1
    assert "</math>" in html
    stamp = page.stat().st_mtime_ns
    assert "up to date" in build(book).stdout
    assert page.stat().st_mtime_ns == stamp
    (book / "index.md").write_text("# Another title\n")
    assert build(book).returncode == 0
    assert "Another title" in page.read_text(encoding="utf-8")


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def chapter(folder: Path, *cells: nbformat.NotebookNode) -> Path:
    """The notebook of a small book's only chapter."""
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# T"), *cells], metadata=metadata
    )
    fold(notebook)
    book = small_book(folder, "# T\n")
    nbformat.write(notebook, book / "book" / "05_t.ipynb")
    toc = (book / "_toc.yml").read_text()
    (book / "_toc.yml").write_text(toc + "  - file: book/05_t\n")
    return book


def drawing(*tags: str) -> nbformat.NotebookNode:
    alt = "A picture with one pixel."
    drawn = cell("plot()", *tags, mystnb={"image": {"alt": alt}})
    data = {"image/png": PIXEL, "text/plain": "<Figure>", FIGURE_NUMBERS: {"axes": []}}
    drawn.outputs = [nbformat.v4.new_output("display_data", data)]
    return drawn


def test_build_joins_a_picture_and_the_caption_after_it(tmp_path: Path) -> None:
    """Without a word about the numbers that the picture carries; and a fold takes the caption in."""
    text = nbformat.v4.new_markdown_cell
    cells = [
        drawing("draw-cell"),
        text("**Figure 5.1.** What to *see*, and $x^2$.\n\nText after it."),
        drawing("draw-cell", "answer-cell"),
        text("**Figure 5.2.** The answer."),
    ]
    book = chapter(tmp_path, *cells)
    done = build(book)
    assert done.returncode == 0, done.stderr
    html = (book / "_build/html/book/05_t.html").read_text(encoding="utf-8")
    pattern = r'<figure [^>]*id="(fig-[\d-]+)">\s*<img[^>]*>\s*<figcaption>(.*?)</figcaption>'
    figures = re.findall(pattern, html, re.DOTALL)
    assert [name for name, _ in figures] == ["fig-5-1", "fig-5-2"]
    assert "<strong>Figure 5.1.</strong> What to <em>see</em>, and <span" in figures[0][1]
    assert "caption-number" not in html
    assert html.count("Figure 5.1.") == 1
    assert "<p>Text after it.</p>" in html
    folds = re.findall("<details.*?</details>", html, re.DOTALL)
    assert ["<img" in f for f in folds if "plot" in f] == [False, True]
    assert "Reveal the answer" in folds[-1]
    assert "The answer." in folds[-1]
    assert "Toggle hidden content" not in html


def test_build_puts_what_is_prepared_for_the_page_in_the_place_of_a_picture(tmp_path: Path) -> None:
    svg = '<svg viewBox="0 0 300 200"><path id="m1" d="M0 0h9"/><use href="#m1"/></svg>'
    charts = [drawing("draw-cell"), drawing("draw-cell")]
    for cell in charts:
        cell.outputs[0].data[FIGURE_NUMBERS]["page"] = {"svg": svg}
    buffer = io.BytesIO()
    pixels = np.full((40, 80, 3), 255, np.uint8)
    pixels[10:, :40], pixels[10:, 40:] = (200, 0, 0), (0, 0, 200)
    Image.fromarray(pixels).save(buffer, "jpeg", quality=95, subsampling=0)
    pictures = drawing("draw-cell")
    page = {"ncols": 2, "panels": [["left", 0, 0.25, 0.5, 1], ["right", 0.5, 0.25, 1, 1]]}
    pictures.outputs[0].data = {
        "image/jpeg": base64.b64encode(buffer.getvalue()).decode(),
        FIGURE_NUMBERS: {"axes": [], "page": page},
    }
    captions = [nbformat.v4.new_markdown_cell(f"**Figure 5.{i}.** Look.") for i in (1, 2, 3)]
    cells = [cell for pair in zip([*charts, pictures], captions, strict=True) for cell in pair]
    book = chapter(tmp_path, *cells)
    done = build(book)
    assert done.returncode == 0, done.stderr
    html = (book / "_build/html/book/05_t.html").read_text(encoding="utf-8")
    assert html.count("<figcaption>") == 3
    assert html.count('<svg class="chart"') == 2
    assert html.count('role="img" aria-label="A picture with one pixel." width="450" height="300"') == 2
    assert re.findall(r'\bid="(f\d-m1)"', html) == re.findall(r'href="#(f\d-m1)"', html) == ["f1-m1", "f2-m1"]
    found = re.findall(r'<a href="../(_images/\w+.webp)"><img src="../\1" alt="Enlarge: (\w+)"', html)
    assert [title for _, title in found] == ["left", "right"]
    for (name, _), colour in zip(found, ((200, 0, 0), (0, 0, 200)), strict=True):
        seen = np.asarray(Image.open(book / "_build/html" / name)).astype(int)
        assert seen.shape == (30, 40, 3)
        assert np.abs(seen - colour).mean() < 4


GLOSSARY = """
- term: batch norm
  forms: [batch normalization]
  also: [BN]
  where: 05_t
  text: "Normalizes channels."
- term: group norm
  where: 08_u
  text: "Normalizes groups, see `G`."
"""


def test_build_makes_the_links_that_markdown_has_not(tmp_path: Path) -> None:
    """To equations, figures, the glossary, the bibliography, and back; none in headings, code and links."""
    published = set_repository.forms(repository_url())[1]
    text = nbformat.v4.new_markdown_cell
    book = chapter(
        tmp_path,
        text(
            "## Group norm\n\n$$ x \\tag{5.1} $$\n\nSee (5.1), (5.9), (0.5) and Figure 5.1. "
            "`group norm`, batch norm."
        ),
        text(
            "A Group norm is no group norm. [Wu 2018](https://arxiv.org/abs/1803.08494), twice: "
            f"[Wu](https://arxiv.org/abs/1803.08494). [BN]({published}book/glossary.html#term-batch-norm)"
        ),
        drawing("draw-cell"),
        text("**Figure 5.1.** What to see of (5.1)."),
    )
    (book / "book" / "glossary.yml").write_text(GLOSSARY)
    (book / "book" / "glossary.md").write_text("# Glossary\n\n```{terms}\n```\n")
    other = nbformat.read(book / "book" / "05_t.ipynb", as_version=4)
    other.cells = [text("# U\n\nBatch normalization as in equation (5.1), and Figure 5.1.")]
    nbformat.write(other, book / "book" / "08_u.ipynb")
    with (book / "_toc.yml").open("a") as toc:
        toc.write("  - file: book/08_u\n  - file: book/glossary\n")
    done = build(book)
    assert done.returncode == 0, done.stderr
    first, second, glossary, bibliography = (
        (book / "_build/html/book" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("05_t", "08_u", "glossary", "bibliography")
    )
    assert 'id="equation-5-1"' in first
    assert first.count('href="#equation-5-1"') == 2
    assert first.count('href="#fig-5-1">Figure 5.1</a>') == 1
    assert "(5.9), (0.5)" in first
    assert re.findall(r'<a class="term[^>]*>([^<]+)</a>', first) == ["Group norm"]
    assert first.count("bibliography.html#wu2018") == 1
    assert 'href="../book/glossary.html#term-batch-norm"' in first
    assert 'href="05_t.html#equation-5-1"' in second
    assert 'href="05_t.html#fig-5-1"' in second
    assert re.findall(r'href="(glossary[^"]+#[^"]+)"[^>]*>([^<]+)</a>', second) == [
        ("glossary.html#term-batch-norm", "Batch normalization")
    ]
    assert 'id="term-batch-norm"' in glossary
    assert '<a href="08_u.html#use-term-batch-norm">8</a>. Also: batch normalization, BN.' in glossary
    assert '<div class="citation" id="wu2018"' in bibliography
    assert 'Cited in <a href="05_t.html">5</a>.' in bibliography
    assert '"bn": [[' in (book / "_build/html/searchindex.js").read_text(encoding="utf-8")


def test_a_caption_without_a_picture_stops_the_build(tmp_path: Path) -> None:
    done = build(chapter(tmp_path, nbformat.v4.new_markdown_cell("Text.\n\n**Figure 5.1.** Nothing to see.")))
    assert done.returncode == 1
    assert "Figure 5.1. follows no cell with a picture" in done.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$$ \\frac{1}{ $$", "KaTeX cannot render"),
        ("See [there](nowhere.md).", "nowhere"),
        ("{cite}`nobody1999`", "nobody1999"),
    ],
)
def test_a_warning_stops_the_build_every_time(tmp_path: Path, text: str, reason: str) -> None:
    book = small_book(tmp_path, f"# T\n\n{text}\n")
    for _ in range(2):  # Sphinx would not read the unchanged page again, and pass
        done = build(book)
        assert done.returncode == 1
        assert reason in done.stderr
        assert not (book / "_build" / "html" / "index.html").exists()


def test_build_names_a_page_that_is_missing(tmp_path: Path) -> None:
    book = small_book(tmp_path, "# T\n")
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: book/09_absent\n")
    done = build(book)
    assert done.returncode == 1
    assert "book/09_absent" in done.stderr


# --- the environment ----------------------------------------------------------------------------------------


def fake_python(folder: Path, version: str, *names: str) -> None:
    """Interpreters that say they are `version`, and fail the check that make_venv.sh makes."""
    folder.mkdir(exist_ok=True)
    for name in names:
        script = folder / name
        script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
        script.chmod(0o755)


def test_an_unsupported_python_is_told_which_versions_work(tmp_path: Path) -> None:
    names = ("python3", "python3.10", "python3.11", "python3.12", "python3.13", "python3.14")
    fake_python(tmp_path / "bin", "3.9.2", *names)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = run("/bin/sh", TOOLS / "make_venv.sh", tmp_path / "venv", cwd=ROOT, env={"PATH": path})
    assert done.returncode == 1
    assert "needs Python 3.10" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_python_at_all_is_told_the_same(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = run(
        "/bin/sh", TOOLS / "make_venv.sh", tmp_path / "venv", cwd=ROOT, env={"PATH": str(tmp_path / "bin")}
    )
    assert done.returncode == 1
    assert "no python3" in done.stderr
    assert "needs Python 3.10" in done.stderr


def test_an_environment_that_lacks_packages_is_told_the_line_that_installs_them(tmp_path: Path) -> None:
    """`make PYTHON=…` with a Python that has nothing, as on a machine where the book never ran."""
    assert run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv").returncode == 0
    python = tmp_path / "venv" / "bin" / "python"
    done = run("make", "--no-print-directory", "lint", f"PYTHON={python}", cwd=ROOT)
    assert done.returncode == 2
    assert f"{python} -m pip install 'torch>=" in done.stderr
    assert "'jupyter-book>=" in done.stderr
    assert "ruff" in done.stderr
    assert "Traceback" not in done.stderr
    assert run(sys.executable, TOOLS / "missing.py").stderr == ""


@pytest.mark.parametrize("own", ["", "/where/its/packages/are"])
def test_an_environment_of_ones_own_finds_this_normtut_first_and_keeps_its_packages(
    tmp_path: Path, own: str
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$1 $PYTHONPATH"\n')
    python.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": own}
    path = f"{ROOT}:{own}" if own else f"{ROOT}"
    done = run("make", "-s", "refresh", f"PYTHON={python}", cwd=ROOT, env=environment)
    assert done.stdout == f"book/_tools/missing.py {path}\nbook/_tools/refresh.py {path}\n"
    done = run("make", "-n", "check", f"PYTHON={python}", cwd=ROOT, env=environment)
    assert f" PYTHONPATH=book/_tools:{path} {python} -m pytest" in done.stdout


def test_what_is_required_is_read_as_pip_reads_it() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["book"], *extras["test"], *extras["dev"]]
    assert missing.requirements(text) == wanted
    assert missing.missing(["pip>=1", "no-such-package[x]>=2"]) == ["no-such-package[x]>=2"]
