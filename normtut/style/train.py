"""Train the style network: ``python -m normtut.style.train --content DIR --style DIR --out DIR``.

The teacher's view of the training images does not depend on the network, so it is shared: a *round* draws a
few contents and styles, looks at each once, and then paints them in several pairings. Everything that happens
in a round follows from (seed, round, rank), and checkpoints are written between rounds: a run that was killed
and resumed ends with the very weights of one that was not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from normtut.files import FileError, read_image
from normtut.style.losses import Look, Teacher, content_distance, style_distance
from normtut.style.network import StyleNetwork

__all__ = ["Config", "Images", "main", "train"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
PAIRINGS = 4  # how often a round shows each content, each time with another style
BATCHES = 8  # how many batches of contents a round draws


@dataclass
class Config:
    """What a run is: folders, budget, loss weights."""

    content: str
    style: str
    out: str
    teacher: str | None = None  #: file of VGG weights; without it torchvision's VGG-19
    steps: int = 40_000
    minutes: float | None = None  #: end by the clock instead of by ``steps``
    batch: int = 8  #: per process
    crop: int = 256
    large_from: float = 1.0  #: from this part of the run on: crops 1.5 times larger, batches halved
    smallest: float = 0.45  #: crops show from this part of a picture's shorter side to all of it
    lr: float = 1e-3
    style_weight: float = 4.0
    tv_weight: float = 0.05
    range_weight: float = 10.0
    same_weight: float = 5.0
    ema: float = 0.999
    seed: int = 0
    save_every: float = 120.0  #: seconds between checkpoints
    workers: int = 4
    device: str | None = None
    amp: bool = True  #: mixed precision, on CUDA


class Images:
    """A folder of pictures, and random square crops of them. Decoded pictures are kept while they fit."""

    def __init__(
        self, folder: str | Path, *, crop_scale: tuple[float, float], keep_bytes: int = 2**30
    ) -> None:
        self.files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self.files:
            raise FileNotFoundError(f"no images ({', '.join(sorted(SUFFIXES))}) in {folder}")
        self.crop_scale = crop_scale
        self.keep_bytes = keep_bytes
        self.kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """One picture, uint8 (3, H, W)."""
        if index in self.kept:
            return self.kept[index]
        image = read_image(self.files[index], alpha="white", srgb=True).eight_bit().convert("RGB")
        picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if picture.numel() <= self.keep_bytes:
            self.keep_bytes -= picture.numel()
            self.kept[index] = picture
        return picture

    def crop(self, seed: Sequence[int], size: int, *, recolor: bool = False) -> Tensor:
        """A random crop, float (3, size, size); with ``recolor``, sometimes with its channels exchanged."""
        rng = np.random.default_rng(seed)
        for _ in range(20):
            index = int(rng.integers(len(self.files)))
            try:
                picture = self[index]
                break
            except FileError as error:  # its message begins with the path
                tqdm.write(f"skipped {error}", file=sys.stderr)
        else:
            raise OSError("20 unreadable images in a row")
        short = min(picture.shape[1:])
        side = max(8, round(short * rng.uniform(*self.crop_scale)))
        side = min(side, short)
        top, left = (int(rng.integers(n - side + 1)) for n in picture.shape[1:])
        patch = picture[:, top : top + side, left : left + side].float() / 255
        patch = F.interpolate(patch[None], size=(size, size), mode="bilinear", antialias=True)[0]
        if rng.random() < 0.5:
            patch = patch.flip(2)
        if recolor and rng.random() < 0.25:
            patch = patch[torch.from_numpy(rng.permutation(3))]
        return patch.clamp(0, 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    train(_parse(argv))


def train(config: Config) -> Path:
    """Train, or resume from the checkpoint in ``config.out``; returns the path of the final weights.

    Under ``torchrun`` every process trains on its own crops, and gradients are averaged.
    """
    distributed = "RANK" in os.environ
    cuda = torch.cuda.is_available() and config.device in (None, "cuda")
    device = torch.device(config.device or ("cuda" if cuda else "cpu"))
    if distributed:
        if cuda:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        return _Run(config, device, distributed).train()
    finally:
        if distributed:
            dist.destroy_process_group()


class _Run:
    """The state of a run: everything that a checkpoint holds."""

    def __init__(self, config: Config, device: torch.device, distributed: bool) -> None:
        self.config, self.device = config, device
        self.rank = dist.get_rank() if distributed else 0
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.content = Images(config.content, crop_scale=(config.smallest, 1.0))
        self.style = Images(config.style, crop_scale=(config.smallest, 1.0))
        self.teacher = Teacher.load(config.teacher).to(device).to(memory_format=torch.channels_last)
        torch.manual_seed(config.seed)
        self.network = StyleNetwork().to(device).to(memory_format=torch.channels_last)
        self.average = StyleNetwork().to(device)  # of the weights, over the last thousand steps
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True
        )
        # bfloat16 has the range of float32; float16 needs its gradients scaled.
        self.amp = config.amp and device.type == "cuda"
        self.half = torch.bfloat16 if self.amp and torch.cuda.is_bf16_supported() else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp and self.half == torch.float16)
        self.round = self.step = 0
        self.seconds = 0.0
        self.parallel: nn.Module = self.network
        self._resume()
        if distributed:
            self.parallel = DistributedDataParallel(
                self.network, device_ids=[device.index] if device.type == "cuda" else None
            )

    # ---- the loop

    def train(self) -> Path:
        c = self.config
        total = c.steps if c.minutes is None else round(c.minutes * 60)
        bar = tqdm(total=total, initial=int(self._done() * total), unit="step" if c.minutes is None else "s",
                   disable=None if self.rank == 0 else True, smoothing=0.05)  # fmt: skip
        last = saved = time.monotonic()
        with ThreadPoolExecutor(max(1, c.workers)) as pool:
            ahead = self._draw(pool, self.round)
            while not self._finished():
                crops, ahead = [f.result() for f in ahead], self._draw(pool, self.round + 1)
                sums: dict[str, float] = {}
                for losses in self._round(crops):
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value
                self.round += 1
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                self._agree_on_time()
                steps = PAIRINGS * BATCHES
                means = {k: v / steps for k, v in sums.items()}
                self._log({"step": self.step, "seconds": round(self.seconds, 1), **means})
                bar.n = min(total, int(self._done() * total))
                bar.set_postfix({k: f"{v:.2f}" for k, v in means.items()}, refresh=True)
                if now - saved > c.save_every:
                    self._save()
                    saved = time.monotonic()
            for future in ahead:
                future.cancel()
        bar.close()
        self._save()
        return self.out / "style.safetensors"

    def _done(self) -> float:
        """The part of the run that lies behind, 0 … 1."""
        c = self.config
        return min(1.0, self.step / c.steps if c.minutes is None else self.seconds / (60 * c.minutes))

    def _finished(self) -> bool:
        return self._done() >= 1

    def _lr(self) -> float:
        warmup = min(1.0, (self.step + 1) / 200)
        return self.config.lr * warmup * max(0.01, 0.5 * (1 + math.cos(math.pi * self._done())))

    def _shape(self) -> tuple[int, int]:
        """Batch and crop size: late in the run, fewer and larger crops at about the same price."""
        c = self.config
        return (max(1, c.batch // 2), c.crop * 3 // 2) if self._done() >= c.large_from else (c.batch, c.crop)

    def _draw(self, pool: ThreadPoolExecutor, round_: int) -> list[Future[Tensor]]:
        batch, size = self._shape()
        c, n = self.config, batch * BATCHES
        key = [c.seed, round_, self.rank]
        contents = [pool.submit(self.content.crop, [*key, 0, i], size) for i in range(n)]
        return contents + [pool.submit(self.style.crop, [*key, 1, i], size, recolor=True) for i in range(n)]

    def _round(self, crops: list[Tensor]) -> Iterator[dict[str, float]]:
        n = len(crops) // 2
        batch = n // BATCHES
        pictures = torch.stack(crops).to(self.device, memory_format=torch.channels_last)
        with torch.no_grad(), self._autocast():
            seen = [self.teacher(chunk) for chunk in torch.split(pictures, batch)]
        looks = Look(
            torch.cat([s.features for s in seen]),
            [torch.cat(layer) for layer in zip(*(s.statistics for s in seen), strict=True)],
            [torch.cat(layer) for layer in zip(*(s.variances for s in seen), strict=True)],
        )
        # A flat crop has next to no variance to be measured in; half of the scale is the round's average.
        looks = looks._replace(variances=[(v + v.mean()) / 2 for v in looks.variances])
        rng = np.random.default_rng([self.config.seed, self.round, self.rank, 2])
        for _ in range(PAIRINGS):
            contents, styles = rng.permutation(n), n + rng.permutation(n)
            same = rng.random(n) < 1 / 16  # an image in its own style has to come back unchanged
            styles = np.where(same, contents, styles)
            for i in range(0, n, batch):
                c, s = (torch.from_numpy(k[i : i + batch]).to(self.device) for k in (contents, styles))
                yield self._step(pictures[c], pictures[s], looks.of(c), looks.of(s), same=c == s)

    def _step(self, content: Tensor, style: Tensor, at: Look, like: Look, same: Tensor) -> dict[str, float]:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr()
        with self._autocast():
            painted = self.parallel(content, style).float()
            look = self.teacher(painted)
        content_loss, style_loss = content_distance(look, at).mean(), style_distance(look, like).mean()
        tv = painted.diff(dim=2).abs().mean() + painted.diff(dim=3).abs().mean()
        outside = (painted - painted.clamp(0, 1)).square().mean()
        changed = ((painted - content).abs().mean((1, 2, 3)) * same).mean()
        loss = content_loss + config.style_weight * style_loss
        loss = loss + config.tv_weight * tv + config.range_weight * outside + config.same_weight * changed
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.network.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        return {"content": content_loss.item(), "style": style_loss.item(), "loss": loss.item()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.half if self.amp else torch.bfloat16, enabled=self.amp)

    def _agree_on_time(self) -> None:
        """Clocks differ between processes; the learning rate and the end must not."""
        if self.config.minutes is not None and dist.is_initialized():
            seconds = torch.tensor(self.seconds, dtype=torch.float64, device=self.device)
            dist.broadcast(seconds, 0)
            self.seconds = seconds.item()

    # ---- what is written

    def _save(self) -> None:
        if self.rank:
            return
        from safetensors.torch import save_file

        state = {
            "config": asdict(self.config), "round": self.round, "step": self.step, "seconds": self.seconds,
            "network": self.network.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
        }  # fmt: skip
        # Written beside and moved over: a kill leaves the old checkpoint or the new one, never half of one.
        torch.save(state, self.out / "checkpoint.tmp")
        os.replace(self.out / "checkpoint.tmp", self.out / "checkpoint.pth")
        weights = {k: v.contiguous().cpu() for k, v in self.average.state_dict().items()}
        save_file(weights, self.out / "style.tmp")
        os.replace(self.out / "style.tmp", self.out / "style.safetensors")
        self._sheet()

    def _resume(self) -> None:
        path = self.out / "checkpoint.pth"
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.round, self.step, self.seconds = state["round"], state["step"], state["seconds"]
        changed = [k for k, v in asdict(self.config).items() if state["config"].get(k) != v]
        if self.rank == 0:
            note = f"; changed since: {', '.join(changed)}" if changed else ""
            print(f"resuming {path} at step {self.step}{note}", file=sys.stderr)

    def _sheet(self) -> None:
        """A page of samples: contents down, styles across, painted by the averaged weights."""
        contents = torch.stack([self.content.crop([99, i], 256) for i in range(3)])
        styles = torch.stack([self.style.crop([98, i], 256) for i in range(5)])
        rows = [torch.cat([torch.ones(3, 256, 256), *styles], dim=2)]
        with torch.inference_mode():
            for content in contents:
                painted = [
                    self.average(content[None].to(self.device), s[None].to(self.device)) for s in styles
                ]
                rows.append(torch.cat([content, *(p[0].cpu().clamp(0, 1) for p in painted)], dim=2))
        sheet = (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0).numpy()
        (self.out / "samples").mkdir(exist_ok=True)
        Image.fromarray(sheet).save(self.out / "samples" / f"step-{self.step:06d}.jpg", quality=85)

    def _log(self, row: dict[str, float]) -> None:
        if self.rank == 0:
            with open(self.out / "log.jsonl", "a") as log:
                log.write(json.dumps({k: round(v, 4) for k, v in row.items()}) + "\n")


def _parse(argv: Sequence[str] | None) -> Config:
    parser = argparse.ArgumentParser("python -m normtut.style.train", description="Train the style network.")
    hints = get_type_hints(Config)
    for f in fields(Config):
        flag = "--" + f.name.replace("_", "-")
        if f.name == "amp":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=True)
        elif f.default is f.default_factory is not None:
            parser.add_argument(flag, required=True)
        else:
            required = f.name in ("content", "style", "out")
            kind = next(t for t in (*get_args(hints[f.name]), hints[f.name]) if t is not type(None))
            parser.add_argument(flag, type=kind, required=required, default=None if required else f.default)
    return Config(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
