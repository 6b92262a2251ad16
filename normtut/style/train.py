"""Train the style network: ``python -m normtut.style.train --content DIR --style DIR --out DIR``.

Everything that happens in a step follows from (seed, step, rank) and the weights before it, so a run that was
killed and started again with the same command ends with the very weights of one that was not. Other settings
mean another run: ``--start`` begins one, in a folder of its own, from the checkpoint of an earlier one.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import sys
import time
import typing
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from normtut.files import FileError, read_image
from normtut.style.losses import Teacher, color_distance, content_distance, style_distance
from normtut.style.network import StyleNetwork

__all__ = ["Config", "Images", "main", "train"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
PAIRINGS = 2  # how often a step paints each content, each time with another style: what is seen is shared


@dataclass
class Config:
    """What a run is: folders, budget, loss weights.

    >>> Config("photos", "paintings", "run", steps=100).lr
    0.001

    Args:
        content: folder of the pictures to paint, with its subfolders.
        style: folder of the pictures to paint them like.
        out: folder for checkpoints, the log, sample pictures and the weights; a run that it holds goes on.
        teacher: file of VGG weights; without it torchvision's VGG-19.
        start: checkpoint of another run to go on from, at step 0 of this one.
        steps: over which the learning rate falls.
        stop: end after this many of them.
        batch: contents and styles per step and process.
        crop: side of the crops, in pixels.
        smallest: crops show from this part of a picture's shorter side to all of it.
        enlarge: those that have fewer pixels than a crop; if not, pictures are mirrored instead.
        lr: learning rate at first; it falls along a cosine.
        lr_end: learning rate at the end.
        style_weight: of the style loss, beside the content loss.
        layer_weights: of relu1_1, relu2_1, relu3_1 and relu4_1 in the style loss.
        color_weight: of the pixels' covariance in the style loss.
        smooth_weight: total variation where the content is smooth.
        range_weight: for leaving [0, 1].
        same_weight: for changing a picture whose style is its own.
        same: part of such pairs.
        ema: share of itself that the average of the weights, the result, keeps in a step.
        seed: of the crops, the pairs and the first weights.
        save_every: seconds between checkpoints.
        workers: processes that prepare crops.
        device: to train on; CUDA if there is one, else the CPU.
        amp: convolutions in bfloat16; by default on CUDA.
    """

    content: str
    style: str
    out: str
    teacher: str | None = None
    start: str | None = None
    steps: int = 40_000
    stop: int | None = None
    batch: int = 4
    crop: int = 256
    smallest: float = 0.45
    enlarge: bool = True
    lr: float = 1e-3
    lr_end: float = 1e-5
    style_weight: float = 4.0
    layer_weights: str = "0.5,0.75,1,1"
    color_weight: float = 0.0
    smooth_weight: float = 0.2
    range_weight: float = 10.0
    same_weight: float = 5.0
    same: float = 0.06
    ema: float = 0.999
    seed: int = 0
    save_every: float = 120.0
    workers: int = 2
    device: str | None = None
    amp: bool | None = None


class Images:
    """A folder of pictures, and random square crops of them. Decoded pictures are kept while they fit."""

    def __init__(
        self, folder: str | Path, *, smallest: float, enlarge: bool = True, keep_bytes: int = 2**29
    ) -> None:
        self.files = sorted(
            p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
        )
        if not self.files:
            raise FileNotFoundError(f"no images ({', '.join(sorted(SUFFIXES))}) in {folder}")
        self.smallest = smallest
        self.enlarge = enlarge
        self.keep_bytes = keep_bytes
        self.kept: dict[int, Tensor | None] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | None:
        """One picture, uint8 (3, H, W); None, and a word about it once, where it cannot be read."""
        if index in self.kept:
            return self.kept[index]
        picture = None
        try:
            image = read_image(self.files[index], alpha="white", srgb=True).eight_bit().convert("RGB")
            picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        except FileError as error:
            tqdm.write(f"skipped {error}", file=sys.stderr)
        size = 0 if picture is None else picture.numel()
        if size <= self.keep_bytes:
            self.keep_bytes -= size
            self.kept[index] = picture
        return picture

    def crop(self, rng: np.random.Generator, size: int) -> Tensor:
        """A random crop, float (3, size, size) in [0, 1]."""
        for _ in range(20):
            picture = self[int(rng.integers(len(self.files)))]
            if picture is not None:
                break
        else:
            raise OSError("20 unreadable images in a row")
        short = min(picture.shape[1:])
        side = min(short, max(8, round(short * rng.uniform(self.smallest, 1))))
        if not self.enlarge and side < size:  # enlarged pictures are blurred, and teach no fine strokes
            side = round(size * rng.uniform(1, 1.5))
        rows, columns = (_mirrored(n, side, rng) for n in picture.shape[1:])
        patch = picture[:, rows][:, :, columns].float() / 255
        patch = F.interpolate(patch[None], size=(size, size), mode="bilinear", antialias=True)[0]
        return (patch.flip(2) if rng.random() < 0.5 else patch).clamp(0, 1)


def _mirrored(n: int, side: int, rng: np.random.Generator) -> Tensor:
    """Indices of ``side`` neighbours out of n, from a random place; beyond the end they turn back."""
    start = int(rng.integers(max(n - side, 0) + 1))
    turn = (torch.arange(side) + start) % (2 * n)
    return torch.minimum(turn, 2 * n - 1 - turn)


def recolour(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Another palette: channels exchanged, hues turned, contrast and brightness changed."""
    if rng.random() < 0.3:
        x = x[torch.from_numpy(rng.permutation(3))]
    if rng.random() < 0.5:  # a rotation about the grey axis (Rodrigues' formula)
        angle = rng.uniform(-np.pi, np.pi)
        c, s = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
        a = math.cos(angle) + c
        turn = x.new_tensor([[a, c - s, c + s], [c + s, a, c - s], [c - s, c + s, a]])
        x = torch.einsum("ij,jhw->ihw", turn, x)
    if rng.random() < 0.5:
        gray = x.mean(0, keepdim=True)
        x = gray + (x - gray) * rng.uniform(0.3, 1.5)
        x = 0.5 + (x - 0.5) * rng.uniform(0.6, 1.4) + rng.uniform(-0.15, 0.15)
    return x.clamp(0, 1)


