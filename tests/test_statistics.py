"""ChannelStats against exact rational arithmetic, and dataset_stats over every kind of data set."""

import copy
import dataclasses
import inspect
import io
import json
import math
import os
import pickle
import signal
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
)
from torchvision import datasets, transforms
from torchvision.transforms import v2

import normtut
from normtut import ChannelStats, dataset_stats
from normtut.data import PhotoPatches
from normtut.distributed import run_workers
from normtut.statistics import Sums, counts, image_files, scan, sources
from normtut.statistics.datasets import _Finder, _out_of_range
from normtut.statistics.exact import _sqrt, exact_sums
from normtut.statistics.items import Pixels, pixels_in_memory, pixels_of

PARTS = ("image_means", "image_stds", "batch_stds")


def root(x: Fraction) -> float:
    """The square root of a fraction, by decimal arithmetic with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        return float((Decimal(x.numerator) / Decimal(x.denominator)).sqrt())


def mean_std(values: list[Fraction]) -> tuple[float, float]:
    """By the definition, in fractions."""
    mean = sum(values) / Fraction(len(values))
    return float(mean), root(sum((v - mean) ** 2 for v in values) / Fraction(len(values)))


def fractions(x: np.ndarray, top: int = 1) -> list[list[Fraction]]:
    """The values of each channel of (N, C, H, W)."""
    return [[Fraction(v) / top for v in x[:, c].ravel().tolist()] for c in range(x.shape[1])]


def agrees_exactly(stats: ChannelStats, x: np.ndarray, top: int = 1) -> None:
    channels = fractions(x, top)
    means, stds = zip(*map(mean_std, channels), strict=True)
    assert stats.mean == means
    assert stats.std == stds
    assert stats.min == tuple(float(min(v)) for v in channels)
    assert stats.max == tuple(float(max(v)) for v in channels)
    assert (stats.images, stats.count, stats.channels) == (len(x), len(channels[0]), x.shape[1])
    of_images = [[mean_std(v) for v in fractions(image[None], top)] for image in x]
    for part, which in (("image_means", 0), ("image_stds", 1)):
        for c in range(x.shape[1]):
            values = [Fraction(image[c][which]) for image in of_images]
            mean, std = mean_std(values)
            scale = max(abs(mean), max(map(abs, stats.max + stats.min)), 1e-300)
            assert getattr(stats, part).mean[c] == pytest.approx(mean, rel=1e-14, abs=1e-14 * scale)
            assert getattr(stats, part).std[c] == pytest.approx(std, rel=1e-12, abs=1e-14 * scale)


shapes = hnp.array_shapes(min_dims=4, max_dims=4, max_side=6)
levels = shapes.flatmap(lambda s: hnp.arrays(st.sampled_from([np.uint8, np.uint16]), s))


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same images as they may lie in memory."""
    padded = torch.zeros(*x.shape[:3], 2 * x.shape[3] + 1, dtype=x.dtype)
    padded[..., 1::2] = x
    return {
        "contiguous": x.contiguous(),
        "channels last": x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "rows and columns swapped": x.transpose(2, 3).contiguous().transpose(2, 3),
        "every second column": padded[..., 1::2],
    }


# -- exactness ------------------------------------------------------------------------------------------


@given(levels)
@example(np.full((2, 1, 3, 3), 255, np.uint8))
@example(np.zeros((1, 3, 1, 1), np.uint16))
def test_integer_pixels_give_the_correctly_rounded_statistics(x):
    top = np.iinfo(x.dtype).max
    stats = ChannelStats(x)
    agrees_exactly(stats, x, top)
    if x.dtype == np.uint8:
        for name, view in layouts(torch.from_numpy(x)).items():
            assert ChannelStats(view) == stats, name


@given(
    st.sampled_from([np.float16, np.float32, np.float64]).flatmap(
        lambda dtype: shapes.flatmap(
            lambda s: hnp.arrays(dtype, s, elements={"min_value": -60000, "max_value": 60000})
        )
    )
)
@example(np.array([1e140, -1e140, 1.0, 1e-140]).reshape(1, 1, 2, 2))
@example(np.array([1e-140, 3e-140]).reshape(2, 1, 1, 1))
@example(np.float64([1e16, 1.0, -1e16, 0.1]).reshape(1, 1, 2, 2))
@example(np.float64([1.0, 7.7374873e-305]).reshape(1, 2, 1, 1))
@example(np.float64([1e149, 1.0, 3e-150, 5e-324, 1e-305, 1e-170]).reshape(2, 3, 1, 1))
def test_floats_give_the_correctly_rounded_statistics(x):
    stats = ChannelStats(x)
    channels = fractions(x)
    means, stds = zip(*map(mean_std, channels), strict=True)
    assert stats.mean == means
    assert stats.std == stds
    assert stats.min == tuple(float(min(v)) for v in channels)
    assert stats.max == tuple(float(max(v)) for v in channels)


def test_bfloat16_and_requires_grad_are_fine():
    x = torch.randn(2, 3, 4, 5).bfloat16()
    assert ChannelStats(x.requires_grad_()).mean == ChannelStats(x.double()).mean


@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(1, 3), st.integers(0, 40)), elements=st.floats(-1e200, 1e200)
    )
)
def test_exact_sums(v):
    assert list(exact_sums(v)) == [sum(map(Fraction, row), Fraction(0)) for row in v.tolist()]


@given(levels, st.data())
def test_order_batches_and_grouping_do_not_matter(x, data):
    images = torch.from_numpy(x.astype(np.uint8) if x.dtype == np.uint8 else x)
    floats = torch.from_numpy((x / 7.0 - 3).astype(np.float32))
    order = data.draw(st.permutations(range(len(x))))
    cut = data.draw(st.integers(0, len(x)))
    for batch in (images, floats):
        whole = ChannelStats(batch)
        one_by_one = ChannelStats(*(batch[i : i + 1] for i in order))
        left, right = ChannelStats(batch[:cut]), ChannelStats(batch[cut:])
        for other in (one_by_one, left + right, right + left, ChannelStats().merge(right).merge(left)):
            same(other, whole)
        assert left + right == right + left


