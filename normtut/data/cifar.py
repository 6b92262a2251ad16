"""CIFAR-10, read from disk, or downloaded if it is not there."""

from __future__ import annotations

import http.client
import io
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import Any

__all__ = ["cifar10"]


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
        ConnectionError: if it is not on disk and cannot be downloaded; `PhotoPatches` needs no network.
    """
    from torchvision.datasets import CIFAR10

    folder = Path(root or os.environ.get("NORMTUT_DATA") or "~/.cache/normtut").expanduser()
    with suppress(RuntimeError):  # not there, or damaged
        return CIFAR10(str(folder), train=train, transform=transform)
    patience = socket.getdefaulttimeout()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(10.0)  # seconds of silence; torchvision itself would wait for ever
        with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as part:
            # Torchvision's progress bar, only where a terminal shows it: a notebook would store every line.
            with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
                CIFAR10(part, download=True)
            shutil.rmtree(folder / CIFAR10.base_folder, ignore_errors=True)
            os.replace(Path(part) / CIFAR10.base_folder, folder / CIFAR10.base_folder)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"CIFAR-10 is not in {folder} and could not be downloaded from {CIFAR10.url} ({error}); "
            "normtut.data.PhotoPatches has the same interface and needs no network"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return CIFAR10(str(folder), train=train, transform=transform)
