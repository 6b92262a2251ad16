"""ChannelStats and dataset_stats beside what people use: time, memory, digits. Ratios are from one run.

python -m benchmarks statistics
python -m benchmarks.statistics --photos DIR     JPEGs of your own, and two processes against one on them
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder

from normtut import ChannelStats, dataset_stats
from normtut.data import PhotoPatches, photos
from normtut.statistics import image_files, scan


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
    """The recipe of document 001: two passes over the items, means of image means and of image stds."""
    means = np.array([x.numpy().mean(axis=(1, 2)) for x, _ in dataset])
    stds = np.array([x.numpy().std(axis=(1, 2)) for x, _ in dataset])
    return means.mean(axis=0), stds.mean(axis=0)


def median_times(functions: dict[str, Callable[[], Any]], repeats: dict[str, int]) -> dict[str, float]:
    """Median seconds of each, taken in turns so that a busy machine is busy for all."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(max(repeats.get(name, 5) for name in functions)):
        for name, function in functions.items():
            if round_ < repeats.get(name, 5):
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def table(title: str, times: dict[str, float], ours: str) -> None:
    print(f"\n{title}")
    for name, seconds in times.items():
        print(f"  {name:44}{1e3 * seconds:10.1f} ms   {seconds / times[ours]:7.2f} × {ours}")