@pytest.fixture(params=[1, 3])
def threads(request):
    """One counts piece after piece, and knows what the earlier ones held; several count as many at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [3], indirect=True)
@pytest.mark.parametrize("shape", [(1, 1, 5000, 37), (2, 3, 700, 3), (1, 2, 3, 70000), (3000, 3, 4, 4)])
@pytest.mark.parametrize("piece", [2**10, 2**19])
def test_large_images_stay_exact(threads, monkeypatch, shape, piece):
    # Float32 would lose the last bits if more than 256 squares were added up in it.
    monkeypatch.setattr(counts, "_PIECE", piece)
    x = np.random.default_rng(0).integers(250, 256, shape, dtype=np.uint8)
    for batch, dtype, top in ((x, np.uint8, 255), (x.astype(np.uint16) * 257, np.uint16, 65535)):
        for view in list(layouts(torch.from_numpy(batch)).values())[:2] if dtype == np.uint8 else [batch]:
            stats = ChannelStats(view)
            for c in range(shape[1]):
                n, s1 = batch[:, c].size, int(batch[:, c].sum(dtype=np.int64))
                s2 = int((batch[:, c].astype(np.int64) ** 2).sum())
                assert stats.mean[c] == float(Fraction(s1, n * top))
                assert stats.std[c] == root(Fraction(s2 * n - s1 * s1, (n * top) ** 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("seen_first", ["black", "white", "both in some channels"])
def test_minimum_and_maximum_are_those_of_all_pieces(threads, dtype, layout, seen_first):
    """Looking for extremes may stop where both have been seen in every channel, and no earlier."""
    top = np.iinfo(dtype).max
    x = np.full((48, 3, 256, 256), 100, dtype)  # of 9 million pixels half a million are counted at once
    first, last = {
        "black": ((0, 0, 0), (top, top, top)),
        "white": ((top, top, top), (0, 0, 0)),
        "both in some channels": ((0, top, 0), (top, 0, top)),
    }[seen_first]
    x[0, :, 0, 0], x[-1, :, -1, -1] = first, last
    if seen_first.startswith("both"):
        x[0, 0, 1, 1] = top
    stats = ChannelStats(layouts(torch.from_numpy(x))[layout] if dtype == np.uint8 else x)
    assert (stats.min, stats.max) == ((0.0,) * 3, (1.0,) * 3)


def test_large_float_images_stay_exact(monkeypatch):
    x = torch.rand(3, 2, 40, 50)
    whole = ChannelStats(x)
    monkeypatch.setattr(counts, "_PIECE", 1000)  # less than an image
    pieces = ChannelStats(x)
    for name in ("mean", "std", "min", "max"):
        assert getattr(pieces, name) == getattr(whole, name)
    assert pieces.image_stds.mean == pytest.approx(whole.image_stds.mean, rel=1e-15)


class Largest(TorchDispatchMode):
    """The most elements, and bytes, of a tensor of some dtypes that is made."""

    def __init__(self, *dtypes):
        super().__init__()
        self.dtypes, self.elements, self.bytes = dtypes, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype in self.dtypes:
            self.elements = max(self.elements, made.numel())
            self.bytes = max(self.bytes, made.numel() * made.element_size())
        return made


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.parametrize(
    ("shape", "dtype", "elements"),
    [
        ((8, 1, 16, 16), torch.uint16, 256),  # one image at once
        ((8, 1, 8, 8), torch.uint16, 256),  # four images
        ((1, 1, 64, 16), torch.uint8, 256),  # of one image, sixteen rows
        ((1, 1, 64, 300), torch.uint8, 300),  # one row, which is longer
    ],
)
def test_pixels_are_converted_a_few_at_a_time(threads, monkeypatch, shape, dtype, elements):
    monkeypatch.setattr(counts, "_PIECE", 256)
    x = torch.zeros(shape, dtype=dtype)
    with Largest(torch.float32, torch.float64, torch.int32) as largest:
        ChannelStats(x)
    assert largest.elements == elements
    assert largest.bytes == elements * (4 if dtype == torch.uint8 else 8)


def test_what_is_converted_at_once_fits_into_the_cache_and_is_no_smaller_than_it_need_be():
    with Largest(torch.float32) as largest:
        ChannelStats(torch.zeros(1, 1, 512, 4096, dtype=torch.uint8))
    assert 2**20 < largest.bytes <= 2**21


@pytest.mark.parametrize(
    ("shape", "elements", "summed"),
    [
        ((8, 1, 16, 16), 256, 256),
        ((1, 3, 64, 20), 3 * 64 * 20, 4 * 60),  # an image as it is, and of it four rows
        ((1, 3, 8, 100), 3 * 8 * 100, 300),  # one row, which is longer
    ],
)
def test_floats_are_summed_a_few_at_a_time(monkeypatch, shape, elements, summed):
    monkeypatch.setattr(counts, "_PIECE", 256)
    sizes, of = [], Sums.of
    monkeypatch.setattr(Sums, "of", lambda v: sizes.append(v.size) or of(v))
    with Largest(torch.float64) as largest:
        ChannelStats(torch.rand(shape))
    assert (largest.elements, max(sizes)) == (elements, summed)


def test_the_mean_of_an_image_of_more_than_half_a_piece_is_correctly_rounded(monkeypatch):
    x = torch.tensor([1e16, 1.0, -1e16, 0.0], dtype=torch.float64).view(1, 1, 2, 2)
    for piece in (4, 7):
        monkeypatch.setattr(counts, "_PIECE", piece)
        assert ChannelStats(x).image_means.mean == (0.25,)


@pytest.mark.parametrize(("threads", "expected"), [(1, [0] * 5), (3, [0, 2, 3, 3, 0])], indirect=["threads"])
def test_there_are_as_many_threads_as_torch_would_use_and_there_is_work_for(threads, expected, monkeypatch):
    made = []

    def pool(n, **options):
        made.append(n)
        return ThreadPoolExecutor(n, **options)

    monkeypatch.setattr(counts, "ThreadPoolExecutor", pool)
    found = []
    before = torch.get_num_threads()
    for items, device in ((1, "cpu"), (2, "cpu"), (3, "cpu"), (7, "cpu"), (7, "cuda")):
        made.clear()
        run = counts._in_threads(lambda i: (i, torch.get_num_threads()), range(items), torch.device(device))
        numbers, inside = zip(*run, strict=True)
        assert numbers == tuple(range(items))
        assert inside == (1 if made else before,) * items  # each works by itself
        assert torch.get_num_threads() == before
        found.append(sum(made))
    assert found == expected


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_extremes_are_looked_for_until_both_have_been_seen_in_every_channel(threads, monkeypatch):
    looked, amin = [], torch.amin
    monkeypatch.setattr(counts, "_PIECE", 4)
    monkeypatch.setattr(torch, "amin", lambda *args: looked.append(0) or amin(*args))
    x = torch.full((5, 1, 2, 2), 100, dtype=torch.uint8)
    x[1, 0, 0, 0], x[2, 0, 1, 1] = 0, 255
    stats = ChannelStats(x)
    assert (stats.min, stats.max, len(looked)) == ((0.0,), (1.0,), 3 * 3)  # three images, by three axes each


def test_floats_from_1e150_on_are_refused():
    assert ChannelStats(torch.full((1, 1, 1, 1), 9.9e149, dtype=torch.float64)).max == (9.9e149,)
    with pytest.raises(ValueError, match=r"0 NaN and 1 infinite values \(or beyond 1e\+150\)"):
        ChannelStats(torch.full((1, 1, 1, 1), 1e150, dtype=torch.float64))


def test_images_of_2_to_the_30_pixels_can_be_counted():
    counts.check_size(2**15, 2**15)
    with pytest.raises(ValueError, match="too large to be counted"):
        counts.check_size(2**15, 2**15 + 1)


def test_what_has_been_counted_is_a_value_whatever_its_notes():
    one = counts.count_pixels(torch.rand(2, 1, 2, 2))
    assert one == dataclasses.replace(one, notes={"read as gray": 2})
    pixels = Pixels(torch.zeros(1, 1, 1, 1))
    finder = _Finder(None, None, None, None)
    for value in (one, Sums(), pixels, sources.Entry("a", "a"), sources.Place("a"), finder):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, 3)
    assert (Sums().count, finder.stream) == (0, False)


def test_defaults():
    defaults = {name: p.default for name, p in inspect.signature(dataset_stats).parameters.items()}
    assert (defaults["num_workers"], defaults["progress"]) == (0, True)


@pytest.mark.parametrize("function", [dataset_stats, scan, image_files, ChannelStats.update])
def test_options_have_names_and_what_comes_first_may_be_named(function):
    first, *options = (p for p in inspect.signature(function).parameters.values() if p.name != "self")
    assert first.kind is first.POSITIONAL_OR_KEYWORD
    assert options
    assert {p.kind for p in options} == {first.KEYWORD_ONLY}


def test_constant_and_nearly_constant_images():
    x = np.full((1, 1, 1000, 1000), 200, np.uint8)
    assert ChannelStats(x).std == (0.0,)
    assert ChannelStats(x).image_stds.mean == (0.0,)
    x[0, 0, 0, 0] = 201
    exact = root(Fraction(1, 10**6) * (1 - Fraction(1, 10**6)) / 255**2)
    assert ChannelStats(x).std == (exact,)
    assert ChannelStats(x).image_stds.mean[0] == pytest.approx(exact, rel=1e-14)


def test_shifted_data_keep_every_digit():
    """Where Σx²/n − (Σx/n)² in float32 gives a negative variance (pytorch/pytorch #40302)."""
    x = (torch.randn(4, 1, 100, 100, dtype=torch.float64) + 1e4).float()
    naive = (x * x).mean() - x.mean() ** 2
    exact = mean_std(fractions(x.numpy())[0])
    assert abs(naive.item() - exact[1] ** 2) > 0.5
    assert (ChannelStats(x).mean[0], ChannelStats(x).std[0]) == exact


# -- NIST's Statistical Reference Datasets, univariate: https://www.itl.nist.gov/div898/strd/univ/homepage.html

# Defined by a rule: a centre, then 500 pairs (centre − 0.1, centre + 0.1).
NUMACC = {
    "NumAcc1": ([10000001, 10000003, 10000002], "10000002", "1", 15),
    "NumAcc2": (["1.2", *["1.1", "1.3"] * 500], "1.2", "0.1", 14),
    "NumAcc3": (["1000000.2", *["1000000.1", "1000000.3"] * 500], "1000000.2", "0.1", 9.4),
    "NumAcc4": (["10000000.2", *["10000000.1", "10000000.3"] * 500], "10000000.2", "0.1", 8.2),
}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "nist_strd.json"


def nist(data, mean: str, std: str, digits: float) -> None:
    x = np.array([float(v) for v in data]).reshape(1, 1, 1, -1)
    stats = ChannelStats(x)
    n = x.size
    # Exact for the data as float64 holds them.
    assert (stats.mean[0], stats.std[0]) == mean_std(fractions(x)[0])
    sample_std = stats.std[0] * math.sqrt(n / (n - 1))

    def correct_digits(value: float, certified: str) -> float:
        error = abs(Fraction(value) - Fraction(certified)) / abs(Fraction(certified))
        return -math.log10(error) if error else 17.0

    assert correct_digits(stats.mean[0], mean) > 14.5
    assert correct_digits(sample_std, std) > digits


@pytest.mark.parametrize("name", NUMACC)
def test_nist_generated(name):
    nist(*NUMACC[name])


@pytest.mark.parametrize("name", ["PiDigits", "Lottery", "Lew", "Mavro", "Michelso"])
def test_nist_observed(name):
    if not SHARED.exists():
        pytest.skip("NIST's observed data sets are not part of the project")
    entry = json.loads(SHARED.read_text())[name]
    # Mavro and Michelso: the decimals of the data, rounded to float64, allow no more.
    nist(entry["data"], entry["mean"], entry["std"], {"Mavro": 11.5, "Michelso": 12.5}.get(name, 14.5))


# -- what is derived from the sums ----------------------------------------------------------------------


def test_law_of_total_variance():
    x = torch.randint(0, 256, (50, 3, 6, 7), dtype=torch.uint8)
    stats = ChannelStats(x)
    for std, means, stds, spread in zip(
        stats.std, stats.image_means.std, stats.image_stds.mean, stats.image_stds.std, strict=True
    ):
        assert std**2 == pytest.approx(stds**2 + spread**2 + means**2, rel=1e-14)


def test_batch_stds_are_those_of_the_batches_given():
    x = torch.rand(10, 3, 4, 4, dtype=torch.float64)
    batches = [x[:3], x[3:4], x[4:]]
    stats = ChannelStats(*batches)
    stds = torch.stack([b.transpose(0, 1).flatten(1).std(1, correction=0) for b in batches])
    assert stats.batch_stds.count == 3
    assert stats.batch_stds.mean == pytest.approx(stds.mean(0).tolist(), rel=1e-14)
    assert stats.batch_stds.std == pytest.approx(stds.std(0, correction=0).tolist(), rel=1e-12)


@given(levels, st.floats(-3, 3), st.floats(0.01, 5))
def test_after_equals_the_statistics_of_the_normalized_images(x, mean, std):
    stats = ChannelStats(x)
    top = np.iinfo(x.dtype).max
    channels = [[(v - Fraction(mean)) / Fraction(std) for v in values] for values in fractions(x, top)]
    after = stats.after(mean, std)
    assert list(zip(after.mean, after.std, strict=True)) == [mean_std(v) for v in channels]
    assert after.max == pytest.approx([float(max(v)) for v in channels], rel=1e-14)
    assert after.min == pytest.approx([float(min(v)) for v in channels], rel=1e-14)
    assert after.images == stats.images
    assert stats.after(0.0, 1.0) == stats


def test_after_predicts_what_torchvision_does():
    x = torch.rand(20, 3, 8, 8)
    normalized = ChannelStats(transforms.Normalize(*normtut.IMAGENET)(x))
    predicted = ChannelStats(x).after(*normtut.IMAGENET)
    for name in ("mean", "std", "min", "max"):
        assert getattr(predicted, name) == pytest.approx(getattr(normalized, name), abs=1e-6)
    for part in PARTS:
        a, b = getattr(predicted, part), getattr(normalized, part)
        assert (a.mean, a.std) == (pytest.approx(b.mean, abs=1e-6), pytest.approx(b.std, abs=1e-6))


def test_the_right_statistics_give_mean_0_and_std_1():
    stats = ChannelStats(torch.randint(0, 256, (9, 3, 5, 5), dtype=torch.uint8))
    after = stats.after(stats.mean, stats.std)
    assert after.mean == pytest.approx((0, 0, 0), abs=1e-15)
    assert after.std == pytest.approx((1, 1, 1), rel=1e-15)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), 0.5, "mean has 2 values, but there are 3 channels"),
        (0.5, (0.5, 0.5, 0.5, 0.5), "std has 4 values"),
        (0.5, (0.5, 0.0, 0.5), "std must be positive"),
        (0.5, -1.0, "std must be positive"),
        (math.nan, 1.0, "mean must be finite"),
        (0.0, math.inf, "std must be finite"),
    ],
)
def test_after_refuses(mean, std, message):
    with pytest.raises(ValueError, match=message):
        ChannelStats(torch.rand(2, 3, 4, 4)).after(mean, std)


