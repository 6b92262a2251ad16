"""The one reader of image files: every kind decided, and said."""

import os
import struct
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features
from tifffile import imwrite

from normtut.cli import stylize
from normtut.files import FileError, Picture, read_image, standardized
from normtut.statistics import scan

RNG = np.random.default_rng(0)
DEEP = "16-bit colour, which Pillow reduces to 8 bits"


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def noise16(*shape):
    return RNG.integers(0, 65536, shape, dtype=np.uint16)


def png16(path, levels, kind):
    """A 16-bit PNG of a kind that Pillow cannot write: 2 RGB, 4 gray with alpha, 6 RGBA."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


# -- sixteen bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["rgb", "separated"])
def test_planes_of_16_bits_are_refused_where_pillow_misreads_them(tmp_path, photometric):
    levels = noise16(3 if photometric == "rgb" else 4, 9, 11)
    for name, compression, planes in (
        ("planes.tif", None, "separate"),
        ("compressed planes.tif", "zlib", "separate"),
        ("pixels.tif", None, "contig"),
    ):
        data = levels if planes == "separate" else levels.transpose(1, 2, 0)
        path = tmp_path / name
        imwrite(path, data, photometric=photometric, planarconfig=planes, compression=compression)
        if name == "planes.tif":
            reason = f"TIFF of 16 bits whose {len(levels)} channels are stored one after the other"
            for read in (read_image, scan, lambda p: stylize._read(str(p))):
                with pytest.raises(ValueError, match=reason):
                    read(path)
        elif photometric == "rgb":
            picture = read_image(path)
            assert (picture.array() == levels.transpose(1, 2, 0) >> 8).all()
            assert picture.notes == (DEEP,)
    planes = noise(3, 9, 11)
    imwrite(tmp_path / "8 bits.tif", planes, photometric="rgb", planarconfig="separate")
    assert (read_image(tmp_path / "8 bits.tif").array() == planes.transpose(1, 2, 0)).all()


def test_sixteen_bit_colour_of_every_kind_is_noted(tmp_path):
    rgba = noise16(5, 7, 4)
    assert read_image(png16(tmp_path / "rgb.png", rgba[..., :3], 2)).notes == (DEEP,)
    assert read_image(png16(tmp_path / "rgba.png", rgba, 6)).notes == (DEEP, "transparency dropped")
    picture = read_image(png16(tmp_path / "la.png", rgba[..., :2], 4))
    assert picture.notes == (DEEP, "transparency dropped")
    assert (picture.array() == rgba[..., 0] >> 8).all()  # one channel, not three
    imwrite(tmp_path / "cmyk.tif", rgba, photometric="separated")
    assert read_image(tmp_path / "cmyk.tif").notes == (DEEP, "converted from CMYK to RGB")
    (tmp_path / "deep.ppm").write_bytes(b"P6 7 5 65535\n" + rgba[..., :3].astype(">u2").tobytes())
    assert read_image(tmp_path / "deep.ppm").notes == (DEEP,)
    (tmp_path / "flat.ppm").write_bytes(b"P6 7 5 255\n" + noise(5, 7, 3).tobytes())
    assert read_image(tmp_path / "flat.ppm").notes == ()
    (tmp_path / "gray.pgm").write_bytes(b"P5 7 5 65535\n" + rgba[..., 0].astype(">u2").tobytes())
    picture = read_image(tmp_path / "gray.pgm")
    assert (picture.notes, picture.sixteen_bit) == ((), True)
    assert (picture.array() == rgba[..., 0]).all()


def test_sixteen_bits_become_the_nearest_of_eight(tmp_path):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(every).save(tmp_path / "every.png")
    picture = read_image(tmp_path / "every.png")
    assert (np.asarray(picture.eight_bit()) == np.rint(every / 257)).all()
    assert stylize._read(str(tmp_path / "every.png")).mean().item() == pytest.approx(0.5, abs=1e-3)


# -- transparency, orientation, profiles ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGB", "L"])
def test_transparency_is_dropped_put_on_white_or_kept(tmp_path, mode):
    gray = mode in ("L", "LA")
    rgba = noise(6, 5, 4)
    if mode in ("P", "RGB", "L"):  # one transparent colour
        rgba[..., 3] = 255
        rgba[0, 0], rgba[1:, :, :3] = 7, 200
        rgba[0, 0, 3] = 0
    if gray:
        rgba[..., 1:3] = rgba[..., :1]
    image = Image.fromarray(rgba)
    if mode in ("P", "PA"):
        colours = Image.fromarray(rgba[..., :3]).quantize(256)
        image = colours.convert("PA")
        rgba[..., :3] = np.asarray(colours.convert("RGB"))
        if mode == "P":
            image, colours.info["transparency"] = colours, int(np.asarray(colours)[0, 0])
        else:
            image.putalpha(Image.fromarray(rgba[..., 3]))
    else:
        image = image.convert(mode)
        if mode in ("RGB", "L"):
            image.info["transparency"] = 7 if gray else (7, 7, 7)
    rgba[..., 3] = np.asarray(image.convert("RGBA"))[..., 3]
    white = np.asarray(
        Image.alpha_composite(Image.new("RGBA", image.size, "white"), Image.fromarray(rgba)).convert("RGB")
    )
    expected = {"drop": rgba[..., :3], "white": white, "keep": rgba}
    for alpha, pixels in expected.items():
        picture = standardized(image, alpha=alpha)
        assert picture.image.mode == ("L" if gray else "RGB") + ("A" if alpha == "keep" else "")
        assert (np.asarray(picture.image.convert("RGBA" if alpha == "keep" else "RGB")) == pixels).all()
        words = {"drop": "dropped", "white": "put on white", "keep": "kept"}[alpha]
        assert picture.notes == (f"transparency {words}",)


def test_opaque_images_have_no_note():
    for mode in ("RGB", "L", "P", "1"):
        assert standardized(Image.new(mode, (3, 2)), alpha="white").notes == ()


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_orientation(tmp_path, suffix, orientation):
    x = noise(4, 7, 3)
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(x).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    picture = read_image(path)
    upright = {
        2: x[:, ::-1], 3: x[::-1, ::-1], 4: x[::-1], 5: x.swapaxes(0, 1), 6: np.rot90(x, -1),
        7: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90(x),
    }.get(orientation, x)  # fmt: skip
    assert (picture.array() == upright).all()
    assert picture.notes == ()


def test_broken_exif_data_cost_no_image(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "broken.jpg"
    Image.new("RGB", (8, 4), "red").save(path, exif=exif)
    path.write_bytes(path.read_bytes().replace(b"Exif\0\0MM\0*", b"Exif\0\0XX\0*"))
    assert read_image(path).image.size == (8, 4)

    def fail(self):  # as older versions of Pillow do with that file
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    picture = read_image(path)
    assert picture.image.size == (8, 4)
    assert picture.notes == ("broken EXIF data: orientation taken as 1",)


def wide_gamut() -> bytes:
    """sRGB's profile with red and green exchanged: no subtle difference, and exact."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = {profile[i : i + 4]: i for i in range(132, 132 + 12 * 20, 12)}
    r, g = tags[b"rXYZ"], tags[b"gXYZ"]
    swapped = bytearray(profile)
    swapped[r : r + 4], swapped[g : g + 4] = b"gXYZ", b"rXYZ"
    return bytes(swapped).replace("sRGB built-in".encode("utf-16-be"), "swapped pair.".encode("utf-16-be"))


