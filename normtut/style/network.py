"""The style network: normalization in every layer that paints, with γ and β from a style image.

A style encoder reduces the style image to the means and stds of its features. In the first of twelve layers,
the pixels, these replace the content's own: AdaIN as Huang & Belongie (2017) define it. For the other eleven
a small predictor turns them into one β and one γ for every channel. A predicted γ is no std and may be
negative: this is conditional instance normalization (Dumoulin et al. 2017; Ghiasi et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Painter", "Statistics", "StyleEncoder", "StyleNetwork"]

#: One (mean, std) for each normalized layer, each of shape (N, C, 1, 1).
Statistics = list[tuple[Tensor, Tensor]]

EPS = 1e-5


class Conv(nn.Conv2d):
    """A convolution that mirrors its input at the border: zeros would be painted as a dark frame."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', ⌈H / stride⌉, ⌈W / stride⌉)."""
        p = self.kernel_size[0] // 2
        # A map no larger than the border has nothing to mirror; then its edge is repeated.
        mode = "reflect" if min(x.shape[-2:]) > p else "replicate"
        return super().forward(F.pad(x, (p, p, p, p), mode=mode))


class StyleEncoder(nn.Module):
    """Reduce a style image to statistics: means and stds of its pixels and of its features at four scales."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 128)) -> None:
        super().__init__()
        sizes = [3, *widths]
        kernels = [5, 3, 3, 3]
        self.convs = nn.ModuleList(
            Conv(c, d, k, stride=2) for (c, d), k in zip(pairwise(sizes), kernels, strict=True)
        )
        self.features = 2 * sum(sizes)

    def forward(self, style: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, features)."""
        x, found = style, [*_centre(style)[1:]]
        for conv in self.convs:
            x = F.relu(conv(x))
            found += _centre(x)[1:]
        return torch.cat([f.flatten(1) for f in found], dim=1)


class Painter(nn.Module):
    """Paint a content image with given statistics."""

    def __init__(self, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        half, full = 3 * width // 8, 3 * width // 16
        self.stem = Conv(3, width // 2, 7, stride=2)
        self.down = Conv(width // 2, width, 3, stride=2)
        self.blocks = nn.ModuleList(Conv(width, width, 3) for _ in range(2 * blocks))
        self.up1 = Conv(width, half, 3)
        self.up2 = Conv(half + 3, full, 3)
        self.out = Conv(full + 3, 3, 3)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(cast(Tensor, self.out.bias))
        #: Channels of the normalized layers in the order in which `forward` meets them, the pixels first.
        self.channels = [3, width, *[width] * (2 * blocks), half, full]

    def forward(
        self,
        content: Tensor,
        statistics: Statistics,
        *,
        given: Statistics | None = None,
        seen: Statistics | None = None,
    ) -> Tensor:
        """Replace the content's statistics in every normalized layer.

        Args:
            content: (N, 3, H, W).
            statistics: what is put back, one pair for each of ``self.channels``.
            given: what is removed; without it the content's own statistics.
            seen: a list to which the content's own statistics are appended.

        Returns:
            (N, 3, H, W).
        """
        layer = iter(range(len(self.channels)))

        def adain(x: Tensor) -> Tensor:
            # denormalize(normalize(x, *moments(x, (2, 3), eps=EPS)), mean, std), in fewer passes over memory
            i = next(layer)
            if given is None:
                z, own_mean, own_std = _centre(x)
                if seen is not None:
                    seen.append((own_mean, own_std))
            else:
                own_mean, own_std = given[i]
                z = x - own_mean
            mean, std = statistics[i]
            return torch.addcmul(mean, z, std / own_std)

        # Before any training this is all there is: the style's colours. The network learns what is missing.
        pixels = adain(content)
        x = adain(self.down(F.relu(self.stem(content))))
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = x + adain(second(F.relu(adain(first(x)))))
        h, w = content.shape[-2:]
        x = F.interpolate(x, scale_factor=2, mode="bilinear")[..., : (h + 1) // 2, : (w + 1) // 2]
        x = F.relu(adain(self.up1(x)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear")[..., :h, :w]
        x = F.relu(adain(self.up2(torch.cat([x, pixels], dim=1))))
        return cast(Tensor, pixels + self.out(torch.cat([x, pixels], dim=1)))


class StyleNetwork(nn.Module):
    """Style encoder, predictor and painter: two images in, one out."""

    def __init__(self, width: int = 64, blocks: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.encoder = StyleEncoder()
        self.painter = Painter(width, blocks)
        self.predictor = nn.Sequential(
            nn.Linear(self.encoder.features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * sum(self.painter.channels[1:])),
        )

    def statistics(self, style: Tensor) -> Statistics:
        """What the painter is to put back, for style images of shape (N, 3, H, W); γ may be negative."""
        code = self.encoder(style)
        # The pixels' statistics are the style's own; those of the painter's features are predicted.
        found = [(code[:, :3, None, None], code[:, 3:6, None, None])]
        predicted = self.predictor(code)[:, :, None, None]
        for pair in predicted.split([2 * c for c in self.painter.channels[1:]], dim=1):
            beta, gamma = pair.chunk(2, dim=1)
            found.append((beta, 1 + gamma))  # an untrained predictor is close to instance normalization
        return found

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Content and style, (N, 3, H, W) in [0, 1] → pictures of the content's size, not yet clipped."""
        return cast(Tensor, self.painter(content, self.statistics(style)))


def _centre(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``x − mean``, and the `normtut.core.moments` of x, half of whose work the centred x is."""
    mean = x.mean((2, 3), keepdim=True)
    z = x - mean
    return z, mean, (z.square().mean((2, 3), keepdim=True) + EPS).sqrt()
