"""The functional layers against torch, NumPy in float64, ONNX's definitions and numbers found by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as T

from normtut import denormalize
from normtut import functional as F

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
C, D = 6, 5
VERSION = tuple(int(n) for n in torch.__version__.split(".")[:2])


# Each as f(library, x, weight, bias), so that one list drives ours and torch's; x of (N, C, H, D).
CALLS = {
    "batch": lambda K, x, w, b: K.batch_norm(x, None, None, w, b, True),
    "batch_eval": lambda K, x, w, b: K.batch_norm(x, *_running(x, w), w, b, False),
    "instance": lambda K, x, w, b: K.instance_norm(x, None, None, w, b),
    "instance_eval": lambda K, x, w, b: K.instance_norm(x, *_running(x, w), w, b, False),
    "group": lambda K, x, w, b: K.group_norm(x, 3, w, b),
    "one_group": lambda K, x, w, b: K.group_norm(x, 1, w, b),
    "layer": lambda K, x, w, b: K.layer_norm(x, (D,), w[:D] if w is not None else None, b[:D]),
    "layer_2d": lambda K, x, w, b: K.layer_norm(x, x.shape[-2:], *_planes(x, w, b)),
    "rms": lambda K, x, w, b: K.rms_norm(x, (D,), w[:D] if w is not None else None, 1e-5),
}


def _running(x, w):
    ramp = torch.linspace(0.5, 1.5, x.shape[1], device=x.device, dtype=x.dtype if w is None else w.dtype)
    return 2 * ramp, ramp


def _planes(x, w, b):
    return [None if p is None else (p[0] + torch.ones_like(x[0, 0], dtype=p.dtype)) for p in (w, b)]


def _inputs(shape=(4, C, 3, D), dtype=torch.float64, device="cpu", params=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(shape, generator=g, dtype=torch.float64) + 1
    w, b = 0.5 + torch.rand(2, shape[1], generator=g, dtype=torch.float64)
    return x.to(device, dtype), *(p.to(device, params or dtype) for p in (w, b))


def _with_gradients(call, lib, *tensors):
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    y = call(lib, *leaves)
    # The incoming gradient, in numbers that every type holds exactly.
    weights = torch.arange(y.numel(), device=y.device).sin().reshape(y.shape).bfloat16().to(y.dtype)
    return y, *torch.autograd.grad((y * weights).sum(), leaves, materialize_grads=True)


# --- against torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outputs_and_gradients_are_torchs(name, dtype, device):
    args = _inputs(dtype=dtype, device=device)
    for ours, theirs in zip(
        _with_gradients(CALLS[name], F, *args), _with_gradients(CALLS[name], T, *args), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **({} if dtype == torch.float64 else _f32(theirs)))


def _f32(x):
    return {"rtol": 1e-5, "atol": 2e-6 * max(1.0, x.abs().max().item())}


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # torch's rms_norm
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("params", ["own", torch.float32], ids=["half params", "float params"])
def test_half_precision_is_as_near_to_the_truth_as_torchs(name, dtype, params, device):
    if name == "rms" and VERSION < (2, 14):
        pytest.skip("older versions of torch.nn.functional.rms_norm take no float weight, or use another eps")
    args = _inputs(dtype=dtype, device=device, params=dtype if params == "own" else params)
    theirs_args = args
    if device.type == "cuda" and params != "own" and name in ("layer", "layer_2d", "group", "one_group"):
        theirs_args = tuple(a.to(dtype) for a in args)  # on a GPU torch takes no float parameters
    truth = _with_gradients(CALLS[name], F, *(a.double() for a in args))
    ours = _with_gradients(CALLS[name], F, *args)
    theirs = _with_gradients(CALLS[name], T, *theirs_args)
    for o, t, right in zip(ours, theirs, truth, strict=True):
        assert o.dtype == t.dtype or theirs_args is not args
        scale = right.abs().max().clamp(min=1e-9)
        error, their_error = ((v.double() - right).abs().max() / scale for v in (o, t))
        assert error <= max(2 * their_error, torch.finfo(dtype).eps)


def test_half_precision_is_rounded_once():
    x, w, b = _inputs(dtype=torch.bfloat16, params=torch.float32)
    exact = F.group_norm(x.double(), 3, w.double(), b.double())
    assert torch.equal(F.group_norm(x, 3, w, b), exact.bfloat16())


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("params", [torch.bfloat16, torch.float32], ids=["half params", "float params"])
@pytest.mark.parametrize("name", [n for n in CALLS if "eval" not in n and n != "layer_2d"])
def test_half_precision_gradients_are_rounded_once(name, params, compiled):
    """To the neighbour of the exact value, but for one in a thousand that lies in the middle of two."""
    args = _inputs((16, C, 8, D), dtype=torch.bfloat16, params=params)
    call = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager") if compiled else CALLS[name]
    exact = _with_gradients(CALLS[name], F, *(a.double() for a in args))
    for ours, truth in zip(_with_gradients(call, F, *args)[:2], exact, strict=False):
        assert (ours != truth.bfloat16()).double().mean() < 2e-3


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
        lambda x: torch.cat([x, x], 3)[..., ::2],
        lambda x: x[:1].expand(4, -1, -1, -1),
    ],
    ids=["channels_last", "transposed", "strided", "expanded"],
)
def test_any_memory_layout(name, layout):
    x, w, b = _inputs()
    x = layout(x)
    y = CALLS[name](F, x, w, b)
    torch.testing.assert_close(y, CALLS[name](T, x.contiguous(), w, b))
    for ours, theirs in zip(
        _with_gradients(CALLS[name], F, x, w, b), _with_gradients(CALLS[name], T, x, w, b), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["batch", "batch_eval", "instance", "group"])
def test_channels_last_stays_channels_last(name):
    x, w, b = _inputs()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = CALLS[name](F, x, w, b)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    assert dx.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", CALLS)
def test_derivatives_of_every_order_and_mode(name):
    args = [t.requires_grad_() for t in _inputs((2, C, 1, D))]

    def f(x, w, b):
        return CALLS[name](F, x, w, b)

    # b does not reach rms_norm; gradcheck wants inputs that matter.
    args, g = (args[:2], lambda x, w: f(x, w, w)) if name == "rms" else (args, f)
    assert torch.autograd.gradcheck(g, args, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(g, args, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in CALLS if "eval" not in n])
def test_vmap_and_per_sample_gradients(name):
    x, w, b = _inputs((3 * 4, C, 2, D))
    x = x.unflatten(0, (3, 4))
    ours, theirs = (torch.vmap(lambda v, k=k: CALLS[name](k, v, w, b))(x) for k in (F, T))
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (
        torch.vmap(torch.func.grad(lambda v, k=k: CALLS[name](k, v, w, b).pow(3).sum()))(x) for k in (F, T)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", CALLS)
def test_many_gradients_at_once(name):
    """As `torch.autograd.functional.jacobian` asks for them with ``vectorize``."""
    x, w, b = (t.requires_grad_() for t in _inputs((2, C, 2, D)))
    y = CALLS[name](F, x, w, b)
    many = torch.randn((3, *y.shape), generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    inputs = (x, w) if name == "rms" else (x, w, b)
    at_once = torch.autograd.grad(y, inputs, many, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(y, inputs, g, retain_graph=True) for g in many]
    torch.testing.assert_close(at_once, tuple(torch.stack(t) for t in zip(*each, strict=True)))


@pytest.mark.parametrize("name", CALLS)
def test_nested_forward_mode(name):
    x, w, b = _inputs((2, C, 2, D))
    f = lambda v: CALLS[name](F, v, w, b).pow(3).sum()  # noqa: E731
    jacfwd = torch.func.jacfwd
    torch.testing.assert_close(jacfwd(jacfwd(f))(x), torch.func.hessian(f)(x))


@pytest.mark.parametrize("name", CALLS)
def test_the_gradient_is_as_precise_inside_autocast(name):
    tensors = _inputs((8, C, 16, D), torch.float32)
    outside = _with_gradients(CALLS[name], F, *tensors)
    with torch.autocast("cpu", torch.bfloat16):
        inside = _with_gradients(CALLS[name], F, *tensors)
    for a, b in zip(inside, outside, strict=True):
        assert torch.equal(a, b)


LONG = {
    "instance": ((1, 2, 1 << 21), lambda K, x: K.instance_norm(x)),
    "group": ((1, 4, 1 << 20), lambda K, x: K.group_norm(x, 1)),
    "layer": ((1, 1 << 22), lambda K, x: K.layer_norm(x, x.shape[1:])),
    "rms": ((1, 1 << 22), lambda K, x: K.rms_norm(x, x.shape[1:])),
    "batch": ((1 << 21, 2), lambda K, x: K.batch_norm(x, None, None, training=True)),
}


@pytest.mark.parametrize("name", LONG)
def test_millions_of_values_lose_no_digits(name):
    shape, call = LONG[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for ours, exact in zip(
        _with_gradients(lambda K, x: call(K, x), F, x),
        _with_gradients(lambda K, x: call(K, x), T, x.double()),
        strict=True,
    ):
        torch.testing.assert_close(ours.double(), exact, rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", CALLS)
def test_the_size_of_the_pieces_does_not_matter(name, pieces, monkeypatch):
    args = _inputs()
    expected = _with_gradients(CALLS[name], T, *args)
    monkeypatch.setattr("normtut._eager._PIECE", pieces)
    for a, b in zip(_with_gradients(CALLS[name], F, *args), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_the_text_that_people_read_gives_the_same(name, dtype, monkeypatch):
    """Without `normtut._eager`, that is: moments, normalize, denormalize and autograd."""
    args = _inputs(dtype=dtype)
    fast = _with_gradients(CALLS[name], F, *args)
    monkeypatch.setattr(F, "_three_steps", F._three_steps.__wrapped__)
    for a, b in zip(_with_gradients(CALLS[name], F, *args), fast, strict=True):
        if dtype == torch.float64:
            torch.testing.assert_close(a, b)
        else:  # one step of bfloat16, and of the sums of its values
            assert (a - b).abs().max() <= 2**-7 * b.abs().max()


def test_running_statistics_without_the_pieces(monkeypatch):
    x, *_ = _inputs()
    states = []
    for steps in (F._three_steps, F._three_steps.__wrapped__):
        monkeypatch.setattr(F, "_three_steps", steps)
        states.append(torch.ones(4, C, dtype=x.dtype))
        F.batch_norm(x, *states[-1][:2], training=True)
        F.instance_norm(x, *states[-1][2:])
    torch.testing.assert_close(*states)


@pytest.mark.parametrize("name", ["batch", "group", "layer", "rms"])
def test_compiles_into_one_graph(name):
    args = _inputs(dtype=torch.float32)
    call = CALLS[name]
    compiled = torch.compile(lambda lib, *a: call(lib, *a), fullgraph=True, backend="aot_eager")
    for a, b in zip(_with_gradients(compiled, F, *args), _with_gradients(call, T, *args), strict=True):
        torch.testing.assert_close(a, b, **_f32(b))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", CALLS)
def test_tracers_record_the_steps(name):
    """And none of the lengths of the pieces: more samples follow the same program."""
    x, w, b = _inputs((2, C, 3, D))
    traced = torch.jit.trace(lambda x: CALLS[name](F, x, w, b), x, check_trace=False)
    assert "PythonOp" not in str(traced.graph)
    more, *_ = _inputs((7, C, 3, D), seed=1)
    torch.testing.assert_close(traced(more), CALLS[name](F, more, w, b))


@pytest.mark.parametrize("name", ["batch", "group", "layer", "rms"])
def test_transforms_compile(name):
    """Each sample's gradient, and a directional derivative: compiled, the same as not."""
    x, weight, bias = _inputs(dtype=torch.float64)
    square = lambda x: CALLS[name](F, x, weight, bias).square().sum()  # noqa: E731
    for function in (
        torch.vmap(torch.func.grad(lambda x: square(torch.stack([x, x.flip(0)])))),
        lambda x: torch.func.jvp(square, (x,), (x.sin(),))[1],
    ):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x.detach()), function(x.detach()))


