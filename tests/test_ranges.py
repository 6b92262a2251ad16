"""What chapter 1 says about ranges, and chapter 2 about grids and bytes, on other data than theirs."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.utils import make_grid

import normtut

g = torch.Generator().manual_seed(0)
N = 300


@pytest.fixture(scope="module")
def features():
    """Three features in [0, 1] that tell two classes apart, and one in [0, 10000] that hardly does."""
    labels = torch.arange(N) % 2
    small = torch.rand(N, 3, generator=g, dtype=torch.float64) * 0.6 + 0.4 * labels[:, None]
    large = torch.rand(N, 1, generator=g, dtype=torch.float64) * 10_000
    return torch.cat([small, large], dim=1), labels


def descend(x, labels, rate, steps=100):
    layer = torch.nn.Linear(x.shape[1], 2, dtype=x.dtype)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(layer(x), labels).backward()
        optimizer.step()
    return F.cross_entropy(layer(x), labels).item()


def best(x, labels):
    return min(descend(x, labels, 10.0**k) for k in range(1, -9, -1))


def test_descent_ignores_small_features_beside_a_large_one_until_they_are_normalized(features):
    x, labels = features
    assert best(x, labels) == pytest.approx(best(x[:, 3:], labels), abs=1e-3)
    normalized = normtut.normalize(x, *normtut.moments(x, dim=0))
    assert best(normalized, labels) < best(x, labels) - 0.3


def test_steps_needed_grow_with_the_square_of_the_ratio_of_ranges():
    x = torch.randn(N, 2, generator=g, dtype=torch.float64)
    x = normtut.normalize(x, *normtut.moments(x, dim=0))
    y = x @ torch.tensor([1.0, 1.0], dtype=torch.float64)

    def steps_needed(ratio):
        scaled = x * torch.tensor([1.0, ratio], dtype=torch.float64)
        rate = 0.9 / torch.linalg.eigvalsh(scaled.T @ scaled / N)[-1]
        w = torch.zeros(2, dtype=torch.float64)
        for step in range(100_000):
            if (scaled @ w - y).square().mean() < 0.01:
                return step
            w = w - 2 * rate * (scaled @ w - y) @ scaled / N
        raise AssertionError("did not arrive")

    one, four, sixteen = map(steps_needed, (1.0, 4.0, 16.0))
    assert one < 15
    assert 10 < sixteen / four < 22


def test_min_max_is_ruled_by_one_value_and_standardization_is_not():
    x = torch.rand(1000, generator=g)
    hit = torch.cat([x, torch.tensor([10.0])])

    def min_max(v):
        return (v - v.min()) / (v.max() - v.min())

    def standard(v):
        return normtut.normalize(v, *normtut.moments(v, dim=0))

    assert min_max(x).std() / min_max(hit)[:-1].std() == pytest.approx(10, rel=0.05)
    assert 1 < standard(x).std() / standard(hit)[:-1].std() < 2


@pytest.mark.parametrize(("driver", "exact"), [(None, False), ("gelsd", False), ("gels", True)])
def test_least_squares_in_float32_drops_small_features_unless_told_not_to(features, driver, exact):
    """The default driver takes for zero what is below eps times the rows, 3.6e-5 of the largest here."""
    x, labels = features
    x = F.pad(x * torch.tensor([1, 1, 1, 10.0]), (0, 1), value=1.0)
    y = F.one_hot(labels).double()
    right = x @ torch.linalg.lstsq(x, y).solution
    solved = torch.linalg.lstsq(x.float(), y.float(), driver=driver)
    error = (x @ solved.solution.double() - right).abs().max()
    assert (error < 0.01) == exact
    if driver is None:
        assert solved.rank < x.shape[1]
        assert torch.linalg.lstsq(x, y).rank == x.shape[1]


def test_reshaped_channels_are_thirds_of_the_picture():
    hwc = torch.randint(256, (6, 4, 3), generator=g)
    assert torch.equal(hwc.reshape(3, 6, 4)[1].flatten(), hwc[2:4].flatten())
    assert not torch.equal(hwc.reshape(3, 6, 4), hwc.permute(2, 0, 1))


def test_the_border_of_a_grid_that_is_inverted_becomes_the_mean():
    normalize = normtut.Normalize(*normtut.IMAGENET)
    grid = normalize.inverse()(make_grid(normalize(torch.rand(4, 3, 8, 8, generator=g))))
    torch.testing.assert_close(grid[:, 0, 0], torch.tensor(normtut.IMAGENET.mean))
    assert normtut.to_uint8(grid)[:, 0, 0].tolist() == [124, 116, 104]


@pytest.mark.parametrize("factor", [256, 255.999])
def test_in_bfloat16_every_level_from_128_up_comes_out_too_high_unless_rounded(factor):
    levels = torch.arange(256)
    x = (levels.double() / 255).bfloat16()
    assert torch.equal(x.mul(factor).long()[128:], levels[128:] + 1)
    assert torch.equal(normtut.to_uint8(x).long(), levels)
