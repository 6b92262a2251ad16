"""Normalization of weights instead of activations: spectral norm, weight norm, weight standardization.

Each wraps a parameter of a module, and the module goes on as before: whoever reads ``module.weight`` gets the
normalized one, computed from the parameter that the optimizer sees. `torch.nn.utils.parametrize` does the
bookkeeping; ``parametrize.remove_parametrizations(module, "weight")`` makes the present weight permanent.

`fold_batch_norm` goes the other way: a normalization of activations, once its statistics no longer change, is
a scale of the weights before it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from .core import check_tensor, moments, normalize

__all__ = [
    "conv_singular_values",
    "fold_batch_norm",
    "power_iteration",
    "spectral_norm",
    "standardize",
    "weight_norm",
    "weight_standardization",
]

_M = TypeVar("_M", bound=nn.Module)


def power_iteration(
    matrix: Tensor, v: Tensor, steps: int = 1, *, eps: float = 1e-12
) -> tuple[Tensor, Tensor]:
    r"""Singular vectors (u, v) of the largest singular value, found by multiplying again and again.

    >>> w = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    >>> u, v = power_iteration(w, torch.ones(3), steps=20)
    >>> torch.dot(u, w @ v)                      # σ
    tensor(3.)

    .. math:: u \leftarrow \frac{W v}{\lVert W v\rVert}, \qquad
              v \leftarrow \frac{W^\top u}{\lVert W^\top u\rVert}, \qquad \sigma \approx u^\top W v

    Miyato et al. 2018, Algorithm 1. The error of the vectors falls like
    :math:`(\sigma_2/\sigma_1)^{2\,\text{steps}}`; that of σ, which is approached from below, like its square.

    Args:
        matrix: (rows, columns).
        v: where to start, (columns,), of any length but zero; last time's result, or random.
        steps: how often.
        eps: what a vector's length is at least, when it is divided by it.

    Returns:
        ``(u, v)`` of shapes (rows,) and (columns,) and length 1 (0 if W v is zero). No gradient flows through
        them.

    Raises:
        ValueError: if the shapes do not fit, ``steps`` is not positive, or v is all zeros (which is not
            looked into under `torch.compile` and `torch.vmap`).
    """
    check_tensor("matrix", matrix)
    check_tensor("v", v)
    if matrix.ndim != 2 or v.shape != matrix.shape[1:]:
        raise ValueError(
            "matrix must be (rows, columns) and v (columns,), "
            f"got matrix of shape {tuple(matrix.shape)} and v of shape {tuple(v.shape)}"
        )
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    if not torch.compiler.is_compiling():
        zero = False
        with suppress(RuntimeError):  # under vmap, and on the meta device, there are no values to look into
            zero = not v.any()
        if zero:
            raise ValueError(f"v of shape {tuple(v.shape)} is all zeros: no multiplication changes that")
    return _multiply(matrix, v, steps, eps)


def _multiply(matrix: Tensor, v: Tensor, steps: int, eps: float) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        for _ in range(steps):
            u = unit(matrix @ v, dim=0, eps=eps)
            v = unit(matrix.mH @ u, dim=0, eps=eps)
    return u, v


def spectral_norm(
    module: _M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> _M:
    r"""Divide a weight by its largest singular value, so that the layer stretches nothing: ``W / σ(W)``.

    >>> layer = spectral_norm(nn.Linear(20, 10), n_power_iterations=10)
    >>> for _ in range(10):
    ...     _ = layer(torch.randn(4, 20))        # σ is refined whenever the weight is used in training
    >>> torch.linalg.matrix_norm(layer.weight, 2).item() < 1.01
    True

    .. math:: \bar W = W / \sigma(W), \qquad
              \sigma(W) = \max_{h \neq 0} \frac{\lVert W h\rVert}{\lVert h\rVert}

    Miyato et al. 2018, equations (6) to (8). Interchangeable with
    `torch.nn.utils.parametrizations.spectral_norm`: the same numbers from the same seed, the same names in
    the ``state_dict``. One power iteration is made each time the weight is read in training mode, none in
    eval.

    A weight of more than two axes is flattened to a matrix, output channels first, and it is that matrix
    whose norm becomes 1. A convolution's own norm is then between 1 and √(kernel height × kernel width): see
    `conv_singular_values`. A vector is divided by its length.

    Args:
        module: the module that owns the weight. It is changed, and returned.
        name: of its parameter.
        n_power_iterations: per reading of the weight.
        eps: what a vector's length is at least, when it is divided by it.
        dim: the axis of output channels; 0, but 1 for ``ConvTranspose``.

    Raises:
        ValueError: if there is no such weight; if it is not floating point, not finite, or all zeros (which
            no division brings to norm 1; torch's gives NaN); if ``n_power_iterations`` is not positive.
        IndexError: if the weight has no axis ``dim``.
    """
    weight = _weight_of(module, name)
    if not weight.is_meta and not weight.any():
        raise ValueError(f"{name} of shape {tuple(weight.shape)} is all zeros: no scale gives it norm 1")
    axis = _output_axis(module, name, weight) if dim is None else dim
    parametrize.register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, axis, eps))
    return module


class _SpectralNorm(nn.Module):
    # The names of the buffers are those of torch's class: a state_dict fits both.
    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(f"dim must be an axis of the weight of shape {tuple(weight.shape)}, got {dim}")
        if n_power_iterations < 1:
            raise ValueError(f"n_power_iterations must be positive, got {n_power_iterations}")
        self.n_power_iterations, self.dim, self.eps = n_power_iterations, dim, eps
        if weight.ndim > 1:
            matrix = self._matrix(weight.detach())
            self.register_buffer("_u", unit(torch.randn_like(matrix[:, 0]), dim=0, eps=eps))
            self.register_buffer("_v", unit(torch.randn_like(matrix[0]), dim=0, eps=eps))
            self._iterate(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1)

    def _iterate(self, matrix: Tensor, steps: int) -> None:
        # Not the function with the checks: looking at v would make a GPU wait, each time the weight is read.
        u, v = _multiply(matrix, self._v, steps, self.eps)
        # In place: replicas of the module (DataParallel) share these buffers' memory.
        self._u.copy_(u)
        self._v.copy_(v)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return unit(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        # Copies, so that D(real) − D(fake) can still go backward after the second call has moved u and v.
        u, v = self._u.clone(), self._v.clone()
        return weight / torch.dot(u, matrix @ v)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def extra_repr(self) -> str:
        return f"n_power_iterations={self.n_power_iterations}, dim={self.dim}, eps={self.eps}"


def weight_norm(module: _M, name: str = "weight", dim: int | None = 0) -> _M:
    r"""Learn a weight's length and its direction apart: ``g · v / ‖v‖``.

    >>> layer = weight_norm(nn.Linear(3, 2))
    >>> [tuple(p.shape) for p in layer.parameters()]             # bias, g, v
    [(2,), (2, 1), (2, 3)]

    Salimans & Kingma 2016, equation (2). At first it changes nothing: g is the length that the weight has.
    Interchangeable with `torch.nn.utils.parametrizations.weight_norm`: the same names in the ``state_dict``,
    and the older ``weight_g`` and ``weight_v`` are read too.

    Args:
        module: the module that owns the weight. It is changed, and returned.
        name: of its parameter.
        dim: the axis along which every slice has a length of its own; None for one length in all.

    Raises:
        ValueError: if there is no such weight; if it is not floating point or not finite; if a slice is all
            zeros, and so has no direction (torch's gives NaN).
        IndexError: if the weight has no axis ``dim``. Negative axes are refused: torch takes −1 for None.
    """
    weight = _weight_of(module, name)
    if dim is not None and not 0 <= dim < weight.ndim:
        raise IndexError(
            f"dim must be None or an axis from 0 to {weight.ndim - 1} of the weight "
            f"of shape {tuple(weight.shape)}, got {dim}"
        )
    norm = _WeightNorm(dim)
    zeros = norm.length(weight.detach()) == 0
    if not weight.is_meta and zeros.any():
        where = "" if dim is None else f" at {zeros.flatten().nonzero()[0].item()} of axis {dim}"
        raise ValueError(f"{name} of shape {tuple(weight.shape)} is all zeros{where}: it has no direction")
    parametrize.register_parametrization(module, name, norm, unsafe=True)

    def read_old_names(state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
        old = [f"{prefix}{name}_g", f"{prefix}{name}_v"]
        if all(key in state_dict for key in old):
            for i, key in enumerate(old):
                state_dict[f"{prefix}parametrizations.{name}.original{i}"] = state_dict.pop(key)

    module._register_load_state_dict_pre_hook(read_old_names)  # type: ignore[no-untyped-call]
    return module


class _WeightNorm(nn.Module):
    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = dim

    def length(self, weight: Tensor) -> Tensor:
        return torch.norm_except_dim(weight, 2, -1 if self.dim is None else self.dim)

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / self.length(v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.length(weight), weight

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def standardize(weight: Tensor, *, dim: int = 0, eps: float = 1e-5) -> Tensor:
    r"""A weight with mean 0 and variance 1 for every output channel.

    >>> w = standardize(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    >>> w.round(decimals=3)
    tensor([[-1.2250,  0.0000,  1.2250],
            [-1.2250,  0.0000,  1.2250]])

    .. math:: \hat W_{o,k} = \frac{W_{o,k} - \mu_o}{\sigma_o}, \qquad
              \sigma_o = \sqrt{\frac{1}{K}\sum_k (W_{o,k} - \mu_o)^2 + \epsilon}

    where k runs over input channels and kernel positions (Qiao et al. 2019). It is
    `normtut.normalize` by the weight's own `normtut.moments`.

    Args:
        weight: floating point, two axes or more.
        dim: the axis of output channels.
        eps: added to the variance.

    Raises:
        ValueError: if the weight has fewer than two axes, or nothing to average over.
        IndexError: if the weight has no axis ``dim``.
    """
    check_tensor("weight", weight)
    if weight.ndim < 2:
        raise ValueError(f"weight must have two axes or more, got shape {tuple(weight.shape)}")
    if not -weight.ndim <= dim < weight.ndim:
        raise IndexError(f"dim must be an axis of the weight of shape {tuple(weight.shape)}, got {dim}")
    others = [d for d in range(weight.ndim) if d != dim % weight.ndim]
    return normalize(weight, *moments(weight, others, eps=eps))


def weight_standardization(module: _M, name: str = "weight", eps: float = 1e-5) -> _M:
    """Let a layer use its standardized weight; meant for convolutions before a GroupNorm.

    >>> conv = weight_standardization(nn.Conv2d(3, 8, 3))
    >>> conv.weight.mean().abs().item() < 1e-6
    True

    Qiao et al. 2019; see `standardize`. The outputs of such a layer are large (their scale grows with the
    root of the number of inputs), so a normalization has to follow.

    Args:
        module: the module that owns the weight. It is changed, and returned.
        name: of its parameter.
        eps: added to the variance.

    Raises:
        ValueError: if there is no such weight; if it is not floating point, not finite, or has fewer than
            two axes.
    """
    weight = _weight_of(module, name)
    parametrization = _WeightStandardization(_output_axis(module, name, weight), eps)
    parametrization(weight.detach())  # raises now, before anything is changed
    parametrize.register_parametrization(module, name, parametrization)
    return module


class _WeightStandardization(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, weight: Tensor) -> Tensor:
        return standardize(weight, dim=self.dim, eps=self.eps)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def extra_repr(self) -> str:
        return f"dim={self.dim}, eps={self.eps}"


@torch.no_grad()
def fold_batch_norm(conv: nn.Module, bn: nn.Module) -> nn.Module:
    r"""One convolution that does what ``bn(conv(x))`` does in eval mode.

    >>> conv, bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8).eval()
    >>> x = torch.rand(1, 3, 5, 5)
    >>> bool(torch.allclose(fold_batch_norm(conv, bn)(x), bn(conv(x)), atol=1e-6))
    True

    .. math:: W' = \frac{\gamma}{\sigma} W, \qquad b' = \frac{\gamma}{\sigma} (b - \mu) + \beta

    Args:
        conv: a ``Linear``, or a ``Conv1d/2d/3d`` (not transposed); parametrizations become plain weights.
        bn: the batch norm after it, ours or torch's, in eval mode and with running statistics.

    Raises:
        TypeError: if ``conv`` is neither, or ``bn`` no batch norm, or one of them is of a subclass with a
            ``forward`` of its own: who knows what it does with its weight.
        ValueError: if ``bn`` is training or keeps no running statistics, the channels differ, one of them is
            lazy and has not seen a batch, or a hook computes the weight of ``conv``.
    """
    _check_kind("conv", conv, "a Linear or Conv1d/2d/3d", nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    _check_kind("bn", bn, "a batch norm", _BatchNorm)
    if not parametrize.is_parametrized(conv) and not isinstance(conv.weight, nn.Parameter):
        raise ValueError("the weight of conv is not a parameter: remove the hook that computes it first")
    weight: Any = conv.weight
    b: Any = bn
    if b.training or b.running_mean is None:
        wrong = "is in training mode" if b.training else "keeps no running statistics"
        raise ValueError(f"bn {wrong}: it folds as it is in eval mode, with running statistics")
    if len(weight) != b.num_features:
        raise ValueError(f"conv has {len(weight)} output channels, but bn has {b.num_features} features")
    folded: Any = copy.deepcopy(conv)
    if parametrize.is_parametrized(conv):  # `remove_parametrizations` changes the class, which copies share
        folded.__class__ = parametrize.type_before_parametrizations(conv)
        del folded.parametrizations
    scale = (1.0 if b.weight is None else b.weight) / (b.running_var + b.eps).sqrt()
    offset = (0.0 if conv.bias is None else conv.bias) - b.running_mean
    bias = offset * scale + (0.0 if b.bias is None else b.bias)
    folded.weight = nn.Parameter((weight * scale.view(-1, *[1] * (weight.ndim - 1))).to(weight.dtype))
    folded.bias = nn.Parameter(bias.to(weight.dtype))
    return folded  # type: ignore[no-any-return]


def _check_kind(name: str, module: nn.Module, wanted: str, *kinds: type[nn.Module]) -> None:
    """Refuse modules of other kinds, and those that may do something else with their weight."""
    cls = parametrize.type_before_parametrizations(module)
    if not issubclass(cls, kinds):
        raise TypeError(f"{name} must be {wanted}, got {cls.__name__}")
    methods = [cls.forward, getattr(cls, "_conv_forward", cls.forward)]
    if any(method.__module__.partition(".")[0] not in ("torch", "normtut") for method in methods):
        raise TypeError(f"{name} must be {wanted}, got {cls.__name__}, which has a forward of its own")
    if isinstance(module, LazyModuleMixin):
        raise ValueError(f"{name} is a {cls.__name__} that has not seen a batch: run one through it first")


def conv_singular_values(weight: Tensor, size: tuple[int, int]) -> Tensor:
    r"""All singular values of a convolution as the linear map of images that it is, largest first.

    >>> blur = torch.full((1, 1, 3, 3), 1 / 9)       # an average stretches nothing
    >>> conv_singular_values(blur, (16, 16))[0]
    tensor(1.)

    Sedghi, Gupta & Long 2019, Theorem 6: for stride 1 and circular padding the Fourier transform takes the
    map apart into one small matrix (output × input channels) per frequency; their singular values are its.

    Args:
        weight: (output channels, input channels, kernel height, kernel width), without groups.
        size: height and width of the images.

    Returns:
        H · W · min(output, input channels) values.

    Raises:
        ValueError: if the weight does not have four axes, or is larger than the images, or ``size`` is not
            two numbers.
    """
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"size must be (height, width), got {size!r}")
    check_tensor("weight", weight)
    if weight.ndim != 4 or any(k > s for k, s in zip(weight.shape[2:], size, strict=True)):
        raise ValueError(
            "weight must be (out, in, height, width) and no larger than the images, "
            f"got shape {tuple(weight.shape)} for images of {tuple(size)}"
        )
    per_frequency = torch.fft.fft2(weight, s=size).permute(2, 3, 0, 1)
    values: Tensor = torch.linalg.svdvals(per_frequency).flatten()
    return values.sort(descending=True).values


def _weight_of(module: nn.Module, name: str) -> Tensor:
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(module).__name__} has no parameter or buffer named {name!r}")
    # On the meta device, where large models are laid out before they are loaded, there are no values.
    if not weight.is_floating_point() or not (weight.is_meta or weight.isfinite().all()):
        raise ValueError(
            f"{name} of {type(module).__name__} must be floating point and finite, "
            f"got {weight.dtype} of shape {tuple(weight.shape)}"
        )
    return weight


def _output_axis(module: nn.Module, name: str, weight: Tensor) -> int:
    transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
    return 1 if isinstance(module, transposed) and weight.ndim > 1 else 0
