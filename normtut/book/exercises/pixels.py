"""Exercises of chapters 1 to 3: pixels, their inverse, their statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normtut import core, images
from normtut.book.exercises.engine import Args, Exercise
from normtut.book.exercises.ingredients import CANCELS, per_channel

__all__ = ["EXERCISES"]


def _either_std(what: str, solution: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """A mistake made with the biased std, and made with torch's default: ``solution(correction, *args)``."""
    return {
        what: lambda *args: solution(0, *args),
        f"{what}, and divided by m − 1, as torch.std does unless told": lambda *args: solution(1, *args),
    }


def _image_cases(g: torch.Generator) -> Iterator[Args]:
    """Images with per-channel statistics, as (C, H, W) and as batches, float32 and float64."""
    for shape, dtype in (
        ((3, 4, 5), torch.float32),
        ((2, 3, 4, 3), torch.float32),  # W = C: broadcasting along the wrong axis would pass unnoticed
        ((0, 3, 2, 2), torch.float32),
        ((1, 6, 6), torch.float64),
    ):
        c = shape[-3]
        mean, std = torch.rand(c, generator=g), 0.1 + torch.rand(c, generator=g)
        yield torch.rand(shape, generator=g, dtype=dtype), mean.to(dtype), std.to(dtype)


def _own_statistics(dim: tuple[int, ...]) -> Callable[..., Tensor]:
    def normalized(correction: int, x: Tensor, _mean: Tensor, _std: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, dim, correction=correction, keepdim=True)
        return (x - mean) / std

    return normalized


def _stats_cases(g: torch.Generator) -> Iterator[Args]:
    yield tuple(map(torch.tensor, images.IMAGENET))
    yield torch.tensor([0.5]), torch.tensor([0.5])
    yield (
        torch.rand(4, generator=g, dtype=torch.float64),
        0.1 + torch.rand(4, generator=g, dtype=torch.float64),
    )


def _range_cases(g: torch.Generator) -> Iterator[Args]:
    """Batches whose images and channels differ in range; none is constant."""
    for shape, dtype in (
        ((2, 3, 4, 5), torch.float32),
        ((3, 3, 3, 3), torch.float32),  # all axes equal: extremes that lost an axis broadcast unnoticed
        ((1, 1, 6, 4), torch.float64),
    ):
        scale, shift = torch.rand(2, *shape[:2], 1, 1, generator=g, dtype=dtype)
        yield ((scale + 0.5) * torch.rand(shape, generator=g, dtype=dtype) + shift + 1,)


def _between_extremes(x: Tensor, *dim: int) -> Tensor:
    lowest, highest = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    return (x - lowest) / (highest - lowest)


def _opencv_cases(g: torch.Generator) -> Iterator[Args]:
    """Pictures as ``cv2.imread`` returns them; in one of them H = W = C: wrong axes fit as well."""
    for height, width, stats in (
        (4, 5, images.IMAGENET),
        (3, 3, ((0.2, 0.6, 0.4), (0.3, 0.1, 0.2))),  # not ImageNet's, which may be written into a solution
        (1, 7, ((0.5, 0.4, 0.3), (0.5, 0.25, 0.4))),
    ):
        bgr = torch.randint(256, (height, width, 3), generator=g, dtype=torch.uint8).numpy()
        yield bgr, *stats


def _from_opencv(bgr: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    rgb = torch.from_numpy(bgr).flip(-1)
    return core.normalize(rgb.permute(2, 0, 1).float() / 255, mean, std)


def _byte_cases(g: torch.Generator) -> Iterator[Args]:
    levels = torch.arange(256) / 255
    yield (levels.view(1, 16, 16),)
    yield (
        images.InverseNormalize(*images.IMAGENET)(
            images.Normalize(*images.IMAGENET)(levels.view(16, 16).expand(3, 16, 16))
        ),
    )
    yield (torch.linspace(-0.5, 1.5, 99),)


class Loader:
    """Batches as a loader gives them: one at a time, and the memory of each is used again for the next."""

    def __init__(self, batches: list[Tensor]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._batches:
            lent = batch.clone()
            yield lent
            lent.fill_(torch.nan)

    def __len__(self) -> int:
        return len(self._batches)

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(batch.shape)) for batch in self._batches)
        return f"a loader of batches of shapes {shapes}"


def _batches_cases(g: torch.Generator) -> Iterator[Args]:
    """Batches (N, C, H, W): the last one smaller, later ones brighter; at last all far from 0."""
    for sizes, hw, offset in (([4, 4, 1], 6, 0), ([3], 4, 0), ([1, 2, 3], 5, 0), ([2, 3], 5, 1e6)):
        batches = [torch.rand(n, 3, hw, hw, generator=g).double() + i + offset for i, n in enumerate(sizes)]
        yield (Loader(batches),)