def test_profiles_become_srgb_where_that_is_asked_for(tmp_path):
    x = noise(6, 7, 4)
    path = tmp_path / "profile.png"
    Image.fromarray(x).save(path, icc_profile=wide_gamut())
    taken = read_image(path)
    assert (taken.array() == x[..., :3]).all()
    assert taken.notes[0] == "with the colour profile 'swapped pair.', taken as if it were sRGB"
    converted = read_image(path, srgb=True, alpha="keep")
    assert converted.notes[0] == "converted from the colour profile 'swapped pair.' to sRGB"
    difference = converted.array().astype(int) - x[..., [1, 0, 2, 3]]
    assert abs(difference).max() <= 1
    assert scan(path).stats.mean != scan(path, srgb=True).stats.mean
    assert scan(path, srgb=True).stats.mean == pytest.approx(x[..., [1, 0, 2]].mean((0, 1)) / 255, abs=4e-3)
    Image.fromarray(x[..., :3]).save(path, icc_profile=wide_gamut())
    read = stylize._read(str(path))[0].permute(1, 2, 0).numpy() * 255
    assert abs(read - x[..., [1, 0, 2]]).max() <= 1.01


def test_profiles_that_do_not_fit_or_are_damaged_are_noted(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(noise(3, 4)).save(path, icc_profile=wide_gamut())
    assert "which does not fit: taken as sRGB" in read_image(path, srgb=True).notes[0]
    Image.fromarray(noise(3, 4, 3)).save(path, icc_profile=b"no profile")
    for srgb in (False, True):
        assert read_image(path, srgb=srgb).notes[0].startswith("with the colour profile 'damaged'")
    srgb_itself = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noise(3, 4, 3)).save(path, icc_profile=srgb_itself)
    assert read_image(path, srgb=True).notes == read_image(path).notes == ()


def profile(space: bytes, *tags: tuple[bytes, bytes]) -> bytes:
    """A colour profile of few tags (ICC.1:2001-04)."""
    start, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags:
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = struct.pack(">I", start + len(data))
    header = size + b"lcms" + b"\x02\x20\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">iii", 63190, 65536, 54061)  # the illuminant D50
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def described(name: bytes) -> tuple[bytes, bytes]:
    return b"desc", b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(1 + 78)