@pytest.mark.parametrize("chained", [False, True])
def test_after_refuses_to_leave_the_range_of_floats(chained):
    stats = ChannelStats(torch.rand(2, 1, 4, 4))
    if chained:  # the smallest and the largest are 0 then, but not the mean, which is not rounded
        stats = ChannelStats(torch.full((2, 1, 4, 4), 0.3)).after(0, 1e-300 / 3)
    with pytest.raises(ValueError, match=r"mean .* and std 1e-320 take the pixels out of the range"):
        stats.after(stats.min[0], 1e-320)


def test_repeat():
    x = torch.randint(0, 256, (4, 1, 5, 5), dtype=torch.uint8)
    assert ChannelStats(x).repeat(3) == ChannelStats(x.expand(-1, 3, -1, -1))
    assert ChannelStats().repeat(3) == ChannelStats()
    with pytest.raises(ValueError, match="have 2"):
        ChannelStats(torch.rand(1, 2, 2, 2)).repeat(3)


# -- bad input, nothing lost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (torch.rand(4, 4), ValueError, r"\(C, H, W\), got shape \(4, 4\)"),
        (np.zeros(4, np.uint8), ValueError, r"\(C, H, W\), got shape \(4,\)"),
        (torch.ones(1, 3, 2, 2, dtype=torch.int64), TypeError, "got torch.int64"),
        (torch.ones(1, 3, 2, 2, dtype=torch.bool), TypeError, "got torch.bool"),
        (torch.ones(1, 3, 2, 2, dtype=torch.complex64), TypeError, "got torch.complex64"),
        ([[[1.0]]], TypeError, "a tensor, an array or a PIL image, got list"),
        (torch.rand(2, 1, 4, 4), ValueError, "1 channels cannot be counted with images of 3"),
        (torch.tensor([math.nan, 1, math.inf]).view(3, 1, 1), ValueError, "1 NaN and 1 infinite"),
        (torch.full((3, 2, 2), 1e160, dtype=torch.float64), ValueError, "12 infinite"),
        (np.zeros((2, 20, 30, 3), np.float32), ValueError, r"\(2, 20, 30, 3\) looks like \(N, H, W, C\)"),
        (torch.zeros(2, 20, 30, 3, dtype=torch.uint8), ValueError, "does have 20 channels"),
    ],
)
def test_a_refused_batch_changes_nothing(batch, error, message):
    stats = ChannelStats(torch.rand(2, 3, 4, 4))
    before = copy.deepcopy(stats)
    with pytest.raises(error, match=message):
        stats.update(batch)
    assert stats == before


