"""CIFAR-10, read from disk, or downloaded if it is not there."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

__all__ = ["cifar10"]

# When a download is given up. torchvision itself would wait for ever, also for a byte every few seconds.
_SILENCE = 10.0  # seconds without a byte
_WINDOW = 30.0  # seconds over which the rate is measured
_SLOWEST = 20_000  # bytes a second: more than two hours for the whole


def cifar10(
    train: bool = True, root: str | None = None, transform: Callable[[Any], Any] | None = None
) -> Any:
    """``torchvision.datasets.CIFAR10``: read from disk if it is there, else downloaded (170 MB) first.

    Its checksums are verified either way. A download goes to a folder of its own and is moved into place when
    it is complete, so that one that was interrupted leaves nothing behind, and the next call starts afresh.

    Args:
        train: the 50,000 images of the training set, or the 10,000 of the test set.
        root: the folder that holds, or will hold, ``cifar-10-batches-py``. By default the environment
            variable ``NORMTUT_DATA``, or ``~/.cache/normtut``.
        transform: called with the PIL image of each item.

    Raises:
        ConnectionError: if it is not on disk and cannot be downloaded, or only at less than 20 kB/s;
            `PhotoPatches` needs no network.
    """
    from torchvision.datasets import CIFAR10

    try:
        folder = Path(root or os.environ.get("NORMTUT_DATA") or "~/.cache/normtut").expanduser()
    except RuntimeError as error:  # there is no home directory
        raise ConnectionError(
            f"no folder for CIFAR-10 ({error}): name one by root= or NORMTUT_DATA"
        ) from error
    with suppress(RuntimeError):  # it is not there, or damaged
        return CIFAR10(str(folder), train=train, transform=transform)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as part:
            _download(CIFAR10.url, Path(part) / CIFAR10.filename, CIFAR10.tgz_md5)
            with redirect_stdout(io.StringIO()):  # "Files already downloaded and verified"
                CIFAR10(part, download=True)
            shutil.rmtree(folder / CIFAR10.base_folder, ignore_errors=True)
            os.replace(Path(part) / CIFAR10.base_folder, folder / CIFAR10.base_folder)
    except (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"CIFAR-10 is not in {folder} and could not be downloaded from {CIFAR10.url} ({error}); "
            "normtut.data.PhotoPatches has the same interface and needs no network"
        ) from error
    return CIFAR10(str(folder), train=train, transform=transform)


def _download(url: str, path: Path, md5: str) -> None:
    """Write what is at ``url`` to a file; raise if it comes too slowly, or is not what the MD5 says."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=_SILENCE) as response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length") or 0) or None
        # Only where a terminal shows it: a notebook would store every line.
        with tqdm(total=size, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
            began, received = time.monotonic(), 0
            while block := response.read1(1 << 16):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
                received += len(block)
                if (seconds := time.monotonic() - began) >= _WINDOW:
                    if received < _SLOWEST * seconds:
                        raise TimeoutError(f"only {received} bytes in the last {seconds:.0f} s")
                    began, received = time.monotonic(), 0
    if digest.hexdigest() != md5:
        raise ValueError(f"{path.stat().st_size} bytes, and their checksum is wrong")
