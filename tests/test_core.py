import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from normtut import denormalize, inverse_stats, moments, normalize
from normtut.core import from_numpy, numbers

HALVES = (torch.float16, torch.bfloat16)


def exact_moments(values):
    """Mean and biased variance of floats, in rational arithmetic."""
    values = [Fraction(v) for v in values]
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


@pytest.mark.parametrize("dim", [0, 1, -1, -4, (0, 2), (0, 2, 3), (-2, -1), (0, 1, 2, 3), [1, 3]])
@pytest.mark.parametrize("keepdim", [True, False])
def test_moments_agree_with_numpy_float64_over_any_axes(dim, keepdim, device):
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 7
    axes = dim if isinstance(dim, int) else tuple(dim)
    mean, std = moments(x.to(device), dim, keepdim=keepdim)
    reference = x.double().numpy()
    np.testing.assert_allclose(mean.cpu(), reference.mean(axes, keepdims=keepdim), rtol=2e-6)
    np.testing.assert_allclose(std.cpu(), reference.std(axes, keepdims=keepdim), rtol=2e-6)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e6])
def test_moments_survive_a_mean_far_from_zero(offset, device):
    x = (torch.randn(10_000, generator=torch.Generator().manual_seed(0)) + offset).to(device)
    _, variance = exact_moments(x.tolist())
    _, std = moments(x, 0)
    # At 10⁶ float32 has steps of 1/16. On a GPU torch.var_mean rounds partial means to them (0.15 % seen).
    rel = 5e-3 if device.type == "cuda" and offset == 1e6 else 1e-5
    assert std.item() == pytest.approx(math.sqrt(variance), rel=rel)
    if offset == 1e4:  # what the one-pass formula makes of the same numbers
        one_pass = x.square().mean() - x.mean().square()
        assert abs(one_pass.item() - float(variance)) > 0.1


def test_the_variance_is_biased_and_eps_is_inside_the_root():
    x = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert moments(x, 0)[1].item() == 1.0  # unbiased would be √2
    assert moments(x, 0, eps=3.0)[1].item() == 2.0  # √(1 + 3), not 1 + 3 and not 1 + √3


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_statistics_are_float32_and_do_not_overflow(dtype):
    x = torch.tensor([-1000.0, 1000.0], dtype=dtype)  # variance 10⁶ > 65504
    mean, std = moments(x, 0)
    assert mean.dtype == std.dtype == torch.float32
    assert (mean.item(), std.item()) == (0.0, 1000.0)
    assert normalize(x, mean, std).dtype == dtype


def test_moments_gradients():
    x = (torch.randn(3, 4, 5, dtype=torch.float64) + 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: moments(x, (0, 2), eps=1e-3), x)
    assert torch.autograd.gradcheck(lambda x: normalize(x, *moments(x, (0, 2), eps=1e-3)), x)


def test_normalized_values_have_mean_zero_and_std_one(device):
    x = torch.rand(8, 3, 16, 16, device=device) * 5 + 100
    mean, std = moments(normalize(x, *moments(x, (0, 2, 3))), (0, 2, 3))
    assert mean.abs().max() < 1e-5
    assert (std - 1).abs().max() < 1e-5


def test_the_same_statistics_put_back_give_the_input_and_others_give_the_others(device):
    x, y = torch.rand(2, 3, 8, 8, device=device), torch.rand(2, 3, 5, 7, device=device) * 4 + 9
    z = normalize(x, *moments(x, (2, 3)))
    torch.testing.assert_close(denormalize(z, *moments(x, (2, 3))), x, rtol=0, atol=1e-6)
    styled = moments(denormalize(z, *moments(y, (2, 3))), (2, 3))
    torch.testing.assert_close(styled, moments(y, (2, 3)))


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_sequences_are_per_channel_even_where_the_last_axis_would_fit(make):
    x = torch.zeros(2, 3, 4, 3)
    z = normalize(x, make([-1.0, -2.0, -3.0]), make([1.0, 1.0, 1.0]))
    assert z[0, :, 0, 0].tolist() == [1, 2, 3]
    assert z[0, 0].unique().tolist() == [1]


def test_for_a_table_of_features_they_are_per_column():
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    assert normalize(x, [2.0, 20.0], [1.0, 10.0]).tolist() == [[-1, -1], [1, 1]]


