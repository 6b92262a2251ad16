import copy
import inspect
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.nn.utils import parametrizations, parametrize

from normtut import reparam

LAYERS = {
    "linear": lambda: nn.Linear(7, 5),
    "wide linear": lambda: nn.Linear(3, 9),
    "conv": lambda: nn.Conv2d(3, 8, 3),
    "grouped conv": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "transposed conv": lambda: nn.ConvTranspose2d(3, 8, 3),
    "transposed conv1d": lambda: nn.ConvTranspose1d(3, 8, 3),
    "transposed conv3d": lambda: nn.ConvTranspose3d(3, 8, 2),
    "conv1d": lambda: nn.Conv1d(3, 4, 5),
}
INPUTS = {
    "linear": (6, 7),
    "wide linear": (6, 3),
    "conv": (2, 3, 9, 9),
    "grouped conv": (2, 4, 9, 9),
    "transposed conv": (2, 3, 6, 6),
    "transposed conv1d": (2, 3, 11),
    "transposed conv3d": (2, 3, 3, 4, 3),
    "conv1d": (2, 3, 11),
}
layer = pytest.mark.parametrize("kind", LAYERS)


def twins(kind, ours, theirs):
    """The same layer, wrapped by normtut and by torch, from the same seed."""
    made = []
    for wrap in (ours, theirs):
        torch.manual_seed(0)
        made.append(wrap(LAYERS[kind]()))
    return made


WRAPS = {
    "spectral": (reparam.spectral_norm, parametrizations.spectral_norm),
    "spectral, 3 iterations": (
        lambda m: reparam.spectral_norm(m, n_power_iterations=3),
        lambda m: parametrizations.spectral_norm(m, n_power_iterations=3),
    ),
    "spectral, other axis": (
        lambda m: reparam.spectral_norm(m, dim=-1),
        lambda m: parametrizations.spectral_norm(m, dim=-1),
    ),
    "spectral, bias": (
        lambda m: reparam.spectral_norm(m, "bias"),
        lambda m: parametrizations.spectral_norm(m, "bias", dim=0),
    ),
    "weight": (reparam.weight_norm, parametrizations.weight_norm),
    "weight, dim 1": (
        lambda m: reparam.weight_norm(m, dim=1),
        lambda m: parametrizations.weight_norm(m, dim=1),
    ),
    "weight, one length": (
        lambda m: reparam.weight_norm(m, dim=None),
        lambda m: parametrizations.weight_norm(m, dim=None),
    ),
}
wrap = pytest.mark.parametrize("wrap", WRAPS)


@layer
@wrap
def test_training_agrees_with_torch_step_by_step(kind, wrap):
    ours, theirs = twins(kind, *WRAPS[wrap])
    x = torch.randn(INPUTS[kind])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    for _ in range(4):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            grads = {n: p.grad for n, p in model.named_parameters()}
            optimizer.step()
            model.seen = grads
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert ours.seen.keys() == theirs.seen.keys()
        for name, grad in ours.seen.items():
            torch.testing.assert_close(grad, theirs.seen[name], rtol=1e-4, atol=1e-6)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-4, atol=1e-6)


@layer
@wrap
@pytest.mark.parametrize("direction", ["ours to torch", "torch to ours"])
def test_a_state_dict_fits_both(kind, wrap, direction):
    ours, theirs = twins(kind, *WRAPS[wrap])
    source, target = (ours, theirs) if direction == "ours to torch" else (theirs, ours)
    for _ in range(3):
        source(torch.randn(INPUTS[kind]))
    for p in target.parameters():
        nn.init.normal_(p)
    target.load_state_dict(source.state_dict(), strict=True)
    source.eval(), target.eval()
    x = torch.randn(INPUTS[kind])
    torch.testing.assert_close(source(x), target(x))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weight_norm_reads_the_older_names():
    old = nn.utils.weight_norm(nn.Linear(3, 2)) if hasattr(nn.utils, "weight_norm") else None
    if old is None:
        pytest.skip("this torch no longer has the hook-based weight_norm")
    new = reparam.weight_norm(nn.Linear(3, 2))
    new.load_state_dict(old.state_dict(), strict=True)
    torch.testing.assert_close(new.weight, old.weight)


