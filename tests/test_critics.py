"""What chapter 10 says about its stored runs, and that they can be made again."""

import math

import pytest
import torch
from torch import nn

from normtut import reparam
from normtut.book import critics

LOOKS = (150, 300, 450, 600)


def runs(way, step=600):
    found = [r for r in critics.results() if (r.way, r.step) == (way, step)]
    assert [r.seed for r in found] == [0, 1, 2]
    return found


def test_the_stored_runs_are_complete():
    keys = {(r.way, r.seed, r.step) for r in critics.results()}
    assert keys == {(way, seed, step) for way in critics.WAYS for seed in range(3) for step in LOOKS}
    assert len(critics.results()) == len(keys)


def test_what_chapter_10_says_about_them():
    def reached(way, step=600):
        return [r.reached for r in runs(way, step)]

    assert reached("spectral norm") == reached("gradient penalty") == [8, 8, 8]
    assert min(reached("spectral norm", 450)) < 8  # at 450 steps it is not done
    assert sum(reached("spectral norm", 300)) > sum(reached("gradient penalty", 300))  # it needs fewer
    assert max(reached("nothing")) <= 1
    for way in ("nothing", "weight norm", "weight standardization"):
        assert max(reached(way)) <= 5
        assert min(r.slope for r in runs(way)) > 900
    assert max(reached("weight clipping")) <= 5
    assert max(r.slope for r in runs("weight clipping")) < 3
    assert max(r.slope for r in runs("spectral norm")) < 1  # a thousandth of the slope without


def test_what_chapter_10_says_about_the_hinge_loss():
    plain, normed = "nothing, hinge loss", "spectral norm, hinge loss"
    assert max(r.slope for r in runs(plain)) < 6
    assert [r.reached for r in runs(plain)] == [5, 5, 6]
    assert [r.reached for r in runs(plain, 300)] == [2, 3, 3]
    assert [r.reached for r in runs(normed, 300)] == [5, 6, 6]


def test_reached_counts_gaussians_and_not_points():
    some = critics.CENTRES[:3].repeat(50, 1)
    assert critics.reached(some) == 3
    assert critics.reached(torch.zeros(100, 2)) == 0
    stray = torch.cat([some, critics.CENTRES[5:6].repeat(3, 1)])  # under 2 % of the points
    assert critics.reached(stray) == 3
    near = critics.CENTRES[:1].repeat(10, 1) + torch.tensor([1.1, 0.0])
    assert (critics.reached(near), critics.reached(near + torch.tensor([0.2, 0.0]))) == (1, 0)
    assert critics.reached(critics.real(2000, torch.Generator().manual_seed(0))) == 8


def test_slope_is_the_largest_gradient():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), critics.Absolute())
    nn.init.constant_(model[0].weight, 2.0)
    assert math.isclose(critics.slope(model, torch.ones(3, 2)), math.sqrt(8), rel_tol=1e-6)
    steeper_outside = torch.tensor([[0.1, 0.0], [5.0, 0.0]])
    assert math.isclose(critics.slope(lambda x: x.square()[:, :1], steeper_outside), 10, rel_tol=1e-6)
    assert critics.around().abs().max() <= 7
    assert critics.around().shape == (5000, 2)


def test_the_losses_are_their_formulas():
    real, fake = torch.tensor([3.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert critics.wasserstein(real, fake) == -1.25 - 1.75
    assert critics.hinge(real, fake) == (0 + 0.5) / 2 + (0 + 1.5) / 2


def test_clipping_cuts_all_weights():
    critic = critics.mlp((2, 8, 1))
    critics.clip(critic, 0.05)
    assert max(p.abs().max() for p in critic.parameters()) <= 0.05


def test_the_gradient_penalty_wants_slope_one():
    def line(factor):
        model = nn.Linear(2, 1)
        with torch.no_grad():
            model.weight.copy_(factor * torch.tensor([[0.6, 0.8]]))
        return model

    x, fake = torch.randn(2, 5, 2)
    for factor, wanted in ((1.0, 0.0), (3.0, 40.0)):
        penalty = critics.gradient_penalty(line(factor), x, fake, torch.Generator())
        assert math.isclose(penalty.item(), wanted, abs_tol=1e-4)
    model = line(3.0)
    critics.gradient_penalty(model, x, fake, torch.Generator()).backward()
    assert model.weight.grad.norm() > 1  # it can be trained on


def test_a_run_repeats_itself_and_looking_does_not_disturb_it(monkeypatch):
    def weights(**options):
        critic, _ = critics.train(wrap=reparam.spectral_norm, steps=4, **options)
        assert not critic.training
        return torch.cat([p.detach().flatten() for p in critic.parameters()])

    monkeypatch.setattr(critics, "EVERY", 2)
    looks, threads = [], torch.get_num_threads()
    alone = weights(seed=1)
    watched = weights(
        seed=1, look=lambda step, critic, made: looks.append((step, critic.training, len(made)))
    )
    assert torch.equal(alone, watched)
    assert not torch.equal(alone, weights(seed=2))
    assert looks == [(2, False, 2000), (4, False, 2000)]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("way", critics.WAYS)
def test_each_way_does_what_it_is_called(way):
    critic, points = critics.train(**critics.WAYS[way], steps=2)
    kinds = [type(m.parametrizations.weight[0]).__name__ for m in critics.linears(critic) if "norm" in way]
    assert all(
        kind == {"spectral norm": "_SpectralNorm", "weight norm": "_WeightNorm"}[way.split(",")[0]]
        for kind in kinds
    )
    if way == "weight clipping":
        assert max(p.abs().max() for p in critic.parameters()) <= 0.1
    assert points.shape == (2000, 2)
    assert not points.requires_grad


def test_only_what_is_missing_is_run(tmp_path, monkeypatch):
    asked = []

    def train(look, seed, **arguments):
        asked.append((seed, arguments))
        for step in LOOKS:
            look(step, nn.Linear(2, 1), torch.zeros(10, 2))

    monkeypatch.setattr(critics, "train", train)
    path = tmp_path / "runs.csv"
    critics.main(path, seeds=1)
    assert len(asked) == len(critics.WAYS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:5] + lines[9:]) + "\n")  # the second way is lost
    critics.main(path, seeds=1)
    assert asked[-1] == (0, {"wrap": reparam.spectral_norm})
    assert len(asked) == len(critics.WAYS) + 1
    assert len(critics.results(path)) == 4 * len(critics.WAYS)
