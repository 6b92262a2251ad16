"""Pixels that do not count: masks, values that stand for no data, masked arrays, GDAL's tag."""

import math
import warnings
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tifffile import imwrite
from torch.utils.data import DataLoader, Dataset

from normtut import ChannelStats, dataset_stats
from normtut.files import NO_DATA, read_image
from normtut.statistics import scan


def mean_std(values):
    """By the definition: the mean of fractions, and the root of their variance."""
    mean = sum(values) / Fraction(len(values))
    variance = sum((v - mean) ** 2 for v in values) / Fraction(len(values))
    with localcontext() as context:
        context.prec = 60
        return float(mean), float((Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt())


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def agrees(stats, x, valid, top=1):
    """``stats`` are those of the pixels of x (N, C, H, W) where valid (N, H, W), by the definition."""
    kept = [[Fraction(v) / top for v in x[:, c][valid].tolist()] for c in range(x.shape[1])]
    assert stats.count == valid.sum()
    assert list(zip(stats.mean, stats.std, strict=True)) == [mean_std(v) for v in kept]
    assert stats.min == tuple(float(min(v)) for v in kept)
    assert stats.max == tuple(float(max(v)) for v in kept)
    assert stats.images == valid.any((1, 2)).sum()
    means = [[mean_std([Fraction(v) / top for v in channel[m].tolist()])[0] for channel in image]
             for image, m in zip(x, valid, strict=True) if m.any()]  # fmt: skip
    assert stats.image_means.mean == pytest.approx(np.mean(means, axis=0), rel=1e-12, abs=1e-300)


shapes = hnp.array_shapes(min_dims=4, max_dims=4, max_side=4)


@given(
    st.sampled_from([np.uint8, np.uint16, np.float32]).flatmap(
        lambda dtype: shapes.flatmap(
            lambda s: st.tuples(
                hnp.arrays(
                    dtype,
                    s,
                    elements={"min_value": -9, "max_value": 9} if dtype == np.float32 else None,
                ),
                hnp.arrays(np.bool_, (s[0], *s[2:])),
            )
        )
    )
)
def test_only_the_pixels_in_the_mask_count(x_valid):
    x, valid = x_valid
    valid[0, 0, 0] = True
    top = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(x.dtype, 1)
    stats = ChannelStats()
    stats.update(x, mask=valid)
    agrees(stats, x, valid, top)
    for mask in (
        valid * 2,
        valid[:, None],
        np.broadcast_to(valid[:, None], x.shape),
        torch.from_numpy(valid),
    ):
        other = ChannelStats()
        other.update(x, mask=mask)
        assert other == stats
    masked = ChannelStats()
    masked.update(np.ma.array(x, mask=~np.broadcast_to(valid[:, None], x.shape)))
    assert masked == stats


X = np.random.default_rng(3).random((6, 3, 12, 14), np.float32)
VALID = np.random.default_rng(4).random((6, 12, 14)) < 0.4
EXPECTED = ChannelStats()
EXPECTED.update(X, mask=VALID)


def same(stats, other=EXPECTED):
    for name in ("count", "images", "mean", "std", "min", "max", "image_means", "image_stds"):
        assert getattr(stats, name) == getattr(other, name), name


def test_masks_of_every_kind_of_data():
    tensors = [torch.from_numpy(x) for x in X]
    masks = [torch.from_numpy(m.astype(np.int64)) for m in VALID]
    pairs = list(zip(tensors, masks, strict=True))
    arrays = [
        (x.transpose(1, 2, 0), Image.fromarray(m.astype(np.uint8))) for x, m in zip(X, VALID, strict=True)
    ]
    dicts = [{"picture": x, "label": m} for x, m in pairs]
    named = {"key": "picture", "mask": "label"}
    for data, where in (
        (Items(pairs), {"mask": 1}),
        (Items([(m, x) for x, m in pairs]), {"key": 1, "mask": 0}),
        (Items(dicts), named),
        (DataLoader(Items(pairs), 4), {"mask": 1}),
        (DataLoader(Items(dicts), 4), named),
        (DataLoader(Items(dicts), None), named),
        (DataLoader(Items(dicts), 4, collate_fn=lambda b: {k: [d[k] for d in b] for k in b[0]}), named),
        (Items(arrays), {"mask": 1}),
        (X, {"mask": VALID}),
        (torch.from_numpy(X), {"mask": torch.from_numpy(VALID)}),
    ):  # fmt: skip
        same(dataset_stats(data, batch_size=4, progress=False, **where))
    masked = Items([np.ma.array(x, mask=~m[None].repeat(3, 0)) for x, m in zip(X, VALID, strict=True)])
    with pytest.warns(UserWarning, match="6 of 6 images: masked pixels of arrays left out"):
        same(dataset_stats(masked, batch_size=4, progress=False))


def test_a_batch_with_fewer_masks_than_images_is_refused():
    dicts = [
        {"picture": torch.from_numpy(x), "label": torch.from_numpy(m)} for x, m in zip(X, VALID, strict=True)
    ]
    lists = lambda b: {"picture": [d["picture"] for d in b], "label": [b[0]["label"]]}  # noqa: E731
    with pytest.raises(ValueError, match="shorter"):
        dataset_stats(
            DataLoader(Items(dicts), 2, collate_fn=lists), key="picture", mask="label", progress=False
        )


def test_volumes_with_labels_as_nnunet_has_them():
    """The statistics of the foreground voxels of all scans together, whatever their sizes."""
    g = torch.Generator().manual_seed(0)
    scans = [torch.randint(-1000, 2000, (1, d, 6, 7), generator=g).float() for d in (4, 5, 9)]
    labels = [torch.randint(0, 3, (1, d, 6, 7), generator=g) for d in (4, 5, 9)]
    data = Items([{"image": x, "label": y} for x, y in zip(scans, labels, strict=True)])
    with pytest.warns(UserWarning, match="left unscaled, or are in units of their own"):
        stats = dataset_stats(data, channel_dim=0, mask="label", progress=False)
    foreground = torch.cat([x[y > 0] for x, y in zip(scans, labels, strict=True)]).double()
    assert stats.count == len(foreground)
    assert stats.images == 3
    assert stats.mean[0] == pytest.approx(foreground.mean().item(), rel=1e-14)
    assert stats.std[0] == pytest.approx(foreground.std(correction=0).item(), rel=1e-13)


@pytest.mark.parametrize("value", [-9999.0, math.nan, -3.4028234663852886e38])
def test_a_value_that_stands_for_no_data_is_ignored(value):
    x = X.copy()
    hole = np.random.default_rng(5).random(VALID.shape) < 0.5
    x[:, 0][hole] = value  # in one channel: then none of the pixel counts
    expected = ChannelStats()
    expected.update(X, mask=~hole)
    stats = ChannelStats()
    stats.update(x, ignore=value)
    assert stats == expected
    for data in (
        x,
        torch.from_numpy(x),
        Items(list(torch.from_numpy(x))),
        DataLoader(torch.from_numpy(x), 4),
    ):
        same(dataset_stats(data, ignore=value, progress=False), expected)


def test_what_is_ignored_is_ignored_in_the_mask_too():
    stats = ChannelStats()
    stats.update(np.float32([[[1, 2, 3, 4]]]), mask=np.array([[[0, 1, 1, 1]]]), ignore=3)
    assert (stats.count, stats.min, stats.max) == (2, (2,), (4,))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("value", [0, 255, -9999, 256, 0.5, math.nan])
def test_integers_ignore_their_own_values_only(dtype, value):
    x = np.random.default_rng(0).choice([0, 1, 241, 254, 255], (3, 2, 9, 10)).astype(dtype)
    stats = ChannelStats()
    stats.update(x, ignore=value)
    agrees(stats, x, ~(x == value).any(1), np.iinfo(dtype).max)


def test_images_without_a_pixel_are_left_out_and_told():
    valid = VALID.copy()
    valid[2] = False
    expected = ChannelStats()
    expected.update(X, mask=valid)
    assert expected.images == 5
    loader = DataLoader(Items(list(zip(X, valid, strict=True))), 2)
    with pytest.warns(UserWarning, match="1 of 6 images: no pixel counts, left out") as caught:
        same(dataset_stats(loader, mask=1, progress=False), expected)
    assert len(caught) == 1  # and none of drop_last
    with pytest.raises(ValueError, match="holds no images"):
        dataset_stats(X, mask=np.zeros_like(VALID), progress=False)


@pytest.mark.parametrize("shape", [(6, 12, 13), (12, 14), (6, 2, 12, 14), (6, 12, 14, 3), (1, 12, 14)])
def test_a_mask_of_another_shape_is_refused(shape):
    stats = ChannelStats(X)
    with pytest.raises(ValueError, match=r"mask of shape .* does not fit images of shape \(6, 3, 12, 14\)"):
        stats.update(X, mask=np.ones(shape, bool))
    assert stats == ChannelStats(X)


def test_of_a_mask_with_channels_a_pixel_counts_where_all_of_them_do():
    mask = np.random.default_rng(6).random(X.shape) < 0.7
    stats = ChannelStats()
    stats.update(X, mask=mask)
    agrees(stats, X, mask.all(1))
    masked = ChannelStats(np.ma.array(X, mask=~mask))
    assert masked == stats


def test_masks_that_are_none():
    with pytest.raises(TypeError, match="mask must be a tensor, an array or a PIL image, got list"):
        ChannelStats().update(X, mask=[1, 0])
    with pytest.raises(ValueError, match="mask='label' has no meaning for the files of a folder"):
        dataset_stats(".", mask="label", progress=False)


# -- GDAL's tag -----------------------------------------------------------------------------------------


def gdal(path, x, nodata, **options):
    imwrite(path, x, extratags=[(42113, "s", 0, nodata, True)], **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gdals_no_data_value_is_honoured(tmp_path, dtype):
    x = np.random.default_rng(0).integers(1, 250, (9, 8), dtype)
    x[2:5, 1:6] = 0
    path = gdal(tmp_path / "x.tif", x, "0")
    expected = ChannelStats()
    expected.update(x[None, None], mask=(x != 0)[None])
    report = scan(path)
    same(report.stats, expected)
    assert report.warnings() == [f"1 of 1 images: {NO_DATA}"]
    with Image.open(path) as opened:
        stats = ChannelStats(opened)
        assert stats == expected
        assert stats.notes == {NO_DATA: 1}
        with pytest.warns(UserWarning, match="pixels without data"):
            same(dataset_stats(Items([opened]), progress=False), expected)
    same(scan(gdal(tmp_path / "none.tif", x, "-9999")).stats, ChannelStats(x[None, None]))
    same(scan(gdal(tmp_path / "no number.tif", x, "none")).stats, ChannelStats(x[None, None]))
    with pytest.raises(ValueError, match="no pixel with data"):
        scan(gdal(tmp_path / "empty.tif", np.zeros_like(x), "0"))
    with pytest.raises(ValueError, match="resizing would blend"):
        scan(path, resize=5)


def test_in_colour_a_pixel_is_without_data_where_all_its_channels_are(tmp_path):
    x = np.random.default_rng(0).integers(0, 3, (9, 8, 3), np.uint8)
    path = gdal(tmp_path / "x.tif", x, "0", photometric="rgb")
    expected = ChannelStats()
    expected.update(x[None], channel_dim=-1, mask=x.any(-1)[None])
    assert expected.count < x[..., 0].size
    same(scan(path).stats, expected)


def test_no_data_that_eight_bits_lose_is_told(tmp_path):
    x = np.random.default_rng(0).integers(0, 65536, (9, 8, 3), np.uint16)
    picture = read_image(gdal(tmp_path / "x.tif", x, "7", photometric="rgb"))
    assert picture.valid() is None
    assert "no-data level 7, lost in 8 bits: counted as it is" in picture.notes


def test_masks_and_no_data_together(tmp_path):
    x = np.random.default_rng(0).integers(0, 2, (9, 8), np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (9, 8), np.uint8)
    path = gdal(tmp_path / "x.tif", x, "0")
    with Image.open(path) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = dataset_stats(Items([(opened, mask)]), mask=1, progress=False)
    assert stats.count == (x & mask).sum()
