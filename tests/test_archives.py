"""Images in archives and tables, at addresses, in many shards; counted in several runs."""

import argparse
import gzip
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from normtut import ChannelStats, dataset_stats
from normtut.cli import main
from normtut.cli import stats as cli
from normtut.statistics import FileError, Report, folders, scan, sources
from normtut.statistics.counts import count_pixels

RNG = np.random.default_rng(0)
NAMES = [f"class {i % 3}/{i:02}.{'jpg' if i % 2 else 'png'}" for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty images in subfolders, gray among them, and their labels."""
    root = tmp_path_factory.mktemp("archives") / "folder"
    for i, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shape = (9, 10 + i % 4) if i % 5 == 0 else (9, 10 + i % 4, 3)
        Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(root / name)
        (root / name).with_suffix(".cls").write_text(str(i % 3))
    return root


@pytest.fixture(scope="module")
def expected(folder):
    return scan(folder)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def pack_tar(folder, path, names=None, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name in names or files(folder):
            tar.add(folder / name, name)
    return path


def pack_zip(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in files(folder):
            archive.write(folder / name, name)
    return path


def pack_table(folder, path, as_struct=True, **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    # Sorted as the folder is, which has the labels between the images: they make batches of 32 files.
    images = [n for n in files(folder) if not n.endswith(".cls")]
    data = [(folder / n).read_bytes() for n in images]
    if as_struct:  # as Hugging Face stores images
        data = [{"bytes": b, "path": n} for b, n in zip(data, images, strict=True)]
    table = pa.table({"image": data, "label": [0] * len(images), **columns})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=7)
    else:
        opener = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with opener(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return path


def same(report, other, batches=True):
    names = ["count", "images", "mean", "std", "min", "max", "image_means", "image_stds"]
    for name in [*names, "batch_stds"] if batches else names:
        assert getattr(report.stats, name) == getattr(other.stats, name), name
    assert (report.gray_images, report.sizes, report.skipped) == (
        other.gray_images,
        other.sizes,
        other.skipped,
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.TAR.xz", "x.zip"])
@pytest.mark.filterwarnings("ignore:8 of 40 images. gray")
def test_an_archive_gives_every_digit_of_its_folder(folder, expected, tmp_path, name, workers):
    path = tmp_path / name
    if name == "x.zip":
        pack_zip(folder, path)
    else:
        pack_tar(folder, path, mode={"gz": "w:gz", "z2": "w:bz2", "xz": "w:xz"}.get(name[-2:], "w"))
        if name == "x.tar.gz":
            assert path.read_bytes()[:2] == b"\x1f\x8b"
    report = scan(path, workers=workers)
    same(report, expected)
    assert report.ignored == []
    assert report.others == {".cls": 40}
    assert len(expected.ignored) == 40
    assert dataset_stats(path, progress=False) == expected.stats


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x stream.arrow"])
@pytest.mark.parametrize("as_struct", [True, False])
@pytest.mark.filterwarnings("ignore:8 of 40 images. gray")
def test_a_table_gives_every_digit_of_its_folder(folder, expected, tmp_path, name, as_struct):
    report = scan(pack_table(folder, tmp_path / name, as_struct), workers=2)
    same(report, expected, batches=False)
    images = tmp_path / "images"
    shutil.copytree(folder, images, ignore=shutil.ignore_patterns("*.cls"))
    same(report, scan(images))
    assert dataset_stats([str(tmp_path / name)], progress=False) == report.stats


def test_what_hugging_face_writes_is_read(folder, expected, tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [str(folder / n) for n in files(folder) if not n.endswith(".cls")]
    data = datasets.Dataset.from_dict({"photo": images, "thumbnail": [b"x"] * 40, "label": [0] * 40})
    data = data.cast_column("photo", datasets.Image())
    data = data.map(lambda row: row, writer_batch_size=9)
    table = data.with_format("arrow")[:]
    embedded = datasets.table.embed_table_storage(table)
    datasets.Dataset(embedded, info=data.info).to_parquet(tmp_path / "x.parquet")
    same(scan(tmp_path / "x.parquet"), expected, batches=False)


@pytest.mark.filterwarnings("ignore:8 of 40 images. gray")
def test_the_column_of_the_images_is_known_or_asked_for(folder, expected, tmp_path, capsys):
    assert scan(pack_table(folder, tmp_path / "boxes.parquet", box=[{"left": 1}] * 40)).skipped == []
    path = pack_table(folder, tmp_path / "x.parquet", as_struct=False, mask=[b"x"] * 40)
    with pytest.raises(
        FileError, match=r"which column holds the images\? Name it with key: .*'image', 'mask'"
    ):
        scan(path)
    same(scan(path, key="image"), expected, batches=False)
    assert dataset_stats(path, key="image", progress=False).mean == expected.stats.mean
    assert main(["stats", "--quiet", "--key", "image", str(path)]) == 0
    with pytest.raises(FileError, match="no column of encoded images by the name of 'label'"):
        scan(path, key="label")
    with pytest.raises(ValueError, match="key=0 has no meaning for files"):
        dataset_stats(path, key=0, progress=False)


def test_rows_without_an_image_are_listed(folder, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    good = (folder / NAMES[1]).read_bytes()
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pa.table({"image": [good, None, b"no image", good]}), path)
    report = scan(path)
    assert report.stats.images == 2
    assert [str(e) for e in report.skipped] == [
        f"{path}/1: no image in this row",
        f"{path}/2: not an image of a known format",
    ]


@pytest.mark.filterwarnings("ignore:8 of 40 images. gray")
def test_a_folder_of_shards_and_a_list_of_them(folder, expected, tmp_path, capsys):
    names = files(folder)
    shards = [pack_tar(folder, tmp_path / f"{i}.tar", names[i * 20 : i * 20 + 20]) for i in range(4)]
    for paths in (tmp_path, shards, [str(s) for s in shards]):
        same(scan(paths), expected)
        assert dataset_stats(paths, progress=False) == expected.stats
    merged = Report()
    for rank in (0, 1, 2):
        merged.merge(scan(tmp_path, share=(rank, 3)))
    same(merged, expected)
    assert main(["stats", "--quiet", *map(str, shards)]) == 0
    assert "members of archives that are no images: 40 .cls" in capsys.readouterr().out


# -- damaged --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_what_was_read_before_a_cut_counts_and_the_cut_is_told(folder, tmp_path, suffix):
    whole = pack_tar(folder, tmp_path / f"whole{suffix}", mode="w:gz" if "gz" in suffix else "w").read_bytes()
    content = len(whole.rstrip(b"\0"))
    cuts = (
        [len(whole) // 2, len(whole) - 9]
        if "gz" in suffix
        else [len(whole) // 2, content - 700, 512 * 20, 512 * 21]
    )
    path = tmp_path / f"cut{suffix}"
    for cut in cuts:
        path.write_bytes(whole[:cut])
        seen: list[bytes] = []
        stream = io.BytesIO(whole[:cut])
        try:
            with tarfile.open(fileobj=gzip.open(stream) if "gz" in suffix else stream, mode="r|") as tar:
                for member in tar:
                    data = tar.extractfile(member).read()
                    seen += [data] if not member.name.endswith(".cls") else []
        except (tarfile.TarError, EOFError, OSError):
            pass
        report = scan(path)
        assert report.stats.images == len(seen) > 0
        assert len(report.skipped) == 1, cut
        (told,) = report.skipped
        assert str(told).startswith(f"{path}: damaged or cut off, counted up to there: "), cut
        assert main(["stats", "--quiet", str(path)]) == 1


def test_a_tar_may_end_without_padding(folder, tmp_path):
    whole = pack_tar(folder, tmp_path / "x.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512 + 1024  # two blocks of zeros are the mark
    (tmp_path / "x.tar").write_bytes(whole[:end])
    assert scan(tmp_path / "x.tar").skipped == []
    (tmp_path / "x.tar").write_bytes(whole + bytes(3 * 2**20))  # or with more of it than anyone needs
    assert scan(tmp_path / "x.tar").skipped == []


@pytest.mark.parametrize("name", ["x.zip", "x.parquet", "x.arrow", "x stream.arrow"])
def test_other_archives_that_are_cut_off_are_skipped_with_a_reason(folder, tmp_path, name):
    pack = pack_zip if name == "x.zip" else pack_table
    path = pack(folder, tmp_path / name)
    path.write_bytes(path.read_bytes()[:-2000])
    shutil.copy(folder / NAMES[1], tmp_path / "good.jpg")
    report = scan(tmp_path)
    assert report.stats.images >= 1
    if name == "x stream.arrow":
        assert report.stats.images > 30  # what was before the cut
    assert [e.path for e in report.skipped] == [str(path)]


def test_a_damaged_member_costs_only_itself(folder, tmp_path):
    path = pack_zip(folder, tmp_path / "x.zip")
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(NAMES[3])
    raw[member.header_offset + 200] ^= 255
    path.write_bytes(raw)
    report = scan(path)
    assert report.stats.images == 39
    assert [e.path for e in report.skipped] == [f"{path}/{NAMES[3]}"]
    assert "CRC" in report.skipped[0].reason
    with pytest.raises(FileError, match="CRC"):
        scan(path, strict=True)


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_a_member_that_would_fill_the_memory_is_skipped(folder, expected, tmp_path, monkeypatch, name):
    (pack_zip if name == "x.zip" else pack_tar)(folder, tmp_path / name)
    largest = max((folder / n).stat().st_size for n in NAMES)
    monkeypatch.setattr(sources, "_LARGEST", largest)
    same(scan(tmp_path / name), expected)
    monkeypatch.setattr(sources, "_LARGEST", largest - 1)
    report = scan(tmp_path / name)
    assert 0 < len(report.skipped) == 40 - report.stats.images
    assert all("perhaps a bomb" in e.reason for e in report.skipped)


def test_hidden_members_are_left_out(folder, tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("./a.png", "__MACOSX/._a.png", ".cache/b.png"):
            tar.add(folder / NAMES[2], name)
    assert (scan(path).stats.images, scan(path).skipped) == (1, [])
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("folder")
        for name in ("folder/a.png", "__MACOSX/._a.png", ".cache/b.png"):
            archive.write(folder / NAMES[2], name)
    assert (scan(path).stats.images, scan(path).skipped) == (1, [])


def test_hidden_members_and_folders_of_a_zip_are_left_out(folder, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sub/", b"")
        for name in ("sub/a.png", "__MACOSX/._a.png", ".cache/b.png"):
            archive.write(folder / NAMES[2], name)
    report = scan(path)
    assert (report.stats.images, report.skipped, report.others) == (1, [], {})


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"")
    Image.new("L", (2, 2)).save(tmp_path / "good.png")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (told,) = scan(tmp_path).skipped
    assert "pip install pyarrow" in told.reason


# -- at an address --------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(folder, tmp_path):
    """A web server with the folder, and with archives of it."""
    pytest.importorskip("aiohttp")
    shutil.copytree(folder, tmp_path / "web" / "folder")
    pack_tar(folder, tmp_path / "web" / "x.tar")
    pack_zip(folder, tmp_path / "web" / "x.zip")
    handler = partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_server(address, folder, expected, capsys):
    names = ("x.tar", "x.zip", "folder/")
    for name in names:
        same(scan(f"{address}/{name}", workers=2), expected, batches=name != "folder/")
    url = f"{address}/folder/{NAMES[1].replace(' ', '%20')}"
    assert dataset_stats(url, progress=False) == scan(folder / NAMES[1]).stats
    assert main(["stats", "--quiet", f"{address}/nowhere.tar"]) == 2
    assert "no such file or folder: http://" in capsys.readouterr().err


def test_an_object_store(folder, expected):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for name in files(folder):
        store.pipe_file(f"/bucket/set/{name}", (folder / name).read_bytes())
    store.pipe_file("/bucket/set/.hidden.png", b"x")
    store.pipe_file("/bucket/bad/x.png", b"x")
    same(scan("memory://bucket/set", workers=2), expected)
    with pytest.raises(FileError, match=r"memory://.*bad/x\.png: not an image"):
        scan("memory://bucket/bad")
    with pytest.raises(FileNotFoundError, match="memory://bucket/nothing"):
        scan("memory://bucket/nothing")
    store.pipe_file("/bucket/hidden/.x.png", b"x")
    with pytest.raises(ValueError, match="no files in the folder memory://bucket/hidden"):
        scan("memory://bucket/hidden")


def test_a_store_that_fails_in_its_own_way_is_told_with_the_address(monkeypatch, capsys):
    memory = pytest.importorskip("fsspec").get_filesystem_class("memory")

    class NoCredentials(Exception):
        """As those of botocore, of no class that Python knows."""

    for error in (NoCredentials("unable to locate credentials"), TimeoutError("timed out")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(memory, "exists", fail)
        assert main(["stats", "--quiet", "memory://bucket/x"]) == 2
        assert str(error) in capsys.readouterr().err


def test_an_address_that_cannot_be_read_says_what_to_install(monkeypatch, capsys):
    pytest.importorskip("fsspec")
    with pytest.raises(ValueError, match=r"nothing://x: Protocol not known"):
        scan("nothing://x")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert main(["stats", "s3://bucket/x"]) == 2
    assert "pip install fsspec s3fs" in capsys.readouterr().err


def test_what_a_storage_raises_of_its_own_is_an_error_of_the_address(monkeypatch):
    memory = pytest.importorskip("fsspec.implementations.memory")

    def fails(self, path):
        raise RuntimeError("denied")

    monkeypatch.setattr(memory.MemoryFileSystem, "exists", fails)
    with pytest.raises(OSError, match="memory://bucket: denied"):
        scan("memory://bucket")


# -- in several runs ------------------------------------------------------------------------------------


def run(capsys, *arguments):
    status = main(["stats", "--json", "--quiet", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, json.loads(captured.out) if captured.out else captured.err


@pytest.mark.parametrize("name", ["folder", "x.tar"])
def test_a_scan_that_was_broken_off_anywhere_goes_on_to_the_same_digits(folder, expected, tmp_path, name):
    path = folder if name == "folder" else pack_tar(folder, tmp_path / name)
    whole = scan(path, batch_size=8)
    for after in range(1, 11):
        saved = []
        stop = threading.Event()

        def save(report, saved=saved, stop=stop, after=after):
            saved.append(json.loads(json.dumps(report.state_dict())))
            if len(saved) == after:
                stop.set()

        first = scan(path, batch_size=8, stop=stop, save=save, workers=after % 3)
        resumed = scan(path, batch_size=8, resume=Report.from_state(saved[-1]))
        same(resumed, whole)
        assert [str(e) for e in resumed.ignored] == [str(e) for e in whole.ignored]
        assert resumed.others == whole.others
        assert not resumed.partial
        assert first.partial == (after < 10)


def test_a_batch_that_is_broken_off_is_told_but_not_saved(folder, expected):
    saved = []
    stop = threading.Event()
    stop.set()
    report = scan(folder, stop=stop, save=lambda r: saved.append(r.state_dict()))
    assert [s["done"] for s in saved] == [0]
    assert saved[0]["color"] == ChannelStats().state_dict()
    assert report.done == 0
    assert 0 < report.stats.images < expected.stats.images
    same(scan(folder, resume=Report.from_state(saved[0])), expected)


def test_save_and_resume(folder, tmp_path, capsys):
    state = tmp_path / "a.json"
    status, whole = run(capsys, folder, "--save", state)
    assert status == 0
    status, told = run(capsys, folder, "--save", state)
    assert (status, told) == (2, f"normtut stats: {state} exists already: --resume continues it\n")
    assert run(capsys, folder, "--save", state, "--resume") == (0, whole)  # without opening a file
    assert run(capsys, state) == (0, whole)
    status, told = run(capsys, folder, "--save", state, "--resume", "--crop", 4)
    assert (status, "with other options" in told) == (2, True)
    assert run(capsys, tmp_path, "--save", tmp_path / "no" / "a.json")[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json"]


@pytest.mark.parametrize(("seconds", "times"), [(1e9, 1), (0.0, 4)])
def test_a_state_is_written_now_and_then(folder, tmp_path, capsys, monkeypatch, seconds, times):
    written, write = [], cli._Saved.write

    def noting(saved, report):
        written.append(report.done)
        write(saved, report)

    monkeypatch.setattr(cli._Saved, "write", noting)
    monkeypatch.setattr(cli, "_EVERY", seconds)
    assert run(capsys, folder, "--save", tmp_path / "a.json")[0] == 0
    assert len(written) == times  # three batches of 32, and at the end
    assert written == sorted(written)
    assert written[-1] == 80


def test_only_one_process_resumes(folder, tmp_path):
    options = argparse.Namespace(save=str(tmp_path / "a.json"), resume=True, paths=[str(folder)])
    options.resize = options.crop = options.srgb = options.key = None
    with pytest.raises(ValueError, match="--resume continues one process, not several"):
        cli._Saved(options, world=2)


def test_a_state_of_another_format_is_refused(folder, tmp_path, capsys):
    state = tmp_path / "a.json"
    assert run(capsys, folder, "--save", state)[0] == 0
    saved = json.loads(state.read_text())
    state.write_text(json.dumps(saved | {"normtut stats": 99}))
    status, told = run(capsys, state)
    assert status == 2
    assert "it is of format 99, not" in told


def test_a_part_says_in_the_table_that_it_is_one(folder):
    stop = threading.Event()
    stop.set()
    table = cli._as_table(scan(folder, stop=stop))
    assert table.startswith("PARTIAL: interrupted; only the files until then are counted\nimages   ")
    assert cli._as_table(Report()).splitlines() == ["images   0"]


def test_files_that_have_come_or_gone_are_noticed(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "copy")
    assert run(capsys, tmp_path / "copy", "--save", tmp_path / "a.json")[0] == 0
    (tmp_path / "copy" / NAMES[0]).unlink()
    status, told = run(capsys, tmp_path / "copy", "--save", tmp_path / "a.json", "--resume")
    assert (status, "some have come or gone" in told) == (2, True)


def test_states_are_added_up(folder, expected, tmp_path, capsys):
    for i in range(3):
        status, _ = run(capsys, folder / f"class {i}", "--save", tmp_path / f"{i}.json")
        assert status == 0
    status, total = run(capsys, *(tmp_path / f"{i}.json" for i in range(3)))
    assert status == 0
    for name in ("mean", "std", "min", "max"):
        assert tuple(total[name]) == getattr(expected.stats, name)
    assert (total["images"], total["gray"]) == (expected.stats.images, expected.gray_images)
    status, told = run(capsys, tmp_path / "0.json", tmp_path / "0.json")
    assert (status, "they would count twice" in told) == (2, True)
    (tmp_path / "other.json").write_text("{}")
    status, told = run(capsys, tmp_path / "0.json", tmp_path / "other.json")
    assert (status, "is not what normtut stats --save writes" in told) == (2, True)
    assert run(capsys, tmp_path / "0.json", "--save", tmp_path / "b.json")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_no_file_counts_twice(tmp_path, capsys, number):
    images = tmp_path / "images"
    images.mkdir()
    first = images / "000.png"
    Image.fromarray(RNG.integers(0, 256, (900, 900, 3), dtype=np.uint8)).save(first, compress_level=1)
    for i in range(1, 320):
        (images / f"{i:03}.png").hardlink_to(first)
    state = tmp_path / "state.json"
    code = "import sys; from normtut.cli import main, stats; stats._EVERY = 0; sys.exit(main())"
    command = [sys.executable, "-c", code, "stats", "--json", "--workers", "1"]
    process = subprocess.Popen(
        [*command, str(images), "--save", str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), err
    done = json.loads(state.read_text())["done"]
    assert 0 < done < 320
    assert done % 32 == 0
    if number == signal.SIGINT:
        assert json.loads(out)["images"] >= done
    status, resumed = run(capsys, images, "--save", state, "--resume")
    assert status == 0
    assert resumed["images"] == 320
    assert resumed["count"] == 320 * 900 * 900
    assert resumed["std"] == list(ChannelStats(Image.open(first)).std)


def test_the_pixel_limit_is_an_option(tmp_path, capsys):
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("L", (100, 101)).save(tmp_path / "x.png")
    Image.new("L", (10, 10)).save(tmp_path / "y.png")
    assert run(capsys, tmp_path)[1]["images"] == 2
    status, result = run(capsys, tmp_path, "--max-pixels", 10_000)
    assert (status, result["images"]) == (1, 1)
    assert "MAX_IMAGE_PIXELS (10,000)" in result["skipped"][0]["reason"]
    assert limit == Image.MAX_IMAGE_PIXELS
    assert run(capsys, tmp_path, "--max-pixels", 0)[1]["images"] == 2


def test_memory_does_not_grow_with_the_members_of_an_archive(tmp_path, monkeypatch):
    """tarfile itself remembers every member; and a million labels are counted, not listed."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(300):
            info = tarfile.TarInfo(f"{i}.cls")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
    opened = []
    real = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: opened.append(real(*a, **k)) or opened[-1])
    most = 0
    for _ in sources.entries(sources.places([path])[0]):
        most = max(most, len(opened[0].members))
    assert most <= 1
    assert cli._EVERY > 0
    with pytest.raises(FileError, match="none of 300 files could be counted"):
        scan(path)


