"""One address, one version, and no placeholder where none belongs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import normtut
from common import chapters, repository_url, version
from common import pages as book_pages
from set_repository import files, forms

ROOT = Path(__file__).resolve().parents[1]

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
    url, published, *_ = forms(repository_url())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == url
    assert citation["url"] == published
    released = re.search(r"^## \d", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    what = "normtut" if released else f'"normtut @ git+{url}"'  # from PyPI, once it is there
    assert f"```sh\npip install {what}\n```" in README
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


def test_the_version_stands_in_one_place() -> None:
    """As the version. The same number may be a package's, an example, or in the changelog."""
    assert version() == normtut.__version__
    places = [p for p in tracked() if p.suffix in (".py", ".toml", ".cff", ".yml", ".cfg")]
    stands = re.compile(r"""^\W*(__version__|version|release)["']?\s*[:=]\s*["']?\d+\.\d+""", re.M)
    found = [p for p in places if stands.search(p.read_text(encoding="utf-8"))]
    assert found == [ROOT / "normtut" / "__init__.py"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'version = { attr = "normtut.__version__" }' in project


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


def test_readme_links_hold_on_a_package_index_too() -> None:
    """There a relative link leads nowhere; an absolute one must name a file of the repository or a page."""
    url, published, _, raw = forms(repository_url())
    pages = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in book_pages()]
    for target in re.findall(r"\]\(([^)]+)\)|<(http[^>]+)>", README):
        link = "".join(target)
        assert link.startswith("https://"), link
        if link.startswith((f"{url}/blob/main/", f"{raw}main/")):
            assert (ROOT / link.partition("/main/")[2]).is_file(), link
        elif link.startswith(published):
            page = link.removeprefix(published)
            assert page in ["", *pages], link


def test_the_python_versions_are_the_same_everywhere() -> None:
    names = ("README.md", "book/_tools/make_venv.sh", "book/_tools/missing.py")
    for name in names:
        assert "Python 3.10 to 3.14" in (ROOT / name).read_text(encoding="utf-8"), name
    jobs = workflow("test")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.10", "3.12", "3.13", "3.14"]


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def test_nothing_is_published_before_the_tests_have_passed() -> None:
    jobs = workflow("test")["jobs"]
    assert set(jobs["pages"]["needs"]) == set(jobs) - {"pages"}
    assert jobs["pages"]["if"] == "github.event_name != 'pull_request' && github.ref == 'refs/heads/main'"
    release = workflow("release")["jobs"]
    assert release["publish"]["needs"] == "build"
    assert release["build"]["needs"] == "tests"
    assert release["tests"]["uses"] == "./.github/workflows/test.yml"
    assert release["publish"]["permissions"] == {"id-token": "write"}


def test_workflows_name_others_actions_by_their_commits() -> None:
    """A tag can be moved to other code, which would run with the right to publish."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
        assert used
        for action in used:
            assert re.fullmatch(r"\./\S+|[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_security_and_changes_are_short() -> None:
    assert len((ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()) <= 14
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    policy = changes.partition("\n## ")[0]
    assert policy.count("\n- **") == 3
    latest = re.search(r"^## (\S+)", changes, re.M)[1]
    assert latest == ("Unreleased" if "dev" in normtut.__version__ else normtut.__version__)


@pytest.mark.slow
def test_the_archives_hold_what_they_should(tmp_path: Path) -> None:
    """The source distribution is the whole repository, and the wheel the package and nothing else."""
    wanted = {path.relative_to(ROOT).as_posix() for path in tracked()}
    build = "from setuptools.build_meta import *; build_sdist('..'); build_wheel('..')"
    source = tmp_path / "source"
    for name in wanted:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    assert not wanted - there
    with zipfile.ZipFile(wheel) as archive:
        packed = {i.filename: i.file_size for i in archive.infolist() if ".dist-info/" not in i.filename}
        (metadata,) = [archive.read(i) for i in archive.namelist() if i.endswith(".dist-info/METADATA")]
    package = {name for name in wanted if name.startswith("normtut/")}
    assert set(packed) == package
    assert packed.pop("normtut/style/style.safetensors") < 5_000_000  # of the style network
    assert sum(packed.values()) < 1_000_000  # of everything else
    assert f"\nVersion: {normtut.__version__}\n" in metadata.decode()


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
