"""Make the pictures of the landing page, `book/_assets/landing/`, and the share image, `book/_assets/share.png`.

`python book/_tools/landing.py` writes them; they are committed, since a build runs no network. Everything is made
from pictures that come with scikit-image (in the public domain, or CC0) and from those that this book draws.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from normtut import data, denormalize, layers, moments, normalize, to_uint8
from normtut.book import axes
from normtut.book.palette import COLORS
from normtut.experiments import results

ASSETS = Path(__file__).resolve().parents[1] / "_assets"
PHOTOS = ("cat", "rocket", "coffee", "astronaut")
STYLES = ("strokes", "waves", "planes", "marble", "retina")
NIGHT = "#0f2238"
BLUE, ORANGE, GREEN, PINK, SKY = COLORS[:5]


# --- pictures in, pictures out ------------------------------------------------------------------------------


def source(name: str) -> Tensor:
    """A photograph or a drawing, (3, H, W), 0 to 1."""
    get = data.photos if name in (*PHOTOS, "retina") else data.styles
    return get(name)[name] / 255


def fit(x: Tensor, width: int, height: int, top: float = 0.5) -> Tensor:
    """The picture, cut to these proportions and resized; `top` says from where: 0 above, 1 below."""
    scale = max(width / x.shape[2], height / x.shape[1])
    size = round(x.shape[1] * scale), round(x.shape[2] * scale)
    x = F.interpolate(x[None], size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    y0, x0 = round((size[0] - height) * top), (size[1] - width) // 2
    return x[:, y0 : y0 + height, x0 : x0 + width]


def with_statistics(x: Tensor, style: Tensor) -> Tensor:
    """AdaIN on pixels: normalize with the picture's own six numbers, denormalize with those of another."""
    return denormalize(normalize(x, *moments(x, (1, 2))), *moments(style, (1, 2)))


def image(x: Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(x).permute(1, 2, 0).numpy())


def statistics(name: str) -> str:
    """Six numbers as the page reads them: three means, three standard deviations."""
    return ",".join(
        f"{v:.4f}" for s in moments(source(name).double(), (1, 2)) for v in s.flatten()
    )


def four_states(width: int, height: int) -> list[Tensor]:
    """The cat: itself, normalized as imshow clips it, normalized and rescaled, and in the numbers of strokes."""
    cat = fit(source("cat"), width, height)
    z = normalize(cat, *moments(cat, (1, 2)))
    rescaled = (z - z.min()) / (z.max() - z.min())
    return [
        cat,
        z.clamp(0, 1),
        rescaled,
        with_statistics(cat, source("strokes")).clamp(0, 1),
    ]


# --- the cards ----------------------------------------------------------------------------------------------

W, H = 400, 225


def drawing(draw: Callable[[Figure], None]) -> Image.Image:
    """What `draw` puts on a dark figure of the size of a card."""
    fig = plt.figure(figsize=(W / 100, H / 100), dpi=200, facecolor=NIGHT)
    draw(fig)
    fig.canvas.draw()
    pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3]
    plt.close(fig)
    return Image.fromarray(pixels).resize((W, H), Image.Resampling.LANCZOS)


def whole(fig: Figure, xlim: tuple[float, float], ylim: tuple[float, float]):
    ax = fig.add_axes((0, 0, 1, 1), xlim=xlim, ylim=ylim)
    ax.set_axis_off()
    return ax


def slanted(left: Tensor, right: Tensor) -> Image.Image:
    """Two versions of a picture, parted by a slanted line."""
    both, mask = image(left), Image.new("L", (W, H), 0)
    edge = [(W * 0.58, 0), (W * 0.42, H)]
    ImageDraw.Draw(mask).polygon([edge[0], (W, 0), (W, H), edge[1]], fill=255)
    both.paste(image(right), mask=mask)
    ImageDraw.Draw(both).line(edge, fill="white", width=3)
    return both