def test_numbers_and_wider_statistics_do_not_change_the_dtype():
    x = torch.rand(3, 2, 2)
    assert normalize(x, 0.5, 0.5).dtype == torch.float32
    mean = torch.tensor(1 / 3, dtype=torch.float64)
    assert normalize(x, mean, 0.5).dtype == torch.float32
    # As everywhere in PyTorch, one without axes does not widen the computation either.
    assert torch.equal(normalize(x, mean, 0.7), (x - mean) / torch.tensor(0.7))


def test_statistics_are_computed_in_their_dtype_and_integers_exactly():
    x, mean, std = torch.randn(500), torch.randn(1), torch.rand(1) + 0.5
    assert torch.equal(
        normalize(x, mean, std), (x - mean) / std
    )  # three roundings of float32, not one of float64
    wide = ((x.double() - mean.double()) / std.double()).float()
    assert torch.equal(normalize(x, mean.double(), std.double()), wide)
    assert not torch.equal(normalize(x, mean, std), wide)
    # 2²⁴ + 1 is no float32
    assert normalize(torch.tensor([2.0**24]), torch.tensor([2**24 + 1]), torch.tensor([1])).item() == -1


@pytest.mark.parametrize("function", [normalize, denormalize])
@pytest.mark.parametrize(
    ("x", "mean", "std", "error", "words"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.uint8), 0.5, 0.5, TypeError, "uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), 0.5, 0.5, TypeError, "int64"),
        (np.zeros(3), 0.5, 0.5, TypeError, "ndarray"),
        (torch.zeros(3, 4, 4), [0.5, 0.5], [1, 1], ValueError, r"mean has values for 2 .*\(3, 4, 4\) has 3"),
        (torch.zeros(3, 4, 4), [0.5] * 3, [1.0] * 4, ValueError, "std has values for 4 channels"),
        (torch.zeros(1, 4, 4), [0.5] * 3, [1.0] * 3, ValueError, r"has 1 \(axis 0\)"),
        (torch.zeros(1, 4, 4), torch.zeros(3, 1, 1), 1.0, ValueError, r"\(3, 1, 1\) does not broadcast"),
        (torch.zeros(4), torch.zeros(2, 4), 1.0, ValueError, "does not broadcast"),
        (torch.zeros(3, 4, 1), torch.zeros(3, 1, 5), 1.0, ValueError, r"\(3, 1, 5\) does not broadcast"),
        (torch.tensor(1.0), [0.5, 0.5], [1, 1], ValueError, "no axes"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_name_and_shape(function, x, mean, std, error, words):
    with pytest.raises(error, match=words):
        function(x, mean, std)


@pytest.mark.parametrize("function", [normalize, denormalize])
@pytest.mark.parametrize(
    "junk",
    ["0.5", b"1", None, {0.5}, 1j, ["a"], [[1, 2], [3]], np.array(["0.5"]), np.array([None])],
    ids=repr,
)
@pytest.mark.parametrize("name", ["mean", "std"])
def test_statistics_that_are_no_numbers_are_named(function, junk, name):
    words = f"{name} must be numbers, a tensor or an array, got {junk!r}"
    with pytest.raises(TypeError, match=f"^{re.escape(words)}$"):
        function(torch.rand(1, 3, 3), **{"mean": 0.0, "std": 1.0, name: junk})


@pytest.mark.parametrize("std", [0.0, math.nan, math.inf, [1.0, 0.0, 1.0], np.array([1, math.nan, 1])])
def test_normalize_refuses_to_divide_by_nothing(std):
    with pytest.raises(ValueError, match="finite and not zero"):
        normalize(torch.rand(3, 2, 2), 0.5, std)
    if np.isfinite(std).all():  # a learned γ may be zero
        denormalize(torch.rand(3, 2, 2), 0.5, std)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("std", [1e-60, [1e-60] * 3, np.full(3, 1e-60), 1e60])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_a_std_that_is_zero_or_infinite_only_in_float32_is_refused_too(std, dtype):
    with pytest.raises(ValueError, match=r"std must be finite and not zero in torch\.float32, got"):
        normalize(torch.ones(3, 2, 2, dtype=dtype), 0.0, std)
    assert normalize(torch.ones(3, 2, 2, dtype=torch.float64), 0.0, std).isfinite().all()


@pytest.mark.parametrize("x", [torch.zeros(0, 3), torch.zeros(2, 0, 3)])
def test_moments_of_nothing_are_refused(x):
    with pytest.raises(ValueError, match=r"no elements"):
        moments(x, tuple(range(x.ndim)))


def test_moments_refuse_integers():
    with pytest.raises(TypeError, match="int64"):
        moments(torch.arange(3), 0)


@pytest.mark.parametrize("eps", [-1e-5, math.nan])
def test_moments_refuse_an_eps_that_is_no_number_of_at_least_0(eps):
    with pytest.raises(ValueError, match=f"eps must be >= 0, got {eps}"):
        moments(torch.rand(3), 0, eps=eps)


def test_moments_name_an_axis_that_is_not_there():
    with pytest.raises(
        IndexError, match=r"dim=\(0, 2\) names an axis that x of shape \(3, 4\) does not have"
    ):
        moments(torch.rand(3, 4), (0, 2))


def test_moments_refuse_an_empty_dim_which_torch_takes_for_all_axes():
    for dim in ((), [], range(0)):
        with pytest.raises(ValueError, match=r"dim is empty.* shape \(3, 4\)"):
            moments(torch.rand(3, 4), dim)


@pytest.mark.parametrize("dim", [np.int64(1), np.array([1]), (np.int64(1),)])
def test_axes_may_be_integers_of_any_kind(dim):
    x = torch.rand(3, 4)
    torch.testing.assert_close(moments(x, dim), moments(x, 1), rtol=0, atol=0)


def test_a_std_may_be_as_small_as_the_dtype_goes():
    smallest = torch.full((), 2.0**-149)
    assert normalize(smallest, 0.0, smallest.item()) == 1
    with pytest.raises(ValueError, match="finite and not zero"):
        normalize(smallest, 0.0, 2.0**-150)


def test_a_std_may_be_as_large_as_the_dtype_goes():
    largest = torch.finfo(torch.float32).max
    assert normalize(torch.tensor(largest), 0.0, largest) == 1


@pytest.mark.parametrize(
    ("shape", "advice"), [((4, 5, 3), True), ((2, 4, 5, 3), True), ((5, 3, 4), False), ((1, 1, 2), False)]
)
def test_channels_last_is_recognized_where_the_last_axis_has_as_many(shape, advice):
    with pytest.raises(ValueError, match="values for 3 channels") as refused:
        normalize(torch.zeros(shape), [0.5] * 3, 1.0)
    assert ("x.movedim(-1, -3)" in str(refused.value)) == advice
    if advice:
        assert normalize(torch.zeros(shape).movedim(-1, -3), [0.5] * 3, 1.0).unique().tolist() == [-0.5]


def test_a_table_is_not_advised_to_move_its_channels():
    with pytest.raises(ValueError, match=r"x of shape \(2, 4\) has 4 \(axis 1\)$"):
        normalize(torch.zeros(2, 4), [0.5] * 3, 1.0)


def test_arrays_of_any_memory_layout():
    """A flipped array, as for channels in the order blue, green, red; and one that may not be written to,
    of which `torch.from_numpy` warns (and warnings are errors here)."""
    x, mean, std = torch.rand(3, 4, 4), np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.6])
    expected = normalize(x, [0.3, 0.2, 0.1], [0.6, 0.5, 0.4])
    for kind in (lambda a: a[::-1], lambda a: a[::-1].astype(">f4"), lambda a: read_only(a[::-1].copy())):
        torch.testing.assert_close(normalize(x, kind(mean), kind(std)), expected)
    bytes_reversed = np.array([1, 2, 3], np.uint8)[::-1]  # of stride −1
    assert normalize(torch.zeros(3, 1, 1), bytes_reversed, 1.0).flatten().tolist() == [-3, -2, -1]


