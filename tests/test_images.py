import copy
import math
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision import transforms, tv_tensors
from torchvision.transforms import v2

from normtut import (
    CIFAR10,
    CIFAR100,
    CLIP,
    HALF,
    IMAGENET,
    MNIST,
    InverseNormalize,
    Normalize,
    data,
    images,
    moments,
    to_uint8,
)

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BOTH = pytest.mark.parametrize("transform", [Normalize, InverseNormalize])


def photo(dtype=torch.float32):
    return v2.functional.to_dtype(data.photos("cat")["cat"], dtype, scale=True)


def boxes():
    return tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 3, 4]]), format="XYXY", canvas_size=(8, 8))


def test_normalize_equals_torchvision_on_a_photo(device):
    x = photo().to(device)
    ours, theirs = Normalize(*IMAGENET)(x), v2.Normalize(*IMAGENET)(x)
    assert ours.device == x.device
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_inverse_equals_a_second_normalize_and_restores_every_pixel(device):
    x = photo().to(device)
    z = Normalize(*IMAGENET)(x)
    mean, std = IMAGENET
    second = v2.Normalize([-m / s for m, s in zip(mean, std, strict=True)], [1 / s for s in std])
    restored = Normalize(*IMAGENET).inverse()(z)
    torch.testing.assert_close(restored, second(z), rtol=0, atol=1e-6)
    assert torch.equal(to_uint8(restored), data.photos("cat")["cat"].to(device))


@BOTH
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 7, 3, 4, 5), (0, 3, 4, 5), (3, 0, 5)])
def test_dtype_and_shape_are_kept(transform, dtype, shape):
    y = transform(*IMAGENET)(torch.rand(shape).to(dtype))
    assert (y.dtype, y.shape) == (dtype, shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.rand(3, 16, 16).to(dtype)
    exact = Normalize(*IMAGENET)(x.double())
    half_a_place = torch.finfo(dtype).eps / 2
    error = (Normalize(*IMAGENET)(x).double() - exact).abs()
    assert bool((error <= half_a_place * exact.abs() * 1.001 + 1e-6).all())
    theirs = (v2.Normalize(*IMAGENET)(x).double() - exact).abs()
    assert bool((theirs > half_a_place * exact.abs() * 1.001 + 1e-6).any())


@BOTH
def test_tv_tensors_keep_their_type_and_the_rest_of_a_sample_passes_through(transform):
    sample = {
        "image": tv_tensors.Image(torch.rand(3, 8, 8)),
        "nested": [
            tv_tensors.Video(torch.rand(2, 3, 8, 8)),
            {"mask": tv_tensors.Mask(torch.ones(8, 8, dtype=torch.uint8)), "label": 7},
        ],
        "boxes": boxes(),
        "tensor": torch.rand(5),
        "path": "cat.png",
        "depth": np.ones((8, 8)),
    }
    out = transform(*IMAGENET)(sample)
    assert type(out["image"]) is tv_tensors.Image
    assert type(out["nested"][0]) is tv_tensors.Video
    assert not torch.equal(out["image"], sample["image"])
    assert not torch.equal(out["nested"][0], sample["nested"][0])
    assert torch.equal(out["nested"][1]["mask"], sample["nested"][1]["mask"])
    assert torch.equal(out["boxes"], sample["boxes"])
    assert out["boxes"].canvas_size == (8, 8)
    assert out["tensor"] is sample["tensor"]
    assert (out["nested"][1]["label"], out["path"]) == (7, "cat.png")
    assert out["depth"] is sample["depth"]


@BOTH
def test_an_array_with_one_axis_is_no_picture_and_passes_through(transform):
    """Labels or weights, which may come alone or beside boxes."""
    labels = np.array([1.0, 2.0])
    assert transform(*IMAGENET)(labels) is labels
    out = transform(*IMAGENET)({"boxes": boxes(), "labels": labels})
    assert out["labels"] is labels


@BOTH
def test_in_place_writes_into_the_input_and_otherwise_not(transform):
    x = tv_tensors.Image(torch.rand(3, 4, 4))
    before, expected = x.clone(), transform(*IMAGENET)(x)
    assert torch.equal(x, before)
    y = transform(*IMAGENET, inplace=True)(x)
    assert y.data_ptr() == x.data_ptr()
    assert type(y) is tv_tensors.Image
    assert torch.equal(x, expected)


@BOTH
def test_non_contiguous_input(transform):
    x = torch.rand(6, 5, 3).permute(2, 0, 1)[:, ::2]
    assert torch.equal(transform(*IMAGENET)(x), transform(*IMAGENET)(x.contiguous()))


@BOTH
def test_copies_and_pickles_do_the_same(transform):
    x, t = torch.rand(3, 4, 4), transform(*IMAGENET)
    for twin in (pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
        assert torch.equal(twin(x), t(x))
        assert repr(twin) == repr(t)


@BOTH
@pytest.mark.parametrize("inplace", [False, True])
def test_the_inverse_writes_where_the_transform_writes(transform, inplace):
    x, forward = torch.rand(3, 4, 4), transform(*IMAGENET, inplace=inplace)
    assert (forward.inverse()(x) is x) is inplace
    assert repr(forward.inverse().inverse()) == repr(forward)


def test_repr_can_be_read_back():
    for t in (Normalize(*IMAGENET), InverseNormalize([0.5], [0.25], inplace=True)):
        assert repr(eval(repr(t))) == repr(t)


def test_inside_compose_and_dataloader_workers():
    pipeline = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), Normalize(*CIFAR10)])
    patches = data.PhotoPatches(train=False, transform=pipeline)
    batch, _ = next(iter(DataLoader(patches, batch_size=16, num_workers=2)))
    restored = to_uint8(InverseNormalize(*CIFAR10)(batch))
    assert np.array_equal(restored.permute(0, 2, 3, 1).numpy(), patches.data[:16])


