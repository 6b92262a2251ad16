"""Every normalization layer as moments → normalize → denormalize; only the axes differ.

Signatures, dtypes and errors are those of `torch.nn.functional`. Seen as (N, C, L), with one axis L for all
positions of an image or a sequence, the values of an input share their mean and standard deviation over

===============  ===========================================  ==========================
function         axes that share statistics                   statistics per input
===============  ===========================================  ==========================
`batch_norm`     N and L                                      C
`instance_norm`  L                                            N · C
`group_norm`     L and the C/G neighbours of a group          N · G
`layer_norm`     the last axes, as many as are named          one per place on the rest
`rms_norm`       the same, without the mean                   the same
===============  ===========================================  ==========================

A half-precision input is computed in float32 and rounded once. Second derivatives, `torch.func` and
`torch.compile` work throughout.

Where γ and β come from elsewhere, and differ from sample to sample or from place to place, leave out
``weight`` and ``bias`` and put back what broadcasts: (N, C, 1, 1) for conditional instance norm (Dumoulin et
al. 2017) and FiLM (Perez et al. 2018), (N, C, H, W) for SPADE (Park et al. 2019), (N, 1, D) for the tokens of
adaLN (Peebles & Xie 2023), which predicts γ − 1.

>>> x, gamma, beta = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 1, 1), torch.randn(4, 3, 1, 1)
>>> y = denormalize(instance_norm(x), beta, gamma)
>>> bool(torch.allclose(y.mean((2, 3), keepdim=True), beta, atol=1e-5))
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._eager import in_pieces
from .core import at_least_float32, check_tensor, denormalize, moments, normalize

__all__ = ["adain", "batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]

#: γ or β, in a shape that broadcasts.
Param = Tensor | float


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
    r"""Normalize each channel over the batch and all positions (Ioffe & Szegedy 2015, Algorithm 1).

    >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    >>> batch_norm(x, None, None, training=True)
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]])

    Args:
        input: (N, C) or (N, C, *).
        running_mean, running_var: (C,). In training they are updated in place, where given:
            running ← (1 − momentum) · running + momentum · new, the new variance being the *unbiased* one.
            Else they are the statistics that are removed.
        weight, bias: γ and β of shape (C,), put in place of the std and the mean.
        training: remove the statistics of this batch, not the running ones.

    Raises:
        ValueError: in training, if there is one value per channel, or eps is not positive.
        RuntimeError: if a shape does not fit, or running statistics are needed and missing.
    """
    x = _as_ncl(input, eps, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if not training:
        return _remove_running(input, running_mean, running_var, eps, weight, bias)
    m = x.shape[0] * x.shape[2]
    if eps == 0:
        raise ValueError("eps must be positive in training, got 0")
    if m == 1:
        raise ValueError(f"input needs more than 1 value per channel in training, got {tuple(input.shape)}")
    y, mean, var = _three_steps(x, (0, 2), eps, *gamma_beta((1, -1, 1), weight, bias))
    update_running((running_mean, running_var), mean, var, m, momentum)
    return y.view(input.shape)


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
    r"""Normalize each channel of each sample over its positions (Ulyanov et al. 2016, equation (4)).

    >>> x = torch.tensor([[[1.0, 3.0]], [[10.0, 30.0]]])
    >>> instance_norm(x)
    tensor([[[-1.0000,  1.0000]],
    <BLANKLINE>
            [[-1.0000,  1.0000]]])

    Args:
        input: (N, C, L) or (N, C, *).
        running_mean, running_var: (C,). With ``use_input_stats`` they are updated, as in `batch_norm`, by
            the average over the samples; else they are the statistics that are removed.
        weight, bias: γ and β of shape (C,).
        use_input_stats: remove each sample's own statistics.

    Raises:
        ValueError: with ``use_input_stats``, if there is one position per channel.
        RuntimeError: if a shape does not fit, or running statistics are needed and missing.
    """
    m = math.prod(check_tensor("input", input).shape[2:])
    if use_input_stats and m == 1:
        raise ValueError(f"input needs more than 1 position per channel, got shape {tuple(input.shape)}")
    x = _as_ncl(input, eps, weight=weight, bias=bias)
    for name, p in (("running_mean", running_mean), ("running_var", running_var)):
        _check_shape(name, p, tuple(x.shape[1:2]), input)  # of any dtype, as in torch
    if not use_input_stats:
        return _remove_running(input, running_mean, running_var, eps, weight, bias)
    y, mean, var = _three_steps(x, (2,), eps, *gamma_beta((1, -1, 1), weight, bias))
    update_running((running_mean, running_var), mean, var, m, momentum)
    return y.view(input.shape)


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

    Args:
        input: (N, C) or (N, C, *).
        num_groups: G, a divisor of C; a group is C/G channels in a row.
        weight, bias: γ and β of shape (C,): one per channel, not per group.

    Raises:
        ValueError: if there is one value per group.
        RuntimeError: if ``num_groups`` is not a divisor of C, or a shape does not fit.
    """
    x = _as_ncl(input, eps, weight=weight, bias=bias)
    n, c, length = x.shape
    if num_groups <= 0 or c % num_groups or c == 0 or length == 0:
        raise RuntimeError(
            f"num_groups must be positive and divide the channels, and these not be empty; got {num_groups} "
            f"groups and input of shape {tuple(input.shape)}"
        )
    if n * c // num_groups * length == 1:
        raise ValueError(f"input needs more than 1 value per group, got shape {tuple(input.shape)}")
    groups = x.view(n, num_groups, c // num_groups, length)
    params = gamma_beta((1, num_groups, c // num_groups, 1), weight, bias)
    return _three_steps(groups, (2, 3), eps, *params)[0].view(input.shape)


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

    Args:
        input: (*, normalized_shape).
        weight, bias: γ and β of shape ``normalized_shape``: one per element.

    Raises:
        RuntimeError: if the input does not end in ``normalized_shape``, or a weight is of another shape.
    """
    rows = _rows(input, normalized_shape, eps, weight=weight, bias=bias)
    return _three_steps(rows, (1,), eps, *gamma_beta((1, -1), weight, bias))[0].view(input.shape)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root mean square over the last axes (Zhang & Sennrich 2019, equation (4)).

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), (2,))
    tensor([[0.8485, 1.1314]])

    `layer_norm` with a mean of 0 taken for granted.

    Args:
        input: (*, normalized_shape).
        weight: γ of shape ``normalized_shape``: one per element.
        eps: added to the mean square; None is the machine epsilon of the type that it is computed in.

    Raises:
        ValueError: if the input has fewer axes than ``normalized_shape``.
        RuntimeError: if it does not end in ``normalized_shape``, or the weight is of another shape.
    """
    if len(normalized_shape) > check_tensor("input", input).ndim:
        raise ValueError(
            f"input of shape {tuple(input.shape)} has fewer axes than normalized_shape "
            f"{tuple(normalized_shape)}"
        )
    rows = _rows(input, normalized_shape, eps or 0.0)
    _check_shape("weight", weight, tuple(normalized_shape), input)  # of any dtype, as in torch
    if eps is None:
        eps = torch.finfo(torch.promote_types(input.dtype, torch.float32)).eps
    y = _three_steps(rows, (1,), eps, *gamma_beta((1, -1), weight, None), center=False)[0]
    return y.view(input.shape)


def adain(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Give ``content`` the channel statistics of ``style`` (Huang & Belongie 2017, equation (8)).

    >>> content, style = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[10.0, 20.0, 30.0]]])
    >>> adain(content, style)
    tensor([[[11.8351, 28.1649]]])

    Instance norm whose γ and β are another image's statistics.

    Args:
        content: (N, C, *).
        style: (N, C, *) or (1, C, *), of any size in its other axes.
        eps: added to both variances: without it a constant channel has no gradient.

    Raises:
        ValueError: if the channels differ, or the batches do and the style's is not 1.
    """
    fitting = check_tensor("content", content).shape[:2], (1, *content.shape[1:2])
    if content.ndim < 3 or check_tensor("style", style).ndim < 3 or style.shape[:2] not in fitting:
        raise ValueError(
            f"style must have the samples and channels of content (N, C, *), or one sample, got "
            f"{tuple(style.shape)} for content of shape {tuple(content.shape)}"
        )
    mean, std = moments(_as_ncl(style, eps), (2,), eps=eps)
    return _three_steps(_as_ncl(content, eps), (2,), eps, std, mean)[0].view(content.shape)


@in_pieces
def _three_steps(
    x: Tensor, dim: tuple[int, ...], eps: float, gamma: Param = 1.0, beta: Param = 0.0, center: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The idea of the book, and what all functions of this module come down to.

    ``center=False`` takes the mean to be 0. Returns the result, and the mean and the variance that running
    statistics are made of.
    """
    if x.numel() == 0:
        return denormalize(x, beta, gamma), x.new_zeros(0), x.new_zeros(0)
    wide = at_least_float32(x)
    if center:
        mean, std = moments(wide, dim, eps=eps)
    else:
        mean, std = wide.new_zeros(()), (wide.square().mean(dim, keepdim=True) + eps).sqrt()
    z = normalize(wide, mean, std)
    y = denormalize(z, beta, gamma).to(x.dtype)
    mean, std = moments(wide.detach(), dim)
    return y, mean, std.square()


def _remove_running(
    input: Tensor, mean: Tensor | None, var: Tensor | None, eps: float, *params: Tensor | None
) -> Tensor:
    if mean is None or var is None:
        lacking = "running_mean" if mean is None else "running_var"
        raise RuntimeError(f"{lacking} is None, and needed where the input's own statistics are not used")
    x = at_least_float32(input)
    shape = (1, -1, *[1] * (x.ndim - 2))
    z = normalize(x, mean.view(shape), (var.to(x.dtype) + eps).sqrt().view(shape))
    gamma, beta = gamma_beta(shape, *params)
    return denormalize(z, beta, gamma).to(input.dtype)


def gamma_beta(shape: Sequence[int], weight: Tensor | None, bias: Tensor | None) -> tuple[Param, Param]:
    """γ and β, in a shape that broadcasts against the input; 1 and 0 where there are none."""
    return 1.0 if weight is None else weight.reshape(shape), 0.0 if bias is None else bias.reshape(shape)


@torch.no_grad()
def update_running(
    running_mean_and_var: Sequence[Tensor | None], mean: Tensor, var: Tensor, count: int, momentum: float
) -> None:
    """running ← (1 − momentum) · running + momentum · new, in place, as `batch_norm` describes it.

    ``mean`` and biased ``var`` of ``count`` values are one per channel, or one per sample and channel: then
    the new statistics are their average over the samples.
    """
    if sum(running is None for running in running_mean_and_var) == 1:
        raise ValueError("running_mean and running_var must both be given or both be None, and one is None")
    unbiased = var * (count / max(count - 1, 1))
    for running, new in zip(running_mean_and_var, (mean, unbiased), strict=True):
        if running is not None and new.numel():
            new = new.reshape(-1, *running.shape).mean(0)
            # A variance may be beyond float16 where the share of it that is added is not.
            wide = torch.promote_types(running.dtype, new.dtype)
            running.copy_((1 - momentum) * running.to(wide) + momentum * new.to(wide))


def _as_ncl(x: Tensor, eps: float, **params: Tensor | None) -> Tensor:
    """(N, C, *) as (N, C, L); a view where the memory allows, and so channels-last stays that."""
    if check_tensor("input", x).ndim < 2:
        raise RuntimeError(f"input must have at least 2 axes (N, C, *), got shape {tuple(x.shape)}")
    _check(x, tuple(x.shape[1:2]), eps, params)
    return x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)


