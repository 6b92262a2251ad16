"""What chapter 6 trains: a small Transformer, norms before or after the branches, with or without warm-up.

The runs of five seeds are in ``placement.csv`` beside this file, one line a run, made by::

    python -m normtut.book.placement

It takes a minute or two of one core. Runs that are there are not repeated; delete lines to run them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normtut.book import runs
from normtut.data import PhotoPatches

__all__ = ["ARMS", "Block", "Run", "Transformer", "in_windows", "patches", "results", "train"]

#: Where the results are.
RESULTS = Path(__file__).with_suffix(".csv")

#: How a run is called → the arguments of `train` that make it.
ARMS: dict[str, dict[str, Any]] = {
    "post-LN": {"pre": False},
    "post-LN, warm-up": {"pre": False, "warm_up": 30},
    "pre-LN": {"pre": True},
    "pre-LN, warm-up": {"pre": True, "warm_up": 30},
    "pre-RMS": {"pre": True, "norm": nn.RMSNorm},
}

#: Steps of a run, and how many of them make one stored loss.
STEPS, WINDOW = 60, 10


class Block(nn.Module):
    """Attention, then a small network for each token; both are added to the stream (Vaswani et al. 2017).

    With ``pre`` the norm stands at the entrance of each branch, else after each addition.
    """

    def __init__(self, d: int, pre: bool, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.pre, self.norms = pre, nn.ModuleList([norm(d), norm(d)])
        self.attention = nn.MultiheadAttention(d, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d))

    def attend(self, x: Tensor) -> Tensor:
        """What each token takes from the others; (N, L, d) → (N, L, d)."""
        attended: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return attended

    def branches(self) -> list[Callable[[Tensor], Tensor]]:
        """The two functions whose results are added to the stream."""
        return [self.attend, self.mlp]

    def forward(self, x: Tensor) -> Tensor:
        """For x of shape (N, L, d)."""
        for f, norm in zip(self.branches(), self.norms, strict=True):
            x = x + f(norm(x)) if self.pre else norm(x + f(x))
        return x


class Transformer(nn.Module):
    """Says from which of eleven photographs a picture of 32 × 32 pixels was cut.

    >>> Transformer(depth=2, pre=True)(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 11])

    Args:
        depth: number of blocks.
        pre: whether the norms stand before the branches; then one more stands before the head.
        norm: makes a norm for so many features.
        d: features of a token.
    """

    def __init__(
        self, depth: int, pre: bool, norm: Callable[[int], nn.Module] = nn.LayerNorm, d: int = 32
    ) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, d, 8, stride=8), nn.Linear(d, 11)
        self.place = nn.Parameter(torch.zeros(16, d))
        self.blocks = nn.Sequential(*(Block(d, pre, norm) for _ in range(depth)))
        self.last = norm(d) if pre else nn.Identity()
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)

    def stream(self, x: Tensor) -> Tensor:
        """The 16 tokens of each picture, after all blocks: (N, 3, 32, 32) → (N, 16, d)."""
        tokens: Tensor = self.last(self.blocks(self.embed(x).flatten(2).mT + self.place))
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the eleven photographs: (N, 3, 32, 32) → (N, 11)."""
        scores: Tensor = self.head(self.stream(x).mean(1))
        return scores


def patches() -> tuple[Tensor, Tensor]:
    """The training pictures (1141, 3, 32, 32), roughly of mean 0 and std 1, and their labels."""
    dataset = PhotoPatches(train=True)
    images = torch.from_numpy(dataset.data).movedim(-1, 1) / 255
    return (images - 0.45) / 0.25, torch.tensor(dataset.targets)


def train(
    pre: bool,
    warm_up: int = 1,
    norm: Callable[[int], nn.Module] = nn.LayerNorm,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Transformer, list[float]]:
    """Train eight blocks with Adam, 64 pictures a step; the model, and the loss of each of the 60 steps.

    Args:
        pre: as for `Transformer`.
        warm_up: in so many steps the learning rate grows to its full size of 0.004; 1 is no warm-up.
        norm: as for `Transformer`.
        seed: of the weights and of the pictures' order.
        device: where to train. The weights and the order are drawn on the CPU and do not depend on it.
    """
    images, labels = (t.to(device) for t in patches())
    torch.manual_seed(seed)
    model, losses = Transformer(8, pre, norm).to(device), []
    adam = torch.optim.Adam(model.parameters(), fused=True)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / warm_up)
        pick = torch.randint(len(images), (64,)).to(device)
        loss = nn.functional.cross_entropy(model(images[pick]), labels[pick])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses.append(loss.item())
    return model, losses


def in_windows(losses: list[float]) -> list[float]:
    """The mean of every ten steps.

    >>> in_windows([1.0] * 10 + [2.0] * 10)
    [1.0, 2.0]
    """
    return [sum(losses[i : i + WINDOW]) / WINDOW for i in range(0, len(losses), WINDOW)]


@dataclass(frozen=True)
class Run:
    """One training: its name in `ARMS`, its seed, its mean loss in every ten steps."""

    arm: str
    seed: int
    loss_10: float
    loss_20: float
    loss_30: float
    loss_40: float
    loss_50: float
    loss_60: float
    torch: str

    @property
    def losses(self) -> list[float]:
        """The six of them."""
        return list(astuple(self)[2:-1])


def results(path: str | Path = RESULTS) -> dict[str, list[list[float]]]:
    """The stored runs: ``{arm: [losses of seed 0, losses of seed 1, …]}``, each the mean of ten steps.

    >>> stored = results()
    >>> list(stored) == list(ARMS), len(stored["pre-LN"][0])
    (True, 6)
    """
    found: dict[str, list[list[float]]] = {}
    for run in runs.read(Run, path):
        found.setdefault(run.arm, []).append(run.losses)
    return found


def main(path: str | Path = RESULTS, seeds: int = 5) -> None:
    """Run what has no results yet, and print the mean loss of the last twenty steps."""
    torch.set_num_threads(1)  # such small matrices gain nothing from more
    done = {(run.arm, run.seed) for run in runs.read(Run, path)}
    for arm, arguments in ARMS.items():
        for seed in range(seeds):
            if (arm, seed) not in done:
                losses = [round(loss, 4) for loss in in_windows(train(**arguments, seed=seed)[1])]
                line: list[Any] = [arm, seed, *losses, torch.__version__.split("+")[0]]
                runs.append([Run(*line)], path)
                print(f"{arm:18} seed {seed}  {sum(losses[-2:]) / 2:.2f}", flush=True)


if __name__ == "__main__":
    main()