# --- which error for which bad input ----------------------------------------------------------------------


def _type_of_error(call):
    try:
        call()
    except Exception as error:
        return type(error)
    return None


def _x(*shape, dtype=torch.float32):
    return torch.linspace(-1, 2, math.prod(shape)).reshape(shape).to(dtype)


BAD = {
    **{
        f"batch {s} training={t}": lambda K, s=s, t=t: K.batch_norm(_x(*s), *torch.ones(2, 3), training=t)
        for s in [(1, 3), (1, 3, 1), (2, 3), (3,), (0, 3, 4), (2, 3, 0), (2, 4, 5)]
        for t in (True, False)
    },
    "batch without running": lambda K: K.batch_norm(_x(2, 3), None, None),
    "batch half the running": lambda K: K.batch_norm(_x(2, 3), torch.zeros(3), None, training=True),
    "batch eval half the running": lambda K: K.batch_norm(_x(2, 3), torch.zeros(3), None),
    "batch eval the other half": lambda K: K.batch_norm(_x(2, 3), None, torch.ones(3)),
    "batch short weight": lambda K: K.batch_norm(_x(2, 3), None, None, torch.ones(2), training=True),
    "batch short bias": lambda K: K.batch_norm(_x(2, 3), None, None, None, torch.ones(2), training=True),
    "batch eps 0": lambda K: K.batch_norm(_x(2, 3), None, None, training=True, eps=0.0),
    "batch eps < 0": lambda K: K.batch_norm(_x(2, 3), *torch.ones(2, 3), eps=-1.0),
    "batch integers": lambda K: K.batch_norm(_x(2, 3, dtype=torch.int64), None, None, training=True),
    **{f"instance {s}": lambda K, s=s: K.instance_norm(_x(*s)) for s in [(2, 3), (2, 3, 1), (3,), (0, 3, 4)]},
    "instance without running": lambda K: K.instance_norm(_x(2, 3, 4), use_input_stats=False),
    "instance short weight": lambda K: K.instance_norm(_x(2, 3, 4), weight=torch.ones(2)),
    **{
        f"group {s} {g}": lambda K, s=s, g=g: K.group_norm(_x(*s), g)
        for s, g in [
            *(((2, 4, 3), 3), ((2, 4, 3), -2), ((2, 4, 3), 8), ((4,), 2), ((1, 4), 4), ((1, 4, 1), 4)),
            *(((2, 4), 4), ((2, 4, 0), 2), ((2, 0, 3), 2), ((0, 4, 3), 2)),
        ]
    },
    "group short weight": lambda K: K.group_norm(_x(2, 4, 3), 2, torch.ones(2)),
    **{
        f"{f} {s} {n}": lambda K, f=f, s=s, n=n: getattr(K, f)(_x(*s), n)
        for f in ("layer_norm", "rms_norm")
        for s, n in [
            *(((2, 4), (3,)), ((2, 4), ()), ((), (1,)), ((2, 4), (1, 2, 4)), ((0, 4), (4,)), ((2, 0), (0,))),
            *(((2, 4), 4), ((2, 4), [4])),
        ]
    },
    "layer short weight": lambda K: K.layer_norm(_x(2, 4), (4,), torch.ones(3)),
    "layer one weight": lambda K: K.layer_norm(_x(2, 4), (4,), torch.ones(1)),
    "rms short weight": lambda K: K.rms_norm(_x(2, 4), (4,), torch.ones(3)),
    **{
        f"{name} {x} with {p}": lambda K, name=name, x=x, p=p: CALLS[name](K, *_inputs(dtype=x, params=p))
        for name in ("batch", "instance", "group", "layer")
        for x, p in itertools.permutations(DTYPES, 2)
    },
}


