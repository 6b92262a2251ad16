"""The map in CONTRIBUTING.md is true: rooms exist, arrows go one way, trips pass where it says."""

from __future__ import annotations

import ast
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import normtut
from normtut import cli, data, exercises, layers

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "normtut"
MAP = re.search(r"^## The map\n(.*?)^## ", (ROOT / "CONTRIBUTING.md").read_text(), re.S | re.M)[1]
ROOMS = re.findall(r"^- `normtut/(\S+)`: ", MAP, re.M)
#: Names by which chapters and homework reach rooms, and nothing else.
DOORS = {"__init__.py", "__main__.py", "exercises.py", "experiments.py", "plots.py"}


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    files = sorted(PACKAGE.rglob("*.py"))
    parts = {file: file.relative_to(ROOT).with_suffix("").parts for file in files}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): file for file, p in parts.items()}


MODULES = modules()


def public_names() -> dict[str, str]:
    """What `normtut` itself offers → where it comes from, read from the imports for type checkers."""
    nodes = ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.level]
    return {a.name: f"normtut.{n.module}" for n in imports for a in n.names if n.module}


HOME = public_names()


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, at the top and within functions, but for those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from statements(node)


def imported(name: str) -> set[str]:
    """The modules of the package that a module imports or reaches through `normtut`."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in statements(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}" for alias in node.names] + [base]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "normtut":
            found.append(f"normtut.{node.attr}")
    found = [HOME.get(target.removeprefix("normtut."), target) for target in found]
    return {target for target in found if target in MODULES and target not in (name, "normtut")}


def room(file: str | Path) -> str | None:
    """The room that a file of the package is in; None for doors and for files elsewhere."""
    try:
        first, *rest = Path(file).relative_to(PACKAGE).parts
    except ValueError:
        return None
    name = f"{first}/" if rest else first
    return None if name in DOORS else name


def test_the_map_names_every_room_and_no_other():
    there = {room(file) for file in MODULES.values()} - {None}
    assert set(ROOMS) == there
    assert len(ROOMS) == len(there)
    for file in DOORS:
        assert (PACKAGE / file).is_file()
        assert len((PACKAGE / file).read_text().splitlines()) <= (120 if file == "__init__.py" else 12)


def test_the_places_outside_the_package_exist():
    places = re.findall(r"^- `((?!normtut/)\S+)`: ", MAP, re.M)
    assert len(places) >= 5
    for place in places:
        assert (ROOT / place).exists(), place


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_rooms_above_it(name):
    """At the top of a module or within a function: it makes no difference to who must know whom."""
    here = room(MODULES[name])
    if here is None:
        return
    for target in imported(name):
        there = room(MODULES[target])
        assert there is not None, f"{name} imports {target}, which is a door: go to the room itself"
        assert ROOMS.index(there) <= ROOMS.index(here), f"{name} imports {target}"


def test_no_circle_of_imports():
    graph = {name: imported(name) for name in MODULES}
    while leaves := [name for name, targets in graph.items() if not targets]:
        for name in leaves:
            del graph[name]
        graph = {name: targets.difference(leaves) for name, targets in graph.items()}
    assert not graph, f"these import each other: {graph}"


def test_imports_are_read_as_python_reads_them():
    """The two tests above would pass if nothing were found."""
    assert imported("normtut.layers") >= {"normtut.functional", "normtut.distributed"}
    assert "normtut.images" in imported("normtut.cli.stylize")  # from normtut import to_uint8
    assert "normtut.statistics.folders" in imported("normtut.cli.stats")  # within a function
    assert "normtut.drawings" not in MODULES
    assert "normtut.data.drawings" in imported("normtut.data.photos")  # from .drawings


def test_the_heart_can_be_read_in_one_sitting():
    """As the landing page says, which names the files and the number of lines."""
    words = " ".join((ROOT / "index.md").read_text().split())
    sentence = re.search(r"read in one sitting: (.*?), four files with at most ([\d,]+) lines", words)
    files = re.findall(r"`(\w+)`", sentence[1])
    assert files == ["core", "functional", "layers", "images"]
    lines = sum(len((PACKAGE / f"{file}.py").read_text().splitlines()) for file in files)
    assert lines <= int(sentence[2].replace(",", "")) <= 1100


# --- the five trips ---------------------------------------------------------------------------------------


@pytest.fixture
def cat(tmp_path):
    path = tmp_path / "photos" / "cat.png"
    path.parent.mkdir()
    Image.fromarray(data.photos("cat")["cat"][:, :64, :64].permute(1, 2, 0).numpy()).save(path)
    return path


def inverse(cat: Path) -> None:
    normtut.InverseNormalize(*normtut.IMAGENET)(torch.randn(3, 8, 8))


def stats(cat: Path) -> None:
    assert cli.main(["stats", "--quiet", str(cat.parent)]) == 0


def batch(cat: Path) -> None:
    layers.BatchNorm2d(3)(torch.randn(2, 3, 4, 4))


def stylize(cat: Path) -> None:
    out = cat.parent.parent / "out.png"
    assert cli.main(["stylize", str(cat), "waves", "-o", str(out), "--force"]) == 0


def check(cat: Path) -> None:
    assert exercises.check("inverse", lambda z, mean, std: z * std.view(-1, 1, 1) + mean.view(-1, 1, 1))


def rooms_of_calls(action: Callable[[], None]) -> list[str]:
    """The rooms whose functions are called, in the order of the first call to each."""
    passed: list[str] = []

    def profile(frame, event, _):
        if event == "call" and (here := room(frame.f_code.co_filename)) and here not in passed:
            passed.append(here)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return passed


@pytest.mark.parametrize("trip", [inverse, stats, batch, stylize, check], ids=lambda trip: trip.__name__)
def test_the_trips_pass_the_rooms_that_the_map_says(trip, cat, capsys):
    lines = re.findall(r"^\d\. .*?: (`.*)$", MAP, re.M)
    assert len(lines) == 5
    route = re.findall(r"`(\S+)`", lines[[inverse, stats, batch, stylize, check].index(trip)])
    trip(cat)  # once before, since imports call functions too
    assert rooms_of_calls(lambda: trip(cat)) == route
