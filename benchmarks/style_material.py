"""The folders that the style network of this package was trained on, from data sets that are not part of it.

    python -m benchmarks.style_material --photos DIR --bsds DIR --art DIR --paintings DIR --out DIR

``--photos`` and ``--art`` are the domains photo and art_painting of PACS (Li et al. 2017), ``--bsds`` images
of BSDS500 (Arbeláez et al. 2011), ``--paintings`` a folder of larger reproductions. Pictures are linked, not
copied. To these come textures of scikit-image and drawings by the code below, the same in every run. What is
in HELD_OUT_CONTENTS and HELD_OUT_STYLES is left out: it was fixed before training, for a last measurement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from normtut import data

HELD_OUT_CONTENTS = ("100075", "16052", "238011", "370036")
HELD_OUT_STYLES = ("leger_contrast_of_forms", "munch_the_scream", "picabia_udnie", "vangogh_starry_night")
TEXTURES = ("brick", "grass", "gravel", "hubble", "retina", "tissue")
SIZE, SUPER = 320, 2

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, Floats], Image.Image]


def noise(rng: np.random.Generator, n: int, cells: int) -> Floats:
    """Smooth noise in [0, 1], (n, n)."""
    grid = Image.fromarray(rng.uniform(0, 1, (cells + 2, cells + 2)).astype(np.float32))
    field = np.asarray(grid.resize((n, n), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.asarray((field - field.min()) / (field.max() - field.min()))


def palette(rng: np.random.Generator) -> Floats:
    """Five to eight colours, ordered from dark to light half of the time; (k, 3) in 0 … 255."""
    k = int(rng.integers(4, 9))
    base, spread = rng.uniform(0, 1), rng.choice([0.08, 0.2, 0.5])
    hue = (base + rng.normal(0, spread, k)) % 1
    value = rng.uniform(0.08, 1, k)
    value[:2] = rng.uniform(0.05, 0.3), rng.uniform(0.8, 1)
    saturation = np.clip(rng.uniform(0.1, 1.1) * rng.uniform(0.4, 1.2, k), 0, 1)
    ramp = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    colours = 255 * value[:, None] * (1 - saturation[:, None] * (1 - np.clip(ramp, 0, 1)))
    return colours[np.argsort(colours.sum(1))] if rng.random() < 0.5 else colours


def pick(rng: np.random.Generator, colours: Floats, tone: float | None = None) -> tuple[int, ...]:
    at = rng.uniform(0, len(colours) - 1) if tone is None else np.clip(tone, 0, 1) * (len(colours) - 1)
    colour = colours[round(at)] + rng.normal(0, 6, 3)
    return tuple(int(c) for c in np.clip(colour, 0, 255))


def canvas(colours: Floats, colour: int = 0) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    n = SIZE * SUPER
    image = Image.new("RGB", (n, n), tuple(int(c) for c in colours[colour]))
    return image, ImageDraw.Draw(image), n


def strokes(rng: np.random.Generator, colours: Floats) -> Image.Image:
    image, draw, n = canvas(colours)
    angle, tone = 2 * np.pi * noise(rng, n, int(rng.integers(2, 6))), noise(rng, n, int(rng.integers(2, 6)))
    width, length = rng.uniform(5, 22), rng.uniform(6, 26)
    for y, x in rng.uniform(0, n, (int(6e6 / (width * length * 6)), 2)):
        colour = pick(rng, colours, tone[int(y), int(x)] + rng.normal(0, 0.1))
        line = []
        for _ in range(int(length)):
            line.append((x, y))
            a = angle[int(y) % n, int(x) % n]
            x, y = x + 5 * np.cos(a), y + 5 * np.sin(a)
        draw.line(line, fill=colour, width=max(2, int(rng.normal(width, 2))), joint="curve")
    return image


def tesserae(rng: np.random.Generator, colours: Floats) -> Image.Image:
    n, step = SIZE, int(rng.integers(12, 44))
    points = np.mgrid[0 : n + step : step, 0 : n + step : step].reshape(2, -1).T.astype(float)
    points += rng.uniform(-0.4 * step, 0.4 * step, points.shape)
    yy, xx = np.mgrid[:n, :n]
    first, second = np.full((n, n), np.inf), np.full((n, n), np.inf)
    owner = np.zeros((n, n), dtype=int)
    for k, (y, x) in enumerate(points):
        window = np.s_[max(0, int(y) - 99) : int(y) + 99, max(0, int(x) - 99) : int(x) + 99]
        distance = np.hypot(yy[window] - y, xx[window] - x)
        closer = distance < first[window]
        second[window] = np.where(closer, first[window], np.minimum(second[window], distance))
        owner[window], first[window] = np.where(closer, k, owner[window]), np.minimum(first[window], distance)
    tone = noise(rng, n, 3)
    inside = np.clip(points, 0, n - 1).astype(int)
    fill = np.array([pick(rng, colours, tone[y, x] + rng.normal(0, 0.12)) for y, x in inside])[owner]
    joint = np.clip((second - first - rng.uniform(0, 2.5)) / 1.8, 0, 1)[..., None]
    line = rng.choice([15.0, 240.0])
    return Image.fromarray(np.clip(fill * joint + line * (1 - joint), 0, 255).astype(np.uint8))


def circles(rng: np.random.Generator, colours: Floats) -> Image.Image:
    image, draw, n = canvas(colours, int(rng.integers(len(colours))))
    r, width, filled = rng.uniform(25, 110), int(rng.integers(2, 14)), rng.random() < 0.5
    for row, y in enumerate(np.arange(-r, n + r, r * rng.choice([0.866, 1.0, 2.0]))):
        for x in np.arange(-r, n + 2 * r, r * rng.choice([1.0, 1.0, 2.0])):
            cx = x + (row % 2) * r / 2
            fill = pick(rng, colours) if filled and rng.random() < 0.6 else None
            for k in range(int(rng.integers(1, 3))):
                q = r * (1 - 0.35 * k)
                box = (cx - q, y - q, cx + q, y + q)
                draw.ellipse(box, fill=fill, outline=pick(rng, colours, rng.choice([0.0, 1.0])), width=width)
    return image


def planes(rng: np.random.Generator, colours: Floats) -> Image.Image:
    image, draw, n = canvas(colours, -1)
    for _ in range(int(rng.integers(25, 90))):
        (y, x), r = rng.uniform(-0.05 * n, 1.05 * n, 2), n * rng.uniform(0.04, 0.25)
        corners, outline = int(rng.integers(3, 6)), rng.choice([0, 0, 4, 9])
        if rng.random() < 0.25:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=pick(rng, colours), width=outline,
                         outline="#111111" if outline else None)  # fmt: skip
        else:
            start, corner = rng.uniform(0, 6), 2 * np.pi * np.arange(corners) / corners
            angles = start + corner + rng.normal(0, 0.25, corners)
            points = [(x + r * np.cos(a), y + r * np.sin(a)) for a in angles]
            draw.polygon(points, fill=pick(rng, colours))
            if outline:
                draw.line([*points, points[0]], fill="#111111", width=int(outline), joint="curve")
    return image


def grid(rng: np.random.Generator, colours: Floats) -> Image.Image:
    image, draw, n = canvas(colours, -1)
    width = int(rng.integers(0, 16))

    def split(x0: float, y0: float, x1: float, y1: float, depth: int) -> None:
        if depth == 0 or min(x1 - x0, y1 - y0) < 40 or rng.random() < 0.1:
            draw.rectangle((x0, y0, x1, y1), fill=pick(rng, colours), outline="#101010", width=width)
            return
        t = rng.uniform(0.25, 0.75)
        if x1 - x0 > y1 - y0:
            split(x0, y0, x0 + t * (x1 - x0), y1, depth - 1)
            split(x0 + t * (x1 - x0), y0, x1, y1, depth - 1)
        else:
            split(x0, y0, x1, y0 + t * (y1 - y0), depth - 1)
            split(x0, y0 + t * (y1 - y0), x1, y1, depth - 1)

    split(0, 0, n, n, int(rng.integers(4, 9)))
    return image


def dots(rng: np.random.Generator, colours: Floats) -> Image.Image:
    image, draw, n = canvas(colours, -1)
    pitch, tone = rng.uniform(9, 34), noise(rng, n, 4)
    jitter = rng.choice([0.0, 0.3])
    for y in np.arange(0, n, pitch):
        for x in np.arange(0, n, pitch):
            cy, cx = y + rng.normal(0, jitter) * pitch, x + rng.normal(0, jitter) * pitch
            at = tone[int(y), int(x)]
            r = pitch * (0.15 + 0.5 * at)
            draw.ellipse(
                (cx - r, cy - r, cx + r, cy + r), fill=pick(rng, colours[:-1], at + rng.normal(0, 0.1))
            )
    return image


def lines(rng: np.random.Generator, colours: Floats) -> Image.Image:
    """Parallel or crossed lines of ink, wavy or straight, the denser the darker."""
    image, draw, n = canvas(colours, -1)
    tone = noise(rng, n, int(rng.integers(2, 7)))
    pitch, width = rng.uniform(8, 26), rng.uniform(2, 9)
    start, wave = rng.uniform(0, np.pi), rng.choice([0.0, 14.0, 30.0])
    for k in range(int(rng.integers(1, 4))):
        a = start + k * 0.9
        along = np.arange(-n, n, 12)
        for offset in np.arange(-n, n, pitch):
            bend = offset + wave * np.sin(along / rng.uniform(45, 55))
            px = n / 2 + along * np.cos(a) - bend * np.sin(a)
            py = n / 2 + along * np.sin(a) + bend * np.cos(a)
            colour = pick(rng, colours[:-1], 0.15 * k)
            for i in np.flatnonzero((px >= 0) & (px < n) & (py >= 0) & (py < n))[:-1]:
                if tone[int(py[i]), int(px[i])] > 0.2 + 0.25 * k:
                    draw.line((px[i], py[i], px[i + 1], py[i + 1]), fill=colour, width=int(width))
    return image


def bands(rng: np.random.Generator, colours: Floats) -> Image.Image:
    """Marbled paper, contour lines, wood: warped bands with sharp or soft limits."""
    n = SIZE * SUPER
    yy, xx = np.mgrid[:n, :n] / n
    warp = rng.uniform(0.2, 1.6) * noise(rng, n, 3) + rng.uniform(0, 0.5) * noise(rng, n, 8)
    a = rng.uniform(0, np.pi)
    t = ((np.cos(a) * yy + np.sin(a) * xx) * rng.uniform(1, 5) + rng.uniform(0.5, 3) * warp) % 1
    at = t * (len(colours) - 1)
    low = np.minimum(at.astype(int), len(colours) - 2)
    soft = rng.uniform(0.05, 1)
    blend = np.clip((at - low - 1 + soft) / soft, 0, 1)[..., None]
    return Image.fromarray((colours[low] * (1 - blend) + colours[low + 1] * blend).astype(np.uint8))


def washes(rng: np.random.Generator, colours: Floats) -> Image.Image:
    """Watercolour: clouds of several sizes, with the grain of paper."""
    n = SIZE * SUPER
    t = sum(noise(rng, n, c) / c**0.7 for c in (2, 4, 9, 20, 60))
    t = (t - t.min()) / (t.max() - t.min())
    at = np.clip(1.6 * (t - 0.5) + 0.5, 0, 1) * (len(colours) - 1)
    low = np.minimum(at.astype(int), len(colours) - 2)
    page = colours[low] + (colours[low + 1] - colours[low]) * (at - low)[..., None]
    page += rng.uniform(0, 22) * rng.standard_normal((n, n, 1))
    return Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))


def shade(colours: Floats, t: Floats) -> Image.Image:
    """A field of values in [0, 1] in the colours of a palette."""
    at = np.clip(t, 0, 1) * (len(colours) - 1)
    low = np.minimum(at.astype(int), len(colours) - 2)
    page = colours[low] + (colours[low + 1] - colours[low]) * (at - low)[..., None]
    return Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))


def coordinates(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Two coordinates in pixels, turned and warped."""
    yy, xx = np.mgrid[:n, :n].astype(float)
    for grid in (yy, xx):
        grid += rng.choice([0, 4, 25]) * noise(rng, n, int(rng.integers(3, 12)))
    a = rng.uniform(0, np.pi)
    return np.cos(a) * yy + np.sin(a) * xx, np.cos(a) * xx - np.sin(a) * yy