def test_no_pixels():
    stats = ChannelStats()
    stats.update(torch.empty(0, 3, 8, 8))
    stats.merge(ChannelStats())
    assert (stats.count, stats.images, stats.channels, repr(stats)) == (0, 0, 0, "ChannelStats()")
    for name in ("mean", "std", "min", "max", *PARTS):
        with pytest.raises(ValueError, match="no pixels have been counted"):
            getattr(stats, name)
    some = ChannelStats(torch.rand(2, 3, 4, 4))
    assert stats + some == some == some + stats


def test_merging_does_not_tie_the_two_together():
    a, b = torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    first, second = ChannelStats(), ChannelStats(a)
    first.merge(second)
    first.update(b)
    assert second == ChannelStats(a)
    total = second + ChannelStats(b)
    assert total.count == 36
    assert second.count == 18
    with pytest.raises(TypeError):
        second + 1  # type: ignore[operator]


def test_equal_are_those_with_the_same_counts():
    a, b = (ChannelStats(torch.full((1, 1, 2, 2), level)) for level in (0.25, 0.5))
    assert a == ChannelStats(torch.full((1, 1, 2, 2), 0.25))
    assert a != b
    assert a != ChannelStats()
    assert a + b != b
    assert a != a.counts
    assert a != "statistics"


def test_merging_other_channels_changes_nothing():
    stats = ChannelStats(torch.rand(2, 3, 4, 4))
    before = copy.deepcopy(stats)
    with pytest.raises(ValueError, match="channels"):
        stats.merge(ChannelStats(torch.rand(2, 4, 4, 4)))
    assert stats == before


def test_threads_sharing_one_lose_nothing(monkeypatch):
    batches = torch.randint(0, 256, (400, 1, 1, 2, 2)).byte()
    expected = ChannelStats(*batches)
    add = counts.Counts.__add__

    def slowly(self, other):
        total = add(self, other)
        time.sleep(1e-5)  # lets another thread run between reading and writing
        return total

    monkeypatch.setattr(counts.Counts, "__add__", slowly)
    stats = ChannelStats()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stats.update, batches[::2]))
        list(pool.map(stats.merge, [ChannelStats(b) for b in batches[1::2]]))
    assert stats == expected


def test_sums_of_bright_images_may_need_more_than_64_bits():
    n, pixels = 40, 2**27  # of each image, all white
    s1, s2 = (np.full((n, 1), pixels * 65535**k) for k in (1, 2))
    white = np.array([65535])
    found = counts.from_level_sums(np.full(n, pixels), s1, s2, white, white, 65535)
    assert n * pixels * 65535**2 > 2**63
    assert (found.pixels.mean, found.pixels.std, found.image_stds.mean) == ((1.0,), (0.0,), (0.0,))


def test_an_image_too_large_for_64_bits_is_refused(monkeypatch):
    monkeypatch.setattr(counts, "_LARGEST", 99)
    assert ChannelStats(torch.zeros(1, 1, 9, 11).to(torch.uint16)).count == 99
    for dtype in (torch.uint8, torch.uint16):
        with pytest.raises(ValueError, match="an image of 10 × 10 pixels is too large to be counted"):
            ChannelStats(torch.zeros(1, 1, 10, 10).to(dtype))


# -- kept and sent --------------------------------------------------------------------------------------


@given(levels)
def test_state_survives_json_pickle_and_torch_save(x):
    stats = ChannelStats(x) + ChannelStats(np.linspace(0, 1, 4 * x.shape[1]).reshape(2, x.shape[1], 2, 1))
    file = io.BytesIO()
    torch.save(stats.state_dict(), file)
    file.seek(0)
    kept = stats.state_dict()
    for state in (kept, json.loads(json.dumps(kept)), torch.load(file, weights_only=True)):
        restored = ChannelStats().load_state_dict(state)
        assert restored == stats
        assert restored.std == stats.std
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert ChannelStats().load_state_dict(ChannelStats().state_dict()) == ChannelStats()


@pytest.mark.parametrize("damage", [{}, {"pixels": 3}, {"min": []}, {"pixels": [1, [[1, 0]], [[1, 1]]]}])
def test_damaged_state_changes_nothing(damage):
    stats = ChannelStats(torch.rand(2, 1, 4, 4))
    before = copy.deepcopy(stats)
    state = {**stats.state_dict(), **damage} if damage else {}
    with pytest.raises(ValueError, match="state is not that of a ChannelStats"):
        stats.load_state_dict(state)
    assert stats == before


STATE = ChannelStats(torch.tensor([51, 204], dtype=torch.uint8).view(2, 1, 1, 1)).state_dict()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            {"min": ["a"], "max": ["b"]},
            r"min and max must be finite, and in order, got \('a',\) and \('b',\)",
        ),
        ({"min": [math.nan]}, "min and max must be finite"),
        ({"max": [math.inf]}, "min and max must be finite"),
        ({"min": [-math.inf]}, "min and max must be finite"),
        ({"min": [0.9]}, "min and max must be finite, and in order"),
        ({"pixels": [-5, [[1, 1]], [[1, 1]]]}, r"pixels must be a positive number, got -5"),
        ({"pixels": [2.0, [[1, 1]], [[1, 1]]]}, r"pixels must be a positive number, got 2\.0"),
        ({"pixels": [5, [[10, 1]], [[1, 1]]]}, "sum of squares of pixels"),
        ({"image_stds": [2, [[1, 1]], [[-1, 1]]]}, "sum of squares of image_stds"),
        ({"image_means": None}, "image_means is missing"),
        (dict.fromkeys(("pixels", *PARTS)), "pixels is missing"),
        (dict.fromkeys(PARTS), "image_means is missing"),
        ({**dict.fromkeys(("pixels", *PARTS)), "min": []}, "pixels is missing"),
        ({**dict.fromkeys(("pixels", *PARTS)), "max": []}, "pixels is missing"),
        ({"min": [], "max": []}, "numbers of channels differ"),
        ({**{part: [2, [], []] for part in ("pixels", *PARTS)}, "min": [], "max": []}, "channels differ"),
        ({"pixels": [0, [[0, 1]], [[0, 1]]]}, "pixels must be a positive number, got 0"),
        ({"image_means": [1, [[1, 2]], [[1, 4]]]}, "2 pixels, 1 and 2 images, 1 batches"),
        ({"batch_stds": [3, [[1, 2]], [[1, 4]]]}, "2 pixels, 2 and 2 images, 3 batches"),
        ({"notes": 3}, "has no attribute"),
    ],
)
def test_a_state_that_contradicts_itself_says_where(damage, message):
    assert ChannelStats().load_state_dict(STATE).mean == (0.5,)
    stats = ChannelStats()
    with pytest.raises(ValueError, match=f"state is not that of a ChannelStats: .*{message}"):
        stats.load_state_dict({**STATE, **damage})
    assert stats == ChannelStats()


def test_the_state_of_one_image_of_one_level_is_a_state():
    one = ChannelStats(torch.full((1, 1, 2, 2), 0.25))
    assert ChannelStats().load_state_dict(one.state_dict()) == one


def test_repr_can_be_pasted():
    stats = ChannelStats(torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8))
    pasted = eval(repr(stats), {"transforms": transforms})
    assert (tuple(pasted.mean), tuple(pasted.std)) == (stats.mean, stats.std)


