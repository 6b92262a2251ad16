"""What synchronized batch norm costs: a training step in one process, in two, and in two that share."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normtut import layers
from normtut.distributed import run_workers

BATCH, STEPS, ROUNDS = 32, 2, 7
WIDTHS = (16, 32, 64, 64, 128, 128)


def network() -> nn.Sequential:
    blocks: list[nn.Module] = []
    for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
        blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 11))


def step(model: nn.Module, optimizer: Any, x: torch.Tensor, target: torch.Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), target).backward()
    optimizer.step()


def seconds(rank: int, kinds: tuple[str, ...]) -> dict[str, list[float]]:
    """Of one step, by kind, several times in turn."""
    world_size = dist.get_world_size()
    x, target = torch.randn(BATCH // world_size, 3, 32, 32), torch.randint(11, (BATCH // world_size,))
    models: dict[str, nn.Module] = {}
    for kind in kinds:
        torch.manual_seed(0)
        model: nn.Module = network()
        if kind == "DDP, SyncBatchNorm":
            model = layers.SyncBatchNorm.convert_sync_batchnorm(model)
        models[kind] = model if world_size == 1 else DistributedDataParallel(model)
    optimizers = {k: torch.optim.SGD(m.parameters(), lr=0.01) for k, m in models.items()}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round_ in range(ROUNDS + 1):
        for kind in kinds:
            if world_size > 1:
                dist.barrier()
            start = time.perf_counter()
            for _ in range(STEPS):
                step(models[kind], optimizers[kind], x, target)
            if round_:  # the first round warms up
                times[kind].append((time.perf_counter() - start) / STEPS)
    return times


def main() -> None:
    """Print the table."""
    alone = run_workers(seconds, (("one process, BatchNorm",),), world_size=1, timeout=600)[0]
    together = run_workers(seconds, (("DDP, BatchNorm", "DDP, SyncBatchNorm"),), timeout=600)[0]
    medians = {kind: statistics.median(t) for kind, t in {**alone, **together}.items()}
    print(f"\n{len(WIDTHS)} batch norms, {BATCH} images of 32 × 32 in all, CPU, one thread for each process")
    print(f"{'':26}{'ms a step':>10}{'ratio':>8}")
    for kind, median in medians.items():
        print(f"{kind:26}{1e3 * median:10.1f}{median / medians['DDP, BatchNorm']:8.2f}")
    sent = {c: 3 * 8 + 2 * c * 4 + 2 * c * 4 for c in WIDTHS}
    print(f"bytes that each rank sends for a layer and step, by channels: {sent}")


if __name__ == "__main__":
    main()