# Which error it is has changed from one PyTorch to the next.
@pytest.mark.skipif(VERSION < (2, 14), reason="errors are those of PyTorch 2.14")
@pytest.mark.parametrize("name", BAD)
def test_the_same_error_as_torch(name):
    assert _type_of_error(lambda: BAD[name](F)) == _type_of_error(lambda: BAD[name](T))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        # Mended: torch divides by zero, returns NaN, or indexes an empty tensor.
        (lambda: F.group_norm(_x(2, 4, 3), 0), RuntimeError, r"num_groups .* got 0 .*\(2, 4, 3\)"),
        *(
            (lambda call=call, eps=eps: call(eps), ValueError, f"eps must be at least 0, got {eps}")
            for eps in (-1.0, math.nan)
            for call in (
                lambda eps: F.batch_norm(_x(2, 3), *torch.ones(2, 3), training=True, eps=eps),
                lambda eps: F.batch_norm(_x(2, 3), *torch.ones(2, 3), eps=eps),
                lambda eps: F.instance_norm(_x(2, 3, 4), eps=eps),
                lambda eps: F.group_norm(_x(2, 4), 2, eps=eps),
                lambda eps: F.layer_norm(_x(2, 4), (4,), eps=eps),
                lambda eps: F.rms_norm(_x(2, 4), (4,), eps=eps),
                lambda eps: F.adain(_x(1, 2, 4), _x(1, 2, 4), eps=eps),
            )
        ),
        (lambda: F.adain(_x(1, 2, 4), _x(1, 3, 4)), ValueError, r"\(1, 3, 4\) for content .*\(1, 2, 4\)"),
        (lambda: F.adain(_x(2, 2, 4), _x(3, 2, 4)), ValueError, "one sample"),
        (lambda: F.adain(_x(2, 3), _x(2, 3, 4)), ValueError, r"\(2, 3, 4\) for content of shape \(2, 3\)"),
        (lambda: F.adain(_x(2, 3, 4), _x(2, 3)), ValueError, r"\(2, 3\) for content of shape \(2, 3, 4\)"),
        (lambda: F.batch_norm(_x(2, 3), torch.zeros(3), None), RuntimeError, "running_var is None"),
        (lambda: F.instance_norm(_x(2, 3, 4), torch.zeros(2)), RuntimeError, r"running_mean .* shape \(3,\)"),
        (
            lambda: F.instance_norm(_x(2, 3, 4), torch.zeros(3), torch.ones(1)),
            RuntimeError,
            r"running_var must have shape \(3,\) .*, got \(1,\)",
        ),
        (lambda: F.batch_norm(_x(1, 3), None, None, training=True), ValueError, r"more than 1 .*\(1, 3\)"),
    ],
)
def test_clear_errors(call, error, says):
    with pytest.raises(error, match=says):
        call()


