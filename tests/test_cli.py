"""``normtut stats`` and `normtut.statistics.scan` on real files, in real processes."""

import io
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import Image
from torchvision import transforms

import normtut
from normtut import ChannelStats, dataset_stats
from normtut.cli import main
from normtut.data import PhotoPatches, photos
from normtut.statistics import FileError, Report, image_files, scan, to_array
from normtut.statistics.folders import _in_order, progress_bar

PHOTO = photos("cat")["cat"]


def save(path, pixels=None, **options):
    """Write an array (H, W[, C]) or a PIL image; returns the path."""
    image = Image.fromarray(PHOTO.permute(1, 2, 0).numpy()) if pixels is None else pixels
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def rgb(path) -> ChannelStats:
    """What decoding a file as everybody does gives."""
    with Image.open(path) as image:
        return ChannelStats(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def same(stats: ChannelStats, other: ChannelStats) -> None:
    for name in ("count", "images", "mean", "std", "min", "max", "image_means", "image_stds"):
        assert getattr(stats, name) == getattr(other, name), name


def stats_json(capsys, *arguments) -> tuple[int, dict]:
    status = main(["stats", "--json", "--quiet", *map(str, arguments)])
    return status, json.loads(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path):
    """Ten small photographs in every lossless and lossy format, in subfolders."""
    data = PhotoPatches(train=False).data
    suffixes = ("png", "jpg", "webp", "bmp", "tif", "gif", "ppm", "tga", "jp2", "jpeg")
    for i, suffix in enumerate(suffixes):
        save(tmp_path / f"class {i % 3}" / f"{i}.{suffix}", data[25 * i])
    return tmp_path


# -- what is counted ------------------------------------------------------------------------------------


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"normtut {normtut.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["stats", "--help"], ["stylize", "--help"]])
def test_help_imports_nothing_large(arguments):
    script = (
        "import sys; from normtut.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'torch', 'numpy', 'PIL', 'torchvision'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "set()\n"
    assert "normtut" in done.stdout


def test_ctrl_c_during_imports_is_a_sentence(tmp_path):
    script = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
class Impatient:
    def find_spec(self, name, *_):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Impatient())
from normtut.cli import main
sys.exit(main(["stats", sys.argv[1]]))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "normtut: interrupted\n")


def test_a_folder_is_the_sum_of_its_files(folder):
    expected = ChannelStats()
    for path in image_files(folder):
        expected.merge(rgb(path))
    for workers in (0, 1, 3):
        for batch_size in (1, 3, 64):
            same(scan(folder, workers=workers, batch_size=batch_size).stats, expected)
    same(dataset_stats(folder, progress=False), expected)
    same(dataset_stats(str(folder), progress=False, num_workers=2), expected)
    assert scan(folder, batch_size=4).stats.batch_stds.count == 3


def test_lossless_files_give_the_digits_of_the_pixels(tmp_path):
    data = PhotoPatches(train=False).data[:20]
    for i, pixels in enumerate(data):
        save(tmp_path / f"{i}.png", pixels)
    same(scan(tmp_path).stats, ChannelStats(torch.from_numpy(data).permute(0, 3, 1, 2)))


def test_kinds_of_files(tmp_path):
    """Each kind is handled as the table at `scan` says."""
    x = noise(12, 9, 3)
    gray, rgba = noise(12, 9), noise(12, 9, 4)
    palette = Image.fromarray(x).quantize(16)
    clear = Image.fromarray(x).quantize(16)
    clear.info["transparency"] = 3
    cmyk = (
        Image.fromarray(rgba, "CMYK")
        if PIL.__version__ < "11"
        else Image.frombytes("CMYK", (9, 12), rgba.tobytes())
    )
    bits = Image.fromarray(gray).convert("1")
    deep = (np.arange(108, dtype=np.uint16) * 600).reshape(12, 9)
    cases = {
        "gray.png": (gray, gray, None),
        "bits.png": (bits, np.asarray(bits).astype(np.uint8) * 255, None),
        "alpha.png": (rgba, rgba[..., :3], "transparency dropped"),
        "gray alpha.png": (noise(12, 9, 2), noise(12, 9, 2)[..., 0], "transparency dropped"),
        "palette.png": (palette, np.asarray(palette.convert("RGB")), None),
        "clear.png": (clear, np.asarray(palette.convert("RGB")), "transparency dropped"),
        "cmyk.tif": (cmyk, np.asarray(cmyk.convert("RGB")), "converted from CMYK to RGB"),
        "deep.png": (deep, deep, None),
        "deep.tif": (deep, deep, None),
    }
    for name, (pixels, expected, note) in cases.items():
        path = save(tmp_path / name, pixels)
        report = scan(path)
        expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
        same(report.stats, ChannelStats(np.ascontiguousarray(expected)))
        assert list(report.notes) == ([note] if note else []), name
        with Image.open(path) as image:
            array = to_array(image)
        same(ChannelStats(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy()), report.stats)