@pytest.mark.parametrize("transform", [Normalize(*IMAGENET), InverseNormalize(*IMAGENET)], ids=repr)
def test_compiles_into_one_graph(transform):
    """As a model's first layer does."""
    x = torch.rand(2, 3, 4, 4)
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), transform(x))


def test_gradients_flow():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Normalize(*IMAGENET), x)
    assert torch.autograd.gradcheck(InverseNormalize(*IMAGENET), x)


@BOTH
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, r"uint8 of shape \(3, 4, 4\).*scale"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), TypeError, "bool"),
        (PIL.Image.new("RGB", (4, 4)), TypeError, "PIL"),
        ({"image": PIL.Image.new("RGB", (4, 4)), "label": 1}, TypeError, "PIL"),
        (np.zeros((4, 4, 3), np.float32), TypeError, r"an array of shape \(4, 4, 3\)"),
        ({"image": np.zeros((4, 4, 3), np.uint8), "label": 1}, TypeError, "ToTensor"),
        (np.zeros((4, 5)), TypeError, r"an array of shape \(4, 5\)"),
        ([np.zeros((4, 4, 3)), np.zeros((4, 5))], TypeError, r"an array of shape \(4, 4, 3\)"),
        # Boxes and masks are tensors too, but none that is normalized instead of the array.
        (
            {"image": np.zeros((4, 4, 3), np.float32), "boxes": boxes()},
            TypeError,
            r"an array of shape \(4, 4, 3\)",
        ),
        ([np.zeros((4, 4, 3)), tv_tensors.Mask(torch.ones(4, 4))], TypeError, "an array of shape"),
        (torch.rand(4, 4), ValueError, r"\(4, 4\).*unsqueeze"),
        (torch.rand(4), ValueError, r"\(…, C, H, W\)"),
        # torchvision makes three channels of this one, silently.
        (torch.rand(1, 4, 4), ValueError, r"3 channels.*\(1, 4, 4\) has 1"),
        (torch.rand(4, 6, 6), ValueError, "has 4"),
        (torch.rand(8, 8, 3), ValueError, "channels-last"),
    ],
)
def test_bad_images_are_refused(transform, x, error, words):
    with pytest.raises(error, match=words):
        transform(*IMAGENET)(x)