# --- against definitions ----------------------------------------------------------------------------------


def _numpy(x, axes, eps=1e-5):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)


def test_numpy_in_float64():
    x, *_ = _inputs()
    a = x.numpy()
    n, c, h, d = a.shape
    for ours, theirs in {
        F.batch_norm(x, None, None, training=True): _numpy(a, (0, 2, 3)),
        F.instance_norm(x): _numpy(a, (2, 3)),
        F.group_norm(x, 3): _numpy(a.reshape(n, 3, c // 3, h, d), (2, 3, 4)).reshape(a.shape),
        F.layer_norm(x, x.shape[1:]): _numpy(a, (1, 2, 3)),
        F.rms_norm(x, (d,), eps=1e-5): a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5),
    }.items():
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-13)


def test_worked_out_by_hand():
    # Mean 2 and variance 4; with eps = 12 the std is 4. Then γ = 2, β = 1.
    x = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    two, one = torch.full((2,), 2.0), torch.ones(2)
    expected = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    torch.testing.assert_close(F.layer_norm(x, (2,), two, one, eps=12.0), expected)
    torch.testing.assert_close(
        F.batch_norm(x.T.contiguous(), None, None, two, one, True, eps=12.0), expected.T
    )
    torch.testing.assert_close(
        F.rms_norm(torch.tensor([[1.0, 7.0]]), (2,), eps=11.0) * 6, x.new([[1.0, 7.0]])
    )


