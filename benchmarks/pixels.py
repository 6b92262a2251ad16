"""The way back to pixels, `to_uint8(InverseNormalize(z))`, beside torchvision's, kornia's and one by hand.

torchvision undoes a `Normalize` by a second one, kornia has a `Denormalize`; the floats of both are clamped
and given to torchvision's `to_dtype(…, torch.uint8, scale=True)`. The cast of floats to uint8 is a part of
every chain.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from normtut import IMAGENET, InverseNormalize, Normalize, to_uint8

from ._measure import OURS, Results, in_turns, installed, size, stopwatch

CAST = "the cast alone"
SHAPES = ((1, 3, 32, 32), (1, 3, 224, 224), (32, 3, 224, 224), (1, 3, 3000, 4000))
MEAN, STD = IMAGENET

Chain = Callable[[Tensor], Tensor]


def chains() -> dict[str, Chain]:
    """Normalized images to levels, by name."""
    restore = InverseNormalize(*IMAGENET)
    second = v2.Normalize([-m / s for m, s in zip(MEAN, STD, strict=True)], [1 / s for s in STD])

    def levels(x: Tensor) -> Tensor:
        return v2.functional.to_dtype(x.clamp(0, 1), torch.uint8, scale=True)

    def by_hand(z: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=z.device).view(-1, 1, 1) for v in IMAGENET)
        return (z * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)

    found: dict[str, Chain] = {
        OURS: lambda z: to_uint8(restore(z)),
        "torchvision": lambda z: levels(second(z)),
        "by hand": by_hand,
    }
    if installed("kornia"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import kornia

        theirs = kornia.enhance.Denormalize(torch.tensor(MEAN), torch.tensor(STD))
        found["kornia"] = lambda z: levels(theirs(z))
    return found


def cases(z: Tensor) -> dict[str, Callable[[], Tensor]]:
    x = InverseNormalize(*IMAGENET)(z)
    found: dict[str, Callable[[], Tensor]] = {k: lambda f=f: f(z) for k, f in chains().items()}
    return {**found, CAST: lambda: x.to(torch.uint8)}


def restored(chain: Chain) -> int:
    """How many of the 3 × 256 levels come back."""
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    z = Normalize(*IMAGENET)(levels / 255)
    return int((chain(z[None])[0] == levels).sum())


def run(results: Results, quick: bool = False) -> None:
    seconds = 0.5 if quick else 5.0
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for threads in (1, 2) if device == "cpu" else (1,):
            torch.set_num_threads(threads)
            where = "GPU" if device == "cuda" else f"{threads} thread{'s' * (threads > 1)}"
            add = results.table(f"Pixels, eager, {where}")
            for shape in SHAPES:
                z = torch.randn(shape, device=device)
                times = in_turns(cases(z), seconds=seconds, watch=stopwatch(device))
                add(size(shape), times, floors=[CAST])
            if threads == 1:
                last = torch.randn(SHAPES[2], device=device).to(memory_format=torch.channels_last)
                times = in_turns(cases(last), seconds=seconds, watch=stopwatch(device))
                add(size(SHAPES[2]) + ", channels last", times, floors=[CAST])
                half = torch.randn(SHAPES[2], device=device, dtype=torch.bfloat16)
                times = in_turns(cases(half), seconds=seconds, watch=stopwatch(device))
                add(size(SHAPES[2]) + ", bfloat16", times, floors=[CAST])
        torch.set_num_threads(1)
        if quick:
            continue
        add = results.table(
            f"Pixels, compiled, {'GPU' if device == 'cuda' else '1 thread'}",
            "The cast is not compiled.",
        )
        for shape in SHAPES[1:3]:
            torch._dynamo.reset()
            z = torch.randn(shape, device=device)
            compiled: dict[str, Callable[[], Tensor]] = {}
            for name, chain in chains().items():
                f = torch.compile(chain, dynamic=False)
                compiled[name] = lambda f=f, z=z: f(z)
            compiled[CAST] = cases(z)[CAST]
            add(size(shape), in_turns(compiled, seconds=seconds, watch=stopwatch(device)), floors=[CAST])
    results.facts(
        "Levels that come back, of 3 × 256", [(name, restored(chain)) for name, chain in chains().items()]
    )
