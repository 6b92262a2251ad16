"""What chapter 13 trains: a small denoiser of points in the plane that is told the class and the noise level.

The points of a class lie on a ring, a cross, a wave or a square. Noise is mixed in,
x_t = cos(πt/2)·x + sin(πt/2)·ε, and the network guesses ε from x_t, the noise level t and the class, as
diffusion models do (Ho et al. 2020, equation (14)). It can be told t and the class in three ways.

    python -m normtut.book.denoising      # trains what is missing in denoising.csv
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normtut.book import runs
from normtut.core import denormalize, moments, normalize

__all__ = [
    "CLASSES",
    "WAYS",
    "Block",
    "Denoiser",
    "Run",
    "distance",
    "one_thread",
    "points",
    "results",
    "sample",
    "train",
]

#: The shapes that the points of each class lie on.
CLASSES = ("ring", "cross", "wave", "square")

#: How a network is told the condition: as more inputs, by γ and β, or by γ, β and a gate that start at 0.
WAYS = ("concatenation", "adaLN", "adaLN-Zero")

RESULTS = Path(__file__).with_suffix(".csv")
EPS = 1e-5
_FREQUENCIES = 4
_CONDITION = 2 * _FREQUENCIES + len(CLASSES)


def points(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (n, 2) between about −1.5 and 1.5, and their classes (n,).

    >>> x, y = points(5, torch.Generator().manual_seed(0))
    >>> x.shape, y.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """
    y = torch.randint(len(CLASSES), (n,), generator=generator)
    u = 2 * torch.rand(n, generator=generator) - 1
    left, up = torch.randint(2, (2, n), generator=generator).bool()
    side = torch.where(left, 1.0, -1.0)
    ring = torch.stack([(math.pi * u).cos(), (math.pi * u).sin()], 1)
    cross = torch.stack([u, side * u], 1)
    wave = torch.stack([1.4 * u, 0.6 * (3 * math.pi * u).sin()], 1)
    square = torch.where(up[:, None], torch.stack([u, side], 1), torch.stack([side, u], 1))
    x = torch.stack([ring, cross, wave, square])[y, torch.arange(n)]
    return x + 0.03 * torch.randn(n, 2, generator=generator), y


def _layer_norm(h: Tensor) -> Tensor:
    return normalize(h, *moments(h, -1, eps=EPS))


class Block(nn.Module):
    """A residual block of two linear layers that is told a condition in one of `WAYS`.

    >>> block = Block(8, "adaLN-Zero")
    >>> h, condition = torch.randn(4, 8), torch.randn(4, 12)
    >>> torch.equal(block(h, condition), h)   # its gate is 0 before training
    True
    """

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        if way not in WAYS:
            raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
        self.way = way
        self.first = nn.Linear(width + _CONDITION * (way == "concatenation"), width)
        self.second = nn.Linear(width, width)
        if way != "concatenation":
            self.modulation = nn.Linear(_CONDITION, (3 if way == "adaLN-Zero" else 2) * width)
        if way == "adaLN-Zero":
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(N, width) and (N, 12) → (N, width)."""
        z = _layer_norm(h)
        if self.way == "concatenation":
            return h + self._layers(torch.cat([z, condition], dim=1))
        gamma, beta, *gate = self.modulation(condition).split(h.shape[1], dim=1)
        change = self._layers(denormalize(z, mean=beta, std=1 + gamma))
        return h + (gate[0] * change if gate else change)

    def _layers(self, z: Tensor) -> Tensor:
        change: Tensor = self.second(F.silu(self.first(z)))
        return change


class Denoiser(nn.Module):
    """Guess the noise in points of the plane; `Block` says how it is told the noise level and the class."""

    def __init__(self, way: str, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.blocks = nn.ModuleList(Block(width, way) for _ in range(blocks))
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Noisy points (N, 2), noise levels in [0, 1] (N,) and classes (N,) → the noise (N, 2)."""
        condition, h = self.condition(t, y), self.first(x)
        for block in self.blocks:
            h = block(h, condition)
        noise: Tensor = self.last(_layer_norm(h))
        return noise

    @staticmethod
    def condition(t: Tensor, y: Tensor) -> Tensor:
        """(N, 12): sines and cosines of the noise level, and the class one-hot."""
        angles = t[:, None] * 2.0 ** torch.arange(_FREQUENCIES, device=t.device) * math.pi / 2
        return torch.cat([angles.sin(), angles.cos(), F.one_hot(y, len(CLASSES)).to(t.dtype)], dim=1)


