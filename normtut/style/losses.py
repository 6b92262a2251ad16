"""What a picture shows and how it is painted, as a pretrained network sees it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normtut.core import normalize
from normtut.images import IMAGENET

__all__ = ["Look", "Teacher", "color_distance", "content_distance", "style_distance"]

EPS = 1e-5


class Look(NamedTuple):
    """What the teacher sees in images: the deepest features, and statistics of every layer.

    >>> look = Look(torch.rand(3, 8, 4, 4), [torch.rand(3, 2, 8)], [torch.ones(3)])
    >>> look.of(torch.tensor([2, 0])).features.shape
    torch.Size([2, 8, 4, 4])
    """

    features: Tensor  #: relu4_1, (N, C, H/8, W/8)
    statistics: list[Tensor]  #: relu1_1 … relu4_1: means and stds, each (N, 2, C)
    variances: list[Tensor]  #: of all features of a layer, each (N,)

    def of(self, index: Tensor) -> Look:
        """The looks of some of the images."""
        statistics, variances = ([t[index] for t in layers] for layers in self[1:])
        return Look(self.features[index], statistics, variances)


class ChannelMoments(torch.autograd.Function):
    """`normtut.core.moments` of each channel, (N, C, H, W) → two (N, C), in fewer passes over memory.

    Half of a training step's time would go into them. Half-precision features are squared as they are; sums
    are of float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3), keepdim=True, dtype=torch.float32)
        var = (x - mean.to(x.dtype)).square().mean((2, 3), keepdim=True, dtype=torch.float32)
        std = (var + EPS).sqrt()
        ctx.save_for_backward(x, mean, std)
        return mean.flatten(1), std.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, mean, std = ctx.saved_tensors
        by_mean, by_std = (g[:, :, None, None] / x[0, 0].numel() for g in grads)
        scale = by_std / std  # d std / d x = (x − mean) / (n std)
        return torch.addcmul((by_mean - scale * mean).to(x.dtype), x, scale.to(x.dtype))