def test_channels_last_and_pil_images():
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 30), dtype=np.uint8)
    expected, stats, one_by_one = ChannelStats(x), ChannelStats(), ChannelStats()
    stats.update(x.transpose(0, 2, 3, 1), channel_dim=-1)
    assert stats == expected
    for image in x:
        one_by_one.update(PIL.Image.fromarray(image.transpose(1, 2, 0)))
    same(one_by_one, expected)
    wide = ChannelStats()
    wide.update(x.transpose(0, 2, 3, 1), channel_dim=-3)
    assert wide.channels == 20
    features = torch.rand(2, 64, 4, 4)  # of a network: channels first, whatever their number
    assert ChannelStats(features).channels == 64


def test_what_looks_like_channels_last_has_at_most_4_channels_and_more_than_8_rows():
    with pytest.raises(ValueError, match=r"\(2, 9, 9, 4\) looks like \(N, H, W, C\)"):
        ChannelStats(torch.zeros(2, 9, 9, 4, dtype=torch.uint8))
    for shape in ((2, 8, 9, 4), (2, 9, 9, 5)):
        assert ChannelStats(torch.zeros(shape, dtype=torch.uint8)).channels == shape[1]


def test_arrays_as_they_come():
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    expected = ChannelStats(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    assert ChannelStats(read_only) == expected
    assert ChannelStats(x[..., ::-1]) == expected
    assert ChannelStats(x[0]) == ChannelStats(x[:1])
    swapped = (x.astype(">u2") * 257).astype(">u2")
    assert ChannelStats(swapped).std == expected.std


def test_device(device):
    x = torch.randint(0, 256, (7, 3, 300, 11), dtype=torch.uint8)
    assert ChannelStats(x.to(device)) == ChannelStats(x)
    floats = torch.rand(7, 3, 30, 11)
    assert ChannelStats(floats.to(device)) == ChannelStats(floats)


# -- several processes ----------------------------------------------------------------------------------


def _share(rank: int, world: int, floats: bool):
    stats = ChannelStats()
    x = _images(floats)
    for i in range(rank, len(x), world):
        stats.update(x[i : i + 1])
    return stats.all_reduce().state_dict()


def _images(floats: bool) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    shape = (2, 3, 9, 8)
    return torch.randn(shape, generator=g) if floats else torch.randint(0, 256, shape, generator=g).byte()


def _other_channels(rank: int, world: int):
    ChannelStats(torch.rand(1, 1 + rank, 2, 2)).all_reduce()


def _dies(rank: int, world: int):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ChannelStats(torch.rand(1, 3, 2, 2)).all_reduce()


def test_all_reduce_needs_a_group():
    stats = ChannelStats(torch.rand(2, 3, 4, 4))
    with pytest.raises(RuntimeError, match="init_process_group"):
        stats.all_reduce()


@pytest.mark.parametrize("world", [2, 3])  # three processes, two images: one has counted nothing
def test_all_reduce_gives_every_process_the_same_digits(world):
    for floats in (False, True):
        x = _images(floats)
        expected = ChannelStats(*x.split(1)).state_dict()
        assert run_workers(_share, (world, floats), world_size=world) == [expected] * world


def test_all_reduce_with_different_channels_fails_everywhere():
    with pytest.raises(RuntimeError, match="2 of 2 processes failed") as error:
        run_workers(_other_channels, (2,), timeout=240)
    assert str(error.value).count("ValueError: images with") == 2


def test_a_killed_process_fails_the_others_with_a_message():
    with pytest.raises(RuntimeError, match="could not collect the statistics of the 2 processes"):
        run_workers(_dies, (2,), timeout=240)


# -- dataset_stats --------------------------------------------------------------------------------------

PATCHES = PhotoPatches(train=False)
EXPECTED = ChannelStats(torch.from_numpy(PATCHES.data).permute(0, 3, 1, 2))


class Items(Dataset):
    """Any items, as a data set."""

    def __init__(self, items, **attributes):
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(x, 0) for x in torch.from_numpy(PATCHES.data).permute(0, 3, 1, 2)])


def as_tensors(n=None):
    return list(torch.from_numpy(PATCHES.data[:n]).permute(0, 3, 1, 2))


def same(stats: ChannelStats, other: ChannelStats = EXPECTED) -> None:
    for name in ("count", "images", "mean", "std", "min", "max", "image_means", "image_stds"):
        assert getattr(stats, name) == getattr(other, name), name


@pytest.mark.parametrize(
    "data",
    [
        PATCHES,
        torch.from_numpy(PATCHES.data).permute(0, 3, 1, 2),
        PATCHES.data,
        np.ascontiguousarray(PATCHES.data.transpose(0, 3, 1, 2)),
        Subset(PATCHES, range(len(PATCHES))),
        PhotoPatches(train=False, transform=v2.PILToTensor()),
        as_tensors(),
        Items([{"image": x, "label": 1} for x in as_tensors()]),
        Items([[x.permute(1, 2, 0).numpy(), 1] for x in as_tensors()]),
        Stream(),
        DataLoader(Items([(x, 1) for x in as_tensors()]), batch_size=50),
        DataLoader(Items([{"img": x} for x in as_tensors()]), batch_size=50),
    ],
    ids=[
        "PIL images held in data.data", "tensor", "N H W C array", "N C H W array", "Subset of PIL images",
        "transform to uint8", "list of tensors", "dicts", "lists of arrays", "IterableDataset", "DataLoader",
        "DataLoader of dicts",
    ],
)  # fmt: skip
def test_every_kind_of_data_gives_the_same_digits(data):
    same(dataset_stats(data, progress=False))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batch_size_and_workers_change_nothing(batch_size, num_workers):
    x = PhotoPatches(train=False, transform=transforms.ToTensor())
    x.data = x.data[:30]
    stats = dataset_stats(x, batch_size=batch_size, num_workers=num_workers, progress=False)
    same(stats, ChannelStats(torch.stack([image for image, _ in (x[i] for i in range(30))])))
    # ToTensor rounds to float32: seven digits agree with the integers, and then no more.
    exact = ChannelStats(*as_tensors(30))
    assert stats.std == pytest.approx(exact.std, rel=1e-7)
    assert stats.std != exact.std


def test_images_of_different_sizes_and_gray_ones():
    images = [PIL.Image.new("RGB", (w, 3), (w, 2 * w, 255 - w)) for w in range(1, 9)]
    stats = dataset_stats(Items(images), progress=False, batch_size=4)
    assert (stats.images, stats.count) == (8, 3 * 36)
    assert stats.mean[0] == float(Fraction(sum(3 * w * w for w in range(1, 9)), 3 * 36 * 255))
    assert stats.batch_stds.count == 2
    gray = dataset_stats(Items([im.convert("L") for im in images]), progress=False)
    assert gray.channels == 1


def test_gray_among_colour_counts_as_equal_channels_in_data_sets_too():
    colour, gray = torch.randint(0, 256, (5, 3, 6, 7)).byte(), torch.randint(0, 256, (4, 1, 6, 7)).byte()
    expected = ChannelStats(colour, gray.expand(-1, 3, -1, -1))
    mixed = [colour[0], gray[0], gray[1], *colour[1:3], gray[2], gray[3], *colour[3:]]
    as_pil = [v2.functional.to_pil_image(x) for x in mixed]
    as_arrays = [x.permute(1, 2, 0).numpy() if len(x) == 3 else x[0].numpy() for x in mixed]
    for items in (mixed, as_pil, as_arrays):
        for batch_size in (1, 2, 9):
            with pytest.warns(UserWarning, match="4 of 9 images: gray, counted as R = G = B"):
                same(dataset_stats(Items(items), batch_size=batch_size, progress=False), expected)
    with pytest.raises(ValueError, match="with 3 channels cannot be counted with images of 4"):
        dataset_stats(Items([torch.rand(4, 5, 5), colour[0]]), progress=False)


@pytest.mark.parametrize(
    "images",
    [
        as_tensors(10),
        [x.permute(1, 2, 0).numpy() for x in as_tensors(10)],
        [PIL.Image.fromarray(x.permute(1, 2, 0).numpy()) for x in as_tensors(10)],
    ],
    ids=["tensors", "arrays", "PIL images"],
)
@pytest.mark.parametrize("collate_fn", [list, tuple])
def test_a_batch_that_is_a_list_of_images_is_counted_image_by_image(images, collate_fn):
    loader = DataLoader(Items(images), batch_size=4, collate_fn=collate_fn)
    stats = dataset_stats(loader, progress=False)
    assert stats == ChannelStats(*torch.stack(as_tensors(10)).split(4))


