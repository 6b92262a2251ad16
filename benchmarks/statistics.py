"""`ChannelStats` and `dataset_stats` beside what people use: time, memory, digits."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder

from normtut import ChannelStats, dataset_stats
from normtut.data import PhotoPatches, photos
from normtut.statistics import image_files, scan

from ._measure import OURS, Case, Results, cores, in_turns, installed, on_the_wall, peak_memory


class InMemory(CIFAR10):
    """torchvision's CIFAR10 with pixels of our own."""

    def __init__(self, data: np.ndarray, transform: Any = None) -> None:
        self.data, self.targets = data, [0] * len(data)
        self.transform, self.target_transform = transform, None


def real_patches(n: int) -> np.ndarray:
    """``n`` patches of 32 × 32 pixels: those of PhotoPatches, over and over, each time a little brighter."""
    data = PhotoPatches(train=True).data
    out = np.empty((n, 32, 32, 3), np.uint8)
    for i in range(0, n, len(data)):
        out[i : i + len(data)] = (data + np.uint8(i // len(data)))[: n - i]
    return out


def calculate_norm(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """A tutorial's recipe: two passes over the items, means of image means and of image stds."""
    means = np.array([x.numpy().mean(axis=(1, 2)) for x, _ in dataset])
    stds = np.array([x.numpy().std(axis=(1, 2)) for x, _ in dataset])
    return means.mean(axis=0), stds.mean(axis=0)


@contextmanager
def jpegs() -> Iterator[Path]:
    """A folder of JPEG files in a subfolder, made of the package's photographs."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "photos").mkdir()
        for name, x in photos().items():
            for i in range(20):
                turned = x.roll(17 * i, dims=2).permute(1, 2, 0).numpy()
                Image.fromarray(turned).save(root / "photos" / f"{name}{i}.jpg", quality=90)
        yield root


def in_memory(results: Results, n: int, seconds: float) -> None:
    data = real_patches(n)
    to_tensor = InMemory(data, transforms.ToTensor())
    pixels = torch.from_numpy(data).permute(0, 3, 1, 2)

    def bincount() -> list[torch.Tensor]:
        return [torch.bincount(pixels[:, c].flatten(), minlength=256) for c in range(3)]

    cases: dict[str, Case] = {
        OURS: lambda: dataset_stats(InMemory(data), progress=False),
        "copying the array": data.copy,
        "torch.bincount by channel": bincount,
        "torch.var_mean, float32": lambda: torch.var_mean(pixels.float() / 255, (0, 2, 3)),
        "a tutorial's calculate_norm": lambda: calculate_norm(to_tensor),
    }
    code = (
        f"from benchmarks.statistics import *\ndata = real_patches({n})\n"
        "dataset_stats(data[:2000], progress=False)\n###\ndataset_stats(data, progress=False)"
    )
    add = results.table(
        "Statistics of images in memory",
        "Only ours gives the stds of the images too, and all digits. `calculate_norm` is the recipe that is "
        "passed on: two passes over the items, and the mean of the images' stds.",
    )
    add(
        f"{n:,} images, 32 × 32 × 3, uint8",
        in_turns(cases, seconds=seconds, least=3),
        floors=["copying the array"],
    )
    results.facts(
        "Memory of statistics in memory",
        [("extra MB", peak_memory(code)), ("MB of the array", round(data.nbytes / 1e6, 1))],
    )


def decode(path: str) -> None:
    with Image.open(path) as image:
        image.load()


def histogram(path: str) -> None:
    with Image.open(path) as image:
        image.histogram()


def files(results: Results, seconds: float) -> None:
    """A folder of JPEGs, and the same files as members of archives."""
    with jpegs() as root:
        paths = image_files(root)

        def usual() -> None:
            images = ImageFolder(str(root), transforms.ToTensor())
            n, total, squares = 0, torch.zeros(3), torch.zeros(3)
            for x, _ in DataLoader(images, batch_size=None, num_workers=cores()):
                n += x[0].numel()
                total += x.sum((1, 2))
                squares += (x**2).sum((1, 2))
            (squares / n - (total / n) ** 2).sqrt()

        add = results.table(
            "Statistics of a folder of JPEG files",
            "Decoding is Pillow's, and its histogram is what ours counts from: floors, not peers.",
        )
        floors = {"decoding alone": decode, "decoding and histogram": histogram}
        alone: dict[str, Case] = {OURS: lambda: scan(root)}
        for name, f in floors.items():
            alone[name] = lambda f=f: [f(path) for path in paths]
        processor = in_turns(alone, seconds=seconds)
        add(f"{len(paths)} files, 1 thread", processor, floors=list(floors))
        with ThreadPoolExecutor(cores()) as pool:
            many: dict[str, Case] = {
                OURS: lambda: dataset_stats(root, num_workers=cores(), progress=False),
                "ImageFolder, ToTensor, DataLoader": usual,
            }
            for name, f in floors.items():
                many[name] = lambda f=f: list(pool.map(f, paths))
            times = in_turns(many, seconds=seconds, least=4, watch=on_the_wall)
        add(f"{len(paths)} files, {cores()} threads", times, floors=list(floors))

        with tarfile.open(root / "x.tar", "w") as tar, zipfile.ZipFile(root / "x.zip", "w") as archive:
            for path in paths:
                tar.add(path)
                archive.write(path)
        kinds = {OURS: root / "photos", "tar": root / "x.tar", "zip": root / "x.zip"}
        if installed("pyarrow"):
            import pyarrow
            import pyarrow.parquet

            kinds["Parquet"] = root / "x.parquet"
            rows = pyarrow.table({"image": [Path(f).read_bytes() for f in paths]})
            pyarrow.parquet.write_table(rows, kinds["Parquet"], row_group_size=100)
        found = {kind: scan(path).stats for kind, path in kinds.items()}
        assert len({(s.mean, s.std, s.images) for s in found.values()}) == 1  # the same digits
        add = results.table(
            "Archives beside the folder",
            "Ours, of the same files: a ratio below 1 says that the folder is faster than the archive.",
        )
        scans: dict[str, Case] = {kind: lambda path=path: scan(path) for kind, path in kinds.items()}
        add(f"folder of {len(paths)} files", in_turns(scans, seconds=seconds), floors=list(kinds)[1:])
        two_processes(results, root / "photos", seconds)


def two_processes(results: Results, folder: Path, seconds: float) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def processes(count: int) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [sys.executable, *launcher, "-m", "normtut", "stats", "--json", "--quiet", "--workers", "0"]
        subprocess.run([*command, str(folder)], env=environment, stdout=subprocess.DEVNULL, check=True)

    # Four times the files, so that the start of the processes is not what is measured.
    for path in list(folder.iterdir()):
        for i in range(3):
            os.link(path, folder / f"{i}-{path.name}")
    add = results.table(
        "Two processes beside one", "`normtut stats` under torchrun, the start of the processes included."
    )
    cases = {"two processes": lambda: processes(2), "one process": lambda: processes(1)}
    times = in_turns(cases, seconds=seconds, least=3, watch=on_the_wall)
    add(f"{len(image_files(folder)):,} JPEG files", times, ours="two processes")


def digits(value: float, exact: float) -> float:
    return min(17.0, -math.log10(abs(value - exact) / exact)) if value != exact else 17.0


def others(results: Results, seconds: float) -> None:
    """The std of all pixels of one channel, by what computes it on a whole array or in one pass."""
    data = real_patches(10_000)
    rows = data.reshape(-1, 3)
    levels = rows[:, 0].astype(np.int64)
    n, s1, s2 = len(levels), int(levels.sum()), int((levels**2).sum())
    exact = math.sqrt(Fraction(n * s2 - s1 * s1, n * n * 255**2))
    x = torch.from_numpy(data).permute(0, 3, 1, 2)
    floats = (x.float() / 255).contiguous()

    def one_pass() -> float:
        y = rows.astype(np.float32) / 255
        return float(np.sqrt((y * y).mean(axis=0) - y.mean(axis=0) ** 2)[0])

    cases: dict[str, Callable[[], float]] = {
        OURS: lambda: dataset_stats(data, progress=False).std[0],
        "numpy std, float64": lambda: float((rows / 255).std(axis=0)[0]),
        "numpy std, float32": lambda: float((rows.astype(np.float32) / 255).std(axis=0)[0]),
        "Σx² − (Σx)², float32": one_pass,
    }
    if installed("sklearn", "scikit-learn"):
        from sklearn.preprocessing import StandardScaler

        def scaler() -> float:
            s = StandardScaler()
            for i in range(0, len(rows), 2**20):
                s.partial_fit(rows[i : i + 2**20] / 255)
            return float(s.scale_[0])

        cases["scikit-learn's StandardScaler"] = scaler
    add = results.table("The std of all pixels", "All three channels of 10,000 images of 32 × 32 pixels.")
    add("uint8", in_turns(cases, seconds=seconds))
    of_floats: dict[str, Case] = {
        OURS: lambda: ChannelStats(floats),
        "torch.var_mean, float64": lambda: torch.var_mean(floats.double(), (0, 2, 3)),
    }
    add("float32", in_turns(of_floats, seconds=seconds, least=3))
    results.facts(
        "Correct digits of the std, of 17", [(k, round(digits(f(), exact), 1)) for k, f in cases.items()]
    )


def run(results: Results, quick: bool = False) -> None:
    seconds = 1.0 if quick else 8.0
    in_memory(results, 5_000 if quick else 50_000, seconds)
    others(results, seconds)
    files(results, seconds)