def test_all_axes_may_be_normalized_over():
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(F.rms_norm(x, (2,), eps=0.0), x / math.sqrt(12.5))
    torch.testing.assert_close(F.layer_norm(x, (2,), eps=0.0), torch.tensor([-1.0, 1.0], dtype=x.dtype))


def test_running_statistics_by_hand_and_as_onnx_defines_them():
    """Values 1, 3, 8: mean 4, biased variance 26/3, unbiased 13."""
    x = torch.tensor([[1.0], [3.0], [8.0]])
    mean, var = torch.tensor([10.0]), torch.tensor([100.0])
    F.batch_norm(x, mean, var, training=True, momentum=0.25)
    assert (mean.item(), var.item()) == (0.75 * 10 + 0.25 * 4, 0.75 * 100 + 0.25 * 13)
    # ONNX BatchNormalization-15: running = old · momentum + new · (1 − momentum), with the biased variance.
    onnx_momentum = 0.75
    onnx_mean = 10 * onnx_momentum + 4 * (1 - onnx_momentum)
    onnx_var = 100 * onnx_momentum + 26 / 3 * (1 - onnx_momentum)
    assert mean.item() == onnx_mean
    m = len(x)
    assert var.item() - 75 == pytest.approx((onnx_var - 75) * m / (m - 1))