def test_an_array_that_torch_takes_as_it_is_is_not_copied():
    for array in (np.zeros(3), np.zeros((4, 6))[::2, ::3], as_strided(np.zeros(1), (10**9,), (0,))):
        assert from_numpy(array).data_ptr() == array.ctypes.data


def read_only(array):
    array.flags.writeable = False
    return array


def test_moments_and_normalize_compile_into_one_graph_and_vmap():
    x = torch.rand(2, 3, 4, 4)
    for dim in (1, (0, 2), range(-2, 0)):
        standard = lambda x, dim=dim: normalize(x, *moments(x, dim, eps=1e-5))  # noqa: E731
        compiled = torch.compile(standard, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), standard(x))
        torch.testing.assert_close(torch.vmap(standard)(x[None])[0], standard(x))
    for mean, std in (([0.5] * 3, [0.25] * 3), (0.5, 0.25)):
        for f in (normalize, denormalize):
            constants = lambda x, f=f, mean=mean, std=std: f(x, mean, std)  # noqa: E731
            compiled = torch.compile(constants, fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(compiled(x), constants(x))
            torch.testing.assert_close(torch.vmap(constants)(x), constants(x))


def test_inverse_stats_of_tensors_must_have_the_same_shape():
    with pytest.raises(ValueError, match=r"same shape, got \(3,\) and \(2,\)"):
        inverse_stats(torch.zeros(3), torch.ones(2))


def test_inverse_stats_by_exact_arithmetic_over_all_levels():
    mean, std = Fraction("0.485"), Fraction("0.229")
    inverse_mean, inverse_std = -mean / std, 1 / std
    for k in range(256):
        x = Fraction(k, 255)
        assert ((x - mean) / std - inverse_mean) / inverse_std == x
    (m,), (s,) = inverse_stats([0.485], [0.229])
    assert m == pytest.approx(float(inverse_mean), rel=1e-15)
    assert s == pytest.approx(float(inverse_std), rel=1e-15)


def test_inverse_stats_keep_their_kind_and_make_no_negative_zero():
    m, s = inverse_stats(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 4.0]))
    assert m.tolist() == [0.0, -0.25]
    assert s.tolist() == [0.5, 0.25]
    assert math.copysign(1, m[0]) == 1
    assert isinstance(inverse_stats(np.ones(2), np.ones(2))[0], np.ndarray)
    assert math.copysign(1, inverse_stats([0.0], [1.0])[0][0]) == 1


