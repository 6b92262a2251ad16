"""What chapters 8 and 14 draw: one small network, trained with one norm or another, on two photo sets.

The results are in ``experiments.csv`` beside this file: one line for each run. They come from two commands,
with three seeds and ten epochs each::

    python -m normtut.experiments                              # data "patches": some 240,000 steps
    python -m normtut.experiments --images PACS/photo          # data "photo":   some 280,000 steps

Either takes half an hour of one core. The first needs nothing else: it trains on `normtut.data.PhotoPatches`.
The second trains on the 1,670 photographs of PACS (Li et al. 2017, for research; seven classes; not part of
this package), shrunk to 32 × 32 pixels. A folder's name becomes the name of its data. CIFAR-10, forty times
as large, is used if it is on disk or can be downloaded: ``--images cifar10 --epochs 1`` (5 GB of memory).

A line is written as soon as its run ends, and runs that have a line are not repeated: started again, a
command continues where it was interrupted. To repeat runs, delete their lines. `make experiments` is the
first command, ``make experiments ARGS="--images DIR"`` the second.

The network uses torch's fused layers, since there are some 520,000 steps to take. `normtut.layers` computes
the same function, as ``tests/test_layers.py`` shows.
"""

from __future__ import annotations

import argparse
import copy
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normtut.book import runs
from normtut.core import moments, normalize
from normtut.data import PhotoPatches, cifar10
from normtut.reparam import weight_standardization

__all__ = [
    "LAYERS",
    "DynamicTanh",
    "ImageSet",
    "PositionLayerNorm",
    "Run",
    "error",
    "error_in_pairs",
    "fit",
    "images",
    "network",
    "recalibrate",
    "results",
    "train",
]

#: Where the results are.
RESULTS = Path(__file__).with_suffix(".csv")


class DynamicTanh(nn.Module):
    """γ · tanh(α · x) + β: Zhu et al. 2025, instead of a norm; nothing is measured.

    γ and β have one value per channel, α is one number.

    >>> DynamicTanh(8)(torch.full((2, 8, 4, 4), 100.0)).detach().unique()
    tensor([1.])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """For x of shape (N, channels, H, W)."""
        return self.weight * torch.tanh(self.alpha * x) + self.bias


class PositionLayerNorm(nn.LayerNorm):
    """Layer norm as Transformers and ConvNeXt have it: over the channels, at each position by itself.

    >>> y = PositionLayerNorm(8)(torch.randn(2, 8, 4, 4))
    >>> y.shape, y.mean(1).abs().max().item() < 1e-5
    (torch.Size([2, 8, 4, 4]), True)
    """

    def forward(self, x: Tensor) -> Tensor:
        """For x of shape (N, channels, H, W)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


#: Makes the layer with this name for a number of channels (and of groups, which only group norm uses).
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "batch": lambda channels, groups: nn.BatchNorm2d(channels),
    "group": lambda channels, groups: nn.GroupNorm(groups, channels),
    "layer": lambda channels, groups: PositionLayerNorm(channels),
    "instance": lambda channels, groups: nn.InstanceNorm2d(channels, affine=True),
    "none": lambda channels, groups: nn.Identity(),
    "tanh": lambda channels, groups: DynamicTanh(channels),
    "group+ws": lambda channels, groups: nn.GroupNorm(groups, channels),  # and the weights are standardized
}


@dataclass(frozen=True)
class ImageSet:
    """A labelled image set, normalized by the statistics of its training part.

    >>> x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    >>> ImageSet("noise", x, y, test_x=x, test_y=y).name
    'noise'
    """

    name: str
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class Run:
    """One line of the results. Errors are fractions of the images that are given the wrong class.

    >>> results()[0].key
    ('patches', 'batch', 0, 32, 0, 10)
    """

    data: str
    norm: str
    groups: int
    batch_size: int
    seed: int
    epochs: int
    error: float
    train_error: float
    #: The error after BatchNorm's running statistics were replaced by those of the training set; else NaN.
    recalibrated_error: float
    #: The error of BatchNorm with the statistics of pairs of test images, after training on pairs; else NaN.
    paired_error: float
    torch: str

    @property
    def key(self) -> tuple[Any, ...]:
        """The settings that tell this run from others."""
        return astuple(self)[:6]