def test_the_unbiased_variance_of_two_values_is_twice_the_biased_one():
    mean, var = torch.zeros(1), torch.ones(1)
    F.batch_norm(torch.tensor([[1.0], [3.0]]), mean, var, training=True, momentum=1.0)
    assert (mean.item(), var.item()) == (2.0, pytest.approx(2.0))


def test_as_many_groups_and_samples_as_positions():
    x = torch.randn(2, 2, 4, dtype=torch.float64)
    np.testing.assert_allclose(F.group_norm(x, 1).numpy(), _numpy(x.numpy(), (1, 2)), atol=1e-13)


def test_onnx_group_normalization():
    """GroupNormalization-21: (N, C, …) → (N, G, −1), normalized over the last axis, scaled per channel."""
    x, w, b = _inputs()
    rows = x.numpy().reshape(len(x), 3, -1)
    y = _numpy(rows, (2,)).reshape(x.shape) * w.numpy()[:, None, None] + b.numpy()[:, None, None]
    np.testing.assert_allclose(F.group_norm(x, 3, w, b).numpy(), y, atol=1e-13)


@pytest.mark.parametrize("dtypes", list(itertools.product([torch.float32, torch.float64], repeat=2)), ids=str)
def test_instance_norm_averages_running_statistics_over_samples(dtypes):
    if dtypes[0] != dtypes[1] and VERSION < (2, 14):
        pytest.skip("older versions of torch.nn.functional.instance_norm refuse other dtypes")
    x, *_ = _inputs(dtype=dtypes[0])
    ours, theirs = ([torch.zeros(C, dtype=dtypes[1]), torch.ones(C, dtype=dtypes[1])] for _ in range(2))
    F.instance_norm(x, *ours, momentum=0.3)
    T.instance_norm(x, *theirs, momentum=0.3)
    torch.testing.assert_close([t.to(x.dtype) for t in ours], [t.to(x.dtype) for t in theirs])
    for a, b in itertools.pairwise(K.instance_norm(x, *ours, use_input_stats=False) for K in (F, T)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("norm", ["batch_norm", "instance_norm"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.003, 1.0, 400.0])
def test_running_statistics_in_half_precision_are_computed_in_float32(norm, dtype, scale):
    """A variance of 160,000 is beyond float16, the tenth of it that is added is not; and where the running
    variance is about as small as eps, their sum in half precision would be off by a place."""
    x = (scale * torch.randn(16, C, 8, D)).to(dtype)
    half = [torch.zeros(C, dtype=dtype), torch.full((C,), scale**2 / 10, dtype=dtype)]
    wide = [t.double() for t in half]
    getattr(F, norm)(x, *half, None, None, True)
    getattr(F, norm)(x.double(), *wide, None, None, True)
    for a, b in zip(half, wide, strict=True):
        assert a.dtype == dtype
        assert a.isfinite().all()
        torch.testing.assert_close(a.double(), b, rtol=torch.finfo(dtype).eps / 2 * 1.01, atol=1e-7)
    y = getattr(F, norm)(x, *half, None, None, False)
    exact = getattr(F, norm)(x.double(), *(t.double() for t in half), None, None, False)
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(dtype).eps / 2 * 1.01, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_eps_is_the_machine_epsilon_of_the_computation(dtype):
    x = torch.full((1, 4), 1e-4, dtype=dtype)
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    expected = 1e-4 / math.sqrt(1e-8 + torch.finfo(computed).eps)
    assert F.rms_norm(x, (4,))[0, 0].item() == pytest.approx(expected, rel=2 * torch.finfo(dtype).eps + 1e-3)


@pytest.mark.parametrize("name", [n for n in CALLS if "eval" not in n and n != "rms"])
def test_a_mean_ten_thousand_times_the_std(name, device):
    """Both the float32 result and its gradients, against float64 on the very same numbers."""
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(4, C, 8, D, generator=g) + 1e4).to(device)
    _, w, b = _inputs(dtype=torch.float32, device=device)
    ours = _with_gradients(CALLS[name], F, x, w, b)
    truth = _with_gradients(CALLS[name], F, x.double(), w.double(), b.double())
    # float32 keeps 1e4 to ±0.0005, and the mean with it: that much of a std, and its trace in the sums.
    for o, t in zip(ours, truth, strict=True):
        assert (o - t).abs().max() <= 2e-3 * max(1.0, t.abs().max().item())


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", ["batch", "instance", "group", "one_group"])
def test_a_large_mean_in_any_memory_format(name, memory):
    """Torch adds up the values of axes that are apart in memory one after the other."""
    x = torch.randn(1, C, 300, 200, generator=torch.Generator().manual_seed(0)) + 1e4
    _, w, b = _inputs(dtype=torch.float32)
    ours = CALLS[name](F, x.contiguous(memory_format=memory), w, b)
    truth = CALLS[name](F, x.double(), w.double(), b.double())
    assert (ours - truth).abs().max() <= 5e-3


