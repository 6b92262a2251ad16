"""`data.cifar10` against a server of our own, with an archive of the real layout: 6 images, not 60,000."""

import hashlib
import http.server
import io
import pickle
import tarfile
import threading
import time

import numpy as np
import pytest
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

from normtut import data, dataset_stats

TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
NAMES = [*TRAIN, "test"]
PIXELS = {name: np.random.default_rng(i).integers(0, 256, (1, 3072)) for i, name in enumerate(NAMES)}


def archive():
    """The bytes of a CIFAR-10 archive, and the MD5 of each of its files."""
    contents = {
        name if name in TRAIN else "test_batch": {"data": x.astype(np.uint8), "labels": [3]}
        for name, x in PIXELS.items()
    }
    contents["batches.meta"] = {"label_names": [str(i) for i in range(10)]}
    file, checksums = io.BytesIO(), {}
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in contents.items():
            raw = pickle.dumps(content)
            info = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
            checksums[name] = hashlib.md5(raw).hexdigest()
    return file.getvalue(), checksums


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        if self.server.drip is None:
            self.wfile.write(self.server.body[: self.server.sent])
            return
        for byte in self.server.body:
            if self.server.drip.wait(0.02):
                return
            self.wfile.write(bytes([byte]))

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """What torchvision takes for the home of CIFAR-10; it hangs up after ``sent`` bytes."""
    monkeypatch.setenv("no_proxy", "*")
    body, checksums = archive()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.body, running.sent, running.requests, running.drip = body, len(body), 0, None
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{running.server_port}/{CIFAR10.filename}")
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(body).hexdigest())
        monkeypatch.setattr(CIFAR10, "train_list", [[name, checksums[name]] for name in TRAIN])
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", checksums["test_batch"]]])
        monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": checksums["batches.meta"]})
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def is_complete(dataset, names=TRAIN):
    pixels = np.concatenate([PIXELS[name] for name in names]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.array_equal(dataset.data, pixels)


def test_it_is_downloaded_once_and_then_read_from_disk(server, tmp_path, capfd):
    assert is_complete(data.cifar10(root=tmp_path))
    asked = server.requests
    assert is_complete(data.cifar10(train=False, root=tmp_path), ["test"])
    assert server.requests == asked
    assert [p.name for p in tmp_path.iterdir()] == [CIFAR10.base_folder]
    image, label = data.cifar10(root=tmp_path, transform=v2.PILToTensor())[0]
    assert (tuple(image.shape), label) == ((3, 32, 32), 3)
    stats = dataset_stats(data.cifar10(root=tmp_path), progress=False)
    expected = sum(PIXELS[name].reshape(3, -1).mean(1) for name in TRAIN) / 5 / 255
    assert stats.mean == pytest.approx(expected.tolist(), rel=1e-12)
    assert stats.count == 5 * 1024
    assert capfd.readouterr().err == ""  # a notebook would store it


def test_the_environment_says_where(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NORMTUT_DATA", str(tmp_path / "some" / "where"))
    assert is_complete(data.cifar10())
    assert (tmp_path / "some" / "where" / CIFAR10.base_folder).is_dir()


@pytest.mark.parametrize("what", ["cut off", "other bytes"])
def test_a_broken_download_leaves_nothing_behind_and_the_next_one_starts_afresh(server, tmp_path, what):
    good = server.body
    if what == "cut off":
        server.sent = len(good) // 2
    else:
        server.body = bytes(len(good))
    with pytest.raises(ConnectionError, match=r"could not be downloaded from http://127.*PhotoPatches"):
        data.cifar10(root=tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.body, server.sent = good, len(good)
    assert is_complete(data.cifar10(root=tmp_path))


def test_damaged_files_are_replaced_and_kept_while_there_are_no_others(server, tmp_path):
    data.cifar10(root=tmp_path)
    damaged = tmp_path / CIFAR10.base_folder / "data_batch_3"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    server.sent = 10
    with pytest.raises(ConnectionError):
        data.cifar10(root=tmp_path)
    assert damaged.exists()
    server.sent = len(server.body)
    assert is_complete(data.cifar10(root=tmp_path))


def test_a_server_that_drips_is_given_up(server, tmp_path, monkeypatch):
    """A byte now and then is no silence, and 170 MB of them would take for ever."""
    server.drip = threading.Event()
    monkeypatch.setattr("normtut.data.cifar._WINDOW", 0.5)
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"only \d+ bytes in the last \d s\); .*PhotoPatches"):
        data.cifar10(root=tmp_path)
    server.drip.set()
    assert time.monotonic() - started < 20
    assert list(tmp_path.iterdir()) == []


def test_a_slow_but_steady_server_is_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr("normtut.data.cifar._WINDOW", 0.0)
    monkeypatch.setattr("normtut.data.cifar._SLOWEST", 1)
    assert is_complete(data.cifar10(root=tmp_path))


def test_without_a_home_directory(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NORMTUT_DATA", raising=False)
    monkeypatch.setattr("pathlib.Path.expanduser", homeless)
    with pytest.raises(ConnectionError, match=r"home directory.*root= or NORMTUT_DATA"):
        data.cifar10()


def test_an_address_that_leads_nowhere(server, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "nonsense")
    with pytest.raises(ConnectionError, match="unknown url type"):
        data.cifar10(root=tmp_path)


def test_interrupted_by_hand(server, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("normtut.data.cifar._download", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.cifar10(root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/nothing.tar.gz")
    with pytest.raises(ConnectionError, match="needs no network"):
        data.cifar10(root=tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(ConnectionError, match="file"):
        data.cifar10(root=str(blocked))
