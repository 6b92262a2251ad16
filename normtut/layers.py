"""The normalization layers of `torch.nn`, computed by `normtut.functional`.

Each is a subclass of its namesake that overrides ``forward``. All else is torch's: constructor, parameters,
buffers, ``state_dict``, repr. So either can replace the other, and torch's tools see ours:
`torch.optim.swa_utils.update_bn`, ``nn.SyncBatchNorm.convert_sync_batchnorm``,
`torch.nn.utils.fuse_conv_bn_eval`, ``isinstance``. Two do not: tools that ask for the class itself, such as
``torch.ao.quantization.fuse_modules``, want ``replace_norms(model, back=True)`` first; and `SyncBatchNorm` is
no ``nn.SyncBatchNorm``, which `torch.nn.parallel.DistributedDataParallel` refuses on a CPU.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules import batchnorm, instancenorm

from . import functional as F
from .distributed import sync_batch_norm
from .reparam import fold_batch_norm

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

_M = TypeVar("_M", bound=nn.Module)
_Running = tuple[Tensor | None, Tensor | None]


class _BatchNorm(batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        """Normalize with the batch's statistics in training, with the running ones in eval."""
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the average of all batches so far
                momentum = 1.0 / float(self.num_batches_tracked)
        own = self.training or (self.running_mean is None and self.running_var is None)
        keep = not self.training or self.track_running_stats
        running = (self.running_mean, self.running_var) if keep else (None, None)
        return self._normalize(input, running, own, momentum)

    def _normalize(self, x: Tensor, running: _Running, own: bool, momentum: float) -> Tensor:
        return F.batch_norm(x, *running, self.weight, self.bias, own, momentum, self.eps)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`: input (N, C) or (N, C, L)."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`: input (N, C, H, W)."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`: input (N, C, D, H, W)."""


class SyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm`, on CPU workers too: input (N, C, *), N ≥ 0 and different on each process.

    In training, and where `torch.distributed` runs more than one process, all of them share the statistics of
    their batches together (`normtut.distributed.sync_batch_norm`). Otherwise it is a plain batch norm.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNorm2d(8))
    >>> SyncBatchNorm.convert_sync_batchnorm(model)[1].__class__.__name__
    'SyncBatchNorm'
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
        **bias: bool,  # a keyword of newer versions of torch
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **bias)
        self.process_group = process_group

    @classmethod
    def convert_sync_batchnorm(cls, module: _M, process_group: Any = None) -> _M:
        """``module``, whose batch norms, ours or torch's, have been made such layers, in place.

        Nothing but their class changes. Call it before `torch.nn.parallel.DistributedDataParallel` wraps the
        model.

        Raises:
            TypeError: naming them, if there are batch norms of a class of their own, which may do more than
                normalize, or lazy ones that have not seen a batch. Then nothing is changed.
        """
        if strangers := _strangers(module, batchnorm._BatchNorm):
            raise TypeError(f"cannot make a SyncBatchNorm of {strangers}")
        for layer in module.modules():
            if isinstance(layer, batchnorm._BatchNorm):
                layer.__class__ = cls
                layer.process_group = process_group
        return module

    _check_input_dim = nn.SyncBatchNorm._check_input_dim

    def _normalize(self, x: Tensor, running: _Running, own: bool, momentum: float) -> Tensor:
        together = self.training and dist.is_available() and dist.is_initialized()
        if not (together and dist.get_world_size(self.process_group) > 1):
            return super()._normalize(x, running, own, momentum)
        return sync_batch_norm(x, *running, self.weight, self.bias, momentum, self.eps, self.process_group)


class _InstanceNorm(instancenorm._InstanceNorm):
    def _apply_instance_norm(self, input: Tensor) -> Tensor:  # for ``forward``, which has checked the shape
        """Normalize each sample with its own statistics, or, tracked and in eval, the running ones."""
        own = self.training or not self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        running = self.running_mean, self.running_var
        return F.instance_norm(input, *running, self.weight, self.bias, own, momentum, self.eps)


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """`torch.nn.InstanceNorm1d`: input (N, C, L) or (C, L)."""


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d`: input (N, C, H, W) or (C, H, W)."""


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d`: input (N, C, D, H, W) or (C, D, H, W)."""


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm`: input (*, normalized_shape)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize over the last axes."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm`: input (*, normalized_shape)."""

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the root mean square over the last axes."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`: input (N, C, *)."""

    @functools.wraps(nn.GroupNorm.__init__)  # type: ignore[misc]  # for the sake of the signature
    def __init__(self, num_groups: int, num_channels: int, *args: Any, **kwargs: Any) -> None:
        # 0 is what becomes of C // 32 in a narrow layer: torch divides by it. Older torch names no numbers.
        if num_groups <= 0 or num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        super().__init__(num_groups, num_channels, *args, **kwargs)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each group of channels of each sample."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


_BATCH = BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
_OTHER = InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, LayerNorm, RMSNorm, GroupNorm
#: Of each layer of torch, ours.
_OURS: dict[type, type] = {getattr(nn, ours.__name__): ours for ours in (*_BATCH, *_OTHER)}


def replace_norms(model: nn.Module, *, back: bool = False) -> int:
    """Make the normalization layers of any model ours, in place; ``back=True`` makes them torch's again.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> replace_norms(model)
    1
    >>> isinstance(model[1], BatchNorm2d)
    True

    Nothing but the class of each layer changes: parameters and buffers are the same objects, so an optimizer
    that holds them goes on working, and so do hooks.

    Returns:
        How many layers were replaced. A layer that the model uses twice is one.

    Warns:
        UserWarning: naming them, if there are normalization layers of a class of their own, which may do more
            than normalize, or lazy ones that have not seen a batch. They stay as they are.
    """
    if strangers := _strangers(model, (batchnorm._BatchNorm, instancenorm._InstanceNorm, *_OURS)):
        warnings.warn(f"replace_norms left as they are: {strangers}", stacklevel=2)
    twins = {ours: torchs for torchs, ours in _OURS.items()} if back else _OURS
    layers = [module for module in model.modules() if type(module) in twins]
    for layer in layers:
        layer.__class__ = twins[type(layer)]
    return len(layers)


def _strangers(model: nn.Module, kinds: type | tuple[type, ...]) -> str:
    """The layers of these kinds that are neither torch's own nor ours: ``"layer1.bn (BNAct)"``."""
    found = [
        f"{name or 'the model itself'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, kinds) and type(module) not in {*_OURS, *_OURS.values()}
    ]
    why = ": a subclass may do more than normalize, and a lazy layer has to see a batch first"
    return ", ".join(found) + why if found else ""