@pytest.mark.parametrize("name", [n for n in CALLS if "eval" not in n])
def test_a_constant_input_has_a_finite_gradient(name):
    x, w, b = _inputs(dtype=torch.float32)
    y, *grads = _with_gradients(CALLS[name], F, torch.full_like(x, 3.0), w, b)
    assert all(t.isfinite().all() for t in (y, *grads))


@pytest.mark.parametrize("name", ["batch", "instance", "layer", "rms"])
def test_an_empty_batch_has_gradients_of_zero(name):
    x, w, b = _inputs()
    y, dx, dw, _ = _with_gradients(lambda K, x, w, b: CALLS[name](K, x, w, b + 0 * w), F, x[:0], w, b)
    assert y.shape == dx.shape == (0, *x.shape[1:])
    assert not dw.any()


# --- AdaIN ------------------------------------------------------------------------------------------------


def test_adain_gives_the_statistics_of_the_style():
    content, *_ = _inputs((3, C, 4, 5))
    style = 2 * _inputs((3, C, 7, 3), seed=1)[0] + 4
    y = F.adain(content, style, eps=0.0)
    for a, b in zip(
        torch.var_mean(y, (2, 3), correction=0), torch.var_mean(style, (2, 3), correction=0), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(F.adain(content, content), content)
    one = F.adain(content, style[:1])
    torch.testing.assert_close(one[1:2], F.adain(content[1:2], style[:1]))
    assert F.adain(content.half(), style.half()).dtype == torch.float16


def test_adain_gradients():
    content, style = _inputs((2, 3, 2, 3))[0].requires_grad_(), _inputs((1, 3, 5), seed=1)[0].requires_grad_()
    assert torch.autograd.gradcheck(F.adain, (content, style))
    assert torch.autograd.gradgradcheck(F.adain, (content, style))


# --- γ and β from elsewhere: no function of its own, but `denormalize` --------------------------------------


def test_film_and_conditional_instance_norm():
    """FiLM(F_c) = γ_c F_c + β_c (Perez et al. 2018, eq. 2), after a batch norm without γ and β, as in its
    section 3.2; and z = γ_s (x − μ)/σ + β_s (Dumoulin et al. 2017, eq. 5), which is instance norm.
    """
    x, *_ = _inputs((4, C, 3, D))
    gamma, beta = torch.randn(2, 4, C, dtype=x.dtype)
    for norm, axes in (
        (lambda x: F.batch_norm(x, None, None, training=True), (0, 2, 3)),
        (F.instance_norm, (2, 3)),
    ):
        ours = denormalize(norm(x), beta[:, :, None, None], gamma[:, :, None, None])
        z = _numpy(x.numpy(), axes)
        expected = np.empty_like(z)
        for n in range(4):
            for c in range(C):
                expected[n, c] = gamma[n, c].item() * z[n, c] + beta[n, c].item()
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-13)