def test_heic(tmp_path, capsys):
    heif = pytest.importorskip("pillow_heif")
    x = np.full((64, 64, 3), 128, np.uint8)
    heif.from_pillow(Image.fromarray(x)).save(tmp_path / "x.heic", quality=-1)
    Image.OPEN.pop("HEIF", None)
    if "HEIF" in Image.ID:
        Image.ID.remove("HEIF")
    assert scan(tmp_path / "x.heic").stats.mean == pytest.approx((128 / 255,) * 3, abs=2 / 255)
    assert os.path.getsize(tmp_path / "x.heic") > 0


# -- where one machine ends -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_two_workers_of_a_cluster_give_the_same_digits(folder, expected, tmp_path, engine):
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[engine])
    names = files(folder)
    shards = [str(pack_tar(folder, tmp_path / f"{i}.tar", names[i * 16 : i * 16 + 16])) for i in range(5)]
    (tmp_path / "damaged.tar").write_bytes(b"no archive")
    example = Path(__file__).parents[1] / "book" / "examples" / f"stats_{engine}.py"
    command = [sys.executable, str(example), *shards, str(tmp_path / "damaged.tar")]
    # Ray's workers are nice, and starve where the machine has anything else to do.
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == repr(expected.stats)
    assert "8 of 40 images: gray, counted as R = G = B" in lines
    assert any(line.startswith("1 files were skipped: ") and "damaged.tar" in line for line in lines)