def images(source: str | Path | None = None, size: int = 32) -> ImageSet:
    """The patches of `normtut.data.PhotoPatches`, ``"cifar10"``, or a folder of photographs.

    >>> data = images()
    >>> data.name, data.x.shape, data.test_x.shape
    ('patches', torch.Size([1141, 3, 32, 32]), torch.Size([285, 3, 32, 32]))

    Photographs are shrunk to ``size`` × ``size`` pixels. Their class is the name of their subfolder, or what
    stands before the first ``_`` of their own name; every fifth is for testing.

    Raises:
        ValueError: if the folder holds no JPEG or PNG images of two classes or more.
        ConnectionError: if CIFAR-10 is neither on disk nor to be downloaded.
    """
    if source is None or source == "cifar10":
        name = "patches" if source is None else "cifar10"
        parts = [cifar10(t) if source else PhotoPatches(t, size) for t in (True, False)]
        x, test_x = (torch.from_numpy(p.data).movedim(-1, 1) / 255 for p in parts)
        y, test_y = (torch.tensor(p.targets) for p in parts)
    else:
        name = Path(source).resolve().name
        pixels, labels = _read(Path(source), size)
        test = torch.arange(len(pixels)) % 5 == 2
        x, test_x, y, test_y = pixels[~test], pixels[test], labels[~test], labels[test]
    mean, std = moments(x, (0, 2, 3))
    return ImageSet(name, normalize(x, mean, std), y, normalize(test_x, mean, std), test_y)