@BOTH
@pytest.mark.parametrize(
    ("mean", "std", "error", "words"),
    [
        ([0.5] * 3, [0.5] * 2, ValueError, "got 3 and 2"),
        ([0.5], [0.0], ValueError, "std must be positive"),
        ([0.5], [-0.5], ValueError, "std must be positive"),
        ([0.5], [math.nan], ValueError, "std must be positive"),
        ([0.5], [math.inf], ValueError, "std must be positive"),
        ([math.nan], [0.5], ValueError, "mean must be finite"),
        ([], [], ValueError, "one value per channel each, got 0 and 0"),
        (0.5, 0.5, TypeError, r"such as \(0.5,\).*got 0.5"),
        ("ab", [0.5, 0.5], TypeError, "mean must be a sequence .*; got 'ab'"),
        ("123", "456", TypeError, "mean must be a sequence .*; got '123'"),  # not 1, 2 and 3
        ([0.5, 0.5, 0.5], b"456", TypeError, "std must be a sequence .*; got b'456'"),
    ],
)
def test_bad_statistics_are_refused(transform, mean, std, error, words):
    with pytest.raises(error, match=words):
        transform(mean, std)


@BOTH
@pytest.mark.parametrize("dim", [(0, 2, 3), (0, 2, 3, 4)])
def test_statistics_may_come_as_moments_keeps_them(transform, dim):
    x = 3 * torch.rand(2, 3, 4, 5, *[1] * (len(dim) - 3)) + 1
    if len(dim) == 4:  # (N, C, T, H, W): the channels are the fourth axis from the end
        with pytest.raises(ValueError, match=r"mean must have one number per channel.*got \(1, 3, 1, 1, 1\)"):
            transform(*moments(x, dim))
        return
    mean, std = moments(x, dim)
    assert mean.shape == (1, 3, 1, 1)
    vectors = mean.flatten(), std.flatten()
    assert torch.equal(transform(mean, std)(x), transform(*vectors)(x))
    assert torch.equal(transform(mean.numpy(), std[0].numpy())(x), transform(*vectors)(x))
    z = Normalize(mean, std)(x)
    torch.testing.assert_close(torch.stack(moments(z, dim)).flatten(), torch.tensor([0.0] * 3 + [1.0] * 3))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 1), (2, 3, 1, 1), (1, 3, 1, 2)])
def test_statistics_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"mean must have one number per channel: shape \(C,\) or"):
        Normalize(torch.zeros(shape), torch.ones(shape))


@BOTH
def test_of_several_plain_tensors_none_is_passed_over(transform):
    """torchvision normalizes the first and hands back the second as it is."""
    a, b, t = torch.rand(3, 4, 4), torch.rand(2, 3, 5, 5), transform(*IMAGENET)
    for sample in ((a, b), {"a": a, "more": [b]}):
        with pytest.raises(ValueError, match=r"got 2 plain tensors .* \(3, 4, 4\), \(2, 3, 5, 5\)"):
            t(sample)
    with pytest.raises(ValueError, match="2 plain tensors"):
        t(a, b)
    with pytest.raises(ValueError, match="2 plain tensors"):
        transform((0.5,), (0.5,))(a, b)  # which fits any number of channels
    for other in (
        torch.rand(1, 4, 4),
        torch.rand(3, 4),
        torch.ones(3, 4, 4, dtype=torch.uint8),
        tv_tensors.Mask(b),
    ):
        out = t(a, other)
        assert torch.equal(out[0], t(a))
        assert out[1] is other or torch.equal(out[1], other)
    # What is done about it, as the message says.
    out = t(tv_tensors.Image(a), tv_tensors.Image(b))
    assert torch.equal(out[0], t(a))
    assert torch.equal(out[1], t(b))
    out = t(tv_tensors.Image(a), b)  # beside an image, a plain tensor is none
    assert torch.equal(out[1], b)


