"""Each normalized layer of the painter, against the three functions of `normtut.core`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from normtut import denormalize, moments, normalize
from normtut.style import StyleNetwork


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_all_twelve_layers_are_moments_normalize_denormalize(offset: float) -> None:
    """The painter as it would be written with `normtut.core`: the statistics that it removes, and what it
    paints with others in their place. In float64, so that only a difference in the formulas shows."""
    network = StyleNetwork().double()
    painter = network.painter
    torch.nn.init.normal_(painter.out.weight, std=0.1)  # zero by design in an untrained network
    content = torch.rand(2, 3, 26, 21, dtype=torch.float64) + offset
    # Not those of an untrained predictor, which are almost 0 and 1.
    statistics = [
        (torch.randn(2, c, 1, 1, dtype=torch.float64), 0.5 + torch.rand(2, c, 1, 1, dtype=torch.float64))
        for c in painter.channels
    ]
    removed: list[tuple[Tensor, Tensor]] = []

    def adain(x: Tensor) -> Tensor:
        removed.append(moments(x, (2, 3), eps=1e-5))
        return denormalize(normalize(x, *removed[-1]), *statistics[len(removed) - 1])

    def twice(x: Tensor, h: int, w: int) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear")[..., :h, :w]

    pixels = adain(content)
    x = adain(painter.down(F.relu(painter.stem(content))))
    for first, second in zip(painter.blocks[::2], painter.blocks[1::2], strict=True):
        x = x + adain(second(F.relu(adain(first(x)))))
    x = F.relu(adain(painter.up1(twice(x, 13, 11))))
    x = F.relu(adain(painter.up2(torch.cat([twice(x, 26, 21), pixels], dim=1))))
    expected = pixels + painter.out(torch.cat([x, pixels], dim=1))

    seen: list[tuple[Tensor, Tensor]] = []
    painted = painter(content, statistics, seen=seen)
    assert len(removed) == len(seen) == 12
    torch.testing.assert_close(seen, removed, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(painted, expected, rtol=1e-8, atol=1e-8)
