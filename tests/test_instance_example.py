"""The two tables that a tutorial prints for one example: every digit, and what tells the tables apart."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from normtut import data, functional, layers

FIXTURES = Path(__file__).parent / "fixtures"  # the tables as published, but for their white space
TABLES = {name: (FIXTURES / f"instance_{name}.txt").read_text() for name in ("numpy", "torch")}


def numbers(text: str) -> list[str]:
    return re.findall(r"-?\d+\.\d+", text)


def published(name: str) -> torch.Tensor:
    return torch.tensor([float(n) for n in numbers(TABLES[name])], dtype=torch.float64).view(2, 3, 5, 5)


def by_definition(correction: int, eps: float = 1e-5) -> torch.Tensor:
    """Written from the formula with NumPy, in loops: nothing of normtut or torch.nn."""
    x = data.instance_example().numpy()
    z = np.empty_like(x)
    for n, c in np.ndindex(2, 3):
        m = x[n, c].size
        mean = x[n, c].sum() / m
        var = ((x[n, c] - mean) ** 2).sum() / (m - correction)
        z[n, c] = (x[n, c] - mean) / (var + eps) ** 0.5
    return torch.from_numpy(z)


def squeezed(text: str) -> str:
    """Without white space before a number and after brackets: the published text lost its indentation."""
    return re.sub(r"\s+", "", text.replace("]", "] ").replace(",", ", "))


def test_the_fixture_holds_both_tables():
    assert [len(numbers(t)) for t in TABLES.values()] == [150, 150]


def test_the_biased_variance_prints_the_numpy_table():
    assert numbers(str(by_definition(0).numpy())) == numbers(TABLES["numpy"])
    assert squeezed(str(by_definition(0).numpy())) == squeezed(TABLES["numpy"])


def test_the_unbiased_variance_prints_the_pytorch_table():
    assert numbers(str(by_definition(1))) == numbers(TABLES["torch"])
    assert squeezed(str(by_definition(1))) == squeezed(TABLES["torch"])


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm2d(3), layers.InstanceNorm2d(3), functional.instance_norm, nn.functional.instance_norm],
    ids=["nn.InstanceNorm2d", "layers.InstanceNorm2d", "functional.instance_norm", "F.instance_norm"],
)
def test_instance_norm_is_the_numpy_table(norm):
    z = norm(data.instance_example())
    assert numbers(str(z.numpy())) == numbers(TABLES["numpy"])
    assert numbers(str(z)) != numbers(TABLES["torch"])


def test_the_factor_between_the_tables():
    x, eps, m = data.instance_example(), 1e-5, 25
    v = x.var((2, 3), correction=0, keepdim=True)
    r = ((v + eps) / (m / (m - 1) * v + eps)).sqrt()
    torch.testing.assert_close(by_definition(1), r * by_definition(0), rtol=1e-13, atol=1e-15)
    # Not √(24/25) exactly, and each map has its own: to first order it is larger by ε / 2mv.
    deviation = r / (24 / 25) ** 0.5 - 1
    torch.testing.assert_close(deviation, eps / (2 * m * v), rtol=1e-5, atol=1e-14)
    assert deviation.min() > 2e-8
    # So the published digits cannot show it.
    ratio = published("torch") / published("numpy")
    torch.testing.assert_close(ratio, torch.full_like(ratio, (24 / 25) ** 0.5), rtol=2e-3, atol=0)


def test_the_chapter_stores_both_tables():
    nbformat = pytest.importorskip("nbformat")
    chapter = Path(__file__).parents[1] / "book" / "07_instance.ipynb"
    outputs = [
        o["text"]
        for cell in nbformat.read(chapter, as_version=4).cells
        for o in cell.get("outputs", [])
        if "text" in o
    ]
    both = numbers(TABLES["numpy"]) + numbers(TABLES["torch"])
    assert [numbers(text) for text in outputs].count(both) == 1
