"""The package as a whole: what importing it brings, and what it leaves until it is used."""

import subprocess
import sys

import pytest

import normtut


def modules_after(statement: str) -> set[str]:
    """The top-level modules and those of normtut that are loaded in a fresh interpreter after a statement."""
    script = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_it_costs_nothing():
    loaded = modules_after("import normtut")
    assert not loaded & {"torch", "numpy", "PIL", "torchvision", "normtut.core"}


def test_the_mathematics_needs_no_torchvision():
    loaded = modules_after("import normtut; normtut.moments; normtut.functional; normtut.layers")
    assert {"torch", "normtut.core", "normtut.layers"} <= loaded
    assert not loaded & {"torchvision", "matplotlib", "skimage", "PIL", "normtut.images"}


@pytest.mark.parametrize("name", normtut.__all__)
def test_every_public_name_is_there_and_listed(name):
    assert getattr(normtut, name) is not None
    assert name in dir(normtut)


@pytest.mark.parametrize("name", normtut._SUBMODULES)
def test_every_submodule_is_there_and_listed(name):
    assert getattr(normtut, name).__all__
    assert name in dir(normtut)


def test_an_unknown_name_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="module 'normtut' has no attribute 'nonsense'"):
        _ = normtut.nonsense
    with pytest.raises(ImportError):
        from normtut import nonsense  # noqa: F401
