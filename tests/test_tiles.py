"""Large pictures are painted in tiles, and nobody should see where they meet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normtut import data
from normtut.style import StyleTransfer


@pytest.fixture(scope="module")
def model() -> StyleTransfer:
    return StyleTransfer.pretrained()


@pytest.fixture(scope="module")
def style() -> Tensor:
    return data.styles("mosaic")["mosaic"][None, :, :256, :256] / 255


# Pictures a little too large to be painted whole: the reduced copy on which the statistics of a tiled picture
# are measured is then almost the picture itself. A tile's side follows from the root of `max_pixels`; that of
# 256² happens to fit the grid of the network's strides without being rounded down to it, the others do not.
@pytest.mark.parametrize(
    ("max_pixels", "size"),
    [(256**2, (257, 256)), (68_000, (245, 278)), (69_000, (263, 263)), (75_000, (300, 251))],
)
def test_a_tiled_picture_is_the_picture_painted_whole(
    model: StyleTransfer, style: Tensor, max_pixels: int, size: tuple[int, int]
) -> None:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    content = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    whole = model.stylize(content, style, max_pixels=2 * max_pixels)
    tiled = model.stylize(content, style, max_pixels=max_pixels)
    assert not torch.equal(tiled, whole)  # it was not painted whole
    # Tiles that do not begin on the grid differ by 0.02 on average, and by up to 0.8 where they meet.
    assert (tiled - whole).abs().mean() < 0.012
    assert (tiled - whole).abs().max() < 0.25
