"""Every normalization layer as moments → normalize → denormalize; only the axes differ.

Signatures, dtypes and errors are those of `torch.nn.functional`. With an input of axes (N, C, *), where
* is none, one or more spatial axes, the statistics are shared over

==================  ==================================  =================================
function            axes that share statistics          statistics per input
==================  ==================================  =================================
`batch_norm`        N and *                             C
`instance_norm`     *                                   N · C
`group_norm`        * and the C/G channels of a group   N · G
`layer_norm`        the last axes, any number of them   one per place on the other axes
`rms_norm`          the same, and the mean is not used  the same
==================  ==================================  =================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .core import denormalize, moments, normalize

__all__ = ["adain", "batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel over the batch and all positions (Ioffe & Szegedy 2015, Algorithm 1).

    >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    >>> batch_norm(x, None, None, training=True)
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]])
    """
    if input.ndim < 2:
        raise RuntimeError(f"input must have at least 2 axes (N, C, *), got shape {tuple(input.shape)}")
    axes = (0, *range(2, input.ndim))
    if training:
        if _count(input, axes) == 1:
            raise ValueError(
                f"batch_norm needs more than 1 value per channel when training, got input of shape "
                f"{tuple(input.shape)}"
            )
        if not eps > 0:
            raise ValueError(f"batch_norm eps must be positive when training, got {eps}")
        if input.numel() == 0:  # nothing to learn from
            return _restore(input, weight, bias)
        mean, std = moments(_wide(input), axes, eps=eps)
        _track(running_mean, running_var, mean, std, eps, momentum, _count(input, axes))
    else:
        if eps < 0:
            raise ValueError(f"batch_norm eps must not be negative, got {eps}")
        if running_mean is None or running_var is None:
            raise RuntimeError("batch_norm needs running_mean and running_var when not training")
        mean, std = _channels(running_mean, input), _channels((running_var + eps).sqrt(), input)
    return _restore(normalize(_wide(input), mean, std), weight, bias).to(input.dtype)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel of each sample over its positions (Ulyanov et al. 2016, equation (4)).

    >>> x = torch.tensor([[[1.0, 3.0]], [[10.0, 30.0]]])
    >>> instance_norm(x)
    tensor([[[-1.0000,  1.0000]],
    <BLANKLINE>
            [[-1.0000,  1.0000]]])
    """
    axes = tuple(range(2, input.ndim))
    if use_input_stats:
        if _count(input, axes) == 1:
            raise ValueError(
                f"instance_norm needs more than 1 position per channel, got input of shape "
                f"{tuple(input.shape)}"
            )
        mean, std = moments(_wide(input), axes, eps=eps)
        _track(running_mean, running_var, mean, std, eps, momentum, _count(input, axes))
    else:
        if running_mean is None or running_var is None:
            raise RuntimeError("instance_norm needs running_mean and running_var with use_input_stats=False")
        mean, std = _channels(running_mean, input), _channels((running_var + eps).sqrt(), input)
    return _restore(normalize(_wide(input), mean, std), weight, bias).to(input.dtype)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize groups of channels of each sample (Wu & He 2018, equations (1), (2) and (7)).

    >>> x = torch.tensor([[[1.0], [3.0], [10.0], [30.0]]])
    >>> group_norm(x, num_groups=2).flatten()
    tensor([-1.0000,  1.0000, -1.0000,  1.0000])
    """
    if input.ndim < 2:
        raise RuntimeError(f"input must have at least 2 axes (N, C, *), got shape {tuple(input.shape)}")
    if num_groups <= 0 or input.shape[1] % num_groups:
        raise RuntimeError(
            f"num_groups must be positive and divide the channels of input, got {num_groups} for input of "
            f"shape {tuple(input.shape)}"
        )
    groups = _wide(input).reshape(input.shape[0], num_groups, input.shape[1] // num_groups, *input.shape[2:])
    mean, std = moments(groups, tuple(range(2, groups.ndim)), eps=eps)
    return _restore(normalize(groups, mean, std).flatten(1, 2), weight, bias).to(input.dtype)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize over the last axes, of shape ``normalized_shape`` (Ba et al. 2016, equation (3)).

    >>> layer_norm(torch.tensor([[1.0, 3.0], [10.0, 30.0]]), (2,))
    tensor([[-1.0000,  1.0000],
            [-1.0000,  1.0000]])
    """
    axes = _last_axes(input, normalized_shape)
    mean, std = moments(_wide(input), axes, eps=eps)
    z = normalize(_wide(input), mean, std)
    z = z if weight is None else z * weight
    return (z if bias is None else z + bias).to(input.dtype)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root mean square over the last axes (Zhang & Sennrich 2019, equation (4)).

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), (2,))
    tensor([[0.8485, 1.1314]])
    """
    axes = _last_axes(input, normalized_shape)
    x = _wide(input)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    z = x / (x.square().mean(axes, keepdim=True) + eps).sqrt()
    return (z if weight is None else z * weight).to(input.dtype)


def adain(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Give ``content`` the channel statistics of ``style`` (Huang & Belongie 2017, equation (8)).

    >>> content, style = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[10.0, 20.0, 30.0]]])
    >>> adain(content, style)
    tensor([[[11.8351, 28.1649]]])
    """
    x = normalize(_wide(content), *moments(_wide(content), tuple(range(2, content.ndim)), eps=eps))
    mean, std = moments(_wide(style), tuple(range(2, style.ndim)), eps=eps)
    return denormalize(x, mean, std).to(content.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _count(x: Tensor, axes: Sequence[int]) -> int:
    return math.prod(x.shape[a] for a in axes)


def _channels(stats: Tensor, x: Tensor) -> Tensor:
    """One number per channel, shaped to broadcast against x (N, C, *)."""
    if stats.numel() != x.shape[1]:
        raise RuntimeError(
            f"expected one value for each of {x.shape[1]} channels of input of shape {tuple(x.shape)}, "
            f"got shape {tuple(stats.shape)}"
        )
    return stats.view(-1, *[1] * (x.ndim - 2))


def _restore(z: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    z = z if weight is None else z * _channels(weight, z)
    return z if bias is None else z + _channels(bias, z)


def _last_axes(x: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    if not shape or tuple(x.shape[-len(shape) :]) != tuple(shape):
        raise RuntimeError(
            f"normalized_shape must be the last axes of input, got {tuple(shape)} for input of shape "
            f"{tuple(x.shape)}"
        )
    return tuple(range(-len(shape), 0))


@torch.no_grad()
def _track(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    std: Tensor,
    eps: float,
    momentum: float,
    count: int,
) -> None:
    """Running statistics, as PyTorch keeps them: of the *unbiased* variance."""
    for running, new in (
        (running_mean, mean),
        (running_var, (std.square() - eps) * (count / max(count - 1, 1))),
    ):
        if running is not None:
            new = new.mean(0).flatten()  # over the samples, of which batch_norm has one
            running.mul_(1 - momentum).add_(momentum * new.to(running.dtype))