def test_transparent_pixels_count_as_they_are(tmp_path):
    x = np.zeros((4, 4, 4), np.uint8)
    x[..., :3] = 200  # fully transparent, but light: blending with black would give 0
    assert scan(save(tmp_path / "a.png", x)).stats.mean == (200 / 255,) * 3


def test_exif_orientation_is_applied_before_cropping(tmp_path):
    x = noise(8, 16, 3)
    x[:, :4] = 0  # a dark border on the left; a viewer that rotates shows it on top
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "rotated.png", x, exif=exif)
    report = scan(path, crop=8)
    upright = np.rot90(x, -1)[4:12]
    same(report.stats, ChannelStats(upright.transpose(2, 0, 1).copy()))
    assert list(scan(path).sizes) == [(8, 16)]


def test_several_frames_count_as_the_first(tmp_path):
    frames = [Image.fromarray(noise(6, 6, 3, seed=s)) for s in range(3)]
    path = save(tmp_path / "frames.tif", frames[0], save_all=True, append_images=frames[1:])
    same(scan(path).stats, ChannelStats(noise(6, 6, 3).transpose(2, 0, 1).copy()))


def png16(path, levels):
    """A 16-bit RGB file, which Pillow cannot write."""
    h, w, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def test_sixteen_bit_colour_is_noted(tmp_path):
    levels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    report = scan(png16(tmp_path / "deep.png", levels))
    same(report.stats, ChannelStats((levels >> 8).astype(np.uint8).transpose(2, 0, 1).copy()))
    assert "16-bit colour" in report.warnings()[0]


def tiff(path, values, bits, sample_format=1, photometric=1, order="<"):
    """A gray file of 4 × 4 pixels, of a kind that Pillow may not write."""
    if bits == 12:  # two pixels in three bytes
        pairs = np.asarray(values).reshape(-1, 2).tolist()
        data = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in pairs)
    else:
        kind = {1: "u", 2: "i", 3: "f"}[sample_format]
        data = np.asarray(values).astype(f"{order}{kind}{bits // 8}").tobytes()
    tags = {256: 4, 257: 4, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 4, 279: len(data)}
    tags |= {273: 8 + 2 + 12 * 10 + 4, 339: sample_format}  # the pixels come after this list
    header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    entries = (struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items()))
    path.write_bytes(header + struct.pack(order + "H", 10) + b"".join(entries) + bytes(4) + data)
    return path


@pytest.mark.parametrize("order", "<>")
def test_sixteen_bit_tiffs_are_counted(tmp_path, order):
    levels = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    path = tiff(tmp_path / "deep.tif", levels, 16, order=order)
    same(scan(path).stats, ChannelStats(levels[None]))
    with Image.open(path) as image:
        same(ChannelStats(image), ChannelStats(levels[None]))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"bits": 32, "sample_format": 2}, "32 bits, signed"),
        ({"bits": 32}, "32 bits, unsigned"),
        ({"bits": 16, "sample_format": 2}, "16 bits, signed"),
        ({"bits": 16, "sample_format": 2, "order": ">"}, "16 bits, signed"),
        ({"bits": 8, "sample_format": 2}, "8 bits, signed"),
        ({"bits": 12}, "12 bits, unsigned"),
        ({"bits": 16, "photometric": 0}, "16 bits, unsigned, WhiteIsZero"),
        ({"bits": 32, "sample_format": 3}, "mode F"),
    ],
)
def test_other_tiffs_of_integers_are_skipped_with_a_reason(tmp_path, kind, reason):
    path = tiff(tmp_path / "other.tif", np.full((4, 4), 100), **kind)
    with pytest.raises(FileError, match=reason):
        scan(path)
    with Image.open(path) as image, pytest.raises(ValueError, match=reason):
        to_array(image)