def test_advice_about_a_dtype_makes_the_right_floats_when_it_is_followed():
    levels = torch.tensor([[0, 1000], [40000, 65535]])
    scale = v2.ToDtype(torch.float32, scale=True)
    with pytest.raises(TypeError, match=r"divide pixels by 255 .* v2\.ToDtype\(torch.float32, scale=True\)"):
        Normalize([0.5], [0.5])(levels[None].byte())
    torch.testing.assert_close(scale(levels.byte()), levels.byte() / 255)
    with pytest.raises(TypeError, match="divide pixels by 65535 first"):
        Normalize([0.5], [0.5])(levels[None].to(torch.uint16))
    new = not torchvision.__version__.startswith("0.19.")  # which does not scale uint16
    if new:
        torch.testing.assert_close(scale(levels.to(torch.uint16)), levels / 65535)
    picture = PIL.Image.fromarray(levels.numpy().astype(np.uint16))
    wrapped = v2.functional.pil_to_tensor(picture).view(torch.int16)
    if hasattr(transforms, "ToTensor"):
        assert torch.equal(transforms.ToTensor()(picture), wrapped)
    with pytest.raises(
        TypeError, match=r"levels above 32767 have become negative: v2\.ToImage\(\) gives uint16"
    ):
        Normalize([0.5], [0.5])(wrapped)
    if new:
        torch.testing.assert_close(torch.Tensor(scale(v2.ToImage()(picture)))[0], levels / 65535)
    with pytest.raises(TypeError, match="divided by the level that is white"):
        Normalize([0.5], [0.5])(levels[None])


def test_a_std_that_leaves_float16_is_refused_instead_of_giving_inf():
    x = torch.rand(3, 4, 4, dtype=torch.float16)
    assert v2.Normalize([0.5] * 3, [1e-7] * 3)(x).isinf().any()
    with pytest.raises(ValueError, match=r"too small for torch\.float16"):
        Normalize([0.5] * 3, [1e-7] * 3)(x)
    assert Normalize([0.5] * 3, [1e-7] * 3)(x.float()).isfinite().all()


