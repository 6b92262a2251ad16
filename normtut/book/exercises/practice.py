"""Exercises of chapters 14 and 15: choosing a norm, and judging claims."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn

from normtut.book.exercises.engine import Args, Exercise

__all__ = ["EXERCISES"]


def _model_cases(_: torch.Generator) -> Iterator[Args]:
    """Models of which some biases are without effect: those before a norm that subtracts the mean."""
    conv = nn.Conv2d
    yield (nn.Sequential(conv(3, 4, 4, 2), nn.ReLU(), conv(4, 6, 4, 2), nn.InstanceNorm2d(6)),)
    yield (nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4), conv(4, 5, 3, bias=False), nn.BatchNorm2d(5)),)
    yield (nn.Sequential(conv(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),)
    yield (nn.Sequential(conv(3, 8, 3), nn.GroupNorm(2, 8), nn.BatchNorm2d(8)),)
    yield (nn.Sequential(nn.BatchNorm2d(3), conv(3, 7, 3)),)


def _dead(
    model: nn.Sequential, *, norms: tuple[type, ...] = (nn.BatchNorm2d, nn.InstanceNorm2d), far: bool = False
) -> int:
    before = [m for m in model if not far or not isinstance(m, nn.ReLU)]
    return sum(
        conv.bias.numel()
        for conv, norm in itertools.pairwise(before)
        if isinstance(conv, nn.Conv2d) and conv.bias is not None and isinstance(norm, norms)
    )


def _batch_lists(g: torch.Generator) -> Iterator[Args]:
    """Batches of unequal sizes and of unlike images."""
    for sizes in ((5, 2), (4, 4, 1), (3, 6, 2, 2)):
        yield (
            [
                (i + 1) * torch.randn(n, 3, 4, 4, generator=g)
                + 4 * i * torch.tensor([[[1.0]], [[0.5]], [[-1]]])
                for i, n in enumerate(sizes)
            ],
        )


def _population(batches: list[torch.Tensor], *, correction: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.cat(batches)
    return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=correction)


def _averaged(
    batches: list[torch.Tensor], *, weighed: bool, between: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics of the batches, averaged; with weights or not, with the spread between them or not."""
    counts = torch.tensor([len(b) if weighed else 1.0 for b in batches])
    share = counts / counts.sum()
    means = torch.stack([b.mean((0, 2, 3)) for b in batches])
    variances = torch.stack([b.var((0, 2, 3), correction=0) for b in batches])
    mean = share @ means
    return mean, share @ (variances + (means - mean).square() if between else variances)


def _halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


def _norm_cases(g: torch.Generator) -> Iterator[Args]:
    x = 3 * torch.randn(2, 6, 4, 4, generator=g) + torch.arange(6.0).view(6, 1, 1)
    for norm in (torch.tanh, _halved, torch.relu):
        yield norm, x


def _twice(norm: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    once = norm(x)
    return (norm(once) - once).abs().max()


EXERCISES = {
    "dead_biases": Exercise(
        title="How many biases are dead?",
        signature="dead_biases(model)",
        task="counts the bias parameters of an nn.Sequential that have no effect: those of convolutions "
        "directly followed by a BatchNorm2d or InstanceNorm2d",
        reference=_dead,
        cases=_model_cases,
        mistakes={
            "counted the layers; each has as many biases as output channels": lambda model: sum(
                _dead(nn.Sequential(*pair)) > 0 for pair in itertools.pairwise(model)
            ),
            "counted biases before a GroupNorm too; it keeps how channels of a group differ": (
                lambda model: _dead(model, norms=(nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm))
            ),
            "left out InstanceNorm2d": lambda model: _dead(model, norms=(nn.BatchNorm2d,)),
            "left out BatchNorm2d": lambda model: _dead(model, norms=(nn.InstanceNorm2d,)),
            "looked past what lies between; the norm must follow directly": (
                lambda model: _dead(model, far=True)
            ),
            "counted the biases of all convolutions": lambda model: sum(
                m.bias.numel() for m in model if isinstance(m, nn.Conv2d) and m.bias is not None
            ),
        },
    ),
    "population": Exercise(
        title="Recalibrate in batches",
        signature="population(batches)",
        task="returns the mean and the biased variance of all images together, one value for each channel, "
        "from a list of batches of shape (N, C, H, W) that may differ in N: (mean, var)",
        reference=_population,
        cases=_batch_lists,
        mistakes={
            "averaged the variances of the batches; the variance between batches is missing": (
                lambda batches: _averaged(batches, weighed=True, between=False)
            ),
            "averaged the batches as if all had the same number of images, and left out the variance "
            "between them": lambda batches: _averaged(batches, weighed=False, between=False),
            "averaged the batches as if all had the same number of images": (
                lambda batches: _averaged(batches, weighed=False, between=True)
            ),
            "took the unbiased variance": lambda batches: _population(batches, correction=1),
            "returned the std instead of the variance": (
                lambda batches: (_population(batches)[0], _population(batches)[1].sqrt())
            ),
            "returned the variance before the mean": lambda batches: _population(batches)[::-1],
        },
    ),
    "twice": Exercise(
        title="A claim of your own",
        signature="twice(norm, x)",
        task="returns the largest absolute difference between norm(norm(x)) and norm(x), for a function norm",
        reference=_twice,
        cases=_norm_cases,
        mistakes={
            "compared the second pass with x instead of with the first pass": (
                lambda norm, x: (norm(norm(x)) - x).abs().max()
            ),
            "compared the first pass with x; the second one is asked for": lambda norm, x: (
                (norm(x) - x).abs().max()
            ),
            "forgot the absolute value": lambda norm, x: (norm(norm(x)) - norm(x)).max(),
            "took the mean of the differences": lambda norm, x: (norm(norm(x)) - norm(x)).abs().mean(),
        },
    ),
}
