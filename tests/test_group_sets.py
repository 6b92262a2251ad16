"""Chapter 8's index sets: built pair by pair from the equation, and two ways to misread it."""

import itertools

import pytest
import torch
from torch import nn

from normtut import functional, layers


def by_sets(x, shares, eps=1e-5):
    """The formulas as they stand, with a Python loop for every element and every sum."""
    z = torch.empty_like(x)
    places = list(itertools.product(*map(range, x.shape)))
    for i in places:
        values = [x[k].item() for k in places if shares(k, i)]
        mean = sum(values) / len(values)
        var = sum((v - mean) ** 2 for v in values) / len(values)
        z[i] = (x[i] - mean) / (var + eps) ** 0.5
    return z


def corrected(C, G):
    return lambda k, i: k[0] == i[0] and k[1] // (C // G) == i[1] // (C // G)


@pytest.fixture
def x():
    return 3 + torch.arange(1.0, 7).view(6, 1, 1).double() * torch.randn(2, 6, 2, 1).double()


@pytest.mark.parametrize("G", [1, 2, 3, 6])
def test_the_corrected_equation_is_group_norm(x, G):
    z = by_sets(x, corrected(6, G))
    torch.testing.assert_close(functional.group_norm(x, G), z, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nn.functional.group_norm(x, G), z, rtol=1e-12, atol=1e-12)


def test_without_the_batch_index_images_share(x):
    z = by_sets(x, lambda k, i: k[1] // 3 == i[1] // 3)
    assert not torch.allclose(z, functional.group_norm(x, 2), atol=1e-3)
    batch = functional.batch_norm(x.view(2, 2, 3, 2, 1).flatten(2), None, None, training=True)
    torch.testing.assert_close(z, batch.view(x.shape), rtol=1e-12, atol=1e-12)


def test_without_the_floor_it_is_instance_norm(x):
    z = by_sets(x, lambda k, i: k[0] == i[0] and k[1] / 3 == i[1] / 3)
    torch.testing.assert_close(z, functional.instance_norm(x), rtol=1e-12, atol=1e-12)


def test_one_group_for_each_channel_is_instance_norm_parameters_included(x):
    group = layers.GroupNorm(6, 6).double()
    instance = layers.InstanceNorm2d(6, affine=True).double()
    nn.init.normal_(group.weight)
    nn.init.normal_(group.bias)
    instance.load_state_dict(group.state_dict())
    torch.testing.assert_close(group(x), instance(x), rtol=1e-12, atol=1e-12)


def test_one_group_and_layer_norm_differ_in_their_parameters(x):
    group, layer = layers.GroupNorm(1, 6).double(), layers.LayerNorm(x.shape[1:]).double()
    torch.testing.assert_close(group(x), layer(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict(group.state_dict())
    by_position = functional.layer_norm(x.movedim(1, -1), (6,)).movedim(-1, 1)
    assert (by_position - group(x)).abs().max() > 0.5
