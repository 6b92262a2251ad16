"""The axes picture says what the functions do: one element is nudged, and the coloured ones must move."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normtut import functional as F
from normtut import layers, moments, plots
from normtut.book.axes import NORMS, axes_explorer, axes_picture, index_sets

SHAPE = (3, 6, 4)

# The layers as people use them: those of this package, and PyTorch's own.
LAYERS = {
    "Batch": lambda lib: lib.BatchNorm1d(6),
    "Layer": lambda lib: lib.LayerNorm((6, 4)),
    "Instance": lambda lib: lib.InstanceNorm1d(6),
    "Group (2)": lambda lib: lib.GroupNorm(2, 6),
    "Layer, per position": lambda lib: _PerPosition(lib.LayerNorm(6)),
    "RMS, per position": lambda lib: _PerPosition(lib.RMSNorm(6)),
}

# The index sets as Wu & He (2018) write them: elements with the same key share statistics.
KEYS = {
    "Batch": lambda n, c, p: c,
    "Layer": lambda n, c, p: n,
    "Instance": lambda n, c, p: (n, c),
    "Group (2)": lambda n, c, p: (n, c // 3),
    "Layer, per position": lambda n, c, p: (n, p),
    "RMS, per position": lambda n, c, p: (n, p),
}


class _PerPosition(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def test_every_norm_is_tested() -> None:
    assert NORMS.keys() == LAYERS.keys() == KEYS.keys()


@pytest.mark.parametrize("lib", [layers, nn], ids=["normtut", "torch"])
@pytest.mark.parametrize("title", LAYERS)
def test_nudging_an_element_moves_what_has_its_colour(title: str, lib) -> None:
    """Every element in turn, by a finite step, through the layers and without a gradient."""
    layer = LAYERS[title](lib).double()
    sets = index_sets(NORMS[title], SHAPE)
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = layer(x)
    for k in range(x.numel()):
        nudged = x.flatten().clone()
        nudged[k] += 0.5
        moved = (layer(nudged.view(SHAPE)) - before).abs() > 1e-9
        assert torch.equal(moved, sets == sets.flatten()[k]), f"element {k}"


@pytest.mark.parametrize("title", KEYS)
def test_sets_are_those_of_the_equations(title: str) -> None:
    sets = index_sets(NORMS[title], SHAPE)
    keys = [KEYS[title](n, c, p) for n in range(3) for c in range(6) for p in range(4)]
    order = list(dict.fromkeys(keys))
    assert sets.flatten().tolist() == [order.index(key) for key in keys]


@pytest.mark.parametrize(
    ("title", "dim"), [("Batch", (0, 2)), ("Layer", (1, 2)), ("Instance", 2), ("Layer, per position", 1)]
)
def test_each_set_has_its_own_statistics(title: str, dim) -> None:
    """As many sets as `moments` returns means, and the mean of each colour is one of them."""
    x = torch.randn(SHAPE, dtype=torch.float64)
    mean, std = moments(x, dim)
    sets = index_sets(NORMS[title], SHAPE)
    assert sets.max() + 1 == mean.numel()
    for s in range(mean.numel()):
        torch.testing.assert_close(
            mean.expand(SHAPE)[sets == s], x[sets == s].mean().expand(72 // mean.numel())
        )
        torch.testing.assert_close(
            std.expand(SHAPE)[sets == s][0], x[sets == s].std(correction=0), rtol=1e-9, atol=0
        )


def test_in_eval_mode_batch_norm_shares_nothing() -> None:
    sets = index_sets(lambda x: F.batch_norm(x, torch.zeros(6).double(), torch.ones(6).double()), SHAPE)
    assert sets.flatten().tolist() == list(range(72))


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 2, 2), (2, 3)])
def test_sets_of_two_elements_are_found(shape) -> None:
    """Two values are always ±1 after normalization, whatever they are: only eps lets one see the other."""
    channels = torch.arange(shape[1]).view(1, -1, *[1] * (len(shape) - 2))
    assert torch.equal(index_sets(NORMS["Batch"], shape), channels.expand(shape))


def test_windows_that_slide_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        index_sets(lambda x: x - nn.functional.avg_pool1d(x, 3, stride=1, padding=1), SHAPE)


def test_another_output_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 6, 4\).*\(3, 6\)"):
        index_sets(lambda x: x.mean(2), SHAPE)


def _faces(sets: torch.Tensor) -> torch.Tensor:
    """The set of each drawn cell: front, top, right side."""
    return torch.cat([sets[0].flatten(), sets[:, :, 0].flatten(), sets[:, -1].flatten()])


def test_the_picture_has_the_colours_of_the_sets() -> None:
    fig = axes_picture()
    drawn = [ax for ax in fig.axes if ax.collections]
    assert [ax.get_title() for ax in drawn] == list(NORMS)
    for ax, norm in zip(drawn, NORMS.values(), strict=True):
        colors = [tuple(c) for c in ax.collections[0].get_facecolor()]
        sets = _faces(index_sets(norm, SHAPE)).tolist()
        assert len(colors) == len(sets)
        assert len(set(zip(colors, sets, strict=True))) == len(set(colors)) == len(set(sets))


def test_the_explorer_is_the_same_each_time() -> None:
    """nbval compares the stored HTML."""
    explorer = axes_explorer()
    assert explorer._repr_html_() == axes_explorer().html
    assert repr(explorer) == "Explorer(index sets of " + ", ".join(NORMS) + ")"
    assert "http" not in explorer.html
    assert plots.axes_explorer is axes_explorer


def test_the_explorer_holds_any_shape_and_norms() -> None:
    explorer = axes_explorer({"Mine": F.instance_norm}, shape=(2, 3, 5), name="mine")
    assert '"shape":[2,3,5]' in explorer.html
    assert 'id="normtut-mine"' in explorer.html
    assert explorer.html.count("<button") == 1