@pytest.mark.parametrize("mean", [0.0, 1.0, -1.0, 2.0])
def test_both_ends_of_the_pixels_are_looked_at_before_a_std_is_called_too_small(mean):
    """Of black and white, the one farther from the mean decides."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float16).view(1, 1, 2)
    farther = max(abs(mean), abs(1 - mean))
    fits, too_small = (farther / (factor * 65504) for factor in (0.999, 1.001))
    assert Normalize([mean], [fits])(ends).isfinite().all()
    with pytest.raises(ValueError, match=r"too small for torch\.float16"):
        Normalize([mean], [too_small])(ends)


def test_a_pixel_may_become_the_largest_number_of_the_dtype():
    black = torch.zeros(1, 1, 1, dtype=torch.float16)
    assert Normalize([65504.0], [1.0])(black).item() == -65504


def test_one_number_stands_for_every_channel():
    x = torch.rand(3, 4, 4)
    assert torch.equal(Normalize((0.5,), (0.5,))(x), Normalize(*HALF)(x))


@pytest.mark.parametrize("make", [tuple, list, np.array, torch.tensor])
def test_statistics_may_come_in_any_sequence(make):
    t = Normalize(make([0.1, 0.2, 0.3]), make([1.0, 2.0, 3.0]))
    assert t.mean == pytest.approx((0.1, 0.2, 0.3))
    assert all(isinstance(m, float) for m in t.mean)


@given(
    dtype=st.sampled_from(FLOATS),
    channels=st.integers(1, 5),
    lead=st.lists(st.integers(0, 3), max_size=2),
    size=st.tuples(st.integers(0, 5), st.integers(1, 5)),
    stats=st.data(),
    seed=st.integers(0, 2**16),
)
def test_inverse_of_normalize_is_the_identity_within_roundings(dtype, channels, lead, size, stats, seed):
    mean = stats.draw(st.lists(st.floats(-2, 2), min_size=channels, max_size=channels))
    std = stats.draw(st.lists(st.floats(2**-6, 8), min_size=channels, max_size=channels))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((*lead, channels, *size), generator=generator).to(dtype)
    t = Normalize(mean, std)
    back = t.inverse()(t(x))
    assert back.shape == x.shape
    unit = torch.finfo(dtype).eps
    wide = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
    bound = 2 * unit * ((x.double() - wide).abs() + x.double().abs()) + 2.0**-22 * (1 + wide.abs())
    if dtype == torch.float64:
        bound -= 2.0**-22 * (1 + wide.abs()) - 4 * unit * wide.abs()
    if dtype == torch.float16:
        bound += 2.0**-24 * torch.tensor(std).view(-1, 1, 1)  # a z among float16's subnormals
    assert bool(((back.double() - x.double()).abs() <= bound).all())


# --- to_uint8 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stats", [IMAGENET, CIFAR10, CLIP, HALF])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_level_of_every_channel_comes_back(stats, dtype, device):
    levels = torch.arange(256, dtype=torch.uint8, device=device).expand(3, 1, 256)
    x = levels.to(torch.float64).div(255).to(dtype)
    restored = InverseNormalize(*stats)(Normalize(*stats)(x))
    assert torch.equal(to_uint8(restored), levels)


def test_truncation_would_not():
    levels = torch.arange(256).expand(3, 1, 256)
    restored = InverseNormalize(*IMAGENET)(Normalize(*IMAGENET)(levels / 255))
    assert (restored.mul(255).byte() != levels).sum() > 50


def test_even_bfloat16_holds_all_levels_where_arithmetic_is_rounded_once():
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    x = (levels.double() / 255).bfloat16()
    mean, std = IMAGENET
    second = v2.Normalize([-m / s for m, s in zip(mean, std, strict=True)], [1 / s for s in std])
    assert torch.equal(to_uint8(InverseNormalize(*IMAGENET)(Normalize(*IMAGENET)(x))), levels)
    assert (to_uint8(second(v2.Normalize(*IMAGENET)(x))) != levels).sum() > 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_to_the_nearest_level_and_not_twice(dtype):
    x = torch.arange(0x8000, dtype=torch.int16).view(dtype)  # every number from 0 to infinity, then the NaNs
    x = x[x <= 1]
    assert torch.equal(to_uint8(x), x.double().mul(255).round().byte())


def test_values_without_a_level():
    x = torch.tensor([math.nan, math.inf, -math.inf, -1e-7, 1 + 1e-7, 300.0, -300.0])
    assert to_uint8(x).tolist() == [0, 255, 0, 0, 255, 255, 0]


def test_uint8_passes_and_other_integers_do_not():
    x = torch.arange(4, dtype=torch.uint8)
    assert to_uint8(x) is x
    for bad in (torch.arange(4), torch.tensor([True])):
        with pytest.raises(TypeError, match=r"must be floating point .*shape"):
            to_uint8(bad)
    with pytest.raises(TypeError, match="must be a tensor, got ndarray"):
        to_uint8(np.zeros(3))


def plainly_to_uint8(x):
    return x.double().nan_to_num(nan=0.0).clamp(0, 1).mul(255).round().byte()


@pytest.mark.parametrize("dtype", FLOATS)
def test_piece_by_piece_it_is_the_same(monkeypatch, dtype):
    x = (torch.randn(2, 3, 37, 41) / 2 + 0.5).to(dtype)
    x.view(-1)[::97], x.view(-1)[::89], x.view(-1)[::83] = math.nan, math.inf, -math.inf
    whole = to_uint8(x)
    monkeypatch.setattr(images, "_FEW", 0)
    for piece in (1, 1000, x.numel() - 1, x.numel()):
        monkeypatch.setattr(images, "_PIECE", piece)
        assert torch.equal(to_uint8(x), whole)
    if dtype == torch.float64:
        assert torch.equal(whole, plainly_to_uint8(x))
    monkeypatch.setattr(images, "_PIECE", 100)
    last = torch.rand(2, 8, 8, 3, dtype=dtype).movedim(-1, 1)
    gaps = torch.rand(3, 8, 8, dtype=dtype).expand(2, 3, 8, 8).transpose(2, 3)
    for x in (last, gaps, last[..., ::2]):
        assert torch.equal(to_uint8(x), to_uint8(x.contiguous()))


@pytest.mark.parametrize("pieces", [2, 3, 8])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_picture_is_cut_where_it_lies_in_memory_each_piece_for_all_threads(monkeypatch, order, pieces):
    x = torch.rand(8, 6, 10).permute(order)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(images, "_PIECE", x.numel() // pieces // 2)
    some = [piece for piece, _ in images._pieces(x, torch.empty_like(x))]
    assert [piece.numel() for piece in some] == [x.numel() // pieces] * pieces
    assert [piece.data_ptr() for piece in some] == [x.data_ptr() + i * some[0].nbytes for i in range(pieces)]


def test_what_is_made_of_a_large_picture_at_once_fits_into_the_cache_of_a_core(monkeypatch):
    sizes, levels = [], images._levels
    monkeypatch.setattr(images, "_levels", lambda x: sizes.append(4 * x.numel()) or levels(x))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    to_uint8(torch.zeros(2**20))
    assert 2**18 < min(sizes) <= max(sizes) < 2**20  # bytes: of 1 MiB, there must be room for others


@pytest.mark.filterwarnings("error")  # vmap warns where an operation is unknown to it
def test_to_uint8_neither_changes_its_input_nor_its_memory_format(monkeypatch):
    monkeypatch.setattr(images, "_FEW", 0)
    monkeypatch.setattr(images, "_PIECE", 100)
    for x in (torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)):
        before = x.clone()
        assert to_uint8(x).stride() == x.stride()
        assert torch.equal(x, before)
    leaf = torch.rand(300, requires_grad=True)
    assert torch.equal(to_uint8(leaf), to_uint8(leaf.detach()))
    many = torch.vmap(to_uint8, in_dims=1)(x.transpose(0, 1))
    assert torch.equal(many, to_uint8(x))


class Restore(torch.nn.Module):
    """What a model's last layer may do."""

    def __init__(self):
        super().__init__()
        self.inverse = InverseNormalize(*IMAGENET)

    def forward(self, z):
        return to_uint8(self.inverse(z))


