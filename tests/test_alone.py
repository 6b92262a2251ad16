"""Chapters as a reader meets them in Colab: alone in an empty folder, with normtut from their own first cell.

The environment has the packages of the running one but not normtut. pip takes normtut from a clone in place
of the address on GitHub, and may download nothing. Two chapters by default, all with EVERY_CHAPTER, which
`make release-check` sets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest

from common import chapters, repository_url, version
from install_cell import TAG

ROOT = Path(__file__).resolve().parents[1]

EVERY = bool(os.environ.get("EVERY_CHAPTER"))
#: Quick ones that need much of the package: figures and photographs; the shipped style network's neighbours.
SOME = ("01_equation", "11_adain")


def run(*command: object, **options: object) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is now, committed and tagged."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    there = tmp_path_factory.mktemp("clone")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, there / name)
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
    for words in ("init -q", "add -A", "commit -q -m All", f"tag v{version()}"):
        run("git", *who, *words.split(), cwd=there)
    return there


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    "chapter", [path for path in chapters() if EVERY or path.stem in SOME], ids=lambda path: path.stem
)
def test_a_chapter_alone_installs_normtut_and_gives_its_outputs(
    chapter: Path, clone: Path, tmp_path: Path
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    # All paths of this environment but those that lead to normtut; their .pth files are not followed.
    paths = dict.fromkeys([sysconfig.get_path("purelib"), *sys.path])
    others = [p for p in paths if "site-packages" in p and not (Path(p) / "normtut").exists()]
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "others.pth").write_text("\n".join(others) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{clone.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": repository_url(),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "false",  # which pip reads as: build with the setuptools that is here
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    folder = tmp_path / "empty"
    folder.mkdir()
    missing = "import importlib.util as i; assert i.find_spec('normtut') is None"
    run(python, "-c", missing, cwd=folder, env=environment)
    notebook = nbformat.read(chapter, as_version=4)
    (install,) = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    assert "%pip install" in install.source
    install.metadata.tags.append("nbval-ignore-output")  # IPython says that the kernel may need a restart
    nbformat.write(notebook, folder / chapter.name)
    run(
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "nbnumbers"),
        *("--nbval", "--nbval-current-env", "--nbval-cell-timeout", "1200", chapter.name),
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT / "book" / "_tools")},
    )
    # It was this clone that ran, not a normtut found elsewhere.
    where = f"import normtut, pathlib; assert pathlib.Path(normtut.__file__).is_relative_to({str(site)!r})"
    run(python, "-c", where, cwd=folder, env=environment)
