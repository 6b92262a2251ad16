"""Forward and backward of each layer: torch.nn's fused kernel, ours, and two from scratch, side by side.

"Steps" are moments, normalize and denormalize one after the other, as `normtut.functional` has them in its
text; ours compute the same in the way of `normtut._eager`. "One-pass" is what people copy.

Inputs are those of ResNet-50 (batch 16) and of a Transformer. All candidates of a row take turns within one
run; a figure is the median over the turns, and a ratio is the median of the ratios of neighbouring turns,
so that whatever else the machine does meets all of them alike. On the CPU with one thread, the default, it
is processor time that is counted, which other processes disturb least; with more threads, time on the wall.

The last lines sum up each layer by the geometric mean of its ratios, and by the largest.

    python -m benchmarks layers
    python -m benchmarks.layers --quick     fewer turns, nothing compiled
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from unittest import mock

import torch
from torch import Tensor, nn

from normtut import functional, layers

RESNET = [(16, 64, 112, 112), (16, 256, 56, 56), (16, 512, 28, 28), (16, 1024, 14, 14), (16, 2048, 7, 7)]
TRANSFORMER = [(8, 512, 768), (32, 128, 512), (4, 512, 4096)]
CANDIDATES = ("torch", "ours", "steps", "one-pass")


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
    """Name, shape of the input, and a maker of the layer from "torch", "ours", "steps" or "one-pass"."""

    def make(
        name: str, args: tuple[int, ...], scratch: Callable[[], nn.Module]
    ) -> Callable[[str], nn.Module]:
        libraries = {"torch": nn, "ours": layers, "steps": layers}

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


def _clock(device: str) -> Callable[[], float]:
    alone = device == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def _step(layer: nn.Module, x: Tensor, g: Tensor) -> None:
    x.grad = None
    layer.zero_grad(set_to_none=True)
    layer(x).backward(g)
    if x.is_cuda:
        torch.cuda.synchronize()


def compare(
    candidates: dict[str, nn.Module], shape: tuple[int, ...], turns: int, device: str
) -> dict[str, list[float]]:
    """Seconds of forward + backward, turn by turn."""
    x = torch.randn(shape, device=device, requires_grad=True)
    g = torch.randn(shape, device=device)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    clock = _clock(device)
    for turn in range(turns + 2):
        for name, layer in candidates.items():
            start = clock()
            _step(layer, x, g)
            if turn >= 2:
                seconds[name].append(clock() - start)
    return seconds


def _ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(p / q for p, q in zip(a, b, strict=True))


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks layers")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(list(argv))
    torch.set_num_threads(options.threads)
    turns = 5 if options.quick else options.turns
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        print(
            f"\nEager, forward + backward, {device}, {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}"
        )
        print(
            f"{'layer':16}{'input':22}{'torch.nn':>10}{'normtut':>10}{'ratio':>8}{'steps':>11}{'ratio':>8}"
            f"{'one-pass':>10}{'ratio':>8}"
        )
        ratios: dict[str, list[float]] = {}
        for name, shape, make in rows():
            t = compare({k: make(k).to(device) for k in CANDIDATES}, shape, turns, device)
            ratios.setdefault(name, []).append(_ratio(t["ours"], t["torch"]))
            ms = {k: f"{1e3 * statistics.median(v):.2f} ms" for k, v in t.items()}
            print(
                f"{name:16}{'×'.join(map(str, shape)):22}{ms['torch']:>10}{ms['ours']:>10}"
                f"{ratios[name][-1]:>8.2f}{ms['steps']:>11}{_ratio(t['steps'], t['torch']):>8.2f}"
                f"{ms['one-pass']:>10}{_ratio(t['one-pass'], t['torch']):>8.2f}",
                flush=True,
            )
        print("\nRatio of each layer over its inputs")
        for name, found in ratios.items():
            print(f"{name:16}mean {statistics.geometric_mean(found):.2f}, largest {max(found):.2f}")
        if options.quick:
            continue
        print(f"\nUnder torch.compile, {device}")
        print(f"{'layer':16}{'input':22}{'torch.nn':>10}{'normtut':>10}{'ratio':>8}")
        for name, shape, make in rows():
            if shape not in (RESNET[2], TRANSFORMER[0]):
                continue
            torch._dynamo.reset()
            compiled = {k: torch.compile(make(k).to(device), fullgraph=True) for k in ("torch", "ours")}
            t = compare(compiled, shape, turns, device)
            ms = {k: f"{1e3 * statistics.median(v):.2f} ms" for k, v in t.items()}
            print(
                f"{name:16}{'×'.join(map(str, shape)):22}{ms['torch']:>10}{ms['ours']:>10}"
                f"{_ratio(t['ours'], t['torch']):>8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