def gray_profile(gamma: float) -> bytes:
    white = b"wtpt", b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"kTRC", b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))
    return profile(b"GRAY", described(b"linear gray"), white, curve)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_gray_profiles_give_gray(tmp_path, mode):
    levels = noise(6, 7) if mode == "L" else noise(6, 7, 2)
    path = tmp_path / "gray.png"
    Image.fromarray(levels).save(path, icc_profile=gray_profile(1.0))
    picture = read_image(path, srgb=True, alpha="keep")
    assert picture.notes[0] == "converted from the colour profile 'linear gray' to sRGB"
    assert picture.image.mode == mode
    linear = (levels if mode == "L" else levels[..., 0]) / 255
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    found = picture.array() if mode == "L" else picture.array()[..., 0]
    errors = abs(found - 255 * encoded)
    assert errors[linear > 0.1].max() <= 1.5
    assert errors.max() <= 10  # the first levels are 13 apart, and the library works with 8 bits
    if mode == "LA":
        assert (picture.array()[..., 1] == levels[..., 1]).all()


def test_a_palette_with_a_profile_is_converted_by_its_colours(tmp_path):
    x = noise(6, 7, 3)
    palette = Image.fromarray(x).quantize(64)
    path = tmp_path / "palette.png"
    palette.save(path, icc_profile=wide_gamut())
    colours = np.asarray(palette.convert("RGB")).astype(int)
    assert abs(read_image(path, srgb=True).array() - colours[..., [1, 0, 2]]).max() <= 1


def test_a_profile_that_says_what_it_is_but_not_how_is_noted(tmp_path):
    path = tmp_path / "x.png"
    x = noise(3, 4, 3)
    Image.fromarray(x).save(path, icc_profile=profile(b"RGB ", described(b"empty")))
    picture = read_image(path, srgb=True)
    assert picture.notes == ("with the colour profile 'empty', which cannot be applied: taken as sRGB",)
    assert (picture.array() == x).all()


def test_levels_beyond_16_bits_are_refused():
    for level in (-1, 65536):
        with pytest.raises(ValueError, match=rf"levels from .*{level}.* do not fit into 16 bits"):
            Picture(Image.fromarray(np.array([[0, level]], np.int32))).array()


@pytest.mark.skipif(not features.check("avif"), reason="Pillow reads no AVIF here")
def test_damaged_avif_is_an_error_with_a_reason(tmp_path):
    """Its decoder raises errors of several kinds."""
    path = tmp_path / "x.avif"
    Image.fromarray(noise(40, 50, 3)).save(path)
    assert read_image(path).image.size == (50, 40)
    whole, said = path.read_bytes(), []
    for k in range(60):
        damaged = bytearray(whole[: RNG.integers(1, len(whole))] if k % 2 else whole)
        for place in RNG.integers(len(damaged), size=4 * (k % 2 == 0)):
            damaged[place] ^= 0xFF
        try:
            read_image(bytes(damaged), name="x.avif")
        except FileError as error:
            said.append(str(error))
    assert len(said) > 10
    assert all(words.startswith("x.avif: ") for words in said)


# -- what is not opened, and how it is said -------------------------------------------------------------


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, lambda p: stylize._read(str(p))):
        errors = []

        def attempt(read=read, errors=errors):
            with pytest.raises(ValueError, match=r"pipe\.png: not a regular file"):
                read(tmp_path / "pipe.png")
            errors.append("raised")

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(20)
        assert errors == ["raised"]


def test_contents_can_be_given_instead_of_a_path(tmp_path):
    x = noise(5, 4, 3)
    Image.fromarray(x).save(tmp_path / "x.png")
    contents = (tmp_path / "x.png").read_bytes()
    assert (read_image(contents).array() == x).all()
    with pytest.raises(FileError, match=r"^a\.tar/x\.png: "):
        read_image(contents[:-30], name="a.tar/x.png")
    with pytest.raises(FileError, match="empty file"):
        read_image(b"")
    with pytest.raises(FileError, match="No such file"):
        read_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize(
    ("name", "foreign"), [("labels.csv", True), ("README", True), ("x.JPG", False), ("x.tif", False)]
)
def test_foreign_files_are_told_from_damaged_images(tmp_path, name, foreign):
    (tmp_path / name).write_text("whatever this is")
    with pytest.raises(FileError, match="not an image of a known format") as error:
        read_image(tmp_path / name)
    assert error.value.foreign == foreign


def test_heic_says_what_to_install(tmp_path):
    (tmp_path / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(FileError, match="pip install pillow-heif") as error:
        read_image(tmp_path / "photo.HEIC")
    assert not error.value.foreign


def test_without_pillow_heif_too(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(FileError, match="the package that reads it is missing"):
        read_image(tmp_path / "photo.heic")


def test_names_are_escaped_in_messages():
    assert str(FileError("a\x1b[31m\nb é\udcff.png", "no")) == "a\\x1b[31m\\nb é\\udcff.png: no"


def test_pillows_limit_holds_in_threads_and_whatever_the_filters_of_warnings(tmp_path, monkeypatch, recwarn):
    for i in range(40):
        Image.fromarray(np.zeros((30, 40 if i % 2 else 10), np.uint8)).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for _ in range(5):
        report = scan(tmp_path, workers=4)
        assert (report.stats.images, len(report.skipped)) == (20, 20)
        assert all("more pixels than PIL.Image.MAX_IMAGE_PIXELS (1,000)" in e.reason for e in report.skipped)