def _rows(x: Tensor, shape: Sequence[int], eps: float, **params: Tensor | None) -> Tensor:
    """(*, shape) as a matrix with one row for each set of statistics."""
    shape = tuple(shape)
    if not shape or tuple(check_tensor("input", x).shape[-len(shape) :]) != shape:
        raise RuntimeError(
            f"input must end in normalized_shape, got shape {tuple(x.shape)} and normalized_shape {shape}"
        )
    _check(x, shape, eps, params)
    return x.reshape(math.prod(x.shape[: -len(shape)]), math.prod(shape))


def _check(x: Tensor, shape: tuple[int, ...], eps: float, params: dict[str, Tensor | None]) -> None:
    """Shapes, and the combinations of types that torch allows."""
    if not x.is_floating_point():
        raise NotImplementedError(f"input must be floating point, got {x.dtype} of shape {tuple(x.shape)}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    for name, p in params.items():
        _check_shape(name, p, shape, x)
        if p is not None and p.dtype not in (x.dtype, torch.promote_types(x.dtype, torch.float32)):
            raise RuntimeError(f"mixed dtypes: input is {x.dtype}, but {name} is {p.dtype}")


def _check_shape(name: str, p: Tensor | None, shape: tuple[int, ...], x: Tensor) -> None:
    if p is not None and tuple(check_tensor(name, p).shape) != shape:
        raise RuntimeError(
            f"{name} must have shape {shape} for input of shape {tuple(x.shape)}, got {tuple(p.shape)}"
        )