def _read(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    from PIL.Image import Resampling

    from normtut.files import read_image

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    names = [re.split(r"[/_]", p.relative_to(folder).as_posix())[0] for p in paths]
    classes = sorted(set(names))
    if len(classes) < 2:
        raise ValueError(f"{folder} must hold JPEG or PNG images of two classes or more, found {classes}")
    pictures = (read_image(p).eight_bit().convert("RGB") for p in paths)
    pixels = [np.asarray(p.resize((size, size), Resampling.BOX)) for p in pictures]
    x = torch.from_numpy(np.stack(pixels)).movedim(-1, 1) / 255
    return x, torch.tensor([classes.index(n) for n in names])


def network(norm: str, classes: int, *, groups: int = 8, channels: int = 32) -> nn.Sequential:
    """Five 3×3 convolutions, each followed by the norm and a ReLU; then the average, and a linear layer.

    >>> [type(m).__name__ for m in network("group", 11)[:3]]
    ['Conv2d', 'GroupNorm', 'ReLU']

    Raises:
        ValueError: for an unknown norm; it lists the known ones.
    """
    if norm not in LAYERS:
        raise ValueError(f"norm must be one of {', '.join(LAYERS)}, got {norm!r}")
    layers: list[nn.Module] = []
    for i, stride in enumerate((2, 2, 1, 2, 1)):  # 32 → 16 → 8 → 8 → 4 → 4 pixels
        conv = nn.Conv2d(channels if i else 3, channels, 3, stride, padding=1, bias=norm in ("none", "tanh"))
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if norm == "group+ws":
            weight_standardization(conv)
        layers += [conv, LAYERS[norm](channels, groups), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def train(
    data: ImageSet, norm: str, batch_size: int, *, seed: int = 0, epochs: int = 10, groups: int = 8
) -> Run:
    """`fit` the network to ``data``, and test it.

    >>> x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    >>> run = train(ImageSet("noise", x, y, x, y), "group", batch_size=2, epochs=1)
    >>> run.norm, run.groups, run.batch_size
    ('group', 8, 2)

    Raises:
        ValueError: for an unknown norm, or a batch size that is not between 1 and the number of images.
    """
    model = fit(data, norm, batch_size, seed=seed, epochs=epochs, groups=groups)
    test_error, train_error = error(model, data.test_x, data.test_y), error(model, data.x, data.y)
    recalibrated = paired = math.nan
    if norm == "batch":
        paired = error_in_pairs(model, data.test_x, data.test_y) if batch_size == 2 else math.nan
        recalibrate(model, data.x)
        recalibrated = error(model, data.test_x, data.test_y)
    used = groups if norm.startswith("group") else 0
    version = torch.__version__.split("+")[0]
    a, b, c, d = (round(e, 4) for e in (test_error, train_error, recalibrated, paired))
    return Run(data.name, norm, used, batch_size, seed, epochs, a, b, c, d, version)


def fit(
    data: ImageSet, norm: str, batch_size: int, *, seed: int = 0, epochs: int = 10, groups: int = 8
) -> nn.Sequential:
    """Train the network on ``data``; it comes back in evaluation mode.

    >>> x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    >>> model = fit(ImageSet("noise", x, y, x, y), "group", batch_size=2, epochs=1)
    >>> model(x).shape, model.training
    (torch.Size([4, 2]), False)

    SGD with momentum 0.9 and weight decay 1e-4; a learning rate of 0.1 · batch size / 32 (linear scaling:
    Goyal et al. 2017) that falls to zero along a cosine; gradients clipped at norm 1; random mirroring. The
    same for every norm, so that the norm is the only difference, and the same number of epochs for every
    batch size.

    Raises:
        ValueError: for an unknown norm, or a batch size that is not between 1 and the number of images.
    """
    if not 1 <= batch_size <= len(data.x):  # incomplete batches are dropped, so there would be no step
        raise ValueError(
            f"batch_size must be between 1 and {len(data.x)}, the number of images, got {batch_size}"
        )
    torch.manual_seed(seed)  # everything runs on the CPU: with batches this small a GPU would mostly wait
    model = network(norm, int(data.y.max()) + 1, groups=groups)
    rate, total, step = 0.1 * batch_size / 32, epochs * (len(data.x) // batch_size), 0
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for x, y in _batches(data, batch_size):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / total)) / 2
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
    return model.eval()


def _batches(data: ImageSet, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, some images mirrored; what is left at the end is dropped."""
    order = torch.randperm(len(data.x))
    mirrored = torch.rand(len(data.x)) < 0.5
    x = torch.where(mirrored.view(-1, 1, 1, 1), data.x.flip(3), data.x)
    for i in range(len(order) // size):
        chosen = order[i * size : (i + 1) * size]
        yield x[chosen], data.y[chosen]


def recalibrate(model: nn.Module, x: Tensor) -> None:
    """Give every BatchNorm the statistics of ``x`` as a whole (Wu & Johnson 2021, "PreciseBN").

    >>> norm = nn.BatchNorm2d(1)
    >>> recalibrate(norm, torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    >>> norm.running_mean
    tensor([2.])

    In one batch: an average over batches of neighbouring images would leave out the variance between batches.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [m.momentum for m in norms]
    for m in norms:
        m.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for m, momentum in zip(norms, kept, strict=True):
        m.momentum = momentum
    model.eval()


def error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of the images ``x`` that ``model``, in evaluation, gives another class than ``y``.

    >>> error(nn.Flatten(), torch.eye(4), torch.tensor([0, 1, 2, 0]))
    0.25
    """
    model.eval()
    with torch.no_grad():
        guessed = torch.cat([model(part).argmax(1) for part in torch.split(x, 2000)])
    return float((guessed != y).double().mean())


def error_in_pairs(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """`error` with the statistics of pairs: each image is normalized together with one other, at random.

    >>> x, y = torch.tensor([[1.0, 5.0], [0.0, 6.0]]), torch.tensor([0, 1])
    >>> error(nn.BatchNorm1d(2), x, y), error_in_pairs(nn.BatchNorm1d(2), x, y)
    (0.5, 0.0)

    So a network that was trained on pairs is tested as it was trained. The model itself does not change.
    """
    model = copy.deepcopy(model).train()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        guessed = torch.cat([model(pair).argmax(1) for pair in torch.split(x[order], 2)])
    return float((guessed != y[order]).double().mean())


def results(path: str | Path = RESULTS) -> list[Run]:
    """The runs that are stored.

    >>> run = results()[0]
    >>> run.norm, run.batch_size, 0 < run.error < 1
    ('batch', 32, True)
    """
    return runs.read(Run, path)


def plan(seeds: Sequence[int], norms: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The arguments of every run: for each seed, norms × batch sizes, then numbers of groups.

    Standardized weights are for the smallest batches: chapter 8 tries them with two images. A single group,
    which the paper calls layer norm, has all batch sizes.
    """
    for seed in seeds:
        for batch_size in (32, 16, 8, 4, 2):
            for norm in norms:
                if norm != "group+ws" or batch_size == 2:
                    yield {"norm": norm, "batch_size": batch_size, "seed": seed}
        if "group" in norms:
            for batch_size in (32, 16, 8, 4, 2):
                yield {"norm": "group", "batch_size": batch_size, "seed": seed, "groups": 1}
            for groups in (2, 4, 16, 32):
                yield {"norm": "group", "batch_size": 8, "seed": seed, "groups": groups}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiments that have no results yet."""
    parser = argparse.ArgumentParser(description=main.__doc__, prog="python -m normtut.experiments")
    parser.add_argument(
        "--images", metavar="DIR", help="a folder of photographs, or cifar10, instead of the patches"
    )
    parser.add_argument("--norms", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # such small networks gain nothing from more
    data = images(options.images)
    for job in plan(range(options.seeds), options.norms):
        groups = job.get("groups", 8) if job["norm"].startswith("group") else 0
        key = (data.name, job["norm"], groups, job["batch_size"], job["seed"], options.epochs)
        if key not in {run.key for run in results(options.out)}:
            run = train(data, **job, epochs=options.epochs)
            runs.append([run], options.out)
            print(*key, f"error {run.error:.3f}", flush=True)
