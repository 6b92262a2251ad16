"""Pictures drawn by code, to be used as styles: each has a manner of its own, and none needs a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["DRAWINGS", "SIZE"]

SIZE = 384
_SUPER = 2  # pictures are drawn this many times larger and then reduced, for smooth edges

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def strokes() -> Bytes:
    """Broad strokes of thick paint that follow a flow around three lights, in blues, orange and yellow."""
    rng, n = np.random.default_rng(1), SIZE * _SUPER
    angle = 2 * np.pi * _noise(rng, n, 3)
    lights = np.array([[0.24, 0.27], [0.66, 0.16], [0.74, 0.72]]) * n
    yy, xx = np.mgrid[:n, :n]
    glow = np.zeros((n, n))
    for y, x in lights:
        distance = np.hypot(yy - y, xx - x)
        near = np.exp(-((distance / (0.19 * n)) ** 2))
        glow = np.maximum(glow, near)
        angle = np.where(near > 0.12, np.arctan2(xx - x, -(yy - y)), angle)  # around the light
    tone = np.clip(0.6 * _noise(rng, n, 4) + 0.95 * glow, 0, 1)
    palette = _rgb("#081a4a #123b8f #1f66c7 #4aa3e0 #f08a24 #ffc21a #fff3a8")
    image = Image.new("RGB", (n, n), "#081a4a")
    draw = ImageDraw.Draw(image)
    for y, x in rng.uniform(0, n, (3600, 2)):
        tint = tone[int(y), int(x)] + rng.normal(0, 0.09)
        line = []
        for _ in range(int(rng.integers(10, 18))):
            line.append((x, y))
            a = angle[int(y) % n, int(x) % n]
            x, y = x + 6 * np.cos(a), y + 6 * np.sin(a)
        width = int(rng.integers(11, 19))
        # A dark and a light edge beside the stroke, as thick paint has them.
        for shift, shade in ((3, -0.16), (-2, 0.1), (0, 0.0)):
            side = [(u + shift, v + shift) for u, v in line]
            draw.line(side, fill=_shade(palette, tint + shade), width=width, joint="curve")
    return _finish(image)


def mosaic() -> Bytes:
    """Large tesserae with dark joints: rings of red, gold, cream, turquoise and deep blue."""
    rng, n = np.random.default_rng(2), SIZE
    step = 30
    cells = (np.mgrid[0 : n + step : step, 0 : n + step : step].reshape(2, -1).T).astype(float)
    cells += rng.uniform(-0.33 * step, 0.33 * step, cells.shape)
    yy, xx = np.mgrid[:n, :n]
    nearest, second = np.full((n, n), np.inf), np.full((n, n), np.inf)
    owner = np.zeros((n, n), dtype=int)
    for k, (y, x) in enumerate(cells):
        window = np.s_[max(0, int(y) - 70) : int(y) + 70, max(0, int(x) - 70) : int(x) + 70]
        distance = np.hypot(yy[window] - y, xx[window] - x)
        closer = distance < nearest[window]
        second[window] = np.where(closer, nearest[window], np.minimum(second[window], distance))
        owner[window] = np.where(closer, k, owner[window])
        nearest[window] = np.where(closer, distance, nearest[window])
    palette = np.array(_rgb("#a3161d #e0452b #f2a71b #f7e7b4 #17a398 #0b6e8f #10246b"), dtype=float)
    ring = np.hypot(cells[:, 0] - 0.45 * n, cells[:, 1] - 0.55 * n) / 34 + rng.normal(0, 0.3, len(cells))
    tones = palette[np.round(ring).astype(int) % len(palette)] * rng.uniform(0.86, 1.12, (len(cells), 1))
    joint = np.clip((second - nearest - 3.0) / 2.0, 0, 1)[..., None]
    return np.asarray(np.clip(tones[owner] * joint + 22 * (1 - joint), 0, 255), dtype=np.uint8)


def waves() -> Bytes:
    """A woodcut: a few high crests of Prussian blue with white lines and foam, and a red sun on paper."""
    rng, n = np.random.default_rng(3), SIZE * _SUPER
    image = Image.new("RGB", (n, n), "#f2e2b6")
    draw = ImageDraw.Draw(image)
    draw.ellipse((0.58 * n, 0.03 * n, 0.84 * n, 0.29 * n), fill="#d9301e")
    x = np.arange(-40.0, n + 40, 4)
    blues = ("#7fb2cf", "#3f7fb5", "#1f559c", "#143a78", "#0b2350")
    for row in range(5):
        base, length, phase = n * (0.4 + 0.155 * row), rng.uniform(250, 360), rng.uniform(0, 6)
        steep = 2 * np.pi * x / length + phase
        crest = base - 105 * np.abs(np.sin(steep / 2)) ** 0.8 - 22 * np.sin(steep / 3.1)
        draw.polygon([*_points(x, crest), (n + 40, n), (-40, n)], fill=blues[row])
        for k, tint in enumerate(("#0b2350", "#fbf4df", "#0b2350", "#fbf4df")):
            draw.line(_points(x, crest + 27 * k), fill=tint, width=13 if k == 0 else 9, joint="curve")
        for cx, cy in _points(x, crest):
            if cy < base - 80 and rng.random() < 0.6:
                r = rng.uniform(7, 17)
                u, v = cx + rng.normal(0, 13), cy - rng.uniform(0, 24)
                draw.ellipse((u - r, v - r, u + r, v + r), fill="#fbf4df", outline="#0b2350", width=3)
    return _finish(image)


def halftone() -> Bytes:
    """Dots of a coarse print in three inks, each screen at its own angle."""
    rng, n = np.random.default_rng(4), SIZE * _SUPER
    yy, xx = np.mgrid[:n, :n]
    paper = np.array([252, 246, 228.0]) / 255
    page = np.broadcast_to(paper, (n, n, 3)).copy()
    inks = _rgb("#00a0d8 #e8187c #ffd800")
    for ink, degrees, seed in zip(inks, (15, 75, 0), range(3), strict=True):
        amount = 0.15 + 0.8 * _noise(rng, n, 2 + seed)
        a, pitch = np.deg2rad(degrees), 18.0
        u, v = (np.cos(a) * xx + np.sin(a) * yy) / pitch, (np.cos(a) * yy - np.sin(a) * xx) / pitch
        distance = np.hypot(u - np.round(u), v - np.round(v)) * pitch
        cover = np.clip(amount * 0.72 * pitch - distance + 0.5, 0, 1)[..., None]
        page *= 1 - cover * (1 - np.array(ink) / 255)
    return _finish(Image.fromarray((page * 255).astype(np.uint8)))


def planes() -> Bytes:
    """A composition of overlapping planes, discs and black lines in primary colours."""
    rng, n = np.random.default_rng(5), SIZE * _SUPER
    image = Image.new("RGB", (n, n), "#efe8d8")
    palette = _rgb("#c62828 #e4b21f #1f4e9c #14213d #e07a3f #6a9a8b #f4ead2 #3a3a3a #b7c4cf")
    for k in range(46):
        layer = Image.new("L", (n, n), 0)
        draw = ImageDraw.Draw(layer)
        y, x = rng.uniform(-0.05 * n, 1.05 * n, 2)
        r = n * rng.uniform(0.05, 0.24) * (1.3 if k < 12 else 0.8)
        if k % 3 == 2:
            draw.ellipse((x - r / 1.5, y - r / 1.5, x + r / 1.5, y + r / 1.5), fill=235)
        else:
            turn, corners = rng.uniform(0, np.pi), 3 if k % 3 else 4
            angles = turn + 2 * np.pi * np.arange(corners) / corners + rng.normal(0, 0.15, corners)
            draw.polygon([(x + r * np.cos(a), y + 0.8 * r * np.sin(a)) for a in angles], fill=235)
        image.paste(_hex(palette[int(rng.integers(len(palette)))]), mask=layer)
    draw = ImageDraw.Draw(image)
    for _ in range(26):
        y, x, a, r = *rng.uniform(0, n, 2), rng.uniform(0, np.pi), n * rng.uniform(0.08, 0.4)
        ends = (x - r * np.cos(a), y - r * np.sin(a), x + r * np.cos(a), y + r * np.sin(a))
        draw.line(ends, fill="#111111", width=int(rng.integers(4, 13)))
    return _finish(image)


def hatching() -> Bytes:
    """A pen drawing: hills in cross-hatched ink, the darker the denser."""
    rng, n = np.random.default_rng(6), SIZE * _SUPER
    tone = _noise(rng, n, 4)
    tone = np.clip((tone - tone.mean()) * 1.6 + 0.5, 0, 1)
    image = Image.new("RGB", (n, n), "#f3ead6")
    draw = ImageDraw.Draw(image)
    for degrees, threshold in ((35, 0.25), (125, 0.5), (80, 0.7), (10, 0.85)):
        a = np.deg2rad(degrees)
        for offset in np.arange(-n, n, 11):
            along = np.arange(-n, n, 14)
            px = n / 2 + along * np.cos(a) - offset * np.sin(a) + rng.normal(0, 0.8, along.shape)
            py = n / 2 + along * np.sin(a) + offset * np.cos(a) + rng.normal(0, 0.8, along.shape)
            inside = (px >= 0) & (px < n) & (py >= 0) & (py < n)
            for i in np.flatnonzero(inside[:-1] & inside[1:]):
                if tone[int(py[i]), int(px[i])] > threshold + rng.normal(0, 0.03):
                    draw.line((px[i], py[i], px[i + 1], py[i + 1]), fill="#2a2320", width=3)
    return _finish(image)


def marble() -> Bytes:
    """Marbled paper: combed veins of crimson, ochre, teal and cream."""
    rng, n = np.random.default_rng(7), SIZE * _SUPER
    yy, xx = np.mgrid[:n, :n] / n
    warp = 0.9 * _noise(rng, n, 3) + 0.35 * _noise(rng, n, 7)
    comb = 0.045 * np.sin(2 * np.pi * 9 * xx + 5 * warp)
    t = (yy * 3.2 + 2.2 * warp + 6 * comb + 0.15 * _noise(rng, n, 24)) % 1
    palette = np.array(
        _rgb("#7a1022 #b3222f #e2a23b #f3e6c8 #f3e6c8 #1f6f6b #103a44 #0c1d2b #c9593a #7a1022")
    )
    at = t * (len(palette) - 1)
    low = np.minimum(at.astype(int), len(palette) - 2)
    blend = np.clip((at - low - 0.7) / 0.3, 0, 1)[..., None]  # flat bands with narrow transitions
    return _finish(Image.fromarray((palette[low] * (1 - blend) + palette[low + 1] * blend).astype(np.uint8)))


#: Name → a function that draws the picture, uint8 (SIZE, SIZE, 3), the same in every run.
DRAWINGS: dict[str, Callable[[], Bytes]] = {
    f.__name__: f for f in (strokes, mosaic, waves, halftone, planes, hatching, marble)
}


def _noise(rng: np.random.Generator, n: int, cells: int) -> Floats:
    """Smooth noise in [0, 1], (n, n): a coarse random grid, magnified."""
    grid = Image.fromarray(rng.uniform(0, 1, (cells + 2, cells + 2)).astype(np.float32))
    field = np.asarray(grid.resize((n, n), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.asarray((field - field.min()) / (field.max() - field.min()))


def _rgb(names: str) -> list[tuple[int, ...]]:
    return [tuple(bytes.fromhex(name[1:])) for name in names.split()]


def _shade(palette: Sequence[tuple[int, ...]], tone: float) -> tuple[int, ...]:
    """The colour at ``tone`` in [0, 1] along a palette."""
    at = float(np.clip(tone, 0, 1)) * (len(palette) - 1)
    low = min(int(at), len(palette) - 2)
    return tuple(round(a + (b - a) * (at - low)) for a, b in zip(palette[low], palette[low + 1], strict=True))


def _hex(colour: Sequence[int]) -> str:
    return "#" + bytes(colour).hex()


def _points(x: Floats, y: Floats) -> list[tuple[float, float]]:
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _finish(image: Image.Image) -> Bytes:
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