def peak_memory(code: str) -> float:
    """MB by which the peak of a new process grows while it runs the second part of ``code``."""
    before, measured = code.split("###")
    script = (
        f"{before}\nimport resource\npeak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"start = peak()\n{measured}\nprint((peak() - start) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def in_memory(n: int = 50_000) -> None:
    data = real_patches(n)
    to_tensor = InMemory(data, transforms.ToTensor())
    pixels = torch.from_numpy(data).permute(0, 3, 1, 2)

    def bincount() -> list[torch.Tensor]:
        return [torch.bincount(pixels[:, c].flatten(), minlength=256) for c in range(3)]

    def var_mean() -> Any:
        return torch.var_mean(pixels.float() / 255, (0, 2, 3))

    functions: dict[str, Callable[[], Any]] = {
        "dataset_stats": lambda: dataset_stats(InMemory(data), progress=False),
        "copying the array": data.copy,
        "torch.bincount by channel (no image stds)": bincount,
        "torch.var_mean in float32": var_mean,
        "document 001's calculate_norm": lambda: calculate_norm(to_tensor),
    }
    times = median_times(functions, {"document 001's calculate_norm": 1, "torch.var_mean in float32": 3})
    table(f"{n:,} uint8 images of 32 × 32 × 3 in memory", times, "dataset_stats")
    code = (
        f"import torch\nfrom benchmarks.statistics import *\ndata = real_patches({n})\n"
        "dataset_stats(data[:2000], progress=False)\n###\ndataset_stats(data, progress=False)"
    )
    print(f"  extra memory: {peak_memory(code):.0f} MB (the array: {data.nbytes / 1e6:.0f} MB)")


@contextmanager
def jpegs(own: Path | None) -> Iterator[Path]:
    """A folder with photographs in a subfolder: one's own, or 120 made of the package's."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if own:
            (root / "photos").symlink_to(own.resolve(strict=True))
        else:
            (root / "photos").mkdir()
            for name, x in photos().items():
                for i in range(20):
                    turned = x.roll(17 * i, dims=2).permute(1, 2, 0).numpy()
                    Image.fromarray(turned).save(root / "photos" / f"{name}{i}.jpg", quality=90)
        yield root


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def archives(own: Path | None) -> None:
    """The same images in a folder, and as members of archives."""
    with jpegs(own) as root:
        files = image_files(root)
        with tarfile.open(root / "x.tar", "w") as tar, zipfile.ZipFile(root / "x.zip", "w") as archive:
            for path in files:
                tar.add(path)
                archive.write(path)
        kinds = {"folder": root / "photos", "tar": root / "x.tar", "zip": root / "x.zip"}
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            print("\n(pyarrow is not installed: Parquet is left out)")
        else:
            kinds["Parquet"] = root / "x.parquet"
            rows = pyarrow.table({"image": [Path(f).read_bytes() for f in files]})
            pyarrow.parquet.write_table(rows, kinds["Parquet"], row_group_size=100)
        found = {kind: scan(path).stats for kind, path in kinds.items()}
        assert len({(s.mean, s.std, s.images) for s in found.values()}) == 1  # the same digits
        times = median_times(
            {kind: lambda path=path: scan(path, workers=cores()) for kind, path in kinds.items()}, {}
        )
        named = {f"{kind} of {len(files)} JPEG files": t for kind, t in times.items()}
        table(f"archives, {cores()} threads", named, f"folder of {len(files)} JPEG files")


class Synthetic(IterableDataset):
    """Batches of 1000 images of 8 × 8 pixels, made as they are asked for."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __iter__(self) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.images // 1000):
            yield torch.randint(0, 256, (1000, 3, 8, 8), generator=generator, dtype=torch.uint8)


def million() -> None:
    print("\nmemory: extra MB over a stream of so many images")
    for n in (10_000, 100_000, 1_000_000):
        code = (
            "from benchmarks.statistics import *\ndataset_stats(Synthetic(5000), progress=False)\n###\n"
            f"assert dataset_stats(Synthetic({n}), progress=False).images == {n}"
        )
        print(f"  {n:10,}{peak_memory(code):8.1f} MB")


def folder(own: Path | None) -> None:
    workers = cores()
    with jpegs(own) as root:
        files = image_files(root)

        def decode(path: str) -> None:
            with Image.open(path) as image:
                image.load()

        def decode_all() -> None:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(decode, files))

        def usual() -> None:
            images = ImageFolder(str(root), transforms.ToTensor())
            n, total, squares = 0, torch.zeros(3), torch.zeros(3)
            for x, _ in DataLoader(images, batch_size=None, num_workers=workers):
                n += x[0].numel()
                total += x.sum((1, 2))
                squares += (x**2).sum((1, 2))
            (squares / n - (total / n) ** 2).sqrt()

        times = median_times(
            {
                "dataset_stats": lambda: dataset_stats(root, num_workers=workers, progress=False),
                "decoding alone": decode_all,
                "ImageFolder, ToTensor, DataLoader, loop": usual,
            },
            {},
        )
        table(f"a folder of {len(files)} JPEG files, {workers} workers", times, "dataset_stats")


def digits(value: float, exact: float) -> float:
    return min(17.0, -math.log10(abs(value - exact) / exact)) if value != exact else 17.0


def others() -> None:
    data = real_patches(10_000)
    rows = data.reshape(-1, 3)
    levels = rows[:, 0].astype(np.int64)
    n, s1, s2 = len(levels), int(levels.sum()), int((levels**2).sum())
    exact = math.sqrt(Fraction(n * s2 - s1 * s1, n * n * 255**2))
    results: dict[str, float] = {}

    def ours() -> None:
        results["ChannelStats"] = dataset_stats(data, progress=False).std[0]

    def numpy64() -> None:
        results["numpy std, float64"] = float((rows / 255).std(axis=0)[0])

    def numpy32() -> None:
        results["numpy std, float32"] = float((rows.astype(np.float32) / 255).std(axis=0)[0])

    def one_pass() -> None:
        x = rows[:, 0].astype(np.float32) / 255
        results["one pass Σx² − (Σx)², float32"] = float(np.sqrt((x * x).mean() - x.mean() ** 2))

    functions = {
        "ChannelStats": ours,
        "numpy std, float64": numpy64,
        "numpy std, float32": numpy32,
        "one pass Σx² − (Σx)², float32": one_pass,
    }
    try:
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        print("\n(scikit-learn is not installed: its StandardScaler is left out)")
    else:

        def scaler() -> None:
            s = StandardScaler()
            for i in range(0, len(rows), 2**20):
                s.partial_fit(rows[i : i + 2**20] / 255)
            results["StandardScaler.partial_fit"] = float(s.scale_[0])

        functions["StandardScaler.partial_fit"] = scaler
    times = median_times(functions, {})
    table("10,000 images of 32 × 32 × 3: std of all pixels", times, "ChannelStats")
    for name, value in results.items():
        print(f"  {name:44}{digits(value, exact):6.1f} correct digits")


def scaling(own: Path | None) -> None:
    print("\nscaling: images, seconds, extra MB (flat), and microseconds an image (constant)")
    for n in (12_500, 25_000, 50_000, 100_000):
        data = real_patches(n)
        seconds = median_times({"ours": lambda data=data: dataset_stats(data, progress=False)}, {})["ours"]
        code = (
            f"from benchmarks.statistics import *\ndata = real_patches({n})\n"
            "dataset_stats(data[:2000], progress=False)\n###\ndataset_stats(data, progress=False)"
        )
        print(f"  {n:8,}{seconds:10.3f} s{peak_memory(code):8.0f} MB{1e6 * seconds / n:8.2f} µs")
    x = torch.from_numpy(real_patches(5_000)).permute(0, 3, 1, 2)
    floats = x.float() / 255
    times = median_times(
        {
            "ChannelStats of uint8": lambda: ChannelStats(x),
            "ChannelStats of float32": lambda: ChannelStats(floats),
            "torch.var_mean in float64": lambda: torch.var_mean(floats.double(), (0, 2, 3)),
        },
        {},
    )
    table("5,000 images: floats cost more than integers", times, "ChannelStats of uint8")
    with jpegs(own) as root:
        two_processes(root)


def two_processes(own: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def processes(count: int) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [sys.executable, *launcher, "-m", "normtut", "stats", "--json", "--quiet", "--workers", "0"]
        subprocess.run([*command, str(own)], env=environment, stdout=subprocess.DEVNULL, check=True)

    times = median_times(
        {f"{k} process(es)": lambda k=k: processes(k) for k in (1, 2)},
        {f"{k} process(es)": 3 for k in (1, 2)},
    )
    table(
        f"normtut stats under torchrun, start included, {len(image_files(own))} files",
        times,
        "1 process(es)",
    )


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="JPEGs, instead of some made from the package's"
    )
    options = parser.parse_args(list(argv))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, NumPy {np.__version__}")
    in_memory()
    folder(options.photos)
    archives(options.photos)
    million()
    others()
    scaling(options.photos)


if __name__ == "__main__":
    main(sys.argv[1:])