def _dataset_std(batches: Loader, correction: int = 0) -> Tensor:
    n, mean, m2 = 0, torch.tensor(0.0), torch.tensor(0.0)
    for x in batches:
        k, new = x[:, 0].numel(), x.mean((0, 2, 3))
        m2 = m2 + x.var((0, 2, 3), correction=0) * k + (new - mean) ** 2 * n * k / (n + k)
        mean, n = mean + (new - mean) * k / (n + k), n + k
    return (m2 / (n - correction)).sqrt()


def _cancelling_std(batches: Loader) -> Tensor:
    n, total, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
    for x in batches:
        n += x[:, 0].numel()
        total, squares = total + x.sum((0, 2, 3)), squares + (x**2).sum((0, 2, 3))
    return (squares / n - (total / n) ** 2).sqrt()


def _equal_weights(batches: Loader) -> Tensor:
    squares = torch.stack([(b**2).mean((0, 2, 3)) for b in batches]).mean(0)
    return (squares - torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0) ** 2).sqrt()


def _image_stats_cases(g: torch.Generator) -> Iterator[Args]:
    """Means and stds of images, whose means spread little, much, and not at all."""
    for n, spread in ((4, 0.1), (7, 3.0), (5, 0.0), (1, 1.0)):
        means = 0.5 + spread * torch.rand(n, generator=g, dtype=torch.float64)
        yield means, 0.1 + torch.rand(n, generator=g, dtype=torch.float64)


def _total_std(means: Tensor, stds: Tensor) -> Tensor:
    return (stds.square().mean() + means.var(correction=0)).sqrt()