def test_merged_reports_list_files_by_their_paths():
    def report(*names):
        return Report(skipped=[FileError(name, "empty") for name in names])

    for first, second in (("bd", "az"), ("bd", "ce"), ("abd", "c"), ("ab", "cd"), ("", "ab"), ("ab", "")):
        merged = report(*first).merge(report(*second))
        assert [e.path for e in merged.skipped] == sorted(first + second)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_of_the_files_that_were_skipped_three_are_named(count):
    (said,) = Report(skipped=[FileError(f"{i}.png", "empty") for i in range(count)]).warnings()
    assert said.startswith(f"{count} files were skipped: 0.png: empty")
    assert said.count("empty") == min(count, 3)
    assert said.endswith(f"; and {count - 3} more" if count > 3 else ": empty")


@pytest.mark.parametrize(
    "damage",
    [
        None,
        {},
        {"gray": 3},
        {"skipped": 3},
        {"skipped": [3]},
        {"others": 3},
        {"sizes": 3},
        {"sizes": [[1, 2]]},
        {"sizes": [[1, 2, 3, 4]]},
    ],
)
def test_a_state_that_is_none_is_refused(damage):
    state = Report().state_dict()
    assert Report.from_state(state) == Report()
    with pytest.raises(ValueError, match="state is not that of a Report: "):
        Report.from_state({**state, **damage} if damage else damage)


