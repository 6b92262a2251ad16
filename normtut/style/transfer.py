"""`StyleTransfer`: the trained network behind one method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normtut.style.network import Statistics, StyleNetwork, statistics

__all__ = ["WEIGHTS", "StyleTransfer"]

#: The weights that come with the package; MODEL_CARD.md beside them says how they were made.
WEIGHTS = Path(__file__).with_name("style.safetensors")

#: The network's coarsest grid, in pixels: tiles must begin on it.
_GRID = 8

#: How far a pixel of the painting can see (99 pixels), rounded up to that grid.
_REACH = 104


class StyleTransfer(nn.Module):
    """Paint one image with the statistics of another (after Huang & Belongie 2017).

    >>> from normtut import data
    >>> model = StyleTransfer.pretrained()
    >>> photo = data.photos("cat")["cat"][None] / 255
    >>> style = data.styles("waves")["waves"][None] / 255
    >>> picture = model.stylize(photo, style)
    >>> picture.shape == photo.shape, 0 <= float(picture.min()) <= float(picture.max()) <= 1
    (True, True)
    """

    def __init__(self, network: StyleNetwork | None = None) -> None:
        super().__init__()
        self.network = network or StyleNetwork()

    @classmethod
    def pretrained(cls, path: str | Path | None = None) -> StyleTransfer:
        """The network with the weights of this package, or with your own from `normtut.style.train`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file holds something else than this network's weights.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(path) if path is not None else WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(f"no weights at {path}")
        network = StyleNetwork()
        try:
            network.load_state_dict(load_file(path))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"{path} does not hold the weights of this network: {error}") from error
        return cls(network.to(memory_format=torch.channels_last)).eval()

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """The bare network, for training: no checks, no clipping; see `stylize`."""
        return self.network(content, style)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def stylize(
        self,
        content: Tensor,
        style: Tensor | Sequence[Tensor],
        alpha: float = 1.0,
        *,
        weights: Sequence[float] | None = None,
        preserve_color: bool = False,
        max_pixels: int = 4_000_000,
    ) -> Tensor:
        """Paint ``content`` in the manner of ``style``.

        What is put back at every depth is a mean and a std, and these can be mixed: between what the encoder
        measures in the content and in the style (``alpha``), and in several styles (``weights``).

        Args:
            content: (N, 3, H, W), float in [0, 1]; any H and W.
            style: (N, 3, H', W') or (1, 3, H', W') for all, float in [0, 1]; or several such tensors.
            alpha: 0 repaints the content with its own statistics, which gives it back approximately; 1 has
                the style's alone.
            weights: share of each of several styles; equal by default. Only their ratios matter.
            preserve_color: keep the content's hues and take only the lightness of the painting (Gatys et al.
                2016, "Preserving color in neural artistic style transfer", section 4.2).
            max_pixels: larger contents are painted in seamless tiles, with statistics measured on a copy
                of this size, larger styles reduced to it. A pixel takes about 0.4 kB of memory on a CPU:
                1.4 GB for a content of the default size, 2.0 GB for one of 16 million pixels.

        Returns:
            (N, 3, H, W) in [0, 1], with the dtype and on the device of ``content``.

        Raises:
            TypeError: if an image is not a floating-point tensor.
            ValueError: if an image has another shape or values outside [0, 1]; for an impossible ``alpha``,
                ``weights`` or ``max_pixels``.
        """
        styles = [style] if isinstance(style, Tensor) else list(style)
        _check_image("content", content)
        for s in styles:
            _check_image("style", s)
            if len(s) not in (1, len(content)):
                raise ValueError(
                    f"style must hold 1 image or as many as content, {len(content)}; got {len(s)}"
                )
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
        if max_pixels < 256**2:
            raise ValueError(f"max_pixels must be at least {256**2}, got {max_pixels}")
        shares = _shares(weights, len(styles))
        if not len(content):
            return torch.empty_like(content)
        network = self.network
        device, dtype = next(network.parameters()).device, next(network.parameters()).dtype

        def prepare(x: Tensor) -> Tensor:
            x = x.to(device, dtype)
            return x.contiguous(memory_format=torch.channels_last) if device.type == "cpu" else x

        picture = prepare(content)
        small = _shrink(picture, max_pixels)
        features = network.encoder(small, second=alpha < 1)
        looks = [statistics(network.encoder(_shrink(prepare(s), max_pixels))) for s in styles]
        if alpha < 1:
            looks.append(statistics(features))
            shares = [alpha * share for share in shares] + [1 - alpha]
        mixed = [
            (_mix(shares, [mean for mean, _ in depth]), _mix(shares, [std for _, std in depth]))
            for depth in zip(*looks, strict=True)
        ]
        seen: Statistics = []
        painted = network.decoder(features, mixed, small.shape[2:], seen=seen).clamp_(0, 1)
        del features  # 0.4 GB at the default size, which the tiles need
        if small is not picture:
            painted = torch.empty_like(picture)
            for inner, outer, cut in _tiles(picture.shape[2], picture.shape[3], max_pixels):
                tile = picture[..., outer[0], outer[1]]
                tile = network.decoder(network.encoder(tile, second=False), mixed, tile.shape[2:], given=seen)
                painted[..., inner[0], inner[1]] = tile[..., cut[0], cut[1]].clamp_(0, 1)
        if preserve_color:
            painted = (picture + (_lightness(painted) - _lightness(picture))).clamp_(0, 1)
        return cast(Tensor, painted).to(content.device, content.dtype, memory_format=torch.contiguous_format)