@pytest.mark.parametrize("shape", [(5, 5), (3, 20), (20, 3), (8, 3, 3, 3), (1, 4), (4, 1)])
def test_power_iteration_finds_what_the_svd_finds(shape):
    w = torch.randn(shape, dtype=torch.float64).flatten(1)
    u, v = reparam.power_iteration(w, torch.randn(w.shape[1], dtype=torch.float64), steps=2000)
    left, s, right = torch.linalg.svd(w)
    assert (u @ w @ v).item() == pytest.approx(s[0].item(), rel=1e-9)
    assert abs(u @ left[:, 0]).item() == pytest.approx(1, abs=1e-6)
    assert abs(v @ right[0]).item() == pytest.approx(1, abs=1e-6)


def test_one_step_of_power_iteration_by_hand():
    u, v = reparam.power_iteration(torch.diag(torch.tensor([3.0, 4.0])), torch.ones(2))
    torch.testing.assert_close(u, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(v, torch.tensor([9.0, 16.0]) / math.sqrt(81 + 256))


@pytest.mark.parametrize("name", ["spectral_norm", "weight_norm"])
def test_arguments_and_their_defaults_are_torchs(name):
    ours, theirs = (inspect.signature(getattr(lib, name)).parameters for lib in (reparam, parametrizations))
    assert {k: p.default for k, p in ours.items()} == {k: p.default for k, p in theirs.items()}
    assert list(ours) == list(theirs)


def test_what_a_matrix_of_zeros_stretches_has_length_0():
    u, v = reparam.power_iteration(torch.zeros(2, 3), torch.ones(3))
    assert (u.tolist(), v.tolist()) == ([0.0] * 2, [0.0] * 3)


def test_power_iteration_converges_at_the_rate_in_its_docstring():
    """Vectors: (σ₂/σ₁)² a step. σ: its square."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    p, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    w = torch.from_numpy(q @ np.diag([1, 0.8, 0.3, 0.2, 0.1, 0.05]) @ p.T)
    v, start = torch.from_numpy(p[:, 0]), torch.from_numpy(p.sum(axis=1))
    angle, sigma = [], []
    for steps in (8, 9, 10):
        a, b = reparam.power_iteration(w, start, steps=steps)
        angle.append(math.sqrt(1 - min(1.0, (b @ v).item() ** 2)))
        sigma.append(1 - (a @ w @ b).item())
    assert sigma[0] > sigma[1] > sigma[2] > 0  # from below
    assert angle[2] / angle[1] == pytest.approx(0.8**2, rel=0.02)
    assert sigma[2] / sigma[1] == pytest.approx(0.8**4, rel=0.02)


def test_power_iteration_compiles_vmaps_and_needs_no_values():
    power = lambda w, v: reparam.power_iteration(w, v, 3)  # noqa: E731
    w, v = torch.randn(5, 6, 4), torch.randn(5, 4)
    compiled = torch.compile(power, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(w[0], v[0]), power(w[0], v[0]))
    torch.testing.assert_close(torch.vmap(power)(w, v)[1][0], power(w[0], v[0])[1])
    assert power(w[0].to("meta"), v[0].to("meta"))[1].shape == (4,)
    layer = reparam.spectral_norm(nn.Linear(4, 3))  # in training, where it iterates
    torch.compile(layer, fullgraph=True, backend="aot_eager")(torch.randn(2, 4))


def test_standardize_counts_axes_from_the_end_too():
    w = torch.randn(3, 4, 5)
    assert torch.equal(reparam.standardize(w, dim=-2), reparam.standardize(w, dim=1))
    assert torch.equal(reparam.standardize(w, dim=-3), reparam.standardize(w, dim=0))


def test_the_axis_of_standardize_is_said_by_its_name():
    with pytest.raises(TypeError):
        reparam.standardize(torch.randn(3, 4), 1)


def test_spectral_norm_counts_axes_from_the_end_too():
    first, same = twins("conv", *(lambda m, dim=dim: reparam.spectral_norm(m, dim=dim) for dim in (0, -4)))
    assert torch.equal(first.weight, same.weight)


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (1, 1)])
def test_the_spectral_norm_of_one_row_or_column_is_its_length(shape):
    module = nn.Linear(*shape)
    expected = module.weight / module.weight.norm()
    torch.testing.assert_close(reparam.spectral_norm(module).weight, expected)


def test_spectral_norm_becomes_one_in_training_and_stays_in_eval():
    model = reparam.spectral_norm(nn.Conv2d(8, 16, 3))
    norm = lambda: torch.linalg.matrix_norm(model.weight.flatten(1), 2).item()  # noqa: E731
    for _ in range(300):
        model.weight  # noqa: B018  (reading it in training mode is what refines σ)
    assert norm() == pytest.approx(1, abs=1e-4)
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = model.weight.clone()
    for _ in range(50):
        model(torch.randn(2, 8, 5, 5))
    assert torch.equal(model.weight, first)  # pytorch/pytorch#8208: it used to drift
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_gradient_of_spectral_norm_is_the_papers():
    """Miyato et al. 2018, equation (12): (1/σ)(G − λ u vᵀ) with λ = ⟨G, W/σ⟩."""
    model = reparam.spectral_norm(nn.Linear(6, 4, bias=False).double()).eval()
    g = torch.randn(4, 6, dtype=torch.float64)
    (model.weight * g).sum().backward()
    w = model.parametrizations.weight.original
    u, v = (getattr(model.parametrizations.weight[0], name) for name in ("_u", "_v"))
    sigma = u @ w @ v
    expected = (g - (g * w / sigma).sum() * torch.outer(u, v)) / sigma
    torch.testing.assert_close(w.grad, expected.detach())


@pytest.mark.parametrize("wrap", [reparam.spectral_norm, reparam.weight_norm, reparam.weight_standardization])
def test_gradients_agree_with_finite_differences(wrap):
    model = wrap(nn.Conv2d(2, 3, 3).double()).eval()
    parameters = tuple(p for n, p in model.named_parameters() if "original" in n)
    parametrization = model.parametrizations.weight[0]
    assert torch.autograd.gradcheck(parametrization, parameters)


@pytest.mark.parametrize("wrap", [reparam.spectral_norm, reparam.weight_norm, reparam.weight_standardization])
def test_deepcopy_pickle_and_removal(wrap):
    model = wrap(nn.Conv2d(3, 4, 3))
    model(torch.randn(1, 3, 8, 8)).sum().backward()  # pytorch/pytorch#28594: deepcopy failed after a forward
    model.eval()
    x = torch.randn(2, 3, 8, 8)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x), model(x))
    with torch.no_grad():
        next(p for n, p in twin.named_parameters() if "original" in n)[0].add_(1)
    assert not torch.allclose(twin(x), model(x))  # a copy of its own, not a view

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = wrap(nn.Conv2d(3, 4, 3)).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(other(x), model(x))

    before = model(x)
    parametrize.remove_parametrizations(model, "weight")
    assert type(model) is nn.Conv2d
    torch.testing.assert_close(model(x), before)


def test_two_forward_passes_before_one_backward():
    """loss = D(real) − D(fake): the second pass moves u and v while the first still needs them."""
    d = reparam.spectral_norm(nn.Linear(5, 1))
    (d(torch.randn(4, 5)).mean() - d(torch.randn(4, 5)).mean()).backward()
    assert d.parametrizations.weight.original.grad.isfinite().all()


def test_weight_norm_changes_nothing_at_first_and_then_g_is_the_length():
    for kind, make in LAYERS.items():
        plain = make()
        wrapped = reparam.weight_norm(copy.deepcopy(plain))
        x = torch.randn(INPUTS[kind])
        torch.testing.assert_close(wrapped(x), plain(x))
        with torch.no_grad():
            wrapped.parametrizations.weight.original0.fill_(2.5)
        lengths = wrapped.weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 2.5))


def test_weight_norms_gradient_is_orthogonal_to_v():
    """Salimans & Kingma 2016, section 2: so a step can only lengthen v."""
    model = reparam.weight_norm(nn.Linear(7, 5))
    model(torch.randn(6, 7)).square().sum().backward()
    v = model.parametrizations.weight.original1
    assert (v.grad * v).sum(1).abs().max() < 1e-5 * v.grad.abs().max()


@layer
def test_standardize_gives_every_output_channel_mean_0_and_variance_1(kind):
    module = reparam.weight_standardization(LAYERS[kind]())
    axis = 1 if kind.startswith("transposed") else 0
    w = module.weight.detach().double().movedim(axis, 0).flatten(1).numpy()
    raw = module.parametrizations.weight.original.detach().double().movedim(axis, 0).flatten(1).numpy()
    np.testing.assert_allclose(w.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(
        w,
        (raw - raw.mean(1, keepdims=True)) / np.sqrt(raw.var(1, keepdims=True) + 1e-5),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_eps_of_standardized_weights_is_the_callers():
    """Variance 4; with eps = 12 the std is 4."""
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 5.0]]))
    reparam.weight_standardization(module, eps=12.0)
    assert module.weight.tolist() == [[-0.5, 0.5]]


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("eps", [1e-12, 0.5, 3.0])
def test_the_eps_of_spectral_norm_is_the_callers(name, eps):
    """An eps that is larger than a vector's length divides in its place: at the start, and in every step."""
    pair = [
        lambda m: reparam.spectral_norm(m, name, eps=eps),
        lambda m: parametrizations.spectral_norm(m, name, eps=eps),
    ]
    ours, theirs = twins("linear", *pair)
    for _ in range(2):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_standardized_weights_ignore_shift_and_scale():
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(reparam.standardize(5 * w + 100, eps=0.0), reparam.standardize(w, eps=0.0))


def circular_matrix(weight, size):
    """The convolution as an explicit matrix: column k is the answer to the k-th unit image."""
    units = torch.eye(weight.shape[1] * math.prod(size), dtype=weight.dtype)
    units = units.view(-1, weight.shape[1], *size)
    pad = [(k - 1) // 2 for k in weight.shape[2:]]
    padded = nn.functional.pad(units, (pad[1], pad[1], pad[0], pad[0]), mode="circular")
    return conv2d(padded, weight).flatten(1).T


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (2, 3, 3, 3), (2, 2, 1, 1), (2, 2, 3, 5)])
@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
def test_singular_values_of_a_convolution_are_those_of_its_matrix(shape, size):
    weight = torch.randn(shape, dtype=torch.float64)
    explicit = torch.linalg.svdvals(circular_matrix(weight, size))
    torch.testing.assert_close(reparam.conv_singular_values(weight, size), explicit)


