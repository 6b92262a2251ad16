"""Train a small network on several processes, with batch statistics shared between them, or not.

    torchrun --nproc-per-node 2 book/examples/train_sync.py --batch-size 2
    torchrun --nproc-per-node 2 book/examples/train_sync.py --batch-size 2 --no-sync

Each process takes its share of every batch; `--batch-size` is the share's size. Without torchrun it is plain
training. It runs on CUDA where there is one GPU for each process (nccl), on the CPU otherwise (gloo).
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.transforms import v2

import normtut
from normtut import data, layers

TO_INPUT = v2.Compose(
    [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        normtut.Normalize(*normtut.IMAGENET),
    ]
)


def network(classes: int) -> nn.Sequential:
    """Four convolutions, each followed by a batch norm."""
    blocks: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32), (32, 64)):
        blocks += [
            nn.Conv2d(before, after, 3, 2, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)
    )


def main() -> None:
    """Train, evaluate on the first process, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--batch-size", type=int, default=2, help="images for each process and step"
    )
    parser.add_argument(
        "--no-sync", action="store_true", help="each process keeps its batch norm to itself"
    )
    args = parser.parse_args()

    world_size = int(os.environ.get("WORLD_SIZE", 1))
    gpu = torch.cuda.device_count() >= world_size
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if gpu
        else torch.device("cpu")
    )
    if world_size > 1:
        dist.init_process_group("nccl" if gpu else "gloo")
    rank = dist.get_rank() if world_size > 1 else 0

    torch.manual_seed(0)  # the same initial weights everywhere
    patches = data.PhotoPatches(train=True, transform=TO_INPUT)
    model: nn.Module = network(len(patches.classes))
    if not args.no_sync:
        model = layers.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device)
    replica = DistributedDataParallel(model) if world_size > 1 else model
    sampler = DistributedSampler(patches, world_size, rank, seed=0)
    loader = DataLoader(patches, args.batch_size, sampler=sampler, drop_last=True)
    optimizer = torch.optim.SGD(replica.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = nn.functional.cross_entropy(
                replica(images.to(device)), labels.to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    if rank == 0:
        print(
            f"{world_size} processes, accuracy on the test patches: {accuracy(model, device):.3f}"
        )
    if world_size > 1:
        dist.destroy_process_group()


@torch.no_grad()
def accuracy(model: nn.Module, device: torch.device) -> float:
    """In eval mode, with the running statistics."""
    patches = data.PhotoPatches(train=False, transform=TO_INPUT)
    model.eval()
    right = sum(
        int((model(images.to(device)).argmax(1).cpu() == labels).sum())
        for images, labels in DataLoader(patches, 64)
    )
    return right / len(patches)


if __name__ == "__main__":
    main()