@pytest.mark.parametrize("bad", [[0.0], [math.nan], [math.inf], torch.tensor([0.0]), np.array([math.nan])])
def test_inverse_stats_refuse_what_has_no_inverse(bad):
    mean = [0.5] if isinstance(bad, list) else type(bad)([0.5]) if isinstance(bad, torch.Tensor) else bad
    with pytest.raises(ValueError, match="std must be finite and not zero"):
        inverse_stats(mean, bad)
    with pytest.raises(ValueError, match="same shape"):
        inverse_stats([0.5], [0.5, 0.5])


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (0.5, 0.25, r"mean must be .*\(0\.5,\), a tensor or an array; got 0\.5"),
        ([0.5], 0.25, "std must be .*; got 0.25"),
        ("12", [1.0, 1.0], "mean must be .*; got '12'"),
        ([0.5], ["a"], r"std must be .*; got \['a'\]"),
    ],
)
def test_inverse_stats_name_what_is_no_sequence(mean, std, words):
    with pytest.raises(TypeError, match=words):
        inverse_stats(mean, std)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (torch.tensor([0.5]), [0.25], "both tensors, both arrays .*, got Tensor and list"),
        (np.array([0.5]), torch.tensor([0.25]), "both tensors, both arrays .*, got ndarray and Tensor"),
    ],
)
def test_inverse_stats_take_two_of_a_kind(mean, std, words):
    with pytest.raises(ValueError, match=words):
        inverse_stats(mean, std)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5], [1e-320]),  # 1/σ
        ([0.0], [1e-320]),  # 1/σ alone
        ([1e300], [1e-10]),  # μ/σ alone
        ([math.nan], [1.0]),
        (np.array([0.5]), np.array([1e-320])),
        (np.array([0.0]), np.array([1e-320])),
        (np.array([1e300]), np.array([1e-10])),
        (torch.tensor([0.5]), torch.tensor([1e-39])),
        (torch.tensor([0.0]), torch.tensor([1e-39])),
        (torch.tensor([1e30]), torch.tensor([1e-10])),
    ],
)
def test_inverse_stats_are_finite_or_refused(mean, std):
    with pytest.raises(ValueError, match=r"−mean/std and 1/std must be finite, .* got mean .* and std"):
        inverse_stats(mean, std)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_numbers_of_a_tensor_or_array_are_its_channels(make):
    values = make([1.5, 2.5, 3.5])
    for shape in ((3,), (3, 1, 1), (1, 3, 1, 1)):
        assert numbers("mean", values.reshape(shape)) == (1.5, 2.5, 3.5)
    assert numbers("mean", values[:1].reshape(1, 1, 1)) == (1.5,)
    for shape in ((1, 3), (3, 1), (1, 1, 3), (1, 3, 1), (3, 1, 1, 1)):
        with pytest.raises(ValueError, match=r"mean must have one number per channel.*; got \(") as refused:
            numbers("mean", values.reshape(shape))
        assert str(refused.value).endswith(f"got {shape}")
    with pytest.raises(ValueError, match=r"got \(2, 2, 2\)"):
        numbers("mean", make([0.0] * 8).reshape(2, 2, 2))
    with pytest.raises(TypeError, match="mean must be a sequence of numbers"):
        numbers("mean", make(0.5))