def tiles(pictures: list[Tensor], columns: int, gap: int = 3) -> Image.Image:
    """Pictures side by side, in rows, on the dark ground."""
    rows = -(-len(pictures) // columns)
    w, h = (W - gap * (columns - 1)) // columns, (H - gap * (rows - 1)) // rows
    sheet = Image.new("RGB", (W, H), NIGHT)
    for k, picture in enumerate(pictures):
        sheet.paste(
            image(fit(picture, w, h)), (k % columns * (w + gap), k // columns * (h + gap))
        )
    return sheet


def equation() -> Image.Image:
    def draw(fig: Figure) -> None:
        ax, x = whole(fig, (-4, 9), (-0.03, 0.5)), np.linspace(-4, 9, 400)
        for mean, std, color in ((5, 1.9, ORANGE), (0, 1, SKY)):
            y = np.exp(-(((x - mean) / std) ** 2) / 2) / std / np.sqrt(2 * np.pi)
            ax.fill_between(x, y, color=color, alpha=0.35)
            ax.plot(x, y, color=color, lw=2.5)
        ax.annotate(
            "",
            (1.3, 0.3),
            (4.0, 0.25),
            arrowprops={"arrowstyle": "-|>", "color": "white", "lw": 1.6},
        )
        ax.axhline(0, color="white", lw=1)

    return drawing(draw)


def inverse() -> Image.Image:
    x = fit(source("coffee"), W, H)
    return slanted(normalize(x, *moments(x, (1, 2))).clamp(0, 1), x)


def statistics_card() -> Image.Image:
    patches = torch.from_numpy(data.PhotoPatches(train=True).data).permute(0, 3, 1, 2) / 255
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(1))[:66]
    return tiles(list(patches[order]), 11, gap=2)


def one_function() -> Image.Image:
    def draw(fig: Figure) -> None:
        for k, name in enumerate(("Batch", "Layer")):
            ax = fig.add_axes((0.04 + 0.47 * k, 0.1, 0.45, 0.8))
            ax.set_axis_off()
            ax.set_aspect("equal")
            axes._block(ax, axes.index_sets(axes.NORMS[name], (3, 6, 4)))
            for text in list(ax.texts):
                text.remove()

    return drawing(draw)


def batch() -> Image.Image:
    patches = (
        torch.from_numpy(data.PhotoPatches(train=True).data)[..., :1].permute(0, 3, 1, 2)
        / 255
    )
    norm = layers.BatchNorm2d(1, momentum=0.08)
    order, seen, running = torch.Generator().manual_seed(3), [], []
    for _ in range(70):
        some = patches[torch.randint(len(patches), (8,), generator=order)]
        norm(some)
        seen.append(some.mean().item())
        running.append(norm.running_mean.item())

    def draw(fig: Figure) -> None:
        ax = whole(fig, (-2, 71), (-0.04, 0.75))
        ax.axhline(patches.mean().item(), color="white", lw=1, ls=(0, (4, 3)))
        ax.plot(seen, "o", color=SKY, ms=4.5, alpha=0.75)
        ax.plot(running, color=ORANGE, lw=3)

    return drawing(draw)


def layer() -> Image.Image:
    g = torch.Generator().manual_seed(5)
    words = (
        torch.randn(9, 32, generator=g) * torch.rand(9, 1, generator=g).mul(2)
        + torch.randn(9, 1, generator=g) * 1.5
    )

    def draw(fig: Figure) -> None:
        for k, values in enumerate((words, normalize(words, *moments(words, 1)))):
            ax = fig.add_axes((0.05 + 0.475 * k, 0.1, 0.425, 0.8))
            ax.imshow(values, cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto")
            ax.set_axis_off()
            ax.hlines(np.arange(0.5, 8), -0.5, 31.5, color=NIGHT, lw=2)

    return drawing(draw)


def instance() -> Image.Image:
    x = fit(source("rocket"), 200, 224, top=1)
    tints = torch.tensor([[1, 1, 1], [0.45, 0.7, 1.3], [1.35, 0.8, 0.4], [0.6, 1.25, 0.7]])[
        ..., None, None
    ]
    lit = [(x * t).clamp(0, 1) for t in tints]
    after = [with_statistics(picture, source("planes")).clamp(0, 1) for picture in lit]
    return tiles([*lit, *after], 4)


def group() -> Image.Image:
    gray, found = fit(source("astronaut"), 150, 168, top=0).mean(0), []
    yy, xx = torch.meshgrid(torch.arange(-5.0, 6), torch.arange(-5.0, 6), indexing="ij")
    for k in range(8):
        angle = torch.tensor(k * torch.pi / 8)
        wave = torch.cos((xx * angle.cos() + yy * angle.sin()) * 1.1 + (k % 2) * 1.5)
        kernel = wave * torch.exp(-(xx**2 + yy**2) / 9)
        f = F.conv2d(gray[None, None], (kernel - kernel.mean())[None, None], padding=5)[
            0, 0
        ].abs()
        color = torch.tensor(
            [int(COLORS[k // 2 % 5][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        )
        found.append(
            (0.12 + 1.3 * f / f.quantile(0.99)).clamp(0, 1.15) * color[:, None, None]
        )
    return tiles([f.clamp(0, 1) for f in found], 4)


def sync() -> Image.Image:
    x = fit(source("coffee"), W, H)
    strips = [with_statistics(s, source("strokes")) for s in x.split(W // 4, dim=2)]
    sheet = image(torch.cat(strips, 2).clamp(0, 1))
    for k in (1, 2, 3):
        ImageDraw.Draw(sheet).line([(k * W / 4, 0), (k * W / 4, H)], fill="white", width=2)
    return sheet


def weights() -> Image.Image:
    def draw(fig: Figure) -> None:
        ax = whole(fig, (-4.6, 4.6), (-2.5875, 2.5875))
        t = np.linspace(0, 2 * np.pi, 200)
        circle, matrix = (
            np.stack([np.cos(t), np.sin(t)]),
            np.array([[3.6, 1.3], [0.5, 1.4]]),
        )
        stretch = np.linalg.svd(matrix)[1][0]
        for m, color, width in ((matrix, ORANGE, 2.5), (matrix / stretch * 1.75, SKY, 2.5)):
            ax.fill(*(m @ circle), color=color, alpha=0.18)
            ax.plot(*(m @ circle), color=color, lw=width)
        ax.plot(*(1.75 * circle), color="white", lw=1, ls=(0, (4, 3)))

    return drawing(draw)


def adain() -> Image.Image:
    cat = fit(source("cat"), W, H)
    return slanted(cat, with_statistics(cat, source("strokes")).clamp(0, 1))


def style() -> Image.Image:
    from normtut.style import StyleTransfer

    painted = StyleTransfer.pretrained().stylize(
        fit(source("cat"), W, H + 3)[None], source("strokes")[None]
    )
    return image(painted[0, :, :H].clamp(0, 1))


def conditional() -> Image.Image:
    x = fit(source("rocket"), W, H, top=1)
    sheet = image(x)
    for k, name in enumerate(("strokes", "retina", "planes", "waves")):
        part = image(with_statistics(x, source(name)).clamp(0, 1))
        box = (k * W // 4, 0, (k + 1) * W // 4, H)
        sheet.paste(part.crop(box), box[:2])
    return sheet


def choosing() -> Image.Image:
    runs = [run for run in results() if run.data == "patches" and run.groups in (0, 8)]
    sizes = sorted({run.batch_size for run in runs})

    def draw(fig: Figure) -> None:
        ax = whole(fig, (-0.3, len(sizes) - 0.7), (0, 0.8))
        for norm, color in zip(
            ("instance", "layer", "group", "batch"), (PINK, GREEN, SKY, ORANGE), strict=True
        ):
            found = [
                [r.error for r in runs if (r.norm, r.batch_size) == (norm, size)]
                for size in sizes
            ]
            ax.plot([np.mean(errors) for errors in found], "o-", color=color, lw=3, ms=7)

    return drawing(draw)


def claims() -> Image.Image:
    def draw(fig: Figure) -> None:
        ax = whole(fig, (-0.6, 6.6), (-0.75, 1.75))
        for k in range(14):
            x, y = k % 7, k // 7
            color = (GREEN, ORANGE, COLORS[5])[(k * 5 + k // 3) % 3]
            ax.add_patch(plt.Rectangle((x - 0.42, y - 0.36), 0.84, 0.72, color=color, lw=0))
            ax.text(
                x,
                y - 0.02,
                "?",
                color="white",
                ha="center",
                va="center",
                fontsize=17,
                weight="bold",
            )

    return drawing(draw)


#: In the order of the chapters.
CARDS = {
    "01_equation": equation, "02_inverse": inverse, "03_statistics": statistics_card, "04_axes": one_function,
    "05_batch": batch, "06_layer": layer, "07_instance": instance, "08_group": group, "09_sync": sync,
    "10_weights": weights, "11_adain": adain, "12_style": style, "13_conditional": conditional,
    "14_choosing": choosing, "15_claims": claims,
}  # fmt: skip


# --- the share image, and all of it -------------------------------------------------------------------------

STATES = (
    "its own six numbers",
    "normalized, clipped",
    "normalized, rescaled",
    "those of another picture",
)


def font(size: int, weight: str = "") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        f"{plt.matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{weight}.ttf", size
    )


def share() -> Image.Image:
    """What other sites show beside a link: 1200 × 630, few colours, so that it stays small."""
    sheet = Image.new("RGB", (1200, 630), NIGHT)
    draw, width, height = ImageDraw.Draw(sheet), 282, 376
    draw.text(
        (600, 66),
        "Normalization, its inverse and its uses",
        "white",
        font(48, "-Bold"),
        anchor="mm",
    )
    for k, (state, words) in enumerate(
        zip(four_states(width, height), STATES, strict=True)
    ):
        x = 12 + k * (width + 16)
        sheet.paste(image(state), (x, 124))
        draw.text((x + width / 2, 526), words, "white", font(20), anchor="mm")
    draw.text(
        (600, 588), "a book that you can run, in PyTorch", "#9fc3e8", font(26), anchor="mm"
    )
    return sheet.quantize(128, kmeans=2)


def still() -> Image.Image:
    """The four states in a row, for those who run no scripts."""
    return image(torch.cat(four_states(220, 220), 2))


def main() -> int:
    folder = ASSETS / "landing"
    folder.mkdir(exist_ok=True)
    for name in PHOTOS:
        x = source(name)
        width = min(640, x.shape[2], round(x.shape[1] * 1.5))
        photo = fit(
            x,
            width,
            round(width / 1.5),
            top=0 if name == "astronaut" else 1 if name == "rocket" else 0.5,
        )
        image(photo).save(folder / f"{name}.webp", quality=78, method=6)
        image(fit(photo, 96, 64)).save(folder / f"{name}-small.webp", quality=70, method=6)
    for name in STYLES:
        image(fit(source(name), 128, 128)).save(
            folder / f"{name}.webp", quality=62, method=6
        )
    for name, card in CARDS.items():
        card().save(folder / f"{name}.webp", quality=72, method=6)
    still().save(folder / "still.webp", quality=75, method=6)
    share().save(ASSETS / "share.png", optimize=True)
    (folder / "styles.json").write_text(
        "{\n"
        + ",\n".join(f'  "{name}": [{statistics(name)}]' for name in STYLES)
        + "\n}\n",
        encoding="utf-8",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