def _mix(shares: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Weighted sum of tensors that broadcast."""
    total = shares[0] * values[0]
    for share, value in zip(shares[1:], values[1:], strict=True):
        total = total + share * value
    return total


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if not count:
        raise ValueError("style must hold at least one image, got none")
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise ValueError(f"weights must be as many as styles, {count}; got {len(weights)}")
    if not all(w >= 0 and math.isfinite(w) for w in weights) or not max(weights) > 0:
        raise ValueError(f"weights must be >= 0, finite and not all 0, got {list(weights)}")
    ratios = [w / max(weights) for w in weights]  # whose sum is finite, also where that of the weights is not
    return [ratio / sum(ratios) for ratio in ratios]


def _check_image(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    shape = tuple(x.shape)
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be floating point in [0, 1], got {x.dtype} of shape {shape}; divide uint8 by 255"
        )
    if x.ndim != 4 or x.shape[1] != 3 or 0 in shape[2:]:
        raise ValueError(f"{name} must have shape (N, 3, H, W), got {shape}")
    if x.numel() and not bool((x.amin() >= 0) & (x.amax() <= 1)):  # also for NaN
        raise ValueError(
            f"{name} must have values in [0, 1], got {x.amin().item():.4g} … {x.amax().item():.4g} "
            f"(shape {shape}); undo a Normalize with normtut.InverseNormalize first"
        )


def _shrink(x: Tensor, max_pixels: int) -> Tensor:
    h, w = x.shape[2:]
    if h * w <= max_pixels:
        return x
    scale = math.sqrt(max_pixels / (h * w))
    size = [max(1, min(int(n * scale), n)) for n in (h, w)]
    return F.interpolate(x, size=size, mode="bilinear", antialias=True).clamp_(max=1)


def _tiles(h: int, w: int, max_pixels: int) -> Iterator[tuple[list[slice], list[slice], list[slice]]]:
    """Cut a picture up: what a tile paints, what it must see for that, and where one lies in the other."""
    side = (math.isqrt(max_pixels) - 2 * _REACH) // _GRID * _GRID
    for top in range(0, h, side):
        for left in range(0, w, side):
            starts, ends = (top, left), (min(top + side, h), min(left + side, w))
            inner, outer, cut = [], [], []
            for start, end, n in zip(starts, ends, (h, w), strict=True):
                seen_from, seen_to = max(0, start - _REACH), min(n, end + _REACH)
                inner.append(slice(start, end))
                outer.append(slice(seen_from, seen_to))
                cut.append(slice(start - seen_from, end - seen_from))
            yield inner, outer, cut


def _lightness(x: Tensor) -> Tensor:
    """Luma of ITU-R BT.601."""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
