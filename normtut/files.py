"""Image files, opened in one place and by one policy: what is refused, what is converted, what is said.

==================  ==================================================================================
what is opened      regular files that are not empty, by the decoders listed here (EPS would run
                    Ghostscript); of several frames or pages, the first
gray, 1 bit         one channel
palette, CMYK,      converted to RGB, as ``Image.convert("RGB")`` does it
YCbCr, HSV
alpha channel       dropped (not blended: what lies under transparent pixels counts), put on white, or
                    kept, as the caller asks
16-bit gray         one channel of 16 bits, where 65535 is white
16-bit colour       Pillow reduces each channel to 8 bits; noted
32-bit int, float,  refused: there is no agreed level for white (LAB: no agreed RGB)
LAB
other TIFF          refused: signed integers; of gray ones with more than 8 bits, all but 16 bits,
                    BlackIsZero; 16 bits stored plane by plane without compression, which Pillow misreads
EXIF orientation    applied, so that an image is seen as a viewer shows it; 1 where the EXIF data are
                    broken, which is noted
colour profile      left alone and noted, or converted to sRGB, as the caller asks
no data             where a TIFF says so (GDAL's tag 42113), pixels whose channels all have that value do
                    not count; noted
too many pixels     refused: more than ``PIL.Image.MAX_IMAGE_PIXELS``, a decompression bomb
==================  ==================================================================================
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

#: What to note of an image some of whose pixels do not count.
NO_DATA = "pixels without data (GDAL's tag) left out"

__all__ = ["NO_DATA", "Alpha", "FileError", "Picture", "read_image", "standardized", "to_array"]

#: What becomes of transparency.
Alpha = Literal["drop", "white", "keep"]

# What may hold pixels. Of the others that Pillow knows, EPS would run Ghostscript. HEIF is among them once
# the package pillow-heif has been registered.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "TGA", "PCX", "ICO", "SGI", "XBM"),
    *("MPO", "JPEG2000", "AVIF", "QOI", "HEIF"),
)
_HEIC = (".heic", ".heif", ".hif")

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Tags of a TIFF.
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _KIND, _NODATA = 258, 259, 262, 284, 339, 42113

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


class FileError(ValueError):
    """A file that holds no image that can be used; its message begins with the path.

    >>> read_image(b"no picture")
    Traceback (most recent call last):
        ...
    normtut.files.FileError: image: not an image of a known format

    Args:
        path: the file.
        reason: what is wrong with it.
        foreign: neither a decoder claims the file nor is its name that of an image: a list of labels, say.
    """

    def __init__(self, path: str, reason: str, foreign: bool = False) -> None:
        super().__init__(path, reason)
        self.path, self.reason, self.foreign = path, reason, foreign
        self.member = False  # whether it is one of an archive

    def __str__(self) -> str:
        # A name may hold whatever a terminal would obey.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"{self.path}: {self.reason}")


@dataclass(frozen=True)
class Picture:
    """An image in one of few modes, and what had to be decided to get there.

    >>> gray = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    >>> picture = Picture(gray)
    >>> picture.sixteen_bit, picture.array(), np.asarray(picture.eight_bit())
    (True, array([[    0,   257, 65535]], dtype=uint16), array([[  0,   1, 255]], dtype=uint8))

    Args:
        image: of mode L, RGB, or LA and RGBA where transparency is kept; or of 16-bit gray, mode I or I;16….
        notes: the decisions, in words.
        nodata: the level that stands for "no data", if there is one.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()
    nodata: float | None = None

    @property
    def sixteen_bit(self) -> bool:
        """Whether 65535 is white, rather than 255."""
        return self.image.mode[0] == "I"

    def array(self) -> NDArray[Any]:
        """The pixels: (H, W) or (H, W, C), uint8 or uint16.

        Raises:
            ValueError: for levels that do not fit into 16 bits.
        """
        levels = np.asarray(self.image)
        if not self.sixteen_bit:
            return levels
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"levels from {levels.min()} to {levels.max()} do not fit into 16 bits")
        return levels.astype(np.uint16)

    def valid(self) -> NDArray[np.bool_] | None:
        """(H, W): where there are data; None if that is everywhere."""
        if self.nodata is None:
            return None
        levels = self.array()
        valid = levels != self.nodata
        valid = valid if levels.ndim == 2 else valid.any(axis=2)
        return None if valid.all() else valid

    def eight_bit(self) -> Image.Image:
        """The image with 255 as white: 16-bit levels divided by 257 and rounded, all others as they are."""
        if not self.sixteen_bit:
            return self.image
        return Image.fromarray(((self.array().astype(np.int32) + 128) // 257).astype(np.uint8))


def read_image(
    source: str | os.PathLike[str] | bytes, *, name: str = "", alpha: Alpha = "drop", srgb: bool = False
) -> Picture:
    """The image of a file, by the policy at the top of this module.

    >>> file = io.BytesIO()
    >>> Image.new("RGBA", (4, 3), "#ff000080").save(file, "png")
    >>> picture = read_image(file.getvalue())
    >>> picture.array().shape, picture.notes
    ((3, 4, 3), ('transparency dropped',))

    Args:
        source: the path of the file, or what it contains.
        name: what errors call it; the path, if there is one.
        alpha: drop transparency, put it on white, or keep it.
        srgb: convert images with a colour profile to sRGB.

    Raises:
        FileError: if the file holds no image, or one that the policy refuses; it says why.
    """
    path = name or (os.fspath(source) if not isinstance(source, bytes) else "image")
    try:
        if isinstance(source, bytes):
            size = len(source)
        else:
            status = os.stat(source)
            if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for somebody to write
                raise FileError(path, "not a regular file")
            size = status.st_size
        if not size:
            raise FileError(path, "empty file (0 bytes)")
        return _decode(io.BytesIO(source) if isinstance(source, bytes) else source, alpha, srgb)
    except FileError:
        raise
    except UnidentifiedImageError:
        if path.lower().endswith(_HEIC) and _heic_is_new():
            return read_image(source, name=name, alpha=alpha, srgb=srgb)
        raise _unidentified(path) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise FileError(path, _too_many_pixels()) from None
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise FileError(
            path, (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        ) from error


def _unidentified(path: str) -> FileError:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _HEIC:
        return FileError(path, "no HEIC, or the package that reads it is missing: pip install pillow-heif")
    named = Image.registered_extensions().get(suffix) in _FORMATS
    return FileError(path, "not an image of a known format", foreign=not named)


def _heic_is_new() -> bool:
    """Whether Pillow has learnt only now to read HEIC, by pillow-heif."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    known = "HEIF" in Image.OPEN
    register_heif_opener()
    return not known


def _too_many_pixels() -> str:
    return f"more pixels than PIL.Image.MAX_IMAGE_PIXELS ({Image.MAX_IMAGE_PIXELS:,})"


def _decode(file: Any, alpha: Alpha, srgb: bool) -> Picture:
    Image.init()
    with Image.open(file, formats=[f for f in _FORMATS if f in Image.OPEN]) as opened:
        # Pillow itself only warns up to twice the limit, and filters of warnings are shared by all threads.
        if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(_too_many_pixels())
        raw = [str(tile[3]) for tile in opened.tile]
        deep = opened.mode[0] != "I" and (any(";16" in r for r in raw) or _deep_ppm(opened))
        _refuse(opened)
        opened.load()
        notes = ["16-bit colour, which Pillow reduces to 8 bits"] if deep else []
        image: Image.Image = opened
        if any("LA;16" in r for r in raw):  # Pillow reads gray with alpha as colour with alpha
            image = image.convert("LA")
            image.info = opened.info
        try:
            orientation = opened.getexif().get(_ORIENTATION, 1)
        except Exception:  # whatever a decoder raises: the pixels may be well all the same
            notes.append("broken EXIF data: orientation taken as 1")
            orientation = 1
        picture = standardized(image, alpha=alpha, srgb=srgb)
        image = picture.image
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        nodata = picture.nodata
        if deep and nodata is not None:
            notes.append(f"no-data level {nodata:g}, lost in 8 bits: counted as it is")
            nodata = None
        return replace(picture, image=image, notes=(*notes, *picture.notes), nodata=nodata)


def _deep_ppm(image: ImageFile) -> bool:
    # Its tiles say (mode, highest level).
    return image.format == "PPM" and any(
        isinstance(tile[3], tuple) and isinstance(tile[3][-1], int) and tile[3][-1] > 255
        for tile in image.tile
    )


def _refuse(image: Image.Image) -> None:
    """Raise a ValueError for images whose levels have no agreed meaning, or that Pillow misreads."""
    if image.mode in ("F", "LAB"):
        raise ValueError(f"mode {image.mode} has no agreed levels for black and white")
    if not (tags := getattr(image, "tag_v2", None)):
        if image.mode == "I" and image.format not in ("PNG", "PPM"):  # in these two 65535 is white
            raise ValueError("mode I, 32-bit integers, has no agreed level for white: 16 bits are mode I;16")
        return
    # A TIFF. Pillow knows of no sign in 8 bits, and leaves levels of more than 8 bits as they are.
    bits, kinds, photometric = tags.get(_BITS, (1,)), tags.get(_KIND, (1,)), tags.get(_PHOTOMETRIC, 0)
    if 2 in kinds or (image.mode[0] == "I" and (bits, photometric) != ((16,), 1)):
        raise ValueError(
            f"TIFF of {max(bits)} bits, {'signed' if 2 in kinds else 'unsigned'}, "
            f"{'White' if photometric == 0 else 'Black'}IsZero: of the gray ones with more than 8 bits, "
            "only 16 bits, unsigned, BlackIsZero are counted"
        )
    if tags.get(_PLANES) == 2 and len(bits) > 1 and max(bits) > 8 and tags.get(_COMPRESSION, 1) == 1:
        raise ValueError(
            f"TIFF of {max(bits)} bits whose {len(bits)} channels are stored one after the other without "
            "compression: Pillow misreads it; compressed, or pixel by pixel, it is read rightly"
        )


def standardized(image: Image.Image, *, alpha: Alpha = "drop", srgb: bool = False) -> Picture:
    """An image that is open already, by the same policy (but turned as it is).

    >>> standardized(Image.new("LA", (4, 3)), alpha="white").image.mode
    'L'

    Raises:
        ValueError: for a mode or a TIFF in which there is no agreed level for white.
    """
    _refuse(image)
    mode, notes = image.mode, []
    transparent = mode in _WITH_ALPHA or "transparency" in image.info
    nodata = _nodata(image) if mode[0] == "I" or mode in ("L", "RGB") else None
    if mode[0] == "I":
        return Picture(image, ("transparency dropped",) if transparent else (), nodata)
    if profile := image.info.get("icc_profile"):
        image, note = _with_profile(image, profile, srgb)
        notes += [note] if note else []
    if transparent:
        notes.append(
            {
                "drop": "transparency dropped",
                "white": "transparency put on white",
                "keep": "transparency kept",
            }[alpha]
        )
        gray = mode in ("L", "LA", "La", "1")
        # What has a transparent colour rather than an alpha channel needs none where it is dropped.
        if mode in _WITH_ALPHA or mode == "P" or alpha != "drop":
            image = image.convert("LA" if gray else "RGBA")
        if alpha == "white":
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
        if alpha != "keep":
            image = image.convert("L" if gray else "RGB")
    if mode in ("CMYK", "YCbCr", "HSV") and image.mode == mode:
        notes.append(f"converted from {mode} to RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return Picture(image, tuple(notes), nodata)


def _nodata(image: Image.Image) -> float | None:
    try:
        return float(getattr(image, "tag_v2", {}).get(_NODATA, ""))
    except (TypeError, ValueError):  # there is no such tag, or it holds no number
        return None


def _with_profile(image: Image.Image, profile: bytes, srgb: bool) -> tuple[Image.Image, str | None]:
    """The image in sRGB, if that is asked for, and what to say about its profile."""
    from PIL import ImageCms

    name, space = _profile(profile)
    if name.startswith("sRGB") or "sRGB IEC61966" in name:
        return image, None
    if not srgb:
        return image, f"with the colour profile {name!r}, taken as if it were sRGB"
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    fits = {"RGB": ("RGB", "RGBA"), "GRAY": ("L", "LA"), "CMYK": ("CMYK",)}.get(space, ())
    if image.mode not in fits:
        return image, f"with the colour profile {name!r}, which does not fit: taken as sRGB"
    target = image.mode if space == "RGB" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        colors = image.getchannel("L") if image.mode == "LA" else image  # of LA it would read A as pixels
        done = ImageCms.profileToProfile(colors, source, ImageCms.createProfile("sRGB"), outputMode=target)
    except ImageCms.PyCMSError:
        return image, f"with the colour profile {name!r}, which cannot be applied: taken as sRGB"
    assert done is not None  # it is only None where the image is overwritten
    if space == "GRAY":
        done = done.convert("L")
        if image.mode == "LA":
            done.putalpha(image.getchannel("A"))
    done.info = {k: v for k, v in image.info.items() if k != "icc_profile"}
    return done, f"converted from the colour profile {name!r} to sRGB"


@lru_cache(maxsize=64)
def _profile(profile: bytes) -> tuple[str, str]:
    """Name and colour space of a profile: the same few occur in most files of a folder."""
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.getProfileDescription(opened).strip(), opened.profile.xcolor_space.strip()
    except Exception:  # what lcms raises on damaged profiles
        return "damaged", ""


def to_array(image: Image.Image) -> NDArray[Any]:
    """Pixels of a PIL image, (H, W) or (H, W, 3), uint8 or uint16, converted as described above.

    >>> to_array(Image.new("CMYK", (3, 2))).shape
    (2, 3, 3)

    Raises:
        TypeError: for what is no PIL image.
        ValueError: for a mode in which there is no agreed level for white.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL image, got {type(image).__name__}")
    return standardized(image).array()