def degrade(x: Tensor, rng: np.random.Generator) -> Tensor:
    """What cameras and the web do to photographs: blur, noise, the blocks of JPEG."""
    h, w = x.shape[1:]
    if rng.random() < 0.2:
        scale = rng.uniform(0.5, 0.95)
        small = F.interpolate(x[None], scale_factor=scale, mode="bilinear", antialias=True)
        x = F.interpolate(small, size=(h, w), mode="bilinear")[0]
    if rng.random() < 0.3:
        noise = rng.standard_normal(x.shape, np.float32) * rng.uniform(0.005, 0.04)
        x = (x + torch.from_numpy(noise)).clamp(0, 1)
    if rng.random() < 0.85:
        dy, dx = (int(k) for k in rng.integers(8, size=2))  # the blocks may begin anywhere
        shifted = (x.roll((dy, dx), (1, 2)) * 255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(shifted).save(buffer, "JPEG", quality=int(rng.integers(30, 96)))
        decoded = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255
        x = decoded.roll((-dy, -dx), (1, 2))
    return x


class Crops(Dataset[tuple[Tensor, ...]]):
    """What each step is given: contents, the same degraded, and styles; uint8 (batch, 3, crop, crop) each."""

    def __init__(self, config: Config, rank: int) -> None:
        self.config, self.rank = config, rank
        self.contents, self.styles = (
            Images(folder, smallest=config.smallest, enlarge=config.enlarge)
            for folder in (config.content, config.style)
        )

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        c = self.config
        key = [c.seed, step, self.rank]
        contents, degraded, styles = [], [], []
        for i in range(c.batch):
            rng = np.random.default_rng([*key, 0, i])
            clean = self.contents.crop(rng, c.crop)
            if rng.random() < 0.3:
                clean = recolour(clean, rng)
            contents.append(clean)
            degraded.append(degrade(clean, rng))
            rng = np.random.default_rng([*key, 1, i])
            patch = recolour(self.styles.crop(rng, c.crop), rng)
            styles.append(patch.rot90(int(rng.integers(4)), (1, 2)))
        return tuple((torch.stack(x) * 255).round().byte() for x in (contents, degraded, styles))


def smoothness(content: Tensor) -> Tensor:
    """1 where a picture is smooth, 0 where it has edges or texture, and at its border; (N, 1, H, W)."""
    gray = content.mean(1, keepdim=True)
    spread = (F.avg_pool2d(gray.square(), 9, 1, 4) - F.avg_pool2d(gray, 9, 1, 4).square()).clamp(0)
    return (-spread / 0.02**2).exp()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    try:
        train(_parse(argv))
    except (OSError, ValueError) as error:
        # What a process that makes crops cannot read comes with its traceback; the last line says it all.
        words = str(error).rpartition("\nOSError: ")[2].strip()
        raise SystemExit(f"normtut.style.train: {words}") from error


def train(config: Config) -> Path:
    """Train, or go on from the checkpoint in ``config.out``; returns the path of the final weights.

    Under ``torchrun … -m -- normtut.style.train …`` every process trains on its own crops, and gradients are
    averaged. (Without the two dashes torchrun takes ``--start`` for an option of its own.)

    Raises:
        FileNotFoundError: where there are no pictures, no teacher or no checkpoint to start from.
        ValueError: for impossible settings; for a checkpoint that is none, or was made with other settings.
    """
    _check(config)
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
        self.crops = Crops(config, self.rank)
        self.amp = device.type == "cuda" if config.amp is None else config.amp
        self.teacher = Teacher.load(config.teacher).to(device, torch.bfloat16 if self.amp else torch.float32)
        self.teacher.to(memory_format=torch.channels_last)
        torch.manual_seed(config.seed)
        self.network = StyleNetwork().to(device).to(memory_format=torch.channels_last)
        self.average = StyleNetwork().to(device)  # of the weights, over the last thousand steps
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True
        )
        self.layer_weights = _four(config.layer_weights)
        self.step = 0
        self.seconds = 0.0
        self._resume()
        self.parallel: nn.Module = self.network
        if distributed:
            self.parallel = DistributedDataParallel(
                self.network, device_ids=[device.index] if device.type == "cuda" else None
            )

    # ---- the loop

    def train(self) -> Path:
        c = self.config
        bar = tqdm(total=c.steps, initial=self.step, disable=None if self.rank == 0 else True, smoothing=0.05)
        end = min(c.steps, c.steps if c.stop is None else c.stop)
        last = saved = time.monotonic()
        sums: dict[str, Tensor] = {}  # on the device: to read a number there is to wait for it
        loader = DataLoader(
            self.crops,
            batch_size=None,
            sampler=range(self.step, end),
            num_workers=c.workers,
            pin_memory=self.device.type == "cuda",
        )
        for crops in loader:
            losses = self._train_step(self.step, crops)
            self.step += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            bar.update()
            if self.step % 50 == 0:
                means = {k: v.item() / 50 for k, v in sums.items()}
                self._log({"step": self.step, "seconds": self.seconds, **means})
                bar.set_postfix({k: f"{v:.2f}" for k, v in means.items()}, refresh=False)
                sums = {}
            if now - saved > c.save_every:
                self._save()
                saved = time.monotonic()
        bar.close()
        self._save()
        return self.out / "style.safetensors"

    def _lr(self, step: int) -> float:
        c = self.config
        warmup = min(1.0, (step + 1) / 200)
        return warmup * (c.lr_end + (c.lr - c.lr_end) * 0.5 * (1 + math.cos(math.pi * step / c.steps)))

    def _train_step(self, step: int, crops: tuple[Tensor, ...]) -> dict[str, Tensor]:
        config, n = self.config, len(crops[0])
        rng = np.random.default_rng([config.seed, step, self.rank, 2])
        clean, given, styles = (
            x.to(self.device, non_blocking=True).to(memory_format=torch.channels_last) / 255 for x in crops
        )
        # A shift of the grid on which the teacher pools, so that nothing learns where it lies.
        dy, dx = (int(k) for k in rng.integers(8, size=2))
        average = bool(rng.random() < 0.5)
        with torch.no_grad():
            look = self.teacher(torch.cat([clean, styles])[..., dy:, dx:], average=average)
        # A flat crop has next to no variance to be measured in; half of the scale is the step's average.
        look = look._replace(variances=[(v + v.mean()) / 2 for v in look.variances])
        contents = np.tile(np.arange(n), PAIRINGS)
        like = n + np.concatenate([np.roll(np.arange(n), -k) for k in range(PAIRINGS)])
        own = rng.random(n * PAIRINGS) < config.same  # a picture in its own style has to come back unchanged
        c = torch.from_numpy(contents).to(self.device)
        s = torch.from_numpy(np.where(own, contents, like)).to(self.device)
        same = torch.from_numpy(own).to(self.device)

        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            painted = self.parallel(given[c], torch.cat([clean, styles])[s])
        seen = self.teacher(painted[..., dy:, dx:], average=average)
        content_loss = content_distance(seen, look.of(c)).mean()
        style_loss = style_distance(seen, look.of(s), self.layer_weights).mean()
        color_loss = color_distance(painted, torch.cat([clean, styles])[s]).mean()
        flat = smoothness(clean)[c]
        tv = (painted.diff(dim=2).abs() * flat[..., 1:, :]).mean()
        tv = tv + (painted.diff(dim=3).abs() * flat[..., 1:]).mean()
        outside = (painted - painted.clamp(0, 1)).square().mean()
        changed = ((painted - clean[c]).abs().mean((1, 2, 3)) * same).mean()
        loss = content_loss + config.style_weight * style_loss + config.smooth_weight * tv
        loss = loss + config.range_weight * outside + config.same_weight * changed
        loss = loss + config.color_weight * color_loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        decay = min(config.ema, (1 + step) / (10 + step)) if config.start is None else config.ema
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.network.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        named = {
            "content": content_loss, "style": style_loss, "color": color_loss, "smooth": tv,
            "outside": outside, "loss": loss,
        }  # fmt: skip
        return {k: v.detach() for k, v in named.items()}

    # ---- what is written

    def _save(self) -> None:
        if self.rank:
            return
        from safetensors.torch import save_file

        state = {
            "config": asdict(self.config), "step": self.step, "seconds": self.seconds,
            "network": self.network.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        weights = {k: v.contiguous().cpu() for k, v in self.average.state_dict().items()}
        _write(self.out / "checkpoint.pth", lambda path: torch.save(state, path))
        _write(self.out / "style.safetensors", lambda path: save_file(weights, path))
        self._sheet()

    def _resume(self) -> None:
        own = self.out / "checkpoint.pth"
        path = own if own.exists() or self.config.start is None else Path(self.config.start)
        if not path.exists():
            if path is own:
                return
            raise FileNotFoundError(f"there is no checkpoint {path} to start from")
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            # A run may begin with a network that has grown since: what is new keeps its first weights.
            grown = self.network.load_state_dict(state["network"], strict=path is own)
            if grown.unexpected_keys:
                raise ValueError(f"unexpected {', '.join(grown.unexpected_keys)}")
            self.average.load_state_dict(self.network.state_dict())
            self.average.load_state_dict(state["average"], strict=False)
            if not grown.missing_keys:
                self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # torch.load raises what its decoders raise
            raise ValueError(f"{path} is no checkpoint of this network: {error}") from error
        if path is own:
            free = ("stop", "save_every", "workers")  # which change no weight
            changed = [
                k for k, v in asdict(self.config).items() if k not in free and state["config"].get(k) != v
            ]
            if changed:
                raise ValueError(
                    f"{path} was made with another {', '.join(changed)}; begin a run of your own with "
                    f"--start {path} and another --out"
                )
            self.step, self.seconds = state["step"], state["seconds"]
        if self.rank == 0:
            print(f"going on from {path}, at step {self.step}", file=sys.stderr)

    def _sheet(self) -> None:
        """A page of samples: contents down, styles across, painted by the averaged weights."""
        contents = torch.stack(
            [self.crops.contents.crop(np.random.default_rng([99, i]), 256) for i in range(3)]
        )
        styles = torch.stack([self.crops.styles.crop(np.random.default_rng([98, i]), 256) for i in range(5)])
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


def _write(path: Path, write: typing.Callable[[Path], object]) -> None:
    """Write beside and move over: a kill leaves the old file or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors writes for the owner alone
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer answers a full disk with a RuntimeError
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path} (is the disk full?): {error}") from error


def _four(numbers: str) -> list[float]:
    try:
        a, b, c, d = map(float, numbers.split(","))
    except ValueError:
        raise ValueError(f"--layer-weights must be four numbers, got {numbers}") from None
    return [a, b, c, d]


def _check(config: Config) -> None:
    least = {"steps": 1, "batch": 1, "crop": 32, "workers": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            raise ValueError(f"--{name} must be at least {value}, got {getattr(config, name)}")
    _four(config.layer_weights)
    if not 0 < config.smallest <= 1:
        raise ValueError(f"--smallest must be above 0 and at most 1, got {config.smallest}")


def _parse(argv: Sequence[str] | None) -> Config:
    parser = argparse.ArgumentParser(
        "python -m normtut.style.train",
        description="Train the style network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    types = typing.get_type_hints(Config)
    said = dict(re.findall(r"^ {8}(\w+): (.+)\.$", Config.__doc__ or "", re.MULTILINE))
    for f in fields(Config):
        flag = "--" + f.name.replace("_", "-")
        kinds = [t for t in typing.get_args(types[f.name]) if t is not type(None)] or [types[f.name]]
        options: dict[str, Any] = {"help": said.get(f.name)}
        if f.default is MISSING:
            options |= {"required": True, "default": argparse.SUPPRESS}
        else:
            options["default"] = f.default
        if kinds == [bool]:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            parser.add_argument(flag, type=kinds[0], **options)
    return Config(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