def test_lists_of_images_of_different_sizes():
    images = [torch.full((3, 2, w), w / 10) for w in range(1, 10)]
    loader = DataLoader(Items(images), batch_size=4, collate_fn=list)
    same(dataset_stats(loader, progress=False), ChannelStats(*images))


@pytest.mark.parametrize(
    "second",
    [torch.tensor(1), torch.ones(10), torch.zeros(3, 8, 8), torch.zeros(8, 8)],
    ids=["number", "soft label", "mask with channels", "mask"],
)
def test_images_with_labels_are_not_a_list_of_images(second):
    x = torch.rand(8, 3, 8, 8)
    loader = DataLoader(Items([(image, second) for image in x]), batch_size=4)
    assert dataset_stats(loader, progress=False) == ChannelStats(*x.split(4))


PICTURE = PIL.Image.fromarray(PATCHES.data[0])


@pytest.mark.parametrize(
    ("image", "channel_dim", "note"),
    [
        (torch.rand(3, 8, 8), None, None),
        (torch.rand(3, 8, 8), -3, None),
        (torch.rand(3, 8, 8), 0, None),
        (torch.rand(8, 8, 3), -1, "read with channels last"),
        (torch.rand(8, 8), "gray", "read as gray"),
        (torch.rand(3, 8, 8).numpy(), -3, "read with channels first"),
        (torch.rand(3, 8, 8).numpy(), None, "read with channels first"),
        (torch.rand(8, 8, 3).numpy(), 2, "read with channels last"),
    ],
)
def test_how_the_axes_of_an_image_were_read_is_noted_where_it_is_not_plain(image, channel_dim, note):
    stats = dataset_stats([image], channel_dim=channel_dim, progress=False)
    assert stats.notes == ({} if note is None else {note: 1})


def test_only_a_second_image_in_an_item_is_noted():
    x = torch.rand(3, 8, 8)
    for item in ((x,), (x, 1), (x, b"cat"), (x, torch.ones(10))):
        assert dataset_stats([item], progress=False).notes == {}
    for second in (x, x[0], PICTURE):
        notes = dataset_stats([(x, second)], progress=False).notes
        assert notes == {"read as the first of several images in an item": 1}


def test_without_batches_a_loader_gives_images():
    x = torch.rand(6, 3, 8, 8)
    for items in (x, [(image,) for image in x], [(image, 1) for image in x]):
        loader = DataLoader(Items(items), batch_size=None)
        assert dataset_stats(loader, progress=False) == ChannelStats(*x)


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (torch.zeros(4, 28, 28), {}, r"\(2, 28, 28\) may be one image \(C, H, W\) or gray images"),
        ([(torch.zeros(28, 28), 1)] * 4, {}, r"\(2, 28, 28\) may be"),
        ([(torch.zeros(28, 28), torch.zeros(28, 28))] * 4, {}, r"\(2, 28, 28\) may be"),
        ([(torch.zeros(28, 28), torch.zeros(10))] * 4, {}, r"\(2, 28, 28\) may be"),
        (
            [(PICTURE, PICTURE)] * 4,
            {"collate_fn": lambda items: items[0], "batch_size": 1},
            "2 images, or an image",
        ),
        ([(PICTURE, PICTURE)] * 4, {"batch_size": None}, "2 images, or an image"),
        ([torch.zeros(20, 28, 28)] * 4, {"batch_size": None}, r"a tensor of shape \(20, 28, 28\) holds"),
        ([(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))] * 4, {"batch_size": None}, "2 images, or an image"),
        ([np.zeros((32, 32, 3), np.float32)] * 4, {}, r"\(2, 32, 32, 3\) holds .* say channel_dim=-1"),
        ([np.zeros((3, 32, 3), np.float32)] * 4, {"collate_fn": list}, r"an array of shape \(3, 32, 3\)"),
        ([torch.zeros(1, 32, 32, 20)] * 4, {}, r"\(2, 1, 32, 32, 20\) holds"),
        (
            [torch.zeros(3, 8, 8), torch.zeros(8, 8)] * 2,
            {"collate_fn": list},
            r"\(3, 8, 8\) may be one image",
        ),
        (
            [torch.zeros(3, 8, 8)] * 4,
            {"collate_fn": lambda items: []},
            "a batch must begin with .*, got list",
        ),
    ],
)
def test_a_batch_whose_axes_are_not_clear_is_refused(items, options, message):
    loader = DataLoader(Items(items), **{"batch_size": 2, **options})
    with pytest.raises((ValueError, TypeError), match=message):
        dataset_stats(loader, progress=False)


def test_a_loader_that_leaves_images_out_or_repeats_them_is_warned_about():
    items = Items(as_tensors(10))
    for loader, message in (
        (DataLoader(items, batch_size=4, drop_last=True), "8 images of a data set of 10: .*drop_last"),
        (DataLoader(items, 4, sampler=SubsetRandomSampler(range(3))), "3 images of a data set of 10"),
        (
            DataLoader(items, 4, sampler=RandomSampler(items, True, 15)),
            "15 images, drawn with replacement, of a data",
        ),
        (DataLoader(items, 4, sampler=RandomSampler(items, True)), "10 images, drawn with replacement, of"),
    ):
        with pytest.warns(UserWarning, match=message) as caught:
            dataset_stats(loader, progress=False)
        assert [w.filename for w in caught] == [__file__]


class Sized(Stream):
    def __len__(self):  # an estimate, or the number of batches: nobody checks it
        return 5