def test_an_int32_image_is_skipped_however_small_its_levels(tmp_path):
    image = Image.fromarray(np.full((4, 4), 200, np.int32))
    with pytest.raises(FileError, match="32 bits, signed"):
        scan(save(tmp_path / "i32.tif", image))
    with pytest.raises(ValueError, match="mode I, 32-bit integers, has no agreed level"):
        ChannelStats(image)
    assert scan(save(tmp_path / "16 bit.pgm", image)).stats.mean == (200 / 65535,)  # where 65535 is white


def test_gray_among_colour_counts_as_equal_channels(tmp_path):
    data = noise(5, 4, 4, 3)
    for i in range(3):
        save(tmp_path / f"{i}.png", data[i])
    gray = [save(tmp_path / f"{i}.png", data[i, ..., 0]) for i in (3, 4)]
    x = torch.from_numpy(data).permute(0, 3, 1, 2).clone()
    x[3:] = x[3:, :1]
    for batch_size in (1, 2, 5):  # gray in batches of its own, and mixed with colour
        report = scan(tmp_path, batch_size=batch_size)
        assert report.stats == ChannelStats(*x.split(batch_size)), batch_size
        assert report.warnings() == ["2 of 5 images: gray, counted as R = G = B"]
    only = scan(gray[0].parent / "3.png")
    assert (only.stats.channels, only.warnings()) == (1, [])
    with pytest.warns(UserWarning, match="2 of 5 images: gray"):
        dataset_stats(tmp_path, progress=False)


@pytest.mark.parametrize(("resize", "crop"), [(20, None), (None, 17), (40, 24)])
def test_resize_and_crop_are_torchvisions(folder, resize, crop):
    steps = [transforms.Resize(resize)] if resize else []
    steps += [transforms.CenterCrop(crop)] if crop else []
    recipe = transforms.Compose([*steps, transforms.PILToTensor()])
    expected = ChannelStats()
    for path in image_files(folder):
        with Image.open(path) as image:
            expected.update(recipe(image.convert("RGB")))
    same(scan(folder, resize=resize, crop=crop).stats, expected)


def test_sixteen_bit_images_can_be_resized(tmp_path):
    path = save(tmp_path / "deep.png", np.full((10, 20), 30000, np.uint16))
    report = scan(path, resize=5, crop=5)
    assert (report.stats.mean, report.stats.count) == ((30000 / 65535,), 25)


# -- bad files ------------------------------------------------------------------------------------------


