"""What chapter 13 trains: the shapes, the sampling, and that its stored runs are the planned ones."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from normtut.book import denoising

#: A point of each class.
TRUE = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0], [-1.0, 0.5]])


class Oracle(nn.Module):
    """It knows the point of each class to be found, and so the noise; it notes what it is shown."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points = points
        self.seen: list[tuple[Tensor, float]] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.seen.append((x, t[0].item()))
        keep, add = (t * math.pi / 2).cos(), (t * math.pi / 2).sin()
        return (x - keep[:, None] * self.points[y]) / add[:, None]


def test_the_points_of_a_class_lie_on_its_shape():
    x, y = denoising.points(4000, torch.Generator().manual_seed(0))
    ring, cross, wave, square = (x[y == k] for k in range(4))
    assert min(map(len, (ring, cross, wave, square))) > 900
    far = {
        "ring": ring.norm(dim=1) - 1,
        "cross": cross[:, 0].abs() - cross[:, 1].abs(),
        "square": square.abs().amax(1) - 1,
    }
    for name, distance in far.items():
        assert distance.abs().max() < 0.25, name  # eight times the noise
    assert (wave[:, 1] - 0.6 * (3 * math.pi * wave[:, 0] / 1.4).sin()).abs().mean() < 0.15
    for shape in (ring, cross, wave, square):  # all around
        assert (shape[:, 0].amin() < -0.9) & (shape[:, 0].amax() > 0.9)


def test_sampling_goes_from_noise_to_the_point_that_the_network_knows():
    oracle, y = Oracle(TRUE), torch.arange(4).repeat(3)
    found = denoising.sample(oracle, y, seed=1, steps=7)
    torch.testing.assert_close(found, TRUE[y])
    levels = [t for _, t in oracle.seen]
    assert levels == sorted(levels, reverse=True)
    assert len(levels) == 7
    assert torch.equal(oracle.seen[0][0], torch.randn(12, 2, generator=torch.Generator().manual_seed(1)))
    # On its way, at level t, is cos(πt/2) of the point and sin(πt/2) of one and the same noise.
    noise = [oracle(x, torch.full((12,), t), y) for x, t in oracle.seen[:7]]
    for later in noise[1:]:
        torch.testing.assert_close(later, noise[0], rtol=1e-3, atol=1e-3)


def test_the_distance_is_to_the_nearest_true_point_of_the_class():
    assert denoising.distance(Oracle(TRUE), per_class=3) < 0.05
    # The centre is a point of the cross and of the wave, and 1 away from the ring and from the square.
    assert denoising.distance(Oracle(torch.zeros(4, 2)), per_class=3) == pytest.approx(0.5, abs=0.05)


def test_the_loss_of_one_who_guesses_no_noise_is_its_variance():
    model = denoising.Denoiser("adaLN")
    nn.init.zeros_(model.last.weight)
    nn.init.zeros_(model.last.bias)
    assert denoising.test_loss(model) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("way", denoising.WAYS)
def test_training_learns_what_the_noise_is(way):
    model = denoising.train(way, steps=60)
    assert denoising.test_loss(model) < 0.8
    again = denoising.train(way, steps=60)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("way", denoising.WAYS)
def test_every_way_tells_both_the_level_and_the_class(way):
    torch.manual_seed(0)
    model = denoising.Denoiser(way)
    for parameter in model.parameters():  # the gates of adaLN-Zero are closed at first
        nn.init.normal_(parameter, std=0.3)
    x, t, y = torch.randn(5, 2), torch.full((5,), 0.5), torch.zeros(5, dtype=torch.int64)
    same, other_level, other_class = model(x, t, y), model(x, t + 0.2, y), model(x, t, y + 1)
    assert (same - other_level).abs().amax() > 1e-3
    assert (same - other_class).abs().amax() > 1e-3


def test_an_unknown_way_names_the_known_ones():
    with pytest.raises(ValueError, match=r"way must be one of concatenation, .*got 'film'"):
        denoising.Block(8, "film")


def test_the_number_of_threads_comes_back_after_a_failure_too():
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def fail():
        with denoising.one_thread():
            raise RuntimeError(f"threads: {torch.get_num_threads()}")

    try:
        with pytest.raises(RuntimeError, match="threads: 1"):
            fail()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_stored_runs_are_the_planned_ones():
    stored = [denoising.Job(*astuple(run)[:6]) for run in denoising.results()]
    assert len(stored) == len(set(stored)) == 24
    assert set(stored) == set(denoising.plan())
    for run in denoising.results():
        model = denoising.Denoiser(run.way, run.width, run.blocks)
        assert run.parameters == sum(p.numel() for p in model.parameters())


def test_what_is_missing_is_trained_and_stored_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [denoising.Job("adaLN", 8, 1, 2e-3, 2, seed) for seed in range(3)]
    monkeypatch.setattr(denoising, "plan", lambda: iter(jobs[:2]))
    out = tmp_path / "runs.csv"
    denoising.main(out)
    first = denoising.results(out)
    model = denoising.train("adaLN", 1, width=8, blocks=1, rate=2e-3, steps=2)
    assert [run.seed for run in first] == [0, 1]
    assert first[1].loss == round(denoising.test_loss(model), 4)
    assert first[1].distance == round(denoising.distance(model), 4)
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setattr(denoising, "plan", lambda: iter(jobs))
    denoising.main(out)
    assert denoising.results(out)[:2] == first
    assert [run.seed for run in denoising.results(out)] == [0, 1, 2]
    assert capsys.readouterr().out.count("seed=") == 1
