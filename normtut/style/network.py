"""The style network: encoder, AdaIN, decoder.

One encoder looks at both pictures, at seven depths. Of the style only the mean and std of every channel
are kept, *measured* on the features by `normtut.core.moments`. The decoder is the encoder's mirror: it begins
with the content's deepest features, and at each depth on its way back to a picture removes the statistics it
finds and puts in their place those that the encoder found in the style at the same depth. No statistic is
predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normtut.core import denormalize, moments, normalize

__all__ = ["Decoder", "Encoder", "Statistics", "StyleNetwork", "statistics"]

#: One (mean, std) for each depth of the encoder, the finest first, each of shape (N, C, 1, 1).
Statistics = list[tuple[Tensor, Tensor]]

#: Channels at 1/2, 1/4 (twice each) and 1/8 (three times) of the resolution.
WIDTHS = (24, 64, 128)

#: Added to every variance. Large, so that what is nearly flat is not blown up into a texture.
EPS = 0.5


def statistics(features: Sequence[Tensor]) -> Statistics:
    """Mean and std of every channel of every picture, at each depth.

    >>> [(mean, std)] = statistics([torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)])
    >>> mean.item(), round(std.item(), 3)  # the root of 1 + 0.5
    (2.0, 1.225)
    """
    return [moments(x, (2, 3), eps=EPS) for x in features]


class Conv(nn.Conv2d):
    """A convolution that mirrors its input at the border: zeros would be painted as a dark frame."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        stride: int = 1,
        *,
        pad: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, size, stride, bias=bias)
        self.border = size // 2 if pad else 0
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', ⌈H / stride⌉, ⌈W / stride⌉); without ``pad`` the border is consumed."""
        return super().forward(_mirror(x, self.border) if self.border else x)

    def twice(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """The convolution of ``x`` made twice as large; (N, C, H, W) → (N, C', *size*), without ``pad``."""
        return _cut(self(_twice(x)), 1, size)


class Encoder(nn.Module):
    """What a picture is at seven depths: twice at 1/2, twice at 1/4 and three times at 1/8 of its resolution.

    >>> [tuple(x.shape) for x in Encoder()(torch.rand(1, 3, 32, 48))][::2]
    [(1, 24, 16, 24), (1, 64, 8, 12), (1, 128, 4, 6), (1, 128, 4, 6)]
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.to2 = Conv(3, a, 7, stride=2)
        self.half2 = Conv(a, a)
        self.to4 = Conv(a, b, stride=2)
        self.quarter2 = Conv(b, b)
        self.to8 = Conv(b, c, stride=2)
        self.deep = Conv(c, c)
        self.deeper = Conv(c, c)

    def forward(self, picture: Tensor, *, second: bool = True) -> list[Tensor]:
        """(N, 3, H, W) in [0, 1] → seven maps, the finest first, each before its ReLU.

        Of a content the decoder does not use the second map of a size. Where its statistics are not asked for
        either, ``second=False`` saves the work, and puts the first map in the place of the second.
        """
        half = self.to2(normalize(picture, 0.5, 0.25))
        half2 = self.half2(F.relu(half)) if second else half
        quarter = self.to4(F.relu(half))
        quarter2 = self.quarter2(F.relu(quarter)) if second else quarter
        eighth = self.to8(F.relu(quarter))
        deep = self.deep(F.relu(eighth))
        deeper = eighth + self.deeper(F.relu(deep))
        return [half, half2, quarter, quarter2, eighth, deep, deeper]


class Decoder(nn.Module):
    """From features back to a picture, with the style's statistics put in at every depth.

    >>> encode, content, style = Encoder(), torch.rand(1, 3, 32, 48), torch.rand(1, 3, 64, 64)
    >>> Decoder()(encode(content), statistics(encode(style)), (32, 48)).shape
    torch.Size([1, 3, 32, 48])
    """

    def __init__(self, last: int = 16) -> None:
        super().__init__()
        a, b, c = WIDTHS
        # Where a norm follows, it would remove a bias at once.
        self.deep = Conv(c, c, bias=False)
        self.at8 = Conv(c, c, bias=False)
        self.inner = Conv(c, c)
        self.outer = Conv(c, c, bias=False)
        self.at4 = Conv(c, b, pad=False, bias=False)
        self.inner4 = Conv(b, b, bias=False)
        self.outer4 = Conv(b, b, bias=False)
        self.at2 = Conv(b, a, pad=False, bias=False)
        self.inner2 = Conv(a, a, bias=False)
        self.outer2 = Conv(a, a, bias=False)
        self.at1 = Conv(a, last, pad=False)
        self.out = Conv(last, 3, pad=False)
        # At first these blocks add little: a network that was trained without them can go on with them.
        with torch.no_grad():
            self.outer4.weight.mul_(0.1)
            self.outer2.weight.mul_(0.1)

    def forward(
        self,
        content: Sequence[Tensor],
        style: Statistics,
        size: tuple[int, int],
        *,
        given: Statistics | None = None,
        seen: Statistics | None = None,
    ) -> Tensor:
        """Paint.

        Args:
            content: what the encoder sees in the content.
            style: statistics of what it sees in the style.
            size: (H, W) of the content.
            given: the statistics to be removed, the deepest first; measured where they are not given.
            seen: a list to which those that are measured are appended.

        Returns:
            (N, 3, H, W), not yet clipped to [0, 1].
        """
        removed = iter(given) if given is not None else None

        def adain(x: Tensor, depth: int) -> Tensor:
            mean, std = next(removed) if removed is not None else moments(x, (2, 3), eps=EPS)
            if seen is not None:
                seen.append((mean, std))
            return F.relu(denormalize(normalize(x, mean, std), *style[depth]))

        half, _, quarter, _, eighth, deep, deeper = content
        x = adain(deeper, 6)
        x = adain(self.deep(x) + deep, 5)
        x = adain(self.at8(x) + eighth, 4)
        x = x + self.outer(F.relu(self.inner(x)))
        x = adain(self.at4.twice(soften(x), quarter.shape[-2:]) + quarter, 2)
        x = x + self.outer4(adain(self.inner4(x), 3))
        x = adain(self.at2.twice(x, half.shape[-2:]), 0)
        x = x + self.outer2(adain(self.inner2(x), 1))
        return self.picture(x, size)

    def picture(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Pixels, (N, 3, H, W), from what has been painted at half of the resolution."""
        x = self.out(F.relu(self.at1(_twice(x))))
        return denormalize(_cut(x, 0, size).float(), 0.5, 0.25)


class StyleNetwork(nn.Module):
    """``decoder(encoder(content), statistics(encoder(style)))``.

    >>> StyleNetwork()(torch.rand(2, 3, 32, 48), torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 3, 32, 48])
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Content and style, (N, 3, H, W) in [0, 1] → pictures of the content's size, not yet clipped."""
        features, look = self.encoder(content, second=False), statistics(self.encoder(style))
        return cast(Tensor, self.decoder(features, look, content.shape[2:]))


def soften(x: Tensor) -> Tensor:
    """Weights of 1, 2, 1 along both axes, which remove what changes its sign from place to place.

    At 1/8 of the resolution that is a lattice of 16 pixels, which AdaIN would enlarge in every smooth sky.
    """
    return F.avg_pool2d(F.avg_pool2d(_mirror(x, 1), 2, stride=1), 2, stride=1)


def _twice(x: Tensor) -> Tensor:
    """(H, W) → (2H + 4, 2W + 4): twice as large, with a border of 2 for two convolutions to consume."""
    return F.interpolate(_mirror(x, 1), scale_factor=2, mode="bilinear")


def _cut(x: Tensor, border: int, size: Sequence[int]) -> Tensor:
    """What lies inside a border. Where the encoder rounded an odd size up, the surplus goes as well."""
    return x[..., border : border + size[0], border : border + size[1]]


def _mirror(x: Tensor, border: int) -> Tensor:
    # A map no larger than the border has nothing to mirror; then its edge is repeated.
    mode = "reflect" if min(x.shape[-2:]) > border else "replicate"
    return F.pad(x, (border, border, border, border), mode=mode)
