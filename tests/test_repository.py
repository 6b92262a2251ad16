"""One address, one version, and no placeholder where none belongs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import normtut

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))
from common import chapters, repository_url  # noqa: E402
from set_repository import files, forms  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """The files under version control; all others where there is none (a downloaded archive)."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_launch_button_uses_the_address() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"] == {"url": repository_url(), "path_to_book": "", "branch": "main"}
    assert config["launch_buttons"]["colab_url"] == "https://colab.research.google.com"


def test_install_lines_and_citation_use_the_address() -> None:
    url, published, _ = forms(repository_url())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == url
    assert citation["url"] == published
    assert f'pip install "normtut @ git+{url}"' in README
    for chapter in chapters():
        assert f"normtut @ git+{url}" in chapter.read_text(encoding="utf-8"), chapter.name


def test_no_other_address_of_the_project() -> None:
    """Whatever looks like a GitHub address of normtut is the address, or an example in a usage line."""
    pattern = re.compile(r"github\.com/([A-Za-z0-9-]+)/normtut\b|\b([A-Za-z0-9-]+)\.github\.io/normtut\b")
    owner = repository_url().split("/")[-2]
    for path in files(ROOT):
        for found in pattern.finditer(path.read_text(encoding="utf-8")):
            name = found[1] or found[2]
            assert name in (owner, owner.lower(), "you"), f"{path.name}: {found[0]}"


def test_the_address_stands_only_where_set_repository_finds_it() -> None:
    known = set(files(ROOT)) | {Path(__file__)}
    url = repository_url()
    for path in tracked():
        if path not in known:
            assert url.encode() not in path.read_bytes(), f"{path.relative_to(ROOT)} holds the address"


def test_the_package_holds_no_placeholder() -> None:
    for path in (ROOT / "normtut").rglob("*.py"):
        assert not re.search(r"OWNER|TODO|FIXME|XXX", path.read_text(encoding="utf-8")), path.name


def test_one_version() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f'version = "{normtut.__version__}"' in project
    assert citation["version"] == normtut.__version__


def test_the_readme_says_that_the_address_is_a_placeholder_while_it_is() -> None:
    assert ("The address is a placeholder" in README) == ("/OWNER/" in repository_url())


def test_the_readme_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for line in example.splitlines() if line and not line.startswith("import")]
    assert len(lines) == 5
    scope: dict[str, object] = {}
    exec(example, scope)
    assert scope["pixels"].dtype.is_floating_point is False
    assert (scope["back"] - scope["x"]).abs().max() < 1e-6


def test_readme_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).is_file(), target


def test_vendored_work_keeps_its_licence() -> None:
    for folder in (ROOT / "book" / "_vendor").iterdir():
        if folder.is_dir():
            assert (folder / "LICENSE").is_file(), folder.name


def test_every_public_module_is_in_the_api_pages() -> None:
    pages = [ROOT / "book" / "api.md", *(ROOT / "book" / "api").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    listed = set(re.findall(r"automodule:: normtut\.(\w+)", text))
    modules = {path.stem for path in (ROOT / "normtut").iterdir() if path.suffix == ".py" or path.is_dir()}
    public = {name for name in modules if not name.startswith("_")}
    assert not public - listed, f"add to book/api: {sorted(public - listed)}"
