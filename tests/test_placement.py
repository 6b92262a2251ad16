"""What chapter 6 says about its stored runs, and that they can be made again."""

import statistics

import pytest
import torch
from torch import nn

from normtut.book import placement


@pytest.fixture(scope="module")
def final():
    """The mean loss of the last twenty steps: {arm: [seed 0, seed 1, …]}."""
    return {arm: [statistics.mean(run[-2:]) for run in runs] for arm, runs in placement.results().items()}


def test_the_stored_runs_are_complete(final):
    assert list(final) == list(placement.ARMS)
    assert {len(runs) for runs in final.values()} == {5}
    assert {len(run) for runs in placement.results().values() for run in runs} == {6}


def test_what_chapter_6_says_about_them(final):
    mean = {arm: statistics.mean(runs) for arm, runs in final.items()}
    assert mean["post-LN, warm-up"] < mean["post-LN"] - 0.1
    assert max(final["pre-LN"]) < min(final["post-LN, warm-up"])  # ahead, for every seed
    assert mean["pre-LN, warm-up"] > mean["pre-LN"] - 0.02  # gains nothing
    assert abs(mean["pre-RMS"] - mean["pre-LN"]) < 0.05


@pytest.mark.parametrize("pre", [False, True])
def test_the_norm_stands_where_the_equation_says(pre):
    block = placement.Block(8, pre, nn.LayerNorm)
    x = torch.randn(2, 5, 8)
    first, second = block.norms
    if pre:
        y = x + block.attend(first(x))
        y = y + block.mlp(second(y))
    else:
        y = first(x + block.attend(x))
        y = second(y + block.mlp(y))
    torch.testing.assert_close(block(x), y)


def test_warm_up_is_the_only_difference_between_its_arms(monkeypatch):
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    monkeypatch.setattr(placement, "STEPS", 4)
    losses = [placement.train(pre=True, warm_up=warm_up)[1] for warm_up in (1, 4)]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1:] != losses[1][1:]
    assert rates == pytest.approx([0.004] * 4 + [0.001, 0.002, 0.003, 0.004])


def test_only_what_is_missing_is_run(tmp_path, monkeypatch, capsys):
    asked = []

    def train(seed, **arm):
        asked.append((arm, seed))
        return None, [float(seed)] * placement.STEPS

    monkeypatch.setattr(placement, "train", train)
    path = tmp_path / "runs.csv"
    placement.main(path, seeds=2)
    assert len(asked) == 2 * len(placement.ARMS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3] + lines[4:]) + "\n")  # one run is lost
    placement.main(path, seeds=2)
    assert asked[-1] == (list(placement.ARMS.values())[1], 0)
    assert len(asked) == 2 * len(placement.ARMS) + 1
    assert {len(runs) for runs in placement.results(path).values()} == {2}
