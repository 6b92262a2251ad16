"""How cost grows: statistics with images, layers with batch and channels, stylization with megapixels.

The exponent k of cost ∝ nᵏ is fitted by least squares to the logarithms. Memory is by how much the peak of a
new process grows after a first, small run.
"""

from __future__ import annotations

import torch
from torch import nn

from normtut import ChannelStats, layers
from normtut.data import photos, styles
from normtut.style import StyleTransfer

from ._measure import OURS, Results, in_turns, peak_memory
from .layers import step
from .statistics import real_patches

IMAGES = (1_000, 10_000, 100_000, 1_000_000)
BATCHES = (4, 16, 64)
CHANNELS = (16, 64, 256)
SIDES = (256, 512, 1024)


def statistics(results: Results, quick: bool) -> None:
    add = results.growth(
        "Statistics over images", "images", "Batches of 1,000 images of 3 × 32 × 32 pixels, over and over."
    )
    counts = IMAGES[:2] if quick else IMAGES
    batch = torch.from_numpy(real_patches(1_000)).permute(0, 3, 1, 2).contiguous()

    def count(images: int) -> None:
        stats = ChannelStats()
        for _ in range(images // len(batch)):
            stats.update(batch)

    code = (
        "from benchmarks.statistics import *\n"
        "batch = torch.from_numpy(real_patches(1_000)).permute(0, 3, 1, 2)\n"
        "stats = ChannelStats()\nstats.update(batch)\n###\n"
        "for _ in range({} // 1000):\n    stats.update(batch)"
    )
    times = [in_turns({OURS: lambda n=n: count(n)}, seconds=2, least=3)[OURS] for n in counts]
    add(OURS, counts, times, [peak_memory(code.format(n)) for n in counts])


def norms(results: Results, quick: bool) -> None:
    makers = {"BatchNorm2d": lambda c: (c,), "GroupNorm": lambda c: (8, c), "InstanceNorm2d": lambda c: (c,)}
    code = (
        "from torch import nn\nfrom normtut import layers\nfrom benchmarks.layers import step\n"
        "def once(shape):\n    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)\n"
        "    step({}(*{}), x, g)\nonce((1, {}, 8, 8))\n###\nonce({})"
    )
    for variable, shapes in (
        ("batch", [(n, 64, 28, 28) for n in BATCHES]),
        ("channels", [(16, c, 28, 28) for c in CHANNELS]),
    ):
        fixed = "64 channels" if variable == "batch" else "batches of 16"
        add = results.growth(
            f"Layers over {variable}",
            variable,
            f"Forward and backward, {fixed}, 28 × 28 pixels; the memory includes input and gradients.",
        )
        numbers = BATCHES if variable == "batch" else CHANNELS
        for name in list(makers)[: 1 if quick else None]:
            taken: dict[str, list[list[float]]] = {OURS: [], "torch.nn": []}
            for shape in shapes:
                x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
                args = makers[name](shape[1])
                ours, theirs = getattr(layers, name)(*args), getattr(nn, name)(*args)
                cases = {
                    OURS: lambda ours=ours, x=x, g=g: step(ours, x, g),
                    "torch.nn": lambda theirs=theirs, x=x, g=g: step(theirs, x, g),
                }
                for who, times in in_turns(cases, seconds=2).items():
                    taken[who].append(times)
            for who, module in ((OURS, "layers"), ("torch.nn", "nn")):
                mb = []
                for shape in shapes if name == "BatchNorm2d" else ():
                    args = makers[name](shape[1])
                    mb.append(peak_memory(code.format(f"{module}.{name}", args, shape[1], shape)))
                add(f"{name}, {who}", numbers, taken[who], mb)


def stylization(results: Results, quick: bool) -> None:
    add = results.growth(
        "Stylization over megapixels",
        "megapixels",
        "A square content, a style of 256 × 256, two threads.",
    )
    torch.set_num_threads(2)
    transfer = StyleTransfer.pretrained()
    content, style = next(iter(photos("cat").values())), next(iter(styles("waves").values()))
    sides = SIDES[:2] if quick else SIDES

    def picture(x: torch.Tensor, side: int) -> torch.Tensor:
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        return nn.functional.interpolate(x.reshape(1, *x.shape[-3:]), (side, side), mode="bilinear")

    times = []
    with torch.inference_mode():
        small = picture(style, 256)
        for side in sides:
            large = picture(content, side)
            case = {OURS: lambda large=large: transfer.stylize(large, small)}
            times.append(in_turns(case, seconds=4, least=3)[OURS])
    code = (
        "from normtut.style import StyleTransfer\ntransfer = StyleTransfer.pretrained()\n"
        "style = torch.rand(1, 3, 256, 256)\ntransfer.stylize(torch.rand(1, 3, 64, 64), style)\n###\n"
        "with torch.inference_mode():\n    transfer.stylize(torch.rand(1, 3, {0}, {0}), style)"
    )
    megapixels = [round(side * side / 1e6, 3) for side in sides]
    add(OURS, megapixels, times, [peak_memory(code.format(side), threads=2) for side in sides])


def run(results: Results, quick: bool = False) -> None:
    statistics(results, quick)
    norms(results, quick)
    stylization(results, quick)
