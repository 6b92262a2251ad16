"""What chapter 5 says of batch norm, decided on torch's layer and on ours, on other data than its own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normtut import denormalize, layers, moments, normalize

families = pytest.mark.parametrize("family", [nn, layers])


def features(*shape):
    g = torch.Generator().manual_seed(5)
    return 3 * torch.randn(shape, generator=g, dtype=torch.float64) + 2


def detached(z, eps=1e-5):
    return normalize(z, *moments(z.detach(), (0, 2, 3), eps=eps))


def gradient_at_input(norm, x):
    x = x.clone().requires_grad_()
    out = norm(x)
    weights = features(*out.shape).sin()  # some loss
    return out, torch.autograd.grad((out * weights).sum(), x)[0]


@families
def test_the_gradient_asks_for_nothing_that_the_statistics_take_away(family):
    """No shift and no stretch of a channel is in it; with the statistics detached, both are."""
    x, norm = features(6, 4, 5, 5), family.BatchNorm2d(4, eps=1e-12, dtype=torch.float64)
    out, true = gradient_at_input(norm, x)
    out_detached, hidden = gradient_at_input(lambda z: detached(z, 1e-12), x)
    torch.testing.assert_close(out, out_detached)
    for part in (torch.ones_like(x), out.detach()):
        true_part, hidden_part = ((g * part).sum((0, 2, 3)).abs() for g in (true, hidden))
        assert true_part.max() < 1e-6 * hidden_part.max()
        assert hidden_part.min() > 0.1


@families
def test_a_step_along_the_detached_gradient_breaks_its_promise(family):
    torch.manual_seed(5)
    x, y = features(32, 3, 8, 8), torch.arange(32) % 4
    trunk = nn.Conv2d(3, 8, 3, dtype=torch.float64)
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double()
    kept = {}
    for name, norm in {"true": family.BatchNorm2d(8, dtype=torch.float64), "detached": detached}.items():

        def loss(conv, norm=norm):
            return F.cross_entropy(head(norm(conv(x))), y)

        before = loss(trunk)
        (gradient,) = torch.autograd.grad(before, trunk.weight)
        moved = copy.deepcopy(trunk)
        lr = 1e-3
        moved.weight.data -= lr * gradient
        kept[name] = ((before - loss(moved)) / (lr * gradient.square().sum())).item()
    assert kept["true"] == pytest.approx(1, abs=0.02)
    assert kept["detached"] < 0.9


@families
@pytest.mark.parametrize("with_norm", [True, False])
def test_accumulated_gradients_are_those_of_the_batch_without_batch_norm_only(family, with_norm):
    torch.manual_seed(5)
    norm = family.BatchNorm2d(8) if with_norm else nn.Identity()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).double()
    x, y = features(64, 3, 8, 8), torch.arange(64) % 4

    def gradient(size):
        model.zero_grad()
        for part, labels in zip(x.split(size), y.split(size), strict=True):
            (F.cross_entropy(model(part), labels) * size / 64).backward()
        return model[0].weight.grad.clone()

    difference = (gradient(64) - gradient(4)).norm() / gradient(64).norm()
    assert (difference > 0.05) == with_norm
    assert with_norm or difference < 1e-9


@families
def test_gamma_and_beta_are_the_statistics_of_the_output_and_can_undo_the_layer(family):
    x, norm = features(16, 3, 6, 6), family.BatchNorm2d(3, dtype=torch.float64)
    mean, std = (s.flatten() for s in moments(x, (0, 2, 3), eps=norm.eps))
    norm.weight.data, norm.bias.data = std, mean
    torch.testing.assert_close(norm(x), x)
    norm.weight.data, norm.bias.data = features(2, 3).abs()
    of_output = (s.flatten() for s in moments(norm(x), (0, 2, 3)))
    torch.testing.assert_close(tuple(of_output), (norm.bias.data, norm.weight.data), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(denormalize(normalize(x, mean, std), mean, std), x)


@families
def test_a_forgotten_eval_makes_a_picture_depend_on_its_neighbours_and_a_test_change_the_model(family):
    x, norm = features(8, 3, 6, 6), family.BatchNorm2d(3, dtype=torch.float64)
    others = torch.cat([x[:1], x[1:] * 2])
    before = norm.running_mean.clone()
    assert (norm(x)[0] - norm(others)[0]).abs().max() > 0.1
    assert (norm.running_mean - before).abs().max() > 0.1
    kept = norm.eval().running_mean.clone()
    torch.testing.assert_close(norm(x)[0], norm(others)[0])
    assert torch.equal(norm.running_mean, kept)


@families
def test_momentum_fills_the_memory_by_the_formula(family):
    x = features(8, 3, 6, 6)
    for a in (0.1, 0.01, 0.99):
        norm = family.BatchNorm2d(3, momentum=a, dtype=torch.float64)
        for _ in range(100):
            norm(x)
        torch.testing.assert_close(norm.running_mean, (1 - (1 - a) ** 100) * x.mean((0, 2, 3)))