@pytest.fixture
def bad(folder, monkeypatch):
    """The folder with files that cannot be counted, and part of the reason for each."""
    whole = (folder / "class 1" / "1.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "truncated.png").write_bytes((folder / "class 0" / "0.png").read_bytes()[:-60])
    (folder / "empty.png").touch()
    (folder / "lies.jpg").write_text("<svg/>")
    save(folder / "floats.tif", np.zeros((3, 3), np.float32))
    os.mkfifo(folder / "pipe")
    save(folder / "bomb.png", np.zeros((101, 100, 3), np.uint8))
    save(folder / "great bomb.png", np.zeros((300, 100, 3), np.uint8))
    (folder / ".hidden").write_text("left out, as promised")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    return folder, {
        "truncated.jpg": "runcated",
        "truncated.png": "",
        "empty.png": "empty file",
        "lies.jpg": "not an image",
        "floats.tif": "mode F",
        "pipe": "not a regular file",
        "bomb.png": "MAX_IMAGE_PIXELS (10,000)",
        "great bomb.png": "MAX_IMAGE_PIXELS (10,000)",
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_skipped_counted_and_listed(bad, capsys, workers):
    folder, reasons = bad
    status, result = stats_json(capsys, folder, "--workers", workers)
    assert status == 1
    assert result["images"] == 10
    skipped = {os.path.basename(s["path"]): s["reason"] for s in result["skipped"]}
    assert skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in skipped[name]
        assert skipped[name]
    for name in reasons:
        (folder / name).unlink()
    assert stats_json(capsys, folder) == (0, {**result, "skipped": []})


def test_what_is_no_image_by_name_and_by_contents_is_ignored(folder, capsys):
    for name in ("labels.csv", "Thumbs.db", "README", "notes.txt"):
        (folder / name).write_text("not an image")
    _, expected = stats_json(capsys, folder / "class 0")
    save(folder / "class 0" / "no suffix", noise(4, 4, 3), format="PNG")  # an image all the same
    status, result = stats_json(capsys, folder)
    assert (status, result["images"], result["skipped"]) == (0, 11, [])
    assert [os.path.basename(p) for p in result["ignored"]] == [
        "README",
        "Thumbs.db",
        "labels.csv",
        "notes.txt",
    ]
    assert expected["ignored"] == []
    assert main(["stats", "--quiet", "--strict", str(folder)]) == 0
    assert "4 ignored, which are no images:" in capsys.readouterr().out
    assert scan(folder).stats == dataset_stats(folder, progress=False)


def test_the_table_lists_them_too(bad, capsys):
    folder, reasons = bad
    assert main(["stats", "--quiet", str(folder)]) == 1
    out = capsys.readouterr().out
    assert f"{len(reasons)} skipped:" in out
    for name in reasons:
        assert f"{folder / name}: " in out
    skipped = pytest.warns(UserWarning, match="8 files were skipped: .*; and 5 more")
    with skipped, pytest.warns(Image.DecompressionBombWarning):  # Pillow's own, before the file is refused
        dataset_stats(folder, progress=False)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_a_stream_cannot_encode_is_escaped(tmp_path, monkeypatch, encoding):
    """A scan of hours must not end in a UnicodeEncodeError for the name of one file."""
    save(tmp_path / "good.png", noise(8, 8, 3))
    (tmp_path / os.fsdecode(b"bad\xff.jpg")).write_text("not an image")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        assert main(["stats", "--quiet", str(tmp_path)]) == 1
        assert main(["stats", "--quiet", "--strict", str(tmp_path)]) == 1
    table = out.buffer.getvalue().decode(encoding)
    assert "bad\\udcff.jpg: not an image" in table
    assert ("8 × 8" if encoding == "utf-8" else "8 \\xd7 8") in table
    assert b"bad\\udcff.jpg" in err.buffer.getvalue()


def test_streams_that_cannot_be_configured_are_left_alone(tmp_path, monkeypatch):
    save(tmp_path / "good.png", noise(8, 8, 3))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        patch.setattr(sys, "stderr", None)  # as under pythonw
        assert main(["stats", "--quiet", str(tmp_path)]) == 0
        assert "8 × 8" in sys.stdout.getvalue()


def test_strict_stops_at_the_first(bad, capsys):
    folder, reasons = bad
    first = next(p for p in image_files(folder) if os.path.basename(p) in reasons)
    for workers in (0, 2):
        with pytest.raises(FileError) as error:
            scan(folder, strict=True, workers=workers)
        assert error.value.path == first
    assert main(["stats", "--quiet", "--strict", str(folder)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert first in captured.err


def test_an_image_smaller_than_the_crop_is_skipped_not_padded(tmp_path, capsys):
    save(tmp_path / "small.png", noise(10, 30, 3))
    save(tmp_path / "large.png", noise(20, 20, 3))
    status, result = stats_json(capsys, tmp_path, "--crop", 20)
    assert (status, result["images"], result["count"]) == (1, 1, 400)
    assert "fewer than the crop of 20" in result["skipped"][0]["reason"]


def test_resizing_never_passes_pillows_limit(tmp_path, monkeypatch):
    save(tmp_path / "needle.png", np.zeros((1, 20_000), np.uint8))
    save(tmp_path / "usual.png", noise(10, 20, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    report = scan(tmp_path, resize=100, crop=50)
    assert (report.stats.images, report.stats.count) == (1, 2500)
    assert report.skipped[0].reason == (
        "resized to 2000000 × 100 it has more pixels than PIL.Image.MAX_IMAGE_PIXELS (100,000)"
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert scan(tmp_path / "usual.png", resize=10).stats.count == 200
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert scan(tmp_path, resize=1).stats.images == 2


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        (lambda p: p / "nowhere", 2, "no such file or folder"),
        (lambda p: p, 2, "no files in the folder"),
        (
            lambda p: (p / "x.png").write_text("x") and p,
            1,
            "none of 1 files could be counted; .*not an image",
        ),
    ],
)
def test_nothing_to_count(tmp_path, capsys, make, status, message):
    path = make(tmp_path)
    assert main(["stats", "--quiet", str(path)]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err)
    with pytest.raises((ValueError, OSError), match=message):
        dataset_stats(path, progress=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resize", "0"], "--resize: must be a whole number of at least 1, got '0'"),
        (["--crop", "-1"], "--crop: must be a whole number of at least 1, got '-1'"),
        (["--workers", "x"], "--workers: must be a whole number of at least 0, got 'x'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_wrong_usage(tmp_path, capsys, arguments, says):
    with pytest.raises(SystemExit) as error:
        main(["stats", str(tmp_path), *arguments])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert "usage: normtut" in message
    assert says in message
    with pytest.raises(ValueError, match="must be at least"):
        scan(tmp_path, batch_size=0)


def test_links_are_followed_once(folder):
    before = len(image_files(folder))
    (folder / "class 0" / "loop").symlink_to(folder)
    assert len(image_files(folder)) == before
    assert image_files(folder) == sorted(image_files(folder))


def test_only_names_that_begin_with_a_dot_are_left_out(tmp_path):
    names = ["3.", "a/1.png", "b.c/end.", "d./x"]
    for name in [*names, ".e/2.png", "d./.hidden"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert image_files(tmp_path) == [str(tmp_path / name) for name in names]


def test_a_folder_that_two_links_lead_to_counts_once(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("first", "second"):
        (linked / name).symlink_to(folder)
    files = image_files(linked)
    assert len(files) == len(image_files(folder))
    assert all(f.startswith(str(linked / "first")) for f in files)


# -- what is printed ------------------------------------------------------------------------------------


def test_json(folder, capsys):
    status, result = stats_json(capsys, folder)
    expected = scan(folder).stats
    assert status == 0
    assert (result["images"], result["count"], result["skipped"], result["partial"]) == (10, 10240, [], False)
    for name in ("mean", "std", "min", "max"):
        assert tuple(result[name]) == getattr(expected, name)


def test_table(folder, capsys):
    assert main(["stats", "--quiet", str(folder)]) == 0
    out = capsys.readouterr().out
    stats = scan(folder).stats
    assert "images   10 (10 of 32 × 32)" in out
    assert "pixels   10,240 of each channel" in out
    assert repr(stats) in out
    for channel, mean, std in zip("RGB", stats.mean, stats.std, strict=True):
        assert [
            line
            for line in out.splitlines()
            if line.startswith(channel) and f"{mean:.6f}" in line and f"{std:.6f}" in line
        ]


def test_a_constant_channel_is_a_warning_and_no_failure(tmp_path, capsys):
    save(tmp_path / "red.png", Image.new("RGB", (4, 4), "red"))
    assert main(["stats", "--quiet", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "channels [0, 1, 2] are constant: Normalize cannot divide by their std, 0" in out
    save(tmp_path / "cat.png")
    assert scan(tmp_path).warnings() == []


@pytest.mark.parametrize("arguments", [["stats", "--quiet", "{}"], ["--help"]])
def test_it_ends_quietly_when_nobody_reads(tmp_path, arguments):
    save(tmp_path / "1.png", noise(4, 4, 3))
    reading, writing = os.pipe()
    os.close(reading)
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # argparse itself hides what fails at once
    command = [sys.executable, "-m", "normtut", *(a.format(tmp_path) for a in arguments)]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_array_is_no_image():
    with pytest.raises(TypeError, match="image must be a PIL image, got ndarray"):
        to_array(noise(4, 4, 3))


def test_a_subfolder_that_cannot_be_read_is_listed(folder, capsys, monkeypatch):
    (folder / "locked").mkdir()
    walk = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return walk(path)

    monkeypatch.setattr(os, "scandir", scandir)
    status, result = stats_json(capsys, folder)
    assert (status, result["images"]) == (1, 10)
    reason = "folder not read: Permission denied"
    assert result["skipped"] == [{"path": str(folder / "locked"), "reason": reason}]
    with pytest.raises(FileError, match=reason):
        scan(folder, strict=True)
    for path in (folder, folder / "locked"):
        with pytest.raises(PermissionError):
            image_files(path)
    assert main(["stats", str(folder / "locked")]) == 2


@pytest.mark.timeout(60)
def test_a_named_pipe_is_no_place_to_save(folder, tmp_path, capsys):
    """Reading it would wait for ever, and no signal would end that."""
    os.mkfifo(pipe := tmp_path / "state.json")
    assert main(["stats", str(folder), "--save", str(pipe), "--resume"]) == 2
    assert "state.json for --save is not a regular file" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_in_one_line(tmp_path):
    save(tmp_path / "1.png", noise(4, 4, 3))
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "normtut", "stats", "--quiet", str(tmp_path)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "normtut: the output could not be written: [Errno 28] No space left on device"
    ]


MEETING = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "arguments", "status", "says"),
    [
        ({"RANK": "3"}, [], 0, ""),
        ({"RANK": "1", "WORLD_SIZE": "4"}, [], 0, ""),  # of a job scheduler: there is nowhere to meet
        (
            {"RANK": "0", "WORLD_SIZE": "abc"},
            [],
            2,
            "WORLD_SIZE must be a whole number of at least 1, got 'abc'",
        ),
        (MEETING, ["--backend", "nccl"], 2, "--backend nccl needs a CUDA device"),
        ({}, ["--timeout", "9" * 30], 0, ""),
        ({"LOCAL_WORLD_SIZE": "0"}, [], 2, "LOCAL_WORLD_SIZE must be a whole number of at least 1, got '0'"),
        ({**MEETING, "RANK": "x"}, [], 2, "RANK must be a whole number of at least 0, got 'x'"),
        ({**MEETING, "RANK": "5"}, [], 2, "RANK must be below its WORLD_SIZE 2, got 5"),
        ({**MEETING, "MASTER_PORT": "abc"}, [], 2, "MASTER_PORT must be a whole number of at least 0"),
    ],
)
def test_a_stray_environment(tmp_path, capsys, monkeypatch, environment, arguments, status, says):
    if "nccl" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    save(tmp_path / "1.png", noise(4, 4, 3))
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["stats", "--quiet", str(tmp_path), *arguments]) == status
    assert says in capsys.readouterr().err


# -- stopped, shared, killed ----------------------------------------------------------------------------


def test_stop_gives_what_has_been_counted(tmp_path):
    for i in range(40):
        save(tmp_path / f"{i:02}.png", noise(4, 4, 3, seed=i))
    stop = threading.Event()
    stop.set()
    report = scan(tmp_path, batch_size=16, stop=stop)
    assert report.partial
    assert report.stats.images == 8
    expected = ChannelStats(*(noise(4, 4, 3, seed=i).transpose(2, 0, 1).copy() for i in range(8)))
    same(report.stats, expected)
    assert any("only a part" in w for w in report.warnings())


def test_shares_add_up(folder):
    (folder / "bad.png").write_text("x")
    (folder / "labels.txt").write_text("x")
    whole = scan(folder, batch_size=2)
    for world in (2, 3, 11):
        merged = Report()
        for rank in reversed(range(world)):
            merged.merge(scan(folder, batch_size=2, share=(rank, world)))
        assert merged.stats == whole.stats
        for kind in ("skipped", "ignored"):
            assert [str(e) for e in getattr(merged, kind)] == [str(e) for e in getattr(whole, kind)] != []
        assert (merged.sizes, merged.notes) == (whole.sizes, whole.notes)
    report = scan(folder, share=(0, 2))
    save(folder / "new.png")
    with pytest.raises(ValueError, match="different lists of files"):
        report.merge(scan(folder, share=(1, 2)))


@pytest.mark.parametrize("share", [(2, 2), (-1, 2), (0, 0)])
def test_a_share_that_is_none_is_refused(folder, share):
    with pytest.raises(ValueError, match=re.escape(f"0 <= rank < world size, got {share}")):
        scan(folder, share=share)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"resize": 0}, "resize must be at least 1, got 0"),
        ({"crop": 0}, "crop must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_read(given, says):
    with pytest.raises(ValueError, match=says):
        scan("no such folder", **given)


def test_the_smallest_image_is_one_pixel(folder):
    assert scan(folder, resize=1, crop=1).stats.count == 10


def test_the_bar_goes_to_the_number_of_files_which_is_not_known_of_archives(folder, monkeypatch):
    totals = []

    def bar(total, show):
        totals.append(total)
        return progress_bar(total, show=False)

    monkeypatch.setattr("normtut.statistics.folders.progress_bar", bar)
    for share in ((0, 1), (1, 3)):
        scan(folder, share=share)
    with tarfile.open(folder / "all.tar", "w") as tar:
        tar.add(folder / "class 0")
    scan(folder)
    assert totals == [10, 3, None]


def test_so_many_results_are_worked_out_ahead_and_no_more():
    items = itertools.count()
    with ThreadPoolExecutor(2) as pool:
        results = _in_order(pool, 3, str, items)
        assert [next(results) for _ in range(5)] == list("01234")
        assert next(items) == 8


def start(*command, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
    )


def finish(process, timeout=240):
    try:
        return (*process.communicate(timeout=timeout), process.returncode)
    finally:
        if process.poll() is None:  # nothing is left behind, whatever happened
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def torchrun(world, *command):
    return start(
        "torch.distributed.run", "--standalone", "--nproc-per-node", world, "-m", "normtut", *command
    )


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_torchrun_prints_the_same_digits(folder, world, capsys):
    for i in range(90):  # four batches
        save(folder / "more" / f"{i}.png", noise(3, 3, 3, seed=i))
    _, expected = stats_json(capsys, folder)
    out, err, status = finish(torchrun(world, "stats", "--json", "--quiet", folder))
    assert status == 0, err
    assert json.loads(out) == expected  # printed once


@pytest.mark.slow
def test_processes_that_see_different_files_say_so_before_they_count(folder, tmp_path):
    script = tmp_path / "different.py"
    script.write_text(
        "import os, sys\nfrom normtut.cli import main\nfrom normtut.statistics import folders, sources\n"
        "files = sources.image_files\n"
        "sources.image_files = lambda *a, **k: files(*a, **k)[int(os.environ['RANK']):]\n"
        "def read(*a): raise SystemExit('read a file')\nfolders._read = read\nsys.exit(main())\n"
    )
    command = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, script)
    out, err, status = finish(start(*command, "stats", "--quiet", folder))
    assert status != 0
    assert out == ""
    assert "the processes see different files" in err
    assert "read a file" not in err


@pytest.mark.slow
def test_torchrun_with_a_failure_tells_and_ends(folder):
    (folder / "bad.jpg").write_text("x")
    out, err, status = finish(torchrun(2, "stats", "--quiet", "--strict", folder))
    assert status != 0
    assert out == ""
    assert err.count("bad.jpg: not an image") == 1


@pytest.mark.slow
def test_a_killed_process_fails_the_others_with_a_message(tmp_path):
    slow_files(tmp_path)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [start("normtut", "stats", "--json", tmp_path, RANK=str(r), **group) for r in (0, 1)]
    try:
        wait_until_reading(processes[1].pid, tmp_path)
        processes[1].kill()
    finally:
        out, err, status = finish(processes[0])
        finish(processes[1])
    assert status == 1, err
    assert out == ""
    assert "could not collect the statistics of the 2 processes: one of them has died" in err


def slow_files(folder):
    """128 files, four batches, that take some seconds together: one, by many names."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to see which files another process is reading")
    first = save(folder / "000.png", noise(1500, 1500, 3), compress_level=1)
    for i in range(1, 128):
        (folder / f"{i:03}.png").hardlink_to(first)


def test_interrupted_it_prints_what_it_has(tmp_path):
    slow_files(tmp_path)
    process = start("normtut", "stats", "--json", "--workers", "1", tmp_path)
    try:
        wait_until_reading(process.pid, tmp_path)
        process.send_signal(signal.SIGINT)
    finally:
        out, err, status = finish(process)
    assert status == 130, err
    result = json.loads(out)
    assert result["partial"] is True
    assert 0 < result["images"] < 128
    assert result["count"] == result["images"] * 1500 * 1500
    assert "Traceback" not in err


def wait_until_reading(pid, folder, seconds=120):
    """Until a process has one of the folder's files open."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except FileNotFoundError:
            links = []
        if any(link.startswith(str(folder)) for link in links):
            return
        time.sleep(0.01)
    raise AssertionError("it never opened a file")