def test_spade():
    """γ_cyx(m) (h − μ_c)/σ_c + β_cyx(m) with σ_c² = mean(h²) − μ_c² (Park et al. 2019, eqs. 1 to 3)."""
    h, *_ = _inputs((4, C, 3, D))
    gamma, beta = torch.randn(2, 4, C, 3, D, dtype=h.dtype)
    ours = denormalize(F.batch_norm(h, None, None, training=True, eps=1e-300), beta, gamma)
    mean = h.mean((0, 2, 3))
    std = (h.square().mean((0, 2, 3)) - mean.square()).sqrt()
    for n, c, y, x in itertools.product(range(4), range(C), range(3), range(D)):
        expected = gamma[n, c, y, x] * (h[n, c, y, x] - mean[c]) / std[c] + beta[n, c, y, x]
        assert ours[n, c, y, x].item() == pytest.approx(expected.item(), abs=1e-12)


def test_adaln_zero():
    """x + α · block(modulate(LN(x), β, γ)), modulate(z, β, γ) = z (1 + γ) + β (Peebles & Xie 2023, figure 3
    and code): the identity where α, β and γ begin at 0, and then only α has a gradient.
    """
    tokens = torch.randn(4, 7, D, dtype=torch.float64)
    condition = torch.randn(4, 3, dtype=torch.float64)
    predict = torch.nn.Linear(3, 3 * D).double()
    block = torch.nn.Linear(D, D).double()

    def out():
        shift, scale, gate = predict(condition)[:, None].chunk(3, -1)
        return tokens + gate * block(denormalize(F.layer_norm(tokens, (D,), eps=1e-6), shift, 1 + scale))

    torch.nn.init.zeros_(predict.weight), torch.nn.init.zeros_(predict.bias)
    assert torch.equal(out(), tokens)
    out().pow(3).sum().backward()
    of_shift, of_scale, of_gate = predict.weight.grad.chunk(3)
    assert not of_shift.any()
    assert not of_scale.any()
    assert of_gate.all()

    torch.nn.init.normal_(predict.weight)
    shift, scale, gate = predict(condition).chunk(3, -1)
    z = torch.from_numpy(_numpy(tokens.numpy(), -1, eps=1e-6))
    for n in range(4):
        for t in range(7):
            expected = tokens[n, t] + gate[n] * block(z[n, t] * (1 + scale[n]) + shift[n])
            torch.testing.assert_close(out()[n, t], expected)


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 3, 1, 1), (1, 3, 4, 5), (2, 3, 4, 5)])
def test_gradients_reach_what_predicts_gamma_and_beta(shape):
    x, gamma, beta = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4, 5), shape, shape)
    )
    assert torch.autograd.gradcheck(lambda x, g, b: denormalize(F.instance_norm(x), b, g), (x, gamma, beta))


X = torch.rand(2, 3, 4)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("input", lambda junk: F.batch_norm(junk, None, None, training=True)),
        ("running_mean", lambda junk: F.batch_norm(X, junk, X[0, :, 0])),
        ("running_var", lambda junk: F.batch_norm(X, X[0, :, 0], junk)),
        ("weight", lambda junk: F.batch_norm(X, None, None, junk, training=True)),
        ("bias", lambda junk: F.batch_norm(X, None, None, None, junk, training=True)),
        ("input", F.instance_norm),
        ("running_mean", lambda junk: F.instance_norm(X, junk, junk)),
        ("weight", lambda junk: F.instance_norm(X, weight=junk)),
        ("input", lambda junk: F.group_norm(junk, 1)),
        ("bias", lambda junk: F.group_norm(X, 3, None, junk)),
        ("input", lambda junk: F.layer_norm(junk, (4,))),
        ("weight", lambda junk: F.layer_norm(X, (4,), junk)),
        ("input", lambda junk: F.rms_norm(junk, (4,))),
        ("weight", lambda junk: F.rms_norm(X, (4,), junk)),
        ("content", lambda junk: F.adain(junk, X)),
        ("style", lambda junk: F.adain(X, junk)),
    ],
)
def test_what_is_no_tensor_is_named(name, call):
    for junk in ([[1.0, 2.0]], 2.0, np.ones(3)):
        with pytest.raises(TypeError, match=f"^{name} must be a tensor, got {type(junk).__name__}$"):
            call(junk)