class Teacher(nn.Module):
    """The convolutions of a VGG network up to relu4_1, frozen.

    >>> state = {}  # of a network with one convolution between two poolings, and few channels
    >>> for i, inputs in {0: 3, 3: 8, 6: 8, 9: 8}.items():
    ...     state[f"features.{i}.weight"] = torch.randn(8, inputs, 3, 3)
    ...     state[f"features.{i}.bias"] = torch.zeros(8)
    >>> look = Teacher(state)(torch.rand(2, 3, 32, 32))
    >>> look.features.shape, len(look.statistics), look.statistics[0].shape
    (torch.Size([2, 8, 4, 4]), 4, torch.Size([2, 2, 8]))

    Built from any state dict with torchvision's names (``features.0.weight`` …): VGG-16 and VGG-19
    differ in the number of convolutions between poolings; gaps in the numbering tell where these are.

    Raises:
        ValueError: if the names are others, or the network has batch norms.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        found = {int(m[1]): k for k in state if (m := re.fullmatch(r"features\.(\d+)\.weight", k))}
        if not found:
            raise ValueError("the teacher must have torchvision's VGG names (features.0.weight …), got "
                             f"{sorted(state)[:3]} …")  # fmt: skip
        self.convs = nn.ModuleList()
        self.pool_before: list[bool] = []
        self.looks_at: list[bool] = []
        last = -2
        for i in sorted(found):
            if state[found[i]].ndim != 4:
                raise ValueError("the teacher must be a VGG without batch norm")
            weight, bias = state[found[i]], state[found[i].replace("weight", "bias")]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.load_state_dict({"weight": weight, "bias": bias})
            self.convs.append(conv)
            self.pool_before.append(i - last == 3)
            self.looks_at.append(i == 0 or i - last == 3)
            last = i
            if sum(self.looks_at) == 4:
                break
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: str | Path | None = None) -> Teacher:
        """From a file of weights (.safetensors or .pth), or torchvision's VGG-19, downloaded when missing."""
        if path is None:
            from torchvision.models import VGG19_Weights

            return cls(VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))
        path = Path(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return cls(load_file(path))
        return cls(torch.load(path, map_location="cpu", weights_only=True))

    def forward(self, images: Tensor, *, average: bool = False) -> Look:
        """Look at images, (N, 3, H, W) in [0, 1].

        With ``average`` the maps are reduced by average instead of maximum pooling (Gatys et al. 2016,
        section 2): the gradient of a maximum reaches one pixel of four, and prints a grid.
        """
        pool = F.avg_pool2d if average else F.max_pool2d
        x = normalize(images, *IMAGENET).to(next(self.parameters()).dtype)
        statistics, variances = [], []
        for conv, reduce, look in zip(self.convs, self.pool_before, self.looks_at, strict=True):
            x = F.relu(conv(pool(x, 2) if reduce else x))
            if look:
                mean, std = ChannelMoments.apply(x)
                statistics.append(torch.stack([mean, std], dim=1))
                # Law of total variance: within the channels and between their means.
                variances.append((std.square().mean(1) + mean.var(1, correction=0)).detach())
        return Look(x.float(), statistics, variances)


def content_distance(look: Look, content: Look) -> Tensor:
    """Mean squared difference at relu4_1 over the variance of the content's features there; (N,).

    >>> ours, content = (Look(torch.full((1, 8, 4, 4), x), [], [torch.tensor([2.0])]) for x in (5.0, 1.0))
    >>> content_distance(ours, content)
    tensor([8.])
    """
    return (look.features - content.features).square().flatten(1).mean(1) / content.variances[-1]


def style_distance(look: Look, style: Look, weights: Sequence[float] | None = None) -> Tensor:
    """Differences of the channels' means and stds over the style's variance, summed over the layers; (N,).

    >>> ours, style = (
    ...     Look(torch.rand(1, 8, 4, 4), [torch.tensor([[[mean] * 8, [std] * 8]])], [torch.tensor([2.0])])
    ...     for mean, std in ((5.0, 3.0), (1.0, 1.0))
    ... )
    >>> style_distance(ours, style)  # (4² + 2²) / 2
    tensor([10.])

    The style loss of Huang & Belongie 2017, equation (13), with each layer in units of its own variance
    and, in training, with its own weight.
    """
    weights = [1.0] * len(look.statistics) if weights is None else weights
    layers = zip(look.statistics, style.statistics, style.variances, weights, strict=True)
    return torch.stack([w * (o - t).square().mean(2).sum(1) / v for o, t, v, w in layers]).sum(0)


def color_distance(painted: Tensor, style: Tensor) -> Tensor:
    """How far the colours are from the style's, in the picture and in its details; (N,).

    >>> picture = torch.rand(1, 3, 32, 32)
    >>> gray = picture.mean(1, keepdim=True).expand_as(picture)
    >>> same, other = color_distance(picture, picture), color_distance(gray, picture)
    >>> bool(same < 1e-6), bool(other > 0.1)
    (True, True)

    Statistics of single channels do not say which colours there are: a gray style and one of all hues may
    have the same. What they leave free is painted as coloured fringes along the edges. So the pixels' 3 × 3
    covariances are compared, over the square of the style's; and the hues of details of 2 to 16 pixels.
    """
    ours, theirs = _covariance(painted), _covariance(style)
    size = theirs.square().sum((1, 2))
    distance = (ours - theirs).square().sum((1, 2)) / ((size + size.mean()) / 2)
    for ours, theirs in zip(_details(painted), _details(style), strict=True):
        distance = distance + _hue_distance(_covariance(ours), _covariance(theirs))
    return distance


def _covariance(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C, C)."""
    x = x.float()
    rows = (x - x.mean((2, 3), keepdim=True)).transpose(1, 2)
    return (rows @ rows.mT).mean(1) / x.shape[3]  # one long product would leave most of a GPU idle


def _details(x: Tensor) -> list[Tensor]:
    """What is lost where a picture is halved, four times (the Laplacian pyramid of Burt & Adelson 1983)."""
    lost = []
    for _ in range(4):
        small = F.avg_pool2d(x, 2, ceil_mode=True)
        lost.append(x - F.interpolate(small, size=x.shape[2:], mode="bilinear"))
        x = small
    return lost


def _hue_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared differences of the stds along the style's principal axes, as parts of the whole; (N,).

    As parts, because how strong edges are is the content's affair.
    """
    variances, axes = torch.linalg.eigh(theirs)
    ours = (axes.mT @ ours @ axes).diagonal(dim1=1, dim2=2)
    a, b = ((v + 1e-6) / (v.sum(1, keepdim=True) + 3e-6) for v in (ours, variances.clamp(min=0)))
    return (a.sqrt() - b.sqrt()).square().sum(1)