def test_a_kernel_may_be_as_large_as_the_image():
    weight = torch.randn(2, 3, 3, 5, dtype=torch.float64)
    explicit = torch.linalg.svdvals(circular_matrix(weight, (3, 5)))
    torch.testing.assert_close(reparam.conv_singular_values(weight, (3, 5)), explicit)


def test_the_reshaped_kernels_norm_bounds_the_convolutions():
    """σ(reshaped) ≤ ‖conv‖ ≤ √(kh·kw) σ(reshaped), and both ends are reached."""
    for seed in range(10):
        weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
        reshaped = torch.linalg.matrix_norm(weight.flatten(1), 2)
        true = reparam.conv_singular_values(weight, (16, 16))[0]
        assert reshaped <= true * 1.0001
        assert true <= 3 * reshaped * 1.0001
    for kernel, ratio in ((torch.ones(3, 3), 3.0), (torch.eye(3)[1].outer(torch.eye(3)[1]), 1.0)):
        weight = kernel.view(1, 1, 3, 3)
        true = reparam.conv_singular_values(weight, (16, 16))[0].item()
        assert true / torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(ratio, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: reparam.spectral_norm(nn.Linear(2, 2), "wieght"), ValueError, "wieght"),
        (lambda: reparam.spectral_norm(nn.ReLU()), ValueError, "ReLU"),
        (lambda: reparam.spectral_norm(nn.Linear(2, 2), n_power_iterations=0), ValueError, "positive, got 0"),
        (lambda: reparam.spectral_norm(nn.Linear(2, 3), dim=2), IndexError, r"\(3, 2\), got 2"),
        (
            lambda: reparam.weight_norm(nn.Linear(2, 3), dim=2),
            IndexError,
            r"an axis from 0 to 1 .*\(3, 2\), got 2",
        ),
        (lambda: reparam.weight_norm(nn.Linear(2, 3), dim=-1), IndexError, "None"),
        (lambda: reparam.weight_standardization(nn.Linear(2, 3), "bias"), ValueError, r"\(3,\)"),
        (lambda: reparam.power_iteration(torch.ones(2, 3), torch.ones(2)), ValueError, r"\(2, 3\)"),
        (lambda: reparam.power_iteration(torch.ones(2, 3), torch.ones(3), 0), ValueError, "got 0"),
        (
            lambda: reparam.power_iteration(torch.eye(3), torch.zeros(3), 3),
            ValueError,
            r"v of shape \(3,\) is all zeros",
        ),
        (
            lambda: reparam.standardize(torch.ones(3, 4), dim=5),
            IndexError,
            r"dim must be an axis .*\(3, 4\), got 5",
        ),
        (lambda: reparam.standardize(torch.ones(3, 4), dim=2), IndexError, "got 2"),
        (lambda: reparam.standardize(torch.ones(3, 4), dim=-3), IndexError, "got -3"),
        (lambda: reparam.standardize(torch.ones(3)), ValueError, r"two axes or more, got shape \(3,\)"),
        (
            lambda: reparam.conv_singular_values(torch.ones(2, 2, 3, 3), 16),
            ValueError,
            r"size must be \(height, width\), got 16",
        ),
        (lambda: reparam.conv_singular_values(torch.ones(2, 2, 3, 3), (8, 8, 8)), ValueError, "size must be"),
        (lambda: reparam.conv_singular_values(torch.ones(1, 1, 5, 5), (4, 8)), ValueError, r"\(4, 8\)"),
        (lambda: reparam.conv_singular_values(torch.ones(3, 3), (4, 4)), ValueError, r"\(3, 3\)"),
    ],
)
def test_errors_name_the_argument_and_the_shape(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("wrap", [reparam.spectral_norm, reparam.weight_norm])
def test_weights_without_a_direction_are_refused_and_left_alone(wrap, bad):
    module = nn.Linear(3, 2)
    nn.init.constant_(module.weight, bad)
    with pytest.raises(ValueError, match=r"weight .*\(2, 3\)"):
        wrap(module)
    assert not parametrize.is_parametrized(module)


def test_weight_norm_names_the_first_dead_row():
    module = nn.Linear(3, 4)
    with torch.no_grad():
        module.weight[1:3] = 0
    with pytest.raises(ValueError, match="at 1 of axis 0"):
        reparam.weight_norm(module)


@pytest.mark.parametrize("wrap", [reparam.spectral_norm, reparam.weight_norm, reparam.weight_standardization])
def test_layers_without_values_are_wrapped_and_loaded_later(wrap):
    """On the meta device models are laid out that are too large to be made twice."""
    real = wrap(nn.Conv2d(3, 4, 3)).eval()
    empty = wrap(nn.Conv2d(3, 4, 3, device="meta"))
    assert empty.weight.is_meta
    assert {k: v.shape for k, v in empty.state_dict().items()} == {
        k: v.shape for k, v in real.state_dict().items()
    }
    loaded = empty.to_empty(device="cpu").eval()
    loaded.load_state_dict(real.state_dict())
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(loaded(x), real(x))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("matrix", lambda junk: reparam.power_iteration(junk, torch.ones(2))),
        ("v", lambda junk: reparam.power_iteration(torch.eye(2), junk)),
        ("weight", reparam.standardize),
        ("weight", lambda junk: reparam.conv_singular_values(junk, (8, 8))),
    ],
)
def test_what_is_no_tensor_is_named(name, call):
    for junk in ([[1.0, 2.0]], np.ones((2, 2))):
        with pytest.raises(TypeError, match=f"^{name} must be a tensor, got {type(junk).__name__}$"):
            call(junk)


def test_the_settings_are_in_the_text_of_a_layer():
    layer = nn.Linear(3, 2)
    for wrap, words in (
        (reparam.spectral_norm, "(0): _SpectralNorm(n_power_iterations=1, dim=0, eps=1e-12)"),
        (reparam.weight_norm, "(0): _WeightNorm(dim=0)"),
        (reparam.weight_standardization, "(0): _WeightStandardization(dim=0, eps=1e-05)"),
    ):
        assert words in repr(wrap(copy.deepcopy(layer)))