def _batch(n: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy points, noise levels, classes, and the noise."""
    x, y = points(n, g)
    t, noise = torch.rand(n, generator=g), torch.randn(n, 2, generator=g)
    keep, add = _shares(t[:, None])
    return keep * x + add * noise, t, y, noise


def _shares(t: Tensor) -> tuple[Tensor, Tensor]:
    return (t * math.pi / 2).cos(), (t * math.pi / 2).sin()


@dataclass(frozen=True)
class Job:
    """What to train: the arguments of `train`."""

    way: str
    width: int
    blocks: int
    rate: float
    steps: int
    seed: int


@dataclass(frozen=True)
class Run(Job):
    """One training, and what came out.

    Args:
        loss: mean squared error of the guessed noise on 8,192 other points.
        distance: of generated points from the nearest of 8,000 true ones of their class, on average.
    """

    parameters: int
    loss: float
    distance: float
    seconds: float


def train(
    way: str, seed: int = 0, *, width: int = 64, blocks: int = 3, rate: float = 2e-3, steps: int = 1500
) -> Denoiser:
    """Train a `Denoiser` with Adam on batches of 256 fresh points, the learning rate falling linearly to 0.

    >>> train("adaLN", steps=2).blocks[0].way
    'adaLN'
    """
    torch.manual_seed(seed)
    model = Denoiser(way, width, blocks)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    with one_thread():
        for _ in range(steps):
            x, t, y, noise = _batch(256, generator)
            loss = F.mse_loss(model(x, t, y), noise)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model


@contextmanager
def one_thread() -> Iterator[None]:
    """More threads gain nothing on matrices this small, and on a busy machine they wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_loss(model: Denoiser) -> float:
    """Mean squared error of the guessed noise on 8,192 points that training has not seen."""
    x, t, y, noise = _batch(8192, torch.Generator().manual_seed(99))
    return F.mse_loss(model(x, t, y), noise).item()


@torch.no_grad()
def sample(model: Denoiser, y: Tensor, seed: int = 0, steps: int = 50) -> Tensor:
    """Points (N, 2) of the classes ``y``, from noise in ``steps`` steps (Song et al. 2021, equation (12))."""
    x = torch.randn(len(y), 2, generator=torch.Generator().manual_seed(seed))
    levels = torch.linspace(0.98, 0, steps + 1)
    with one_thread():
        for now, after in pairwise(levels):
            (keep, add), (next_keep, next_add) = _shares(now), _shares(after)
            noise = model(x, now.expand(len(y)), y)
            x = next_keep * ((x - add * noise) / keep).clamp(-2, 2) + next_add * noise
    return x


def distance(model: Denoiser, per_class: int = 250) -> float:
    """How far generated points lie from the true points of their class, on average."""
    y = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    made = sample(model, y)
    true, true_y = points(8000, torch.Generator().manual_seed(5))
    near = [torch.cdist(made[y == k], true[true_y == k]).amin(1) for k in range(len(CLASSES))]
    return torch.cat(near).mean().item()


def results(path: Path = RESULTS) -> list[Run]:
    """The stored runs, in the order in which they were made."""
    return runs.read(Run, path)


def plan() -> Iterator[Job]:
    """The runs that chapter 13 prints, three seeds each: with three blocks, then with 24."""
    for way, width in (("concatenation", 70), ("concatenation", 140), ("adaLN", 64), ("adaLN-Zero", 62)):
        for seed in range(3):
            yield Job(way, width, blocks=3, rate=2e-3, steps=1500, seed=seed)
    for rate in (2e-3, 2e-2):
        for way in ("adaLN", "adaLN-Zero"):
            for seed in range(3):
                yield Job(way, 32, blocks=24, rate=rate, steps=400, seed=seed)


def main(path: Path = RESULTS) -> None:
    """Train what is missing in the results, one line a run."""
    done = {Job(*astuple(run)[:6]) for run in results(path)}
    for job in plan():
        if job in done:
            continue
        start = time.perf_counter()
        model = train(**asdict(job))
        seconds = round(time.perf_counter() - start, 1)
        count = sum(p.numel() for p in model.parameters())
        loss, off = round(test_loss(model), 4), round(distance(model), 4)
        run = Run(**asdict(job), parameters=count, loss=loss, distance=off, seconds=seconds)
        runs.append([run], path)
        print(run, flush=True)


if __name__ == "__main__":
    main()
