"""The normalization layers of `torch.nn`, as thin modules over `normtut.functional`.

Each has the constructor, the parameters and buffers, the ``state_dict``, the train and eval behaviour and
the errors of its namesake in `torch.nn`, so that either can replace the other.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import functional as F
from .distributed import sync_batch_norm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
    "SyncBatchNorm",
    "fold_batch_norm",
    "replace_norms",
]


class _Norm(nn.Module):
    """Parameters and their repr, shared by all layers."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def _make_parameters(
        self, shape: Sequence[int], weight: bool, bias: bool, device: Any, dtype: Any
    ) -> None:
        for name, wanted in (("weight", weight), ("bias", weight and bias)):
            p = nn.Parameter(torch.empty(tuple(shape), device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, p)

    def reset_parameters(self) -> None:
        """γ = 1 and β = 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if getattr(self, "bias", None) is not None:
            nn.init.zeros_(self.bias)  # type: ignore[arg-type]


class _TrackingNorm(_Norm):
    """What batch and instance normalization share: channels, and running statistics."""

    _version = 2  # of the state dict: since 2 it holds num_batches_tracked
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _ndims: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._make_parameters((num_features,), affine, bias, device, dtype)
        tracked = track_running_stats
        make = {"device": device, "dtype": dtype}
        self.register_buffer("running_mean", torch.zeros(num_features, **make) if tracked else None)
        self.register_buffer("running_var", torch.ones(num_features, **make) if tracked else None)
        count = torch.tensor(0, dtype=torch.long, device=device) if tracked else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches."""
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """γ = 1, β = 0, and no running statistics."""
        self.reset_running_stats()
        super().reset_parameters()

    def extra_repr(self) -> str:
        """The arguments, as `torch.nn` prints them."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        old = (local_metadata.get("version") or 0) < 2
        if old and self.num_batches_tracked is not None:
            state_dict.setdefault(prefix + "num_batches_tracked", torch.tensor(0))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _check_ndim(self, x: Tensor) -> None:
        if x.ndim not in self._ndims:
            wanted = " or ".join(f"{n}D" for n in self._ndims)
            raise ValueError(f"expected {wanted} input (got {x.ndim}D input)")


class _BatchNorm(_TrackingNorm):
    def forward(self, input: Tensor) -> Tensor:
        """Normalize with the batch's statistics in training, with the running ones in eval."""
        self._check_ndim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the average of all batches so far
                momentum = 1.0 / float(self.num_batches_tracked)
        own = self.training or (self.running_mean is None and self.running_var is None)
        keep = not self.training or self.track_running_stats
        running = (self.running_mean, self.running_var) if keep else (None, None)
        return self._normalize(input, *running, own, momentum)

    def _normalize(
        self, x: Tensor, mean: Tensor | None, var: Tensor | None, own: bool, momentum: float
    ) -> Tensor:
        return F.batch_norm(x, mean, var, self.weight, self.bias, own, momentum, self.eps)


class BatchNorm1d(_BatchNorm):
    """`torch.nn.BatchNorm1d`: input (N, C) or (N, C, L)."""

    _ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """`torch.nn.BatchNorm2d`: input (N, C, H, W)."""

    _ndims = (4,)


class BatchNorm3d(_BatchNorm):
    """`torch.nn.BatchNorm3d`: input (N, C, D, H, W)."""

    _ndims = (5,)


class SyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm`, on CPU workers too: input (N, C, *), N ≥ 0 and different on each process.

    In training, and where `torch.distributed` runs more than one process, all of them share the statistics of
    their batches together (`normtut.distributed.sync_batch_norm`). Otherwise it is a plain batch norm.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNorm2d(8))
    >>> SyncBatchNorm.convert_sync_batchnorm(model)[1]
    SyncBatchNorm(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """``module`` with each batch norm, ours or torch's, replaced; parameters stay the same objects.

        Call it before `DistributedDataParallel` wraps the model.
        """
        result = module
        if isinstance(module, _BatchNorm | nn.modules.batchnorm._BatchNorm):
            result = cls.__new__(cls)
            own = {k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()}
            result.__dict__.update(own)
            result.process_group = process_group
        for name, child in module.named_children():
            result.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return result

    def _check_ndim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {x.ndim}D input)")

    def _normalize(
        self, x: Tensor, mean: Tensor | None, var: Tensor | None, own: bool, momentum: float
    ) -> Tensor:
        together = self.training and dist.is_available() and dist.is_initialized()
        if not (together and dist.get_world_size(self.process_group) > 1):
            return super()._normalize(x, mean, var, own, momentum)
        return sync_batch_norm(x, mean, var, self.weight, self.bias, momentum, self.eps, self.process_group)


class _InstanceNorm(_TrackingNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each sample with its own statistics, or, tracked and in eval, the running ones."""
        self._check_ndim(input)
        axis = input.ndim - self._ndims[0]
        if input.shape[axis] != self.num_features:
            message = (
                f"expected input's size at dim={axis} to match num_features ({self.num_features}), "
                f"but got: {input.shape[axis]}."
            )
            if self.affine:
                raise ValueError(message)
            warnings.warn(f"{message} It is not used, because affine=False.", stacklevel=2)
        x = input if axis else input.unsqueeze(0)
        y = F.instance_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return y if axis else y.squeeze(0)


class InstanceNorm1d(_InstanceNorm):
    """`torch.nn.InstanceNorm1d`: input (N, C, L) or (C, L)."""

    _ndims = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """`torch.nn.InstanceNorm2d`: input (N, C, H, W) or (C, H, W)."""

    _ndims = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """`torch.nn.InstanceNorm3d`: input (N, C, D, H, W) or (C, D, H, W)."""

    _ndims = (4, 5)


class LayerNorm(_Norm):
    """`torch.nn.LayerNorm`: input (*, normalized_shape)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._make_parameters(self.normalized_shape, elementwise_affine, bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Normalize over the last axes."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The arguments, as `torch.nn` prints them."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(_Norm):
    """`torch.nn.RMSNorm`: input (*, normalized_shape)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        weight = torch.empty(self.normalized_shape, device=device, dtype=dtype)
        self.register_parameter("weight", nn.Parameter(weight) if elementwise_affine else None)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Divide by the root mean square over the last axes."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """The arguments, as `torch.nn` prints them."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Norm):
    """`torch.nn.GroupNorm`: input (N, C, *)."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups <= 0 or num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._make_parameters((num_channels,), affine, bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each group of channels of each sample."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The arguments, as `torch.nn` prints them."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


_OURS = (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    GroupNorm,
    RMSNorm,
)


def replace_norms(model: nn.Module, *, back: bool = False) -> nn.Module:
    """Swap the normalization layers of any model for ours, in place; ``back=True`` swaps them back.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> replace_norms(model)[1].__class__.__module__
    'normtut.layers'
    >>> replace_norms(model, back=True)[1].__class__.__module__
    'torch.nn.modules.batchnorm'

    Parameters and buffers are the same objects, so an optimizer that holds them goes on working. The
    names and the arguments agree, and so nothing but the class of each layer changes.

    Returns:
        ``model``.
    """
    pairs = [(getattr(nn, ours.__name__), ours) for ours in _OURS]
    twins: dict[type, type] = {o: t for t, o in pairs} if back else dict(pairs)
    for module in model.modules():
        if type(module) in twins:
            module.__class__ = twins[type(module)]
    return model


@torch.no_grad()
def fold_batch_norm(conv: nn.Module, bn: nn.Module) -> nn.Module:
    r"""One convolution that does what ``bn(conv(x))`` does in eval mode.

    >>> conv, bn = nn.Conv2d(3, 8, 3), BatchNorm2d(8).eval()
    >>> x = torch.rand(1, 3, 5, 5)
    >>> bool(torch.allclose(fold_batch_norm(conv, bn)(x), bn(conv(x)), atol=1e-6))
    True

    .. math:: W' = \frac{\gamma}{\sigma} W, \qquad b' = \frac{\gamma}{\sigma} (b - \mu) + \beta

    Args:
        conv: a ``Linear``, or a ``Conv1d/2d/3d`` (not transposed); parametrizations become plain weights.
        bn: the `BatchNorm` after it, ours or torch's, in eval mode and with running statistics.

    Raises:
        TypeError: if ``conv`` is neither, or ``bn`` no batch norm.
        ValueError: if ``bn`` is training or keeps no running statistics, or the channels differ.
    """
    if not isinstance(conv, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise TypeError(f"conv must be a Linear, Conv1d, Conv2d or Conv3d, got {type(conv).__name__}")
    if not isinstance(bn, _BatchNorm | nn.modules.batchnorm._BatchNorm):
        raise TypeError(f"bn must be a batch norm, got {type(bn).__name__}")
    folded: Any = copy.deepcopy(conv)
    if parametrize.is_parametrized(folded):
        # `remove_parametrizations` would change the class, which the copy shares with conv.
        computed = {name: getattr(folded, name) for name in folded.parametrizations}
        folded.__class__ = parametrize.type_before_parametrizations(folded)
        del folded.parametrizations
        for name, value in computed.items():
            folded.register_parameter(name, nn.Parameter(value))
    b: Any = bn
    if b.training or b.running_mean is None:
        raise ValueError("only a batch norm in eval mode and with running statistics can be folded")
    if folded.weight.shape[0] != b.num_features:
        raise ValueError(
            f"conv has {folded.weight.shape[0]} output channels, but bn has {b.num_features} features"
        )
    std = (b.running_var + b.eps).sqrt()
    scale = 1 / std if b.weight is None else b.weight / std
    offset = -b.running_mean if folded.bias is None else folded.bias - b.running_mean
    offset = offset * scale
    folded.weight.copy_(folded.weight * scale.view(-1, *[1] * (folded.weight.ndim - 1)))
    bias = offset if b.bias is None else offset + b.bias
    folded.bias = nn.Parameter(bias.to(folded.weight.dtype))
    return folded  # type: ignore[no-any-return]


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(shape) if isinstance(shape, Iterable) else (operator.index(shape),)