def lattice(rng: np.random.Generator, colours: Floats) -> Image.Image:
    """Small elements in rows: perforated metal, cloth, bricks, scales."""
    n = SIZE * SUPER
    u, v = coordinates(rng, n)
    pitch = rng.uniform(8, 36)
    v = v / rng.choice([1, 1, 2.5]) + pitch / 2 * (u // pitch % 2) * rng.integers(2)
    wave = [0.5 + 0.5 * np.cos(2 * np.pi * w / pitch) for w in (u, v)]
    t = rng.choice([np.minimum, np.maximum, np.multiply])(*wave)
    t = np.clip((t - rng.uniform(0.2, 0.6)) * rng.uniform(1, 6) + 0.5, 0, 1)
    return shade(
        colours, t * rng.uniform(0.4, 1) + 0.5 * (noise(rng, n, 4) - 0.5) + 0.3 * (noise(rng, n, 90) - 0.5)
    )


def engraving(rng: np.random.Generator, colours: Floats) -> Image.Image:
    """Lines close together, the broader the darker, in one direction or two."""
    n = SIZE * SUPER
    tone, ink = noise(rng, n, int(rng.integers(2, 7))), np.zeros((n, n))
    for _ in range(int(rng.integers(1, 3))):
        u, _ = coordinates(rng, n)
        line = 0.5 + 0.5 * np.cos(2 * np.pi * u / rng.uniform(7, 28)) + 0.4 * (noise(rng, n, 120) - 0.5)
        ink = np.maximum(ink, np.clip((line - 0.15 - 0.7 * tone) * 6 + 0.5, 0, 1))
    return shade(colours, (1 - ink) * rng.uniform(0.7, 1) + 0.2 * noise(rng, n, 5))


def grain(rng: np.random.Generator, colours: Floats) -> Image.Image:
    """Plaster, pastel, brushed metal: noise of all scales down to two pixels, perhaps drawn out."""
    n, slope = SIZE * SUPER, rng.uniform(0, 0.8)
    t = sum(noise(rng, n, c) / c**slope for c in (3, 8, 20, 50, 110, 220))
    if rng.random() < 0.5:
        long = Image.fromarray(t[:, : n // int(rng.integers(2, 9))].astype(np.float32))
        t = np.asarray(long.resize((n, n), Image.Resampling.BICUBIC), dtype=np.float64)
    t = (t - t.mean()) / t.std() * rng.uniform(0.08, 0.35) + rng.uniform(0.3, 0.7)
    return shade(colours, t)


def relief(rng: np.random.Generator, n: int = SIZE * SUPER) -> Image.Image:
    """Hammered metal, cloth, leather, bark: a surface of small bumps in one light, mostly of one hue."""
    if rng.random() < 0.4:  # rows that run around a centre
        (y, x), (yy, xx) = rng.uniform(-0.3, 1.3, 2) * n, np.mgrid[:n, :n].astype(float)
        u, v = np.hypot(yy - y, xx - x), np.arctan2(yy - y, xx - x)
        v = v * rng.uniform(0.3, 1) * u.mean()
    else:
        u, v = coordinates(rng, n)
    pitch = rng.uniform(8, 30)
    rows, columns = (np.cos(2 * np.pi * w / (pitch * rng.uniform(0.7, 1.4))) for w in (u, v))
    kind = rng.integers(5)
    if kind == 0:  # punched or raised dots
        height = np.clip(rows + columns - rng.uniform(0, 1), 0, None)
    elif kind == 1:  # warp and weft
        height = np.where((u // pitch + v // pitch) % 2, np.abs(rows), np.abs(columns))
    elif kind == 2:  # grooves
        height = np.abs(rows) ** rng.uniform(0.5, 2)
    else:  # pebbles, or the creases between them
        spots = noise(rng, n, int(n / pitch)) - 0.5
        height = np.abs(spots) ** 0.7 * 3 if kind == 3 else np.tanh(6 * spots)
    height = height * rng.choice([-1, 1]) + rng.uniform(0, 1) * noise(rng, n, int(n / rng.uniform(4, 12)))
    dy, dx = np.gradient(height * pitch * rng.uniform(0.15, 0.6))
    light = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(light) * dy + np.sin(light) * dx) / np.sqrt(1 + dy**2 + dx**2)
    tone = rng.uniform(0.3, 0.65) + rng.uniform(0.25, 0.6) * slope
    tone = tone + rng.uniform(0, 0.15) * (height - height.mean())
    tone = (
        tone
        + rng.uniform(0, 0.4) * (noise(rng, n, 4) - 0.5)
        + rng.uniform(0, 0.15) * (noise(rng, n, n // 3) - 0.5)
    )
    base = palette(rng)[2] / 255
    t = np.clip(tone, 0, 1)[..., None]
    page = np.where(t < 0.5, 2 * t * base, base + (2 * t - 1) * (1 - base) * rng.uniform(0.4, 1))
    other = palette(rng)[2] / 255  # verdigris, rust, dye
    page += (other - base) * rng.uniform(0, 0.6) * np.clip(noise(rng, n, 6) - 0.4, 0, 1)[..., None]
    return Image.fromarray((255 * np.clip(page, 0, 1)).astype(np.uint8))


FINE: tuple[Draw, ...] = (lattice, engraving, grain)
DRAW: tuple[Draw, ...] = (strokes, strokes, tesserae, circles, planes, grid, dots, lines, bands, washes)


def save(folder: Path, kind: str, k: int) -> None:
    """Draw the k-th picture of a kind, and write it into a folder."""
    rng = np.random.default_rng([20 + ("drawing", "fine", "relief").index(kind), k])
    if kind == "relief":
        image, name = relief(rng), "relief"
    else:
        draws = FINE if kind == "fine" else DRAW
        draw = draws[k % len(draws)]
        image, name = draw(rng, palette(rng)), f"{kind}-{draw.__name__}"
    image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(folder / f"{name}-{k:03d}.png")


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.style_material", description=__doc__)
    for name in ("photos", "bsds", "art", "paintings", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--drawings", type=int, default=400, help="so many drawings with larger elements")
    parser.add_argument(
        "--fine", type=int, default=0, help="so many fine textures, and photographs as styles"
    )
    parser.add_argument("--reliefs", type=int, default=0, help="so many surfaces of small bumps")
    args = parser.parse_args()
    content, style = args.out / "content", args.out / "style"
    for folder in (content, style):
        folder.mkdir(parents=True)

    def link(source: Path, target: Path, times: int, held_out: tuple[str, ...] = ()) -> None:
        for path in sorted(source.glob("*.jp*g")):
            if path.stem not in held_out:
                for k in range(times):  # pictures are drawn by file: more links, more often
                    (target / f"{source.name}-{path.stem}-{k}{path.suffix}").symlink_to(path.resolve())

    link(args.photos, content, 1)
    link(args.bsds, content, 3, HELD_OUT_CONTENTS)
    link(args.art, style, 1)
    link(args.paintings, style, 30, HELD_OUT_STYLES)
    for name, picture in data.photos(*TEXTURES).items():
        for k in range(12):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(style / f"texture-{name}-{k}.png")
    kinds = (("drawing", args.drawings), ("fine", args.fine), ("relief", args.reliefs))
    jobs = [(style, kind, k) for kind, many in kinds for k in range(many)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(save, *zip(*jobs, strict=True), chunksize=8))
    if args.fine:
        link(args.bsds, style, 1, HELD_OUT_CONTENTS)
    print(f"{len(list(content.iterdir()))} contents, {len(list(style.iterdir()))} styles")


if __name__ == "__main__":
    main()
