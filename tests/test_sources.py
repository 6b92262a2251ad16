"""Samples as Hugging Face's data sets and webdataset give them, with the real packages."""

import io
import tarfile
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from torchvision import datasets, transforms
from torchvision.transforms import v2

from normtut import ChannelStats, dataset_stats

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 6, 7, 3), dtype=np.uint8)
EXPECTED = ChannelStats(IMAGES.transpose(0, 3, 1, 2))


def same(stats, other=EXPECTED):
    for name in ("count", "images", "mean", "std", "min", "max", "image_means", "image_stds"):
        assert getattr(stats, name) == getattr(other, name), name


def silently(data, **options):
    """The statistics, without a warning of ours (the packages leave files open)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return dataset_stats(data, progress=False, **options)


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# -- Hugging Face ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hugging():
    hf = pytest.importorskip("datasets")
    return hf.Dataset.from_dict({"image": [Image.fromarray(x) for x in IMAGES], "label": [0] * 9})


def as_tensors(batch):
    return {"pixel_values": [torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in batch["image"]]}


def undecoded(data):
    import datasets as hf

    return data.cast_column("image", hf.Image(decode=False))


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda d: d, {}),
        (lambda d: d, {"num_workers": 2}),
        (lambda d: d.with_format("numpy"), {}),
        (lambda d: d.with_format("torch"), {}),
        (lambda d: d.with_transform(as_tensors), {}),
        (lambda d: d.to_iterable_dataset(), {}),
        (lambda d: d.to_iterable_dataset(num_shards=3).with_format("torch"), {"num_workers": 2}),
        (lambda d: DataLoader(d.with_format("torch"), 4), {}),
        (lambda d: DataLoader(d.with_format("torch"), None), {}),
        (lambda d: DataLoader(d, 4, collate_fn=lambda b: [x["image"] for x in b]), {}),
        (lambda d: d.rename_column("image", "photo"), {"key": "photo"}),
        (lambda d: d.rename_column("image", "photo").add_column("image", [1] * 9), {"key": "photo"}),
        (undecoded, {}),
    ],
)  # fmt: skip
def test_hugging_face(hugging, change, options):
    same(silently(change(hugging), **options))


def test_hugging_face_asks_where_it_is_not_clear(hugging):
    import datasets as hf

    with pytest.raises(TypeError, match=r"got DatasetDict; choose one of its parts \['train'\]"):
        dataset_stats(hf.DatasetDict({"train": hugging}), progress=False)
    with pytest.raises(TypeError, match=r"no image under the usual names .* with key="):
        dataset_stats(hugging.rename_column("image", "photo"), progress=False)
    with pytest.raises(TypeError, match="2 images under the usual names"):
        dataset_stats(hugging.add_column("img", [1] * 9), progress=False)


# -- webdataset -----------------------------------------------------------------------------------------


@pytest.fixture
def shard(tmp_path):
    pytest.importorskip("webdataset")
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for i, pixels in enumerate(IMAGES):
            for suffix, data in (("png", png(pixels)), ("cls", b"1")):
                info = tarfile.TarInfo(f"{i:03}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def batched(data):
    return data.to_tuple("png", "cls").batched(4)


@pytest.mark.parametrize("decode", ["pil", "rgb8", "torchrgb8", None])
@pytest.mark.parametrize("kind", ["dicts", "tuples", "batches", "loader", "WebLoader", "unbatched WebLoader"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset(shard, decode, kind):
    import webdataset

    data = webdataset.WebDataset(shard, shardshuffle=False)
    data = data.decode(decode) if decode else data
    if kind == "dicts":
        same(silently(data, batch_size=4))
    elif kind == "tuples":
        same(silently(data.to_tuple("cls", "png"), key=1))
    elif kind == "batches":
        same(silently(batched(data)))
    elif kind == "loader" and decode:
        same(silently(DataLoader(batched(data), None)))
    elif kind == "WebLoader":
        same(silently(webdataset.WebLoader(batched(data), batch_size=None)))
    elif kind == "unbatched WebLoader" and decode != "pil":
        same(silently(webdataset.WebLoader(batched(data), batch_size=None).unbatched()))


# -- any stream -----------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_streams_of_batches(size):
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    parts = x.split(size)
    for items in (
        parts,
        [(b, torch.zeros(len(b))) for b in parts],
        [{"image": b} for b in parts],
        [b.permute(0, 2, 3, 1).numpy() for b in parts],
        [b.numpy() for b in parts],
        [([Image.fromarray(i.permute(1, 2, 0).numpy()) for i in b], [0] * len(b)) for b in parts],
    ):
        same(silently(Stream(items)))
        same(silently(DataLoader(Stream(items), None)))
    masks = [(b, b[:, 0] > 99) for b in parts]
    expected = ChannelStats()
    expected.update(x, mask=x[:, 0] > 99)
    for items in (masks, [([*b], [*m]) for b, m in masks]):
        same(silently(Stream(items), mask=1), expected)


def test_four_channels_may_be_transparency():
    rgba = np.concatenate([IMAGES, IMAGES[..., :1]], axis=-1)
    message = "9 of 9 images: of four channels: if the last is transparency, leave it out"
    for data in ([*rgba], rgba, torch.from_numpy(rgba).permute(0, 3, 1, 2)):
        with pytest.warns(UserWarning, match=message):
            assert dataset_stats(data, progress=False).channels == 4
    same(silently(rgba[..., :3]))  # the remedy
    assert silently(rgba, channel_dim=-1).channels == 4  # four bands, and said so
    with pytest.warns(UserWarning, match="9 of 9 images: transparency dropped"):
        same(dataset_stats([Image.fromarray(x) for x in rgba], progress=False))


def test_encoded_images():
    encoded = [png(x) for x in IMAGES]
    same(silently(encoded))
    same(silently([{"image": {"bytes": b, "path": None}} for b in encoded]))
    with pytest.raises(ValueError, match="not an image of a known format"):
        dataset_stats([b"no image"], progress=False)
    with pytest.raises(TypeError, match=r"got the text 'x\.png', which is no file's name"):
        dataset_stats([("x.png", 0)], progress=False)


def test_names_of_files(tmp_path):
    for i, x in enumerate(IMAGES):
        Image.fromarray(x).save(tmp_path / f"{i}.png")
    same(silently([(str(tmp_path / f"{i}.png"), 0) for i in range(9)]))


# -- advice that is right: each remedy that an error or a warning names, followed ---------------------------


@pytest.fixture
def deep():
    """A 16-bit gray image, and its statistics."""
    levels = np.random.default_rng(1).integers(256, 65536, (9, 8), np.uint16)
    return Image.fromarray(levels), ChannelStats(levels[None, None])


def test_sixteen_bits_that_totensor_has_wrapped(deep, tmp_path):
    image, expected = deep
    wrapped = transforms.ToTensor()(image)
    assert wrapped.dtype == torch.int16
    assert wrapped.min() < 0
    with pytest.raises(TypeError, match=r"v2\.PILToTensor\(\) does not, nor do the PIL images themselves"):
        dataset_stats([wrapped], progress=False)
    same(silently([v2.PILToTensor()(image)]), expected)
    same(silently([image]), expected)


def test_sixteen_bits_that_imagefolder_has_clipped(deep, tmp_path):
    image, expected = deep
    (tmp_path / "class").mkdir()
    image.save(tmp_path / "class" / "x.png")
    with pytest.warns(UserWarning, match="constant"):
        clipped = dataset_stats(datasets.ImageFolder(str(tmp_path), transforms.ToTensor()), progress=False)
    assert clipped.mean[0] > 0.99  # of a true 0.5
    same(silently(tmp_path), expected)


@pytest.mark.parametrize("top", [255, 65535])
def test_integers_say_which_level_is_white(top):
    x = torch.randint(0, top + 1, (4, 3, 5, 6))
    with pytest.raises(
        TypeError, match=r"x\.to\(torch\.uint8\) says that 255 is white, x\.to\(torch\.uint16\)"
    ):
        ChannelStats(x)
    found = ChannelStats(x.to({255: torch.uint8, 65535: torch.uint16}[top]))
    assert found.mean == pytest.approx((x.double() / top).mean((0, 2, 3)).tolist(), rel=1e-14)
    assert ChannelStats(x.float()).mean == pytest.approx(x.double().mean((0, 2, 3)).tolist(), rel=1e-14)


def test_masks_as_images():
    x = torch.rand(4, 1, 5, 6) < 0.3
    with pytest.raises(TypeError, match=r"x\.float\(\) makes 0\.0 and 1\.0 of it"):
        ChannelStats(x)
    assert ChannelStats(x.float()).mean[0] == pytest.approx(x.double().mean().item(), rel=1e-15)


def test_channels_last_floats():
    x = torch.rand(4, 20, 30, 3)
    expected = ChannelStats(x.permute(0, 3, 1, 2))
    for data in (x, [*x], DataLoader([*x], 2)):
        with pytest.raises(ValueError, match="say channel_dim=-1"):
            dataset_stats(data, progress=False)
        same(silently(data, channel_dim=-1), expected)
    with pytest.raises(ValueError, match="say so with channel_dim=-1"):
        ChannelStats(x.numpy())
    stats = ChannelStats()
    stats.update(x.numpy(), channel_dim=-1)
    same(stats, expected)


def test_a_loader_that_drops_the_last_batch():
    loader = DataLoader([torch.from_numpy(x).permute(2, 0, 1) for x in IMAGES], 4, drop_last=True)
    with pytest.warns(UserWarning, match="give the data set itself"):
        dataset_stats(loader, progress=False)
    same(silently(loader.dataset))


def test_two_pictures_in_a_batch():
    pairs = [(Image.fromarray(x), Image.new("L", (7, 6))) for x in IMAGES]
    loader = DataLoader(pairs, None)
    with pytest.raises(ValueError, match=r"name the image with key=0, or give the data set itself"):
        dataset_stats(loader, progress=False)
    same(silently(loader, key=0))
    same(silently(pairs))
    assert silently(pairs).notes == {"read as the first of several images in an item": 9}


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_modes_of_pil_that_have_no_white(mode):
    image = Image.new(mode, (4, 4))
    with pytest.raises(ValueError, match=f"mode {mode}"):
        ChannelStats(image)
    if mode == "I":  # "16 bits are mode I;16"
        levels = np.arange(16, dtype=np.int32).reshape(4, 4) * 4000
        right = Image.fromarray(levels.astype(np.uint16))
        assert (right.mode, ChannelStats(right)) == ("I;16", ChannelStats(levels.astype(np.uint16)[None]))