def test_reports_add_up(folder, expected):
    parts = [scan(folder / f"class {i}") for i in range(3)]
    total = parts[2] + parts[0] + parts[1]
    same(total, expected, batches=False)
    assert parts[0].stats.images < total.stats.images
    assert (total.done, total.listing) == (80, 0)
    for one, other in ((Report(listing=7), Report()), (Report(), Report(listing=7))):
        assert one.merge(other).listing == 7
    assert Report(listing=7).merge(Report(listing=7)).listing == 7
    for one, other in ((7, 8), (1, 2), (2, 1), (-1, 2), (2, -1)):
        with pytest.raises(ValueError, match="shares of different lists of files"):
            Report(listing=one).merge(Report(listing=other))
    with pytest.raises(TypeError):
        total + 1


def test_a_report_begins_with_nothing():
    state = Report().state_dict()
    assert not any(state[name] for name in state if name not in ("gray", "color"))
    assert (Report().images, Report(empty=2).images) == (0, 2)


def test_of_a_batch_the_gray_images_are_counted_and_become_three_channels():
    gray, two, rgb = (count_pixels(torch.full((n, c, 2, 2), 0.5)) for n, c in ((2, 1), (1, 2), (1, 3)))
    report = Report.of_batch([gray, rgb])
    assert (report.gray_images, report.images, report.stats.channels) == (2, 3, 3)
    assert (report.gray.images, report.color.images) == (0, 3)
    report = Report.of_batch([gray])
    assert (report.gray_images, report.gray.images, report.color.images) == (2, 2, 0)
    both = Report.of_batch([gray]).merge(Report.of_batch([rgb]))
    assert (both.gray_images, both.stats.images, both.stats.channels) == (2, 3, 3)
    report = Report.of_batch([two])
    assert (report.gray_images, report.gray.images, report.color.images) == (0, 0, 1)


