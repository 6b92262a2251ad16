"""``normtut stylize CONTENT STYLE -o OUT``: paint a picture in the manner of another, from a shell."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from normtut.files import Alpha, Picture

__all__ = ["add_parser", "run"]

_TRANSPARENT = ("PNG", "WEBP", "TIFF")  # formats that keep transparency
_LONGEST = {"WEBP": 16383, "JPEG": 65535}  # pixels


def add_parser(subparsers: Any) -> None:
    """Add ``stylize`` to the subcommands of ``normtut``."""
    parser = subparsers.add_parser(
        "stylize",
        help="paint a picture in the manner of another",
        description="Paint CONTENT in the manner of STYLE.",
        epilog="Exit status: 0 painted; 2 nothing was written, and the message says why.",
    )
    parser.add_argument("content", help="picture to paint")
    parser.add_argument(
        "style", help="picture whose manner to take, or the name of one of normtut.data.styles()"
    )
    parser.add_argument("-o", "--out", required=True, help="file to write; its suffix is the format")
    parser.add_argument("--alpha", type=float, default=1.0, help="0 … 1: how far to go (default: 1)")
    parser.add_argument("--size", type=int, help="reduce the content's longer side to this many pixels first")
    parser.add_argument("--preserve-color", action="store_true", help="keep the hues of the content")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``normtut stylize`` and return the exit status."""
    try:
        done = _stylize(args)
    except (OSError, ValueError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted")
    print(done)  # outside of `try`: the file is written, so a failure to print must not exit with status 2
    return 0


def _stylize(args: argparse.Namespace) -> str:
    """Write the painting; return the line to print."""
    # All that can be checked before painting, which takes a while, is checked here.
    out = Path(args.out)
    if not 0 <= args.alpha <= 1:
        raise ValueError(f"--alpha must be between 0 and 1, got {args.alpha}")
    if args.size is not None and not 1 <= args.size <= 65535:
        raise ValueError(f"--size must be between 1 and 65535 pixels, got {args.size}")
    format = _format(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name the file to write")
    if not out.parent.is_dir():
        raise ValueError(f"the folder {out.parent} does not exist")
    if out.exists() and not args.force:
        raise ValueError(f"{out} exists already; --force overwrites it")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ValueError(f"the folder {out.parent} cannot be written to")
    picture = _picture(args.content, args.size, "keep" if format in _TRANSPARENT else "white")
    if (longest := max(picture.image.size)) > _LONGEST.get(format, longest):
        raise ValueError(
            f"{format} ends at {_LONGEST[format]} pixels, {args.content} has {longest}: use --size"
        )
    content, style = _floats(_on_white(picture.image)), _read_style(args.style)

    from normtut import device, to_uint8
    from normtut.style.transfer import StyleTransfer

    model = StyleTransfer.pretrained().to(device())
    painted = model.stylize(content, style, args.alpha, preserve_color=args.preserve_color)
    _write(to_uint8(painted[0]), out, format, picture.image)
    return "; ".join([f"{out}: {painted.shape[3]} × {painted.shape[2]} pixels", *picture.notes])


def _format(out: Path) -> str:
    from PIL import Image, features

    Image.init()
    suffix = out.suffix.lower()
    format = Image.registered_extensions().get(suffix)
    # Formats that cannot hold RGB would only fail after the painting.
    if format in ("JPEG", "PNG", "BMP", "TIFF", "PPM") or (format == "WEBP" and features.check("webp")):
        return format
    known = ".png, .jpg, .webp, .tif, .bmp or .ppm"
    raise ValueError(f"unknown output format {suffix or '(no suffix)'} of {out}: use {known}")


def _picture(path: str, size: int | None, alpha: Alpha) -> Picture:
    """A picture with 8 bits in sRGB (see `normtut.files`), its longer side reduced to ``size``."""
    from PIL.Image import Resampling

    from normtut.files import FileError, Picture, read_image

    if not Path(path).exists():
        raise ValueError(f"there is no file {path}")
    try:
        read = read_image(path, alpha=alpha, srgb=True)
        image = read.eight_bit()
    except FileError as error:
        raise ValueError(f"cannot read {error}") from error
    if size is not None and max(image.size) > size:
        image.thumbnail((size, size), Resampling.LANCZOS)
    return Picture(image, read.notes)


def _on_white(image: Image) -> Image:
    from PIL.Image import alpha_composite, new

    if image.mode in ("LA", "RGBA"):
        image = alpha_composite(new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _floats(image: Image) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def _read(path: str) -> torch.Tensor:
    return _floats(_picture(path, None, "white").image)


def _read_style(name: str) -> torch.Tensor:
    if not Path(name).exists() or Path(name).is_dir():  # a folder called like a style must not hide the style
        from normtut.data import styles

        try:
            return styles(name)[name][None].float() / 255
        except KeyError as error:
            missing = f"{name} is a folder" if Path(name).is_dir() else f"there is no file {name}"
            raise ValueError(f"{missing}, and {error.args[0]}") from None
    return _read(name)


def _write(picture: torch.Tensor, out: Path, format: str, content: Image) -> None:
    """Write a temporary file and rename it: whatever happens, OUT is the old picture or the whole new one."""
    from PIL import Image

    image = Image.fromarray(picture.cpu().permute(1, 2, 0).contiguous().numpy())
    if content.mode in ("LA", "RGBA"):
        image.putalpha(content.getchannel("A"))
    mode = out.stat().st_mode & 0o777 if out.exists() else 0o666 & ~_umask()
    # A name made from OUT could be too long for the file system.
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=".normtut-")
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format, **({"quality": 92} if format in ("JPEG", "WEBP") else {}))
        os.chmod(temporary, mode)
        os.replace(temporary, out)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fail(message: str) -> int:
    import sys

    print(f"normtut stylize: {message}", file=sys.stderr)
    return 2