EXERCISES = {
    "normalize": Exercise(
        title="Normalize an image",
        signature="normalize(x, mean, std)",
        task="removes mean and std, of shape (C,), from images (…, C, H, W)",
        reference=core.normalize,
        cases=_image_cases,
        mistakes={
            **_either_std(
                "used each image's own mean and std, channel by channel; use the ones that are given",
                _own_statistics((-2, -1)),
            ),
            **_either_std(
                "used the mean and std of all pixels of the image; use the ones that are given",
                _own_statistics((-3, -2, -1)),
            ),
            "multiplied by the std instead of dividing": (
                lambda x, m, s: (x - per_channel(m)) * per_channel(s)
            ),
            "divided before subtracting the mean": (lambda x, m, s: x / per_channel(s) - per_channel(m)),
            "divided by the variance, not the std": (
                lambda x, m, s: (x - per_channel(m)) / per_channel(s) ** 2
            ),
        },
    ),
    "min_max": Exercise(
        title="Min–max scaling",
        signature="min_max(x)",
        task="brings every channel of every image of a batch (N, C, H, W) to the range from 0 to 1, by its "
        "own lowest and highest value; no channel is constant",
        reference=lambda x: _between_extremes(x, 2, 3),
        cases=_range_cases,
        mistakes={
            "shared the lowest and the highest value among the channels; each has its own": (
                lambda x: _between_extremes(x, 1, 2, 3)
            ),
            "shared the lowest and the highest value among the images of the batch; each has its own": (
                lambda x: _between_extremes(x, 0, 2, 3)
            ),
            "took one lowest and one highest value for the whole batch": (
                lambda x: _between_extremes(x, 0, 1, 2, 3)
            ),
            "took the lowest and the highest value of each row; the whole channel shares them": (
                lambda x: _between_extremes(x, 3)
            ),
            "divided by the highest value, without removing the lowest first": (
                lambda x: x / x.amax((2, 3), keepdim=True)
            ),
            "divided by the highest value, not by the highest minus the lowest": (
                lambda x: (x - x.amin((2, 3), keepdim=True)) / x.amax((2, 3), keepdim=True)
            ),
            **_either_std(
                "standardized: mean 0 and std 1, but no fixed range",
                lambda correction, x: _own_statistics((2, 3))(correction, x, x, x),
            ),
        },
    ),
    "from_opencv": Exercise(
        title="From OpenCV",
        signature="from_opencv(picture, mean, std)",
        task="turns a picture as cv2.imread returns it (a uint8 array of shape H × W × 3, channels in "
        "the order blue, green, red) into a normalized float32 tensor of shape (3, H, W), channels "
        "in the order red, green, blue, as are mean and std: tuples of three floats",
        reference=_from_opencv,
        cases=_opencv_cases,
        mistakes={
            "left the channels in the order blue, green, red": (
                lambda b, m, s: _from_opencv(b[..., ::-1].copy(), m, s)
            ),
            "reversed the channels after normalizing, so that blue met the constants of red": (
                lambda b, m, s: _from_opencv(b[..., ::-1].copy(), m, s).flip(0)
            ),
            "reshaped where the axes must be permuted": (
                lambda b, m, s: core.normalize(
                    torch.from_numpy(b).flip(-1).reshape(3, *b.shape[:2]).float() / 255, m, s
                )
            ),
            "swapped height and width": (lambda b, m, s: _from_opencv(b, m, s).transpose(1, 2)),
            "did not divide by 255": (
                lambda b, m, s: core.normalize(torch.from_numpy(b).flip(-1).permute(2, 0, 1).float(), m, s)
            ),
        },
    ),
    "inverse": Exercise(
        title="Put statistics back",
        signature="inverse(z, mean, std)",
        task="puts mean and std, of shape (C,), back into images (…, C, H, W)",
        reference=core.denormalize,
        cases=_image_cases,
        mistakes={
            "added the mean before multiplying by the std": (
                lambda z, m, s: (z + per_channel(m)) * per_channel(s)
            ),
            "subtracted the mean instead of adding it": (lambda z, m, s: z * per_channel(s) - per_channel(m)),
            "normalized a second time": (lambda z, m, s: core.normalize(z, m, s)),
        },
    ),
    "inverse_stats": Exercise(
        title="Statistics of the second Normalize",
        signature="inverse_stats(mean, std)",
        task="returns the mean and the std with which a second Normalize undoes the first",
        reference=core.inverse_stats,
        cases=_stats_cases,
        mistakes={
            "lost the minus sign of the new mean": lambda m, s: (m / s, 1 / s),
            "forgot to divide the new mean by the std": lambda m, s: (-m, 1 / s),
            "multiplied the new mean by the std instead of dividing": lambda m, s: (-m * s, 1 / s),
            "kept the std; the new one is its reciprocal": lambda m, s: (-m / s, s),
        },
    ),
    "to_uint8": Exercise(
        title="Floats to bytes",
        signature="to_uint8(x)",
        task="turns float pixels in [0, 1], some of them a little outside, into uint8 levels, clamped "
        "and rounded",
        reference=images.to_uint8,
        cases=_byte_cases,
        mistakes={
            "truncated instead of rounding": lambda x: x.clamp(0, 1).mul(255).byte(),
            "truncated ×256": lambda x: x.clamp(0, 1).mul(256).clamp(max=255).byte(),
            "did not clamp, so that values outside [0, 1] wrapped around": (
                lambda x: x.mul(255).round().to(torch.int64).remainder(256).byte()
            ),
        },
        atol=0,
    ),
    "dataset_std": Exercise(
        title="The std of a data set that comes in batches",
        signature="dataset_std(batches)",
        task="returns the std of all pixels, channel by channel, of the batches that a loader gives one at a "
        "time (for x in batches), each of shape (N, C, H, W) and dtype float64",
        reference=_dataset_std,
        cases=_batches_cases,
        mistakes={
            "kept the batches, as torch.cat does, instead of looking at one at a time: a loader uses the "
            "memory of a batch again": lambda bs: torch.cat(list(bs)).std((0, 2, 3)),
            **_either_std(
                "averaged the stds of the batches",
                lambda c, bs: torch.stack([b.std((0, 2, 3), correction=c) for b in bs]).mean(0),
            ),
            **_either_std(
                "averaged the variances of the batches and forgot the spread of their means",
                lambda c, bs: torch.stack([b.var((0, 2, 3), correction=c) for b in bs]).mean(0).sqrt(),
            ),
            **_either_std(
                "averaged the stds of the images",
                lambda c, bs: torch.cat([b.std((2, 3), correction=c) for b in bs]).mean(0),
            ),
            "took the std of the images' stds": (
                lambda bs: torch.cat([b.std((2, 3), correction=0) for b in bs]).std(0, correction=0)
            ),
            "gave every batch the same weight, however many images it has": _equal_weights,
            "divided by n − 1, as torch.std does unless told otherwise": lambda bs: _dataset_std(bs, 1),
            "returned the variance; the std is its square root": lambda bs: _dataset_std(bs) ** 2,
            CANCELS: _cancelling_std,
        },
    ),
    "total_std": Exercise(
        title="From the statistics of images to that of pixels",
        signature="total_std(means, stds)",
        task="returns the std of all pixels of N images of equal size, given the mean and the std of each "
        "image (float64 vectors of length N)",
        reference=_total_std,
        cases=_image_stats_cases,
        mistakes={
            "averaged the stds; their squares add up, and the spread of the means comes on top": (
                lambda m, s: s.mean()
            ),
            "forgot the spread of the means": lambda m, s: s.square().mean().sqrt(),
            "averaged the stds before squaring; the mean of the squares is larger": (
                lambda m, s: (s.mean().square() + m.var(correction=0)).sqrt()
            ),
            "took the std of the stds": lambda m, s: s.std(correction=0),
            "added the std of the means instead of their variance": (
                lambda m, s: (s.square().mean() + m.std(correction=0)).sqrt()
            ),
            "divided the spread of the means by N − 1 (torch.var does unless told)": (
                lambda m, s: (s.square().mean() + m.var()).sqrt()
            ),
            "returned the variance; the std is its square root": lambda m, s: _total_std(m, s).square(),
        },
    ),
}