@pytest.fixture
def latent(monkeypatch):
    monkeypatch.setattr(images, "_FEW", 0)
    monkeypatch.setattr(images, "_PIECE", 1000)
    z = torch.randn(5, 3, 16, 16)
    z[0, 0, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    return z


def test_to_uint8_compiles_into_one_graph(latent):
    compiled = torch.compile(Restore(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(latent), Restore()(latent))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch 2.4 warns of its own graph
def test_to_uint8_is_exported_for_any_batch(latent):
    program = torch.export.export(Restore(), (latent[:2],), dynamic_shapes={"z": {0: torch.export.Dim("n")}})
    assert torch.equal(program.module()(latent), Restore()(latent))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
def test_to_uint8_in_onnx(latent, dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = str(tmp_path / "restore.onnx")
    batch = (
        {"dynamic_shapes": {"z": {0: torch.export.Dim("n")}}}
        if dynamo
        else {"input_names": ["z"], "dynamic_axes": {"z": {0: "n"}}}
    )
    torch.onnx.export(Restore(), (latent[:2],), path, dynamo=dynamo, **batch)
    (result,) = onnxruntime.InferenceSession(path).run(None, {"z": latent.numpy()})
    assert np.array_equal(result, Restore()(latent).numpy())


def test_to_uint8_keeps_tv_tensors_and_shapes():
    assert type(to_uint8(tv_tensors.Image(torch.rand(3, 2, 2)))) is tv_tensors.Image
    assert to_uint8(torch.rand(0, 3, 2)).shape == (0, 3, 2)
    assert to_uint8(torch.tensor(0.5)).item() == 128


# --- the constants -----------------------------------------------------------------------------


def test_imagenet_is_what_torchvision_uses():
    from torchvision.models import ResNet50_Weights

    for weights in ResNet50_Weights:
        preset = weights.transforms()
        assert (tuple(preset.mean), tuple(preset.std)) == IMAGENET


@pytest.mark.parametrize(
    ("constants", "published"),
    [
        # Of the training images, with all digits; CIFAR-10's is the pixel std and not the mean of stds.
        (CIFAR10, [(0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)]),
        (CIFAR100, [(0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)]),
        (MNIST, [(0.13066048,), (0.30810781,)]),
    ],
)
def test_constants_are_the_published_ones_rounded_to_four_digits(constants, published):
    assert constants == tuple(tuple(round(v, 4) for v in values) for values in published)


def test_clip_is_what_its_code_says():
    line = "Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))"
    assert repr(eval(line)) == repr(Normalize(*CLIP))


@pytest.mark.parametrize("name", ["IMAGENET", "CIFAR10", "CIFAR100", "MNIST", "CLIP", "HALF"])
def test_constants_unpack(name):
    stats = getattr(images, name)
    mean, std = stats
    assert len(mean) == len(std) == len(Normalize(*stats).mean)
    assert stats.mean == mean
    assert stats.std == std