def test_without_options_a_scan_is_silent_alone_and_in_one_thread(folder, monkeypatch):
    shown = []
    bar = folders.progress_bar
    monkeypatch.setattr(folders, "progress_bar", lambda total, show: shown.append(show) or bar(total, show))
    monkeypatch.setattr(folders, "ThreadPoolExecutor", None)
    assert scan(folder).images == 40
    scan(folder, progress=True)
    assert shown == [False, True]
    with pytest.raises(TypeError):
        scan(folder, workers=1)


def test_every_thread_has_work_ahead(folder, monkeypatch):
    ahead = []
    in_order = folders._in_order
    monkeypatch.setattr(
        folders, "_in_order", lambda pool, n, f, items: ahead.append(n) or in_order(pool, n, f, items)
    )
    scan(folder, workers=3)
    assert 2 * 3 <= ahead[0] <= 8 * 3


def test_of_several_errors_the_first_is_told(tmp_path, monkeypatch):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(FileError, match=r"none of 2 files could be counted; \S*a\.txt"):
        scan(tmp_path)

    def unreadable(paths, errors):
        errors += [FileError("first", "folder not read"), FileError("second", "folder not read")]
        return [], 0

    monkeypatch.setattr(folders, "places", unreadable)
    with pytest.raises(FileError, match="first: folder not read"):
        scan(tmp_path, strict=True)


def test_files_at_an_address_are_called_by_their_address():
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe_file("/named/bad.png", b"x")
    with pytest.raises(FileError, match=r"memory:///?named/bad\.png"):
        scan("memory://named", strict=True)


def test_a_member_is_too_large_from_a_gibibyte_on():
    assert "larger than 1,024 MiB" in sources._too_large("x.png").reason


@pytest.mark.parametrize("name", sorted(Report().state_dict()))
def test_a_state_that_lacks_something_is_refused(name):
    state = Report().state_dict()
    assert Report.from_state(state).state_dict() == state
    del state[name]
    with pytest.raises(ValueError, match=rf"state is not that of a Report: KeyError\('{name}'\)"):
        Report.from_state(state)