def _shared(rank: int, world: int):
    items = Items(as_tensors(9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        even = Items(as_tensors(8))
        dataset_stats(DataLoader(even, 2, sampler=DistributedSampler(even)), progress=False)
        stats = dataset_stats(DataLoader(items, 2, sampler=range(rank, 9, world)), progress=False)
    with pytest.warns(
        UserWarning, match="deals 10 images to 2 processes, of a data set of 9: it repeats some"
    ):
        dataset_stats(DataLoader(items, 2, sampler=DistributedSampler(items)), progress=False)
    return stats.all_reduce().state_dict()


def test_one_process_alone_has_no_share_but_all():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        loader = DataLoader(Items(as_tensors(10)), 4, sampler=range(3))
        with pytest.warns(UserWarning, match="3 images of a data set of 10"):
            stats = dataset_stats(loader, progress=False)
        same(stats.all_reduce(), ChannelStats(*as_tensors(3)))
    finally:
        dist.destroy_process_group()


def test_a_loader_that_gives_what_it_should_is_not_warned_about():
    items = Items(as_tensors(10))
    batches = Items(torch.stack(as_tensors(10)).split(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loader in (
            DataLoader(items, 4, shuffle=True),
            DataLoader(items, 5, drop_last=True),
            DataLoader(items, 4, collate_fn=list),
            DataLoader(items, 4, sampler=DistributedSampler(items, 2, 0)),
            DataLoader(Stream(), 50, drop_last=True),
            DataLoader(Sized(), 50),
            DataLoader(batches, batch_size=None),
        ):
            dataset_stats(loader, progress=False)
    assert not dist.is_initialized()
    kept = run_workers(_shared, (2,), world_size=2)[0]
    same(ChannelStats().load_state_dict(kept), ChannelStats(*as_tensors(9)))


class Inverted(PhotoPatches):
    """Holds other pixels than it gives."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return PIL.ImageOps.invert(image), label


class Random(PhotoPatches):
    """Holds pixels, and gives them mirrored now and then."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return PIL.Image.new("RGB", image.size) if index == 100 else image, label


class Unread(PhotoPatches):
    """Whose pixels are read without asking for an item."""

    def __len__(self):
        return 0


def test_pixels_in_memory_are_used_only_where_the_class_is_known_to_give_them():
    assert dataset_stats(Unread(train=False), progress=False) == EXPECTED
    inverted = dataset_stats(Inverted(train=False), progress=False)
    assert inverted.mean == pytest.approx([1 - m for m in EXPECTED.mean], rel=1e-14)
    assert dataset_stats(Random(train=False), progress=False).mean < EXPECTED.mean
    halved = PhotoPatches(train=False, transform=lambda image: v2.functional.pil_to_tensor(image) // 2)
    assert max(dataset_stats(halved, progress=False).max) < 0.5


def _with_pixels(kind, data, **attributes):
    """One of torchvision's data sets, without its files."""
    made = kind.__new__(kind)
    made.__dict__.update(data=data, transform=None, target_transform=None, transforms=None, **attributes)
    return made


def test_torchvisions_data_sets_are_read_from_memory_and_give_what_their_items_do():
    rgb = torch.randint(0, 256, (9, 3, 5, 5)).byte().numpy()
    gray = torch.randint(0, 256, (9, 5, 5)).byte()
    labels = {"targets": [0] * 9, "labels": np.zeros(9, np.int64), "classes": []}
    for kind, data in (
        (datasets.CIFAR10, rgb.transpose(0, 2, 3, 1)),
        (datasets.CIFAR100, rgb.transpose(0, 2, 3, 1)),
        (datasets.SVHN, rgb),
        (datasets.STL10, rgb),
        (datasets.MNIST, gray),
        (datasets.FashionMNIST, gray),
    ):
        made = _with_pixels(kind, data, **labels)
        found = dataset_stats(made, progress=False)
        assert found.batch_stds.count == 1, kind  # one batch of 8192, not of 32
        same(found, dataset_stats(Items([made[i] for i in range(9)]), batch_size=4, progress=False))


def test_normalized_or_unscaled_images_are_warned_about():
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    normalized = PhotoPatches(train=False, transform=transform)
    with pytest.warns(UserWarning, match="values from -1 to 1, outside .* normalized already"):
        stats = dataset_stats(DataLoader(normalized, batch_size=64), progress=False)
    assert stats.mean == pytest.approx(EXPECTED.after(0.5, 0.5).mean, rel=1e-6)
    with pytest.warns(UserWarning, match="values from 0 to 255.*left unscaled"):
        dataset_stats(torch.from_numpy(PATCHES.data).permute(0, 3, 1, 2).float(), progress=False)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Items([]), ValueError, "holds no images"),
        (torch.empty(0, 3, 4, 4), ValueError, "holds no images"),
        (torch.rand(5, 5), ValueError, r"3 or 4 axes; got \(5, 5\)"),
        (np.zeros(5, np.uint8), ValueError, r"3 or 4 axes; got \(5,\)"),
        (torch.zeros(10, 32, 32, 3), ValueError, r"a tensor of images of shape \(10, 32, 32, 3\) holds"),
        (torch.zeros(10, 32, 32, 3), ValueError, r"1 for the second, .*H, W, C\), say channel_dim=-1\.$"),
        (torch.zeros(20, 28, 28), ValueError, r"a tensor of shape \(20, 28, 28\) holds"),
        (torch.zeros(20, 28, 28), ValueError, r": 0 for the first, .* 'gray' if there is none\.$"),
        (np.zeros((10, 3, 32, 3)), ValueError, "which axis"),
        (np.zeros((10, 28, 28), np.uint8), ValueError, "'gray' if there is none"),
        (torch.rand(10, 28, 28), ValueError, "'gray' if there is none"),
        (42, TypeError, "got int"),
        (b"pictures", TypeError, "a folder, got bytes"),
        ([], ValueError, r"data \(list\) holds no images"),
        ({"a set"}, TypeError, "a folder, got set"),
        ({"train": PATCHES}, TypeError, r"got dict; choose one of its parts \['train'\]"),
        (iter([torch.rand(3, 4, 4)]), TypeError, "got list_iterator"),
        (Items([None]), TypeError, "a PIL image, got NoneType"),
        (Items([{"picture": 1}]), TypeError, r"no image under .* in an item with the keys \['picture'\]"),
        (Items([{"image": 1, "png": 2}]), TypeError, "2 images under the usual names .* with key="),
        (Items([torch.rand(2, 3, 4, 4)]), ValueError, r"a tensor of shape \(2, 3, 4, 4\) holds"),
        (Items([np.zeros((6, 64, 48), np.float32)]), ValueError, r"an array of shape \(6, 64, 48\) holds"),
        (Items([np.zeros((3, 32, 3), np.float32)]), ValueError, r"an array of shape \(3, 32, 3\) holds"),
        (Items([torch.rand(32, 30, 3)]), ValueError, r"\(32, 30, 3\) holds .* say channel_dim=-1"),
        (torch.rand(2, 3, 5, 6, 7), ValueError, r"\(2, 3, 5, 6, 7\) holds"),
        (Items([torch.tensor([0.5, math.nan]).view(1, 1, 2)]), ValueError, "1 NaN"),
        (Items([PIL.Image.new("F", (2, 2))]), ValueError, "no agreed levels"),
    ],
)
def test_dataset_stats_refuses(data, error, message):
    with pytest.raises(error, match=message):
        dataset_stats(data, progress=False)


def test_a_worker_reports_what_is_wrong():
    with pytest.raises(ValueError, match="1 NaN"):
        dataset_stats(Items([torch.tensor([0.5, math.nan]).view(1, 1, 2)]), num_workers=1, progress=False)


@pytest.mark.parametrize(("kind", "size"), [(list, 32), (torch.stack, 8192)])  # of items, in memory
def test_without_a_batch_size_there_are_so_many_images_in_a_batch(kind, size):
    images = list(torch.rand(size + 1, 1, 1, 1))
    counts = [dataset_stats(kind(some), progress=False).batch_stds.count for some in (images[:-1], images)]
    assert counts == [1, 2]


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batch_size_is_checked(batch_size):
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        dataset_stats(PATCHES, batch_size=batch_size, progress=False)


@pytest.mark.parametrize("num_workers", [-3, 0.5, None])
@pytest.mark.parametrize("data", [PATCHES, PATCHES.data, "no such folder", DataLoader(as_tensors(3))])
def test_num_workers_is_checked(data, num_workers):
    with pytest.raises(ValueError, match=f"num_workers must be an integer of at least 0, got {num_workers}"):
        dataset_stats(data, num_workers=num_workers, progress=False)


def test_channel_dim_settles_the_layout(tmp_path):
    x = torch.from_numpy(PATCHES.data)
    same(dataset_stats(x, channel_dim=-1, progress=False))
    assert dataset_stats(x, channel_dim=-3, progress=False).channels == 32
    PIL.Image.fromarray(PATCHES.data[0]).save(tmp_path / "0.png")
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match="channel_dim=7 has no meaning for the files of a folder"):
            dataset_stats(folder, channel_dim=7, progress=False)
        with pytest.raises(ValueError, match="key=0 has no meaning for files"):
            dataset_stats(folder, key=0, progress=False)
    with pytest.raises(ValueError, match="channel_dim=-1 is for tensors and arrays, not for PIL images"):
        dataset_stats(Items([PICTURE]), channel_dim=-1, progress=False)
    with pytest.raises(ValueError, match="not for PIL images"):
        dataset_stats(PATCHES, channel_dim=-1, progress=False)  # which has its pixels in memory
    with pytest.raises(TypeError, match="mask must be a tensor, an array or a PIL image, got int"):
        dataset_stats(PATCHES, mask=1, progress=False)
    for axis in (3, -4, 5):
        with pytest.raises(ValueError, match=rf"channel_dim={axis}, .* no such axis in shape \(3, 4, 4\)"):
            dataset_stats(Items([torch.rand(3, 4, 4)]), channel_dim=axis, progress=False)
    with pytest.raises(ValueError, match=r"channel_dim=0 is the first axis .* that of the images"):
        dataset_stats(DataLoader(torch.rand(4, 3, 4, 4)), channel_dim=0, progress=False)
    with pytest.raises(ValueError, match="the number of an axis or 'gray', got 'grey'"):
        dataset_stats(Items([torch.rand(4, 4)]), channel_dim="grey", progress=False)


def test_volumes_clips_and_many_bands_are_counted_along_the_axis_that_is_named():
    volumes = torch.randint(0, 256, (4, 2, 5, 6, 7)).byte()
    expected = ChannelStats(volumes.flatten(2, 3))
    for axis in (1, -4):
        same(dataset_stats(DataLoader(volumes, 3), channel_dim=axis, progress=False), expected)
        same(dataset_stats(volumes, channel_dim=axis, progress=False), expected)
        stats = ChannelStats()
        stats.update(volumes, channel_dim=axis)
        same(stats, expected)
    for axis in (0, -4):
        same(dataset_stats(Items(volumes), channel_dim=axis, progress=False), expected)
    last = Items([v.movedim(0, -1).numpy() for v in volumes])
    same(dataset_stats(last, channel_dim=-1, progress=False), expected)
    assert dataset_stats(last, channel_dim=3, progress=False).notes == {"read with channels last": 4}
    gray = ChannelStats(volumes[:, :1].flatten(2, 3))
    same(dataset_stats(Items(volumes[:, 0]), channel_dim="gray", progress=False), gray)
    same(dataset_stats(DataLoader(volumes[:, 0]), channel_dim="gray", progress=False), gray)
    same(dataset_stats(volumes[:, 0], channel_dim="gray", progress=False), gray)
    clips = volumes.movedim(1, 2)  # (N, T, C, H, W)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(dataset_stats(DataLoader(clips, 3), channel_dim=2, progress=False), expected)
    same(dataset_stats(Items(clips), channel_dim=1, progress=False), expected)
    bands = torch.rand(3, 13, 8, 9)
    same(dataset_stats(Items(bands), channel_dim=0, progress=False), ChannelStats(bands))
    rasters = [b.numpy() for b in bands]  # as rasterio reads them
    same(dataset_stats(Items(rasters), channel_dim=0, progress=False), ChannelStats(bands))
    with pytest.raises(
        ValueError, match="with more axes, say which one holds the channels with channel_dim="
    ):
        ChannelStats(volumes)


def test_a_tensor_whose_first_axis_holds_the_channels_is_one_image():
    x = torch.rand(2, 5, 6, 7)
    for axis in (0, -4):
        stats = dataset_stats(x, channel_dim=axis, progress=False)
        assert (stats.images, stats.channels, stats.count) == (1, 2, 210)
    assert dataset_stats(x[0], channel_dim="gray", progress=False).images == 5


def test_signals_and_vectors_may_have_channels_too():
    x = torch.rand(8, 3, 10)
    same(dataset_stats(Items(list(x)), channel_dim=0, progress=False), ChannelStats(x[:, :, None]))
    vectors = dataset_stats(DataLoader(x[..., 0], 4), channel_dim=1, progress=False)
    same(vectors, ChannelStats(x[:, :, None, :1]))


def test_one_image_by_itself_is_one_image():
    x = torch.randint(0, 256, (3, 9, 8)).byte()
    for data, axis in (
        (x, None),
        (x.numpy(), None),
        (x.permute(1, 2, 0), -1),
        (x.permute(1, 2, 0).numpy(), None),
    ):
        same(dataset_stats(data, channel_dim=axis, progress=False), ChannelStats(x))
    same(dataset_stats(x[0], channel_dim="gray", progress=False), ChannelStats(x[:1]))


def test_the_usual_collate_function_of_detection_gives_its_images():
    items = Items([(x, {"boxes": torch.rand(2, 4)}) for x in as_tensors(10)])
    loader = DataLoader(items, 4, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    assert dataset_stats(loader, progress=False) == ChannelStats(*torch.stack(as_tensors(10)).split(4))


def test_a_constant_channel_is_warned_about():
    x = torch.rand(4, 3, 5, 5)
    x[:, 1] = 0.5
    with pytest.warns(UserWarning, match=r"channels \[1\] are constant"):
        dataset_stats(x, progress=False)


def test_pixels_are_not_taken_from_memory_where_an_argument_says_something_about_items():
    assert pixels_in_memory(PATCHES, None) is not None
    assert pixels_in_memory(PATCHES, -1) is None
    assert pixels_in_memory(PATCHES, None, mask=1) is None


def test_the_axis_of_the_images_is_not_that_of_the_channels():
    for channel_dim in (0, -4):
        with pytest.raises(ValueError, match="is the first axis of shape"):
            pixels_of(torch.rand(2, 3, 4, 4), channel_dim, batch=True)


def test_masked_pixels_of_an_array_do_not_count():
    x = np.ma.array([[0.0, 0.5], [1.0, 0.5]], mask=[[True, False], [True, False]])
    found = pixels_of(x)
    assert found.valid.tolist() == [[[False, True], [False, True]]]
    assert "masked pixels of arrays left out" in found.notes


def test_integers_of_numpy_are_integers():
    same(dataset_stats(PATCHES, batch_size=np.int64(7), num_workers=np.int32(0), progress=False))


def test_only_statistics_are_merged():
    with pytest.raises(TypeError, match=r"other must be ChannelStats, got Tensor"):
        ChannelStats().merge(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 1 / 3, -0.7],
        [5e-324, 0.0, -(2.0**-1022)],
        [1e149, 1.0, 1e-149],
        [1.0, 1e-200, -3e-200],
        [1e300, -1e300, 7.0, 1e-300],
        [2.0**299, 1 / 3, 2.0**-170],
        [-(1 - 2.0**-52)] * 3,  # whose sum is no float
        [2.0**-299 / 3, 2.0**-310, 2.0**-600],
        [2.0**-301 / 3, 2.0**-310, 2.0**-700],
        [],
    ],
)
def test_sums_of_numbers_of_any_size_are_exact(values):
    exact = [Fraction(v) for v in values]
    total, squares = sum(exact, Fraction(0)), sum((v * v for v in exact), Fraction(0))
    assert Sums.of(np.array([values])) == Sums(len(values), (total,), (squares,))


