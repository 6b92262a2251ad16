"""What synchronized batch norm costs: a training step in one process, in two, and in two that share."""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normtut import layers
from normtut.distributed import run_workers

from ._measure import Results

BATCH, STEPS, ROUNDS = 32, 2, 15
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


def seconds(rank: int, kinds: tuple[str, ...], rounds: int) -> dict[str, list[float]]:
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
    for round_ in range(rounds + 1):
        for kind in kinds:
            if world_size > 1:
                dist.barrier()
            start = time.perf_counter()
            for _ in range(STEPS):
                step(models[kind], optimizers[kind], x, target)
            if round_:  # the first round warms up
                times[kind].append((time.perf_counter() - start) / STEPS)
    return times


def sent(rank: int, channels: tuple[int, ...]) -> list[tuple[str, int]]:
    """Bytes that this process hands to the others in one step of a layer, counted while it does."""
    found = []
    for c in channels:
        layer, x = layers.SyncBatchNorm(c), torch.randn(4, c, 8, 8, requires_grad=True)
        with (
            mock.patch.object(dist, "all_gather", side_effect=dist.all_gather) as gather,
            mock.patch.object(dist, "all_reduce", side_effect=dist.all_reduce) as reduce,
        ):
            layer(x).sum().backward()
        handed = [call.args[1] for call in gather.call_args_list]
        handed += [call.args[0] for call in reduce.call_args_list]
        found.append((f"{c} channels", sum(t.numel() * t.element_size() for t in handed)))
    return found


def run(results: Results, quick: bool = False) -> None:
    rounds = 3 if quick else ROUNDS
    alone = run_workers(seconds, (("one process, BatchNorm",), rounds), world_size=1, timeout=600)[0]
    together = run_workers(seconds, (("DDP, BatchNorm", "DDP, SyncBatchNorm"), rounds), timeout=600)[0]
    add = results.table(
        "Synchronized batch norm",
        f"A training step of a network with {len(WIDTHS)} batch norms, {BATCH} images of 32 × 32 in all, "
        "two processes of one thread each.",
    )
    times = {**together, **alone}
    add(
        "a training step",
        times,
        ours="DDP, SyncBatchNorm",
        floors=["DDP, BatchNorm", "one process, BatchNorm"],
    )
    results.facts(
        "Bytes that each process sends for a synchronized layer and step",
        run_workers(sent, (tuple(dict.fromkeys(WIDTHS)),), timeout=600)[0],
    )
