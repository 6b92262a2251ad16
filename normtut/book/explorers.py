"""Pictures to play with, each the output of one cell: HTML, a script, and the numbers that it needs."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from normtut import data
from normtut.book.palette import COLORS, RGB
from normtut.core import moments
from normtut.images import IMAGENET, to_uint8

if TYPE_CHECKING:
    from normtut.style import StyleTransfer

__all__ = ["Explorer", "clipping_explorer", "mixing_explorer", "running_explorer"]

_HERE = Path(__file__).parent
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the style, and of its second half, that `mixing_explorer` paints


class Explorer:
    """What the functions of this module return: a notebook shows its ``html``, which needs no network.

    >>> Explorer("<p>Drag me.</p>", "a picture to drag")
    Explorer(a picture to drag)
    """

    def __init__(self, html: str, words: str) -> None:
        self.html = html
        self.words = words

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Explorer({self.words})"


def fill(template: str, values: dict[str, str], data: Any) -> str:
    """A template of this folder, filled. Data stand quoted in it, so that editors can check its script."""
    html = (_HERE / template).read_text(encoding="utf-8")
    shared = {"@STYLE@": "explorer.css", '"@PICTURE@"': "picture.js"}
    parts = {name: (_HERE / file).read_text(encoding="utf-8").strip() for name, file in shared.items()}
    quoted = {'"@DATA@"': json.dumps(data, separators=(",", ":"))}
    for placeholder, value in {**parts, **quoted, **values}.items():
        html = html.replace(placeholder, value)
    return html


def _picture(pixels: Tensor, quality: int) -> str:
    """An image (3, H, W) from 0 to 1 as an address that holds it."""
    file = io.BytesIO()
    Image.fromarray(to_uint8(pixels).permute(1, 2, 0).numpy()).save(file, "WEBP", quality=quality, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)


def clipping_explorer(
    photo: Tensor | None = None, *, alt: str = "A cup of coffee on a red saucer."
) -> Explorer:
    """What ``imshow`` makes of a normalized picture, and what its inverse can still restore.

    >>> clipping_explorer()
    Explorer(imshow's clipping)

    Shares are those of the whole photo; the picture that is shown is a smaller one.

    Args:
        photo: a uint8 image, (3, H, W); a cup of coffee by default.
        alt: what is on it.

    Raises:
        ValueError: if the photo is no uint8 tensor of shape (3, H, W).
    """
    photo = data.photos("coffee")["coffee"] if photo is None else photo
    if photo.dtype != torch.uint8 or photo.ndim != 3 or photo.shape[0] != 3:
        raise ValueError(f"photo must be uint8 of shape (3, H, W), got {photo.dtype}, {tuple(photo.shape)}")
    width, height = 240, round(240 * photo.shape[1] / photo.shape[2])
    own = [[round(v, 3) for v in s.flatten().tolist()] for s in moments(photo.double() / 255, (1, 2))]
    presets = [
        ["ImageNet", list(IMAGENET.mean), list(IMAGENET.std)],
        ["this photo's own", *own],
        ["0.5 and 0.5", [0.5] * 3, [0.5] * 3],
        ["0 and 1: nothing", [0.0] * 3, [1.0] * 3],
    ]
    counts = [torch.bincount(channel.flatten().long(), minlength=256).tolist() for channel in photo]
    values = {
        "@ID@": "normtut-clipping",
        "@PHOTO@": _picture(_resized(photo / 255, height, width), 75),
        "@ALT@": escape(alt),
        "@W@": str(width),
        "@H@": str(height),
        '"@COLORS@"': json.dumps(RGB),
    }
    return Explorer(
        fill("clipping.html", values, {"counts": counts, "presets": presets}), "imshow's clipping"
    )


def running_explorer(images: Tensor | None = None) -> Explorer:
    """Batch size, momentum, and the running statistics that a batch norm has after some batches.

    >>> running_explorer()
    Explorer(running statistics of 251 images)

    Batches are taken in the order of the images, again and again. Nothing is drawn at random.

    Args:
        images: one channel of some images, (N, H, W); by default the red one of 251 patches of photographs. A
            number of images without small divisors makes batches that do not repeat soon.

    Raises:
        ValueError: if the images are not of shape (N, H, W).
    """
    images = _patches() if images is None else images
    if images.ndim != 3:
        raise ValueError(f"images must be of shape (N, H, W), got {tuple(images.shape)}")
    images = images.double()
    # A batch's mean is that of its images' means, and so is its mean square: two numbers an image are enough.
    numbers = {
        "m": images[0].numel(),
        "mean": (1e4 * images.mean((1, 2))).round().int().tolist(),
        "square": (1e4 * images.square().mean((1, 2))).round().int().tolist(),
        "all": [round(s.item(), 5) for s in moments(images, (0, 1, 2))],
    }
    values = {
        "@ID@": "normtut-running",
        "@COUNT@": str(len(images)),
        "@SKY@": COLORS[4],
        "@ORANGE@": COLORS[1],
    }
    return Explorer(fill("running.html", values, numbers), f"running statistics of {len(images)} images")


def _patches() -> Tensor:
    red = torch.from_numpy(data.PhotoPatches(train=True).data)[..., 0] / 255
    order = torch.randperm(len(red), generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(red[order[:251], None], 2)[:, 0]


def mixing_explorer(
    model: StyleTransfer,
    content: Tensor,
    styles: dict[str, Tensor],
    *,
    size: int = 160,
) -> Explorer:
    """A photo between two styles: α, the mixture, and beside it a cross-fade of the finished pictures.

    The network paints all pictures now; the page only chooses among them.

    >>> from normtut.style import StyleTransfer
    >>> pictures = data.styles("waves", "mosaic")
    >>> mixing_explorer(StyleTransfer.pretrained(), data.photos("cat")["cat"], pictures, size=32)
    Explorer(21 pictures between waves and mosaic)

    Args:
        model: what paints.
        content: a square photo, (3, H, W) or (1, 3, H, W), uint8 or from 0 to 1; others are squeezed.
        styles: two pictures of the same kind, by their names.
        size: of the pictures that are stored, in pixels.

    Raises:
        ValueError: if there are not two styles.
    """
    if len(styles) != 2:
        raise ValueError(f"styles must be two, got {len(styles)}: {', '.join(styles)}")
    photo, *pair = (_square(image, size) for image in (content, *styles.values()))
    painted = [model.stylize(photo, pair[0], 0.0)]
    for alpha in _SHARES[1:]:
        painted += [model.stylize(photo, pair, alpha, weights=[1 - w, w]) for w in _SHARES]
    columns = 6
    tiles = [picture[0].detach().cpu().clamp(0, 1) for picture in (*pair, photo, *painted)]
    tiles += [torch.ones_like(tiles[0])] * (-len(tiles) % columns)
    rows = [torch.cat(tiles[i : i + columns], 2) for i in range(0, len(tiles), columns)]
    first, second = styles
    numbers = {
        "size": size,
        "columns": columns,
        "alphas": _SHARES,
        "weights": _SHARES,
        "names": [first, second],
    }
    values = {
        "@ID@": "normtut-mixing",
        "@SHEET@": _picture(torch.cat(rows, 1), 68),
        "@W@": str(columns * size),
        "@H@": str(len(rows) * size),
        "@FIRST@": escape(first),
        "@SECOND@": escape(second),
    }
    words = f"{len(painted)} pictures between {first} and {second}"
    return Explorer(fill("mixing.html", values, numbers), words)


def _square(image: Tensor, size: int) -> Tensor:
    """As (1, 3, size, size), from 0 to 1."""
    image = image / 255 if image.dtype == torch.uint8 else image
    return _resized(image.reshape(-1, *image.shape[-2:]), size, size)[None]
