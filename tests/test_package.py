"""The package as a whole: what importing it brings, and what it leaves until it is used."""

import inspect
import re
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


#: One changes every figure that is drawn after it; the other downloads 170 MB.
WITHOUT_EXAMPLE = {"plots.setup", "data.cifar10"}


@pytest.mark.parametrize("name", normtut._SUBMODULES)
def test_every_function_and_class_has_an_example(name):
    """Which pytest runs. The layers are those of torch.nn, and say so."""
    module = getattr(normtut, name)
    ours = {n: getattr(module, n) for n in module.__all__ if inspect.getdoc(getattr(module, n))}
    made = {n for n, value in ours.items() if inspect.isclass(value) or inspect.isfunction(value)}
    without = {
        f"{name}.{n}" for n in made if not re.match(r"`torch\.nn\.\w+`|.*>>>", ours[n].__doc__, re.DOTALL)
    }
    assert without <= WITHOUT_EXAMPLE


def test_an_unknown_name_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="module 'normtut' has no attribute 'nonsense'"):
        _ = normtut.nonsense
    with pytest.raises(ImportError):
        from normtut import nonsense  # noqa: F401