DTYPES = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@given(
    dtype=st.sampled_from(list(DTYPES)),
    shape=st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 5), st.integers(1, 5)),
    mean=st.floats(-10, 10),
    log_std=st.floats(-6, 3),
    seed=st.integers(0, 2**16),
)
def test_the_inverse_returns_the_input_within_a_few_roundings(dtype, shape, mean, log_std, seed):
    # The smallest std keeps |z| < 12·2⁶, inside float16.
    mean, std = [mean] * shape[1], [2.0**log_std] * shape[1]
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    back = denormalize(normalize(x, mean, std), mean, std)
    assert back.dtype == dtype
    assert back.shape == x.shape
    # One rounding each for x − μ, ÷σ, ×σ (all of the size of x − μ) and +μ (of the size of x); half precision
    # adds those of float32, and a z in float16's subnormal range loses up to 2⁻²⁵·σ absolutely.
    unit = DTYPES[dtype]
    bound = 4 * unit * ((x.double() - mean[0]).abs() + x.double().abs()) + 2.0**-25 * std[0] * (
        unit == 2.0**-11
    )
    bound += 2.0**-23 * abs(mean[0]) * (dtype in HALVES)
    assert bool(((back.double() - x.double()).abs() <= bound).all())


@pytest.mark.parametrize("function", [normalize, denormalize])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 1), (2, 3, 4, 0), (2, 1, 4, 5)])
def test_channels_last_is_the_same_and_stays_that(function, dtype, shape):
    x = torch.randn(shape).to(dtype)
    last = x.to(memory_format=torch.channels_last)
    each = [0.1, 0.2, 0.3][: shape[1]], [2.0, 3.0, 4.0][: shape[1]]
    for mean, std in (each, ([0.5], [0.25]), (0.5, 2.0)):
        before = last.clone()
        y = function(last, mean, std)
        assert torch.equal(y, function(x, mean, std))
        assert torch.equal(last, before)
        if x.numel():
            assert y.is_contiguous(memory_format=torch.channels_last)
            many = torch.vmap(lambda x, mean=mean, std=std: function(x, mean, std))(last)
            assert torch.equal(many, y)


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_of_half_precision_where_it_is_computed_in_place(dtype):
    z = torch.randn(3, 2, 2).to(dtype).requires_grad_()
    denormalize(z, [0.1, 0.2, 0.3], [2.0, 3.0, 4.0]).sum().backward()
    assert torch.equal(z.grad, torch.tensor([2.0, 3.0, 4.0], dtype=dtype).view(3, 1, 1).expand(3, 2, 2))


def test_many_means_for_one_input():
    """torch.vmap makes many of the mean only, or of the std only, and forbids to add it in place."""
    z, means = torch.randn(4, 3), torch.randn(5, 3)
    many = torch.vmap(lambda mean: denormalize(z, mean, 2.0))(means)
    torch.testing.assert_close(many, 2 * z + means[:, None])
    many = torch.vmap(lambda std: denormalize(z, 0.5, std))(means)
    torch.testing.assert_close(many, z * means[:, None] + 0.5)
    assert torch.func.jacrev(lambda mean: denormalize(z, mean, 2.0).sum())(means[0]).tolist() == [4.0] * 3
    half = z.bfloat16()  # computed in a copy of its own, which must not be changed in place either
    many = torch.vmap(lambda std: denormalize(half, 0.5, std))(means)
    torch.testing.assert_close(many, (half.float() * means[:, None] + 0.5).bfloat16())