def test_roots_of_very_small_and_very_large_fractions_have_all_digits():
    for exponent in range(-500, 501, 50):
        assert _sqrt(3 * Fraction(4) ** exponent) == math.ldexp(math.sqrt(3), exponent)


@pytest.mark.parametrize("odd", [1, 3])
def test_a_std_halfway_between_two_floats_is_rounded_to_the_even_one(odd):
    lower, halfway = Fraction(2**53 + odd - 1), Fraction(2**53 + odd)  # of 53 and of 54 bits
    upper, little = lower + 2, Fraction(1, 2**200)
    even = lower if odd == 1 else upper
    assert [_sqrt(halfway**2 + d) for d in (-little, 0, little)] == [lower, even, upper]
    assert Sums.of(np.array([[2.0**54, -2.0 * odd]])).std == (even,)
    assert _sqrt(Fraction(0)) == 0


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0, 1.0, None),
        (-0.1, 1.0, "normalized already"),
        (-9.9, 9.9, "normalized already"),
        (0.0, 1.1, "left unscaled"),
        (-1.0, 10.0, "left unscaled"),
        (-10.0, 1.0, "left unscaled"),
    ],
)
def test_what_is_said_of_floats_follows_from_their_range(low, high, words):
    stats = ChannelStats(torch.tensor([low, high], dtype=torch.float64).view(1, 1, 1, 2))
    said = [*_out_of_range(stats)]
    assert len(said) == (words is not None)
    assert words is None or (f"values from {low:g} to {high:g}" in said[0] and words in said[0])


def test_sums_are_a_value():
    assert Sums.of(np.zeros((2, 0))).count == 0
    assert Sums.of(np.ones((1, 3))) == Sums.of(np.ones((1, 1))) + Sums.of(np.ones((1, 2)))
