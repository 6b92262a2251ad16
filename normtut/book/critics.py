"""What chapter 10 trains: a small GAN on eight Gaussians, whose critic is held in one way or another.

Everything but the way is the same. The runs of three seeds are in ``critics.csv`` beside this file, one line
for every 150 steps, made by::

    python -m normtut.book.critics

It takes a minute or two of one core. Runs that are there are not repeated; delete lines to run them anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normtut.book import runs
from normtut.book.denoising import one_thread
from normtut.reparam import spectral_norm, weight_norm, weight_standardization

__all__ = [
    "CENTRES",
    "WAYS",
    "Absolute",
    "Run",
    "clip",
    "gradient_penalty",
    "hinge",
    "linears",
    "mlp",
    "reached",
    "real",
    "results",
    "slope",
    "train",
    "wasserstein",
]

#: Where the results are.
RESULTS = Path(__file__).with_suffix(".csv")

#: Steps of a run, and after how many of them it is looked at.
STEPS, EVERY = 600, 150

_ANGLES = torch.arange(8) * 2 * math.pi / 8
#: The middles (8, 2) of the eight Gaussians, on a ring of radius 6.
CENTRES = 6 * torch.stack([_ANGLES.cos(), _ANGLES.sin()], dim=1)


def real(n: int, generator: torch.Generator) -> Tensor:
    """Points (n, 2) of the eight Gaussians, each of standard deviation 0.3.

    >>> real(5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 2])
    """
    which = torch.randint(8, (n,), generator=generator)
    return CENTRES[which] + 0.3 * torch.randn(n, 2, generator=generator)


def reached(points: Tensor) -> int:
    """How many of the eight Gaussians have at least 2 % of the points (N, 2) within four standard deviations.

    >>> reached(CENTRES[:3])
    3
    """
    distance, nearest = torch.cdist(points, CENTRES).min(1)
    return int((nearest[distance < 1.2].bincount(minlength=8) >= 0.02 * len(points)).sum())


class Absolute(nn.Module):
    """|h|: like ReLU it stretches nothing, and unlike ReLU it passes every gradient on at full length."""

    def forward(self, h: Tensor) -> Tensor:
        """Of any shape."""
        return h.abs()


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = Absolute) -> nn.Sequential:
    """Linear layers from size to size, with the activation between them.

    >>> [type(m).__name__ for m in mlp((2, 64, 1))]
    ['Linear', 'Absolute', 'Linear']
    """
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


def linears(model: nn.Module) -> list[nn.Linear]:
    """The linear layers of a model, in order."""
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def slope(model: nn.Module, points: Tensor) -> float:
    """The largest length of the gradient of a model's output, over the points (N, D).

    >>> round(slope(lambda x: 3 * x[:, :1] + 4 * x[:, 1:], torch.zeros(1, 2)), 4)
    5.0
    """
    points = points.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(points).sum(), points)
    return float(gradient.norm(dim=1).max())


def wasserstein(of_real: Tensor, of_fake: Tensor) -> Tensor:
    """What a Wasserstein critic makes small: E f(fake) − E f(real) (Arjovsky et al. 2017, equation (2))."""
    return of_fake.mean() - of_real.mean()


def hinge(of_real: Tensor, of_fake: Tensor) -> Tensor:
    """The same without a reward for scores beyond ±1 (Miyato et al. 2018, equation (16))."""
    return (1 - of_real).relu().mean() + (1 + of_fake).relu().mean()


@torch.no_grad()
def clip(critic: nn.Module, c: float = 0.1) -> None:
    """Cut every weight to [−c, c] (Arjovsky et al. 2017, Algorithm 1)."""
    for p in critic.parameters():
        p.clamp_(-c, c)


def gradient_penalty(critic: nn.Module, x: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """Ten times the mean of (‖∇f‖ − 1)² between real and fake (Gulrajani et al. 2017, equation (3))."""
    mix = torch.lerp(x, fake, torch.rand(len(x), 1, generator=generator)).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mix).sum(), mix, create_graph=True)
    penalty: Tensor = 10 * (gradient.norm(dim=1) - 1).square().mean()
    return penalty


#: How a critic is held → the arguments of `train` that do it.
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "spectral norm": {"wrap": spectral_norm},
    "weight clipping": {"after": clip},
    "gradient penalty": {"penalty": gradient_penalty},
    "weight norm": {"wrap": weight_norm},
    "weight standardization": {"wrap": weight_standardization},
    "nothing, hinge loss": {"loss": hinge},
    "spectral norm, hinge loss": {"wrap": spectral_norm, "loss": hinge},
}


@dataclass(frozen=True)
class Run:
    """One look at one training.

    Args:
        way: one of `WAYS`.
        seed: of the weights and of all noise.
        step: how many steps the generator has made; the critic has made twice as many.
        reached: how many of the eight Gaussians the generator reaches, by 2,000 points.
        slope: the largest that was found of the critic, at 5,000 points.
        torch: the version that it ran with.
    """

    way: str
    seed: int
    step: int
    reached: int
    slope: float
    torch: str


@one_thread()
def train(
    wrap: Callable[[nn.Linear], Any] | None = None,
    after: Callable[[nn.Module], None] | None = None,
    penalty: Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = wasserstein,
    *,
    seed: int = 0,
    steps: int = STEPS,
    look: Callable[[int, nn.Module, Tensor], None] | None = None,
) -> tuple[nn.Sequential, Tensor]:
    """Train a critic and a generator; the critic in evaluation mode, and 2,000 points of the generator.

    A step is two steps of the critic and one of the generator, with 128 real and 128 made points each, by
    Adam with rates 0.005 and 0.001. On the CPU: networks this small gain nothing from a GPU.

    Args:
        wrap: reparametrizes each layer of the critic.
        after: called with the critic after each of its steps.
        penalty: added to the critic's loss, from ``(critic, real points, made points, generator)``.
        loss: of the scores of real and of made points; what the critic makes small.
        seed: of the weights and of all noise.
        steps: how many.
        look: called with the step, the critic and 2,000 made points, every 150 steps.
    """
    torch.manual_seed(seed)
    generator, critic = mlp((4, 64, 64, 2)), mlp((2, 64, 64, 1))
    for layer in linears(critic):
        if wrap is not None:
            wrap(layer)
    noise, others = (torch.Generator().manual_seed(s) for s in (seed, 1000 + seed))
    of_critic, of_generator = (
        torch.optim.Adam(model.parameters(), rate, betas=(0.0, 0.9), fused=True)
        for model, rate in ((critic, 5e-3), (generator, 1e-3))
    )

    def made(n: int, source: torch.Generator) -> Tensor:
        points: Tensor = generator(torch.randn(n, 4, generator=source))
        return points

    for step in range(1, steps + 1):
        for _ in range(2):
            x, fake = real(128, noise), made(128, noise).detach()
            total = loss(*critic(torch.cat([x, fake])).chunk(2))
            if penalty is not None:
                total = total + penalty(critic, x, fake, noise)
            _descend(of_critic, total)
            if after is not None:
                after(critic)
        _descend(of_generator, -critic(made(128, noise)).mean())
        if look is not None and step % EVERY == 0:
            look(step, critic.eval(), made(2000, others).detach())
            critic.train()
    return critic.eval(), made(2000, others).detach()


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def around() -> Tensor:
    """Points (5000, 2) all over the square that holds the ring; where `slope` looks."""
    return 14 * torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)) - 7


def results(path: str | Path = RESULTS) -> list[Run]:
    """The stored runs, in the order in which they were made.

    >>> run = results()[0]
    >>> run.way, run.seed, run.step
    ('nothing', 0, 150)
    """
    return runs.read(Run, path)


def main(path: str | Path = RESULTS, seeds: int = 3) -> None:
    """Train what has no results yet."""
    torch.set_num_threads(1)  # such small matrices gain nothing from more
    for way, arguments in WAYS.items():
        for seed in range(seeds):
            if (way, seed) not in {(run.way, run.seed) for run in results(path)}:
                runs.append(_looks(way, seed, arguments), path)


def _looks(way: str, seed: int, arguments: dict[str, Any]) -> list[Run]:
    looks: list[Run] = []

    def look(step: int, critic: nn.Module, points: Tensor) -> None:
        steepest = float(f"{slope(critic, around()):.3g}")
        looks.append(Run(way, seed, step, reached(points), steepest, torch.__version__.split("+")[0]))

    train(**arguments, seed=seed, look=look)
    print(way, seed, *(f"{run.reached} ({run.slope:g})" for run in looks), flush=True)
    return looks


if __name__ == "__main__":
    main()
