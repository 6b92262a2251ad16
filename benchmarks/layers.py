"""Forward and backward of each layer: torch.nn's fused kernel, ours, and two from scratch.

"Steps" are moments, normalize and denormalize one after the other, as `normtut.functional` has them in its
text; ours compute the same in the way of `normtut._eager`. "One-pass" is what people copy: the variance as
E[x²] − E[x]². Inputs are those of ResNet-50 (batch 16) and of a Transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from unittest import mock

import torch
from torch import Tensor, nn

from normtut import functional, layers

from ._measure import OURS, Results, in_turns, size, stopwatch

RESNET = [(16, 64, 112, 112), (16, 256, 56, 56), (16, 512, 28, 28), (16, 1024, 14, 14), (16, 2048, 7, 7)]
TRANSFORMER = [(8, 512, 768), (32, 128, 512), (4, 512, 4096)]
CANDIDATES = ("torch.nn", OURS, "steps", "one-pass")


class OnePass(nn.Module):
    """What people copy: the variance as E[x²] − E[x]², and autograd for the rest."""

    def __init__(self, dim: tuple[int, ...], shape: tuple[int, ...], groups: int = 1) -> None:
        super().__init__()
        self.dim, self.groups = dim, groups
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        g = x if self.groups == 1 else x.view(x.shape[0], self.groups, -1, *x.shape[2:])
        mean = g.mean(self.dim, keepdim=True)
        var = (g**2).mean(self.dim, keepdim=True) - mean**2
        z = ((g - mean) / torch.sqrt(var + 1e-5)).view(x.shape)
        return self.weight * z + self.bias


class OnePassRMS(OnePass):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x / torch.sqrt((x**2).mean(self.dim, keepdim=True) + 1e-5))


class Steps(nn.Module):
    """A layer of ours without `normtut._eager`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with mock.patch.object(functional, "_three_steps", functional._three_steps.__wrapped__):
            y: Tensor = self.layer(x)
        return y


def rows() -> list[tuple[str, tuple[int, ...], Callable[[str], nn.Module]]]:
    """Name, shape of the input, and a maker of the layer from one of the `CANDIDATES`."""

    def make(
        name: str, args: tuple[int, ...], scratch: Callable[[], nn.Module]
    ) -> Callable[[str], nn.Module]:
        libraries = {"torch.nn": nn, OURS: layers, "steps": layers}

        def candidate(who: str) -> nn.Module:
            if who == "one-pass":
                return scratch()
            layer: nn.Module = getattr(libraries[who], name)(*args)
            return Steps(layer) if who == "steps" else layer

        return candidate

    found: list[tuple[str, tuple[int, ...], Callable[[str], nn.Module]]] = []
    for shape in RESNET:
        c = shape[1]
        found += [
            ("BatchNorm2d", shape, make("BatchNorm2d", (c,), lambda c=c: OnePass((0, 2, 3), (c, 1, 1)))),
            ("InstanceNorm2d", shape, make("InstanceNorm2d", (c,), lambda c=c: OnePass((2, 3), (c, 1, 1)))),
            ("GroupNorm", shape, make("GroupNorm", (32, c), lambda c=c: OnePass((2, 3, 4), (c, 1, 1), 32))),
        ]
    for shape in TRANSFORMER:
        d = shape[-1]
        found += [
            ("LayerNorm", shape, make("LayerNorm", (d,), lambda d=d: OnePass((-1,), (d,)))),
            ("RMSNorm", shape, make("RMSNorm", (d,), lambda d=d: OnePassRMS((-1,), (d,)))),
        ]
    return found


def step(layer: nn.Module, x: Tensor, g: Tensor) -> None:
    """Forward and backward."""
    x.grad = None
    layer.zero_grad(set_to_none=True)
    layer(x).backward(g)


def compare(
    candidates: Mapping[str, nn.Module],
    shape: tuple[int, ...],
    seconds: float,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, list[float]]:
    x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
    g = torch.randn(shape, device=device, dtype=dtype)
    cases = {name: lambda layer=layer: step(layer, x, g) for name, layer in candidates.items()}
    return in_turns(cases, seconds=seconds, most=25, watch=stopwatch(device))


def run(results: Results, quick: bool = False) -> None:
    seconds = 0.5 if quick else 4.0
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        where = "GPU" if device == "cuda" else "1 thread"
        for dtype in (torch.float32, *([torch.bfloat16] if device == "cuda" else [])):
            kind = str(dtype).removeprefix("torch.")
            add = results.table(f"Layers, eager, forward and backward, {where}, {kind}")
            for name, shape, make in rows():
                found = {k: make(k).to(device, dtype) for k in CANDIDATES}
                add(f"{name}, {size(shape)}", compare(found, shape, seconds, device, dtype))
        if quick:
            continue
        add = results.table(f"Layers, compiled, forward and backward, {where}")
        for name, shape, make in rows():
            if shape not in (RESNET[2], TRANSFORMER[0]):
                continue
            torch._dynamo.reset()
            compiled = {k: torch.compile(make(k).to(device), fullgraph=True) for k in CANDIDATES[:2]}
            add(f"{name}, {size(shape)}", compare(compiled, shape, seconds, device))
