"""Exercises of chapters 4 to 9: normalization layers, and statistics in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from normtut import core, distributed, functional
from normtut.book.exercises.engine import Args, Exercise
from normtut.book.exercises.ingredients import (
    CANCELS,
    EPS_FORGOTTEN,
    EPS_OUTSIDE,
    by_channel,
    feature_cases,
    per_channel,
    standard,
    wrong_stds,
)

__all__ = ["EXERCISES"]


def _axes_cases(g: torch.Generator) -> Iterator[Args]:
    for shape, dim, eps in (
        ((3, 3, 3), (1,), 0.5),  # all axes equal: statistics that lost an axis broadcast unnoticed
        ((4, 3, 5, 3), (0, 2, 3), 0.5),
        ((5, 5), (1,), 1e-5),
        ((2, 4, 3), (0, 1, 2), 0.1),
    ):
        yield 1 + 2 * torch.rand(shape, generator=g) * torch.rand(shape[-1:], generator=g), dim, eps


def _ghost_cases(g: torch.Generator) -> Iterator[Args]:
    for n, size, eps in ((6, 2, 0.1), (6, 3, 0.5), (4, 4, 0.01)):
        x = torch.rand((n, 3, 2, 3), generator=g) + torch.rand((n, 3, 1, 1), generator=g)
        yield x, size, eps


def _ghosts(x: Tensor, size: int, eps: float) -> Tensor:
    return standard(x.unflatten(0, (-1, size)), (1, 3, 4), eps).view(x.shape)  # type: ignore[no-untyped-call]


def _interleaved_ghosts(x: Tensor, size: int, eps: float) -> Tensor:
    ghosts = x.unflatten(0, (size, -1))  # type: ignore[no-untyped-call]
    return standard(ghosts, (0, 3, 4), eps).view(x.shape)


def _backward_cases(g: torch.Generator) -> Iterator[Args]:
    for x, eps in feature_cases(params=False)(g):
        yield torch.randn(x.shape, generator=g, dtype=x.dtype) + 0.5, x, eps  # far from a mean of 0


def _backward(grad: Tensor, x: Tensor, eps: float) -> Tensor:
    x = x.clone().requires_grad_()
    z = functional.batch_norm(x, None, None, training=True, eps=eps)
    return torch.autograd.grad(z, x, grad)[0]


def _parts_of_backward(
    grad: Tensor, x: Tensor, eps: float, dim: tuple[int, ...] = (0, 2, 3)
) -> tuple[Tensor, Tensor, Tensor]:
    """What remains of the gradient, and what the mean and the std take from it, before the division by σ."""
    z, std = standard(x, (0, 2, 3), eps), core.moments(x, (0, 2, 3), eps=eps)[1]
    of_mean = grad.mean(dim, keepdim=True).expand_as(grad)
    return grad / std, of_mean / std, z * (grad * z).mean(dim, keepdim=True) / std


def _minus(whole: Tensor, *parts: Tensor) -> Tensor:
    return whole - sum(parts)


def _running_cases(g: torch.Generator) -> Iterator[Args]:
    for (x, _), momentum in zip(feature_cases(params=False)(g), (0.1, 0.3, 0.05), strict=True):
        mean, var = torch.rand(2, x.shape[1], generator=g, dtype=x.dtype)
        yield mean, var, x, momentum


def _new_running(m: Tensor, v: Tensor, x: Tensor, momentum: float, correction: int) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, (0, 2, 3), correction=correction)
    return (1 - momentum) * m + momentum * mean, (1 - momentum) * v + momentum * var


def _folding_cases(g: torch.Generator) -> Iterator[Args]:
    for k, eps in ((3, 0.5), (1, 1e-5)):
        weight = torch.randn(4, 4, k, k, generator=g)  # O = I, so that the wrong axis fits too
        yield weight, *(torch.rand(5, 4, generator=g) + 0.5), eps


def _folded(w: Tensor, b: Tensor, mean: Tensor, var: Tensor, g: Tensor, beta: Tensor, eps: float) -> Args:
    scale = g / (var + eps).sqrt()
    return w * scale.view(-1, 1, 1, 1), (b - mean) * scale + beta


def _token_cases(*, bias: bool) -> Callable[[torch.Generator], Iterator[Args]]:
    """Sequences (N, L, D), γ and perhaps β of D values, and an eps."""

    def cases(g: torch.Generator) -> Iterator[Args]:
        for shape, dtype, eps in (
            ((2, 3, 8), torch.float32, 0.5),
            ((4, 5, 5), torch.float32, 1e-5),  # L = D, so that the wrong axis fits too
            ((1, 1, 6), torch.float64, 0.1),
        ):
            x = 1 + 2 * torch.rand(shape, generator=g, dtype=dtype)
            params = torch.rand(2, shape[-1], generator=g, dtype=dtype) + 0.5
            yield (x, *(params if bias else params[:1]), eps)

    return cases


def _normalized_cases(g: torch.Generator) -> Iterator[Args]:
    """Outputs of instance norms, of either variance, from maps of several sizes."""
    for (n, c, h, w), eps, correction in (
        ((2, 3, 5, 5), 1e-5, 0),
        ((2, 3, 5, 5), 1e-5, 1),
        ((4, 2, 2, 3), 1e-5, 1),
        ((3, 4, 16, 12), 1e-6, 0),
        ((3, 4, 16, 12), 1e-6, 1),
    ):
        x = 3 * torch.randn(n, c, h, w, generator=g, dtype=torch.float64) + 7
        yield (standard(x, (2, 3), eps, correction=correction),)


def _correction_of(z: Tensor, correction: int = 0) -> int:
    """0 if the variance of ``z``, with this correction, is nearer to 1 than to (m − 1)/m; else 1."""
    m, var = z[0, 0].numel(), z.var((2, 3), correction=correction).mean().item()
    return 0 if abs(var - 1) < abs(var - (m - 1) / m) else 1


def _image_cases(g: torch.Generator) -> Iterator[Args]:
    # As many columns as channels: the wrong axis would not raise.
    for shape, dtype, eps in (((2, 6, 4, 6), torch.float32, 0.5), ((3, 4, 4, 4), torch.float64, 1e-5)):
        x = 1 + 2 * torch.rand(shape, generator=g, dtype=dtype)
        yield x, *(torch.rand(2, shape[1], generator=g, dtype=dtype) + 0.5), eps


def _group_cases(g: torch.Generator) -> Iterator[Args]:
    # 9, 12 and 6 channels: neither the number of groups nor their size stays the same.
    for (x, eps), groups in zip(feature_cases(params=False)(g), (3, 6, 2), strict=True):
        yield torch.cat([x, x.flip(0) + 1, x * 2], dim=1), groups, eps


def _grouped(norm: Callable[[Tensor], Tensor], x: Tensor, groups: int) -> Tensor:
    return norm(x.reshape(len(x), groups, -1)).reshape(x.shape)


def _interleaved(x: Tensor, groups: int, eps: float) -> Tensor:
    n, c, h, w = x.shape
    return standard(x.view(n, c // groups, groups, h, w), (1, 3, 4), eps).view(x.shape)


def _scale_shift_cases(g: torch.Generator) -> Iterator[Args]:
    x = 1 + torch.rand(3, 4, 3, 4, generator=g)  # N = H and C = W: (N, C) fits rows and columns unnoticed
    yield x, *torch.randn(2, 3, 4, generator=g), 2, 0.1
    for x, groups, eps in _group_cases(g):
        yield x, *torch.randn(2, *x.shape[:2], generator=g, dtype=x.dtype), groups, eps


def _scaled(h: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float) -> Tensor:
    return functional.group_norm(h, groups, eps=eps) * (1 + _wide(scale)) + _wide(shift)


def _wide(p: Tensor) -> Tensor:
    return p[..., None, None]


def _part_cases(g: torch.Generator) -> Iterator[Args]:
    """Parts of uneven size, one of them empty, with means far from 0 and, at last, very far."""
    for counts, offset in (([3, 5], 0.0), ([1, 1, 8], 100.0), ([0, 4, 2], 5.0), ([3, 5], 1e6)):
        parts = [
            torch.randn(n, 4, generator=g, dtype=torch.float64) + offset + i for i, n in enumerate(counts)
        ]
        means = torch.stack([p.mean(0) if len(p) else p.new_zeros(4) for p in parts])
        m2s = torch.stack([(p - m).square().sum(0) for p, m in zip(parts, means, strict=True)])
        yield torch.tensor(counts), means, m2s


def _grad_cases(g: torch.Generator) -> Iterator[Args]:
    for n, std in ((6, 0.5), (50, 3.0), (2, 1.0)):
        z = standard(torch.randn(n, generator=g, dtype=torch.float64), (0,), 0)
        yield z, 1 + torch.randn(n, generator=g, dtype=torch.float64), std


def _through_norm(z: Tensor, g: Tensor, std: float) -> Tensor:
    """By autograd: z · std is an x with mean 0 and this std, and z what becomes of it."""
    x = (z * std).requires_grad_()
    var, mean = torch.var_mean(x, 0, correction=0)
    return torch.autograd.grad((x - mean) / var.sqrt(), x, g)[0]


def _common_mean(counts: Tensor, means: Tensor) -> Tensor:
    return (counts[:, None] * means).sum(0) / counts.sum()


def _merged(counts: Tensor, means: Tensor, m2s: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return counts.sum(), mean, (m2s + counts[:, None] * (means - mean).square()).sum(0)


EXERCISES = {
    "normalize_over": Exercise(
        title="One function for all norms",
        signature="normalize_over(x, dim, eps)",
        task="normalizes a tensor over the axes dim, a tuple",
        reference=lambda x, dim, eps: core.normalize(x, *core.moments(x, dim, eps=eps)),
        cases=_axes_cases,
        mistakes={
            **wrong_stds(lambda norm, x, dim, eps: norm(x, dim, eps)),
            "averaged over all axes, whatever dim says": (
                lambda x, dim, eps: standard(x, range(x.ndim), eps)
            ),
            "averaged over the axes that are not in dim": (
                lambda x, dim, eps: standard(x, [d for d in range(x.ndim) if d not in dim], eps)
            ),
            "lost the averaged axes, so that statistics met the wrong elements; keepdim=True keeps them": (
                lambda x, dim, eps: (x - x.mean(dim)) / (x.var(dim, correction=0) + eps).sqrt()
            ),
        },
    ),
    "ghost_batch_norm": Exercise(
        title="Ghost batch norm",
        signature="ghost_batch_norm(x, size, eps)",
        task="splits features (N, C, H, W) into small batches of size samples in a row, and normalizes "
        "each as batch norm does in training",
        reference=lambda x, size, eps: torch.cat(
            [functional.batch_norm(part, None, None, training=True, eps=eps) for part in x.split(size)]
        ),
        cases=_ghost_cases,
        mistakes={
            **wrong_stds(
                lambda norm, x, size, eps: torch.cat([norm(part, (0, 2, 3), eps) for part in x.split(size)])
            ),
            "put every k-th sample into a ghost; a ghost is `size` samples in a row": _interleaved_ghosts,
            "made `size` ghosts; it is the number of samples in each": (
                lambda x, size, eps: _ghosts(x, len(x) // size, eps)
            ),
            "normalized the whole batch": lambda x, size, eps: standard(x, (0, 2, 3), eps),
            "normalized each sample by itself": lambda x, size, eps: standard(x, (2, 3), eps),
            "averaged over the channels as well": (
                lambda x, size, eps: torch.cat([standard(p, (0, 1, 2, 3), eps) for p in x.split(size)])
            ),
        },
    ),
    "sets_at_rest": Exercise(
        title="Batch norm at rest",
        signature="sets_at_rest(shape)",
        task="returns how many index sets batch norm has in eval mode, for features of shape (N, C, …)",
        reference=math.prod,
        cases=lambda _: iter([((3, 6, 4),), ((2, 3, 5, 7),), ((1, 8),)]),
        mistakes={
            "counted the sets of training, one for each channel": lambda shape: shape[1],
            "took all elements for one set": lambda shape: 1,
            "counted the channels of each sample": lambda shape: shape[0] * shape[1],
            "counted none; an element alone is a set of one": lambda shape: 0,
        },
    ),
    "batch_norm": Exercise(
        title="Batch norm in training",
        signature="batch_norm(x, weight, bias, eps)",
        task="normalizes features (N, C, H, W) as batch norm does in training, then restores with γ and "
        "β, the weight and bias of shape (C,)",
        reference=lambda x, w, b, eps: functional.batch_norm(x, None, None, w, b, True, eps=eps),
        cases=feature_cases(params=True),
        mistakes={
            **wrong_stds(lambda norm, x, w, b, eps: by_channel(norm(x, (0, 2, 3), eps), w, b)),
            "averaged over the batch alone; height and width share the statistics too": (
                lambda x, w, b, eps: by_channel(standard(x, (0,), eps), w, b)
            ),
            "normalized each sample by itself; that is instance norm": (
                lambda x, w, b, eps: by_channel(standard(x, (2, 3), eps), w, b)
            ),
            "averaged over the channels as well": (
                lambda x, w, b, eps: by_channel(standard(x, (0, 1, 2, 3), eps), w, b)
            ),
            "added β before multiplying by γ": (
                lambda x, w, b, eps: (standard(x, (0, 2, 3), eps) + per_channel(b)) * per_channel(w)
            ),
            "left out γ and β": lambda x, w, b, eps: standard(x, (0, 2, 3), eps),
        },
    ),
    "batch_norm_backward": Exercise(
        title="The gradient of batch norm",
        signature="backward(grad, x, eps)",
        task="turns grad, the gradient for the features x (N, C, H, W) after batch norm in training (without "
        "γ and β), into the gradient for x",
        reference=_backward,
        cases=_backward_cases,
        mistakes={
            "took the mean and the std for constants; they depend on x": (
                lambda grad, x, eps: _parts_of_backward(grad, x, eps)[0]
            ),
            "left out that the std depends on x": lambda grad, x, eps: (
                _parts_of_backward(grad, x, eps)[0] - _parts_of_backward(grad, x, eps)[1]
            ),
            "left out that the mean depends on x": lambda grad, x, eps: (
                _parts_of_backward(grad, x, eps)[0] - _parts_of_backward(grad, x, eps)[2]
            ),
            "averaged over the batch alone; height and width share the statistics too": lambda grad, x, eps: (
                _minus(*_parts_of_backward(grad, x, eps, (0,)))
            ),
            "forgot to divide by the std": lambda grad, x, eps: (
                _backward(grad, x, eps) * core.moments(x, (0, 2, 3), eps=eps)[1]
            ),
            "multiplied by the std instead of dividing": lambda grad, x, eps: (
                _backward(grad, x, eps) * core.moments(x, (0, 2, 3), eps=eps)[1].square()
            ),
            EPS_FORGOTTEN: lambda grad, x, eps: _minus(*_parts_of_backward(grad, x, 0.0)),
        },
    ),
    "running_stats": Exercise(
        title="Running statistics",
        signature="update(running_mean, running_var, x, momentum)",
        task="returns both running statistics after one batch x of shape (N, C, H, W), as PyTorch keeps "
        "them: (mean, var)",
        reference=lambda m, v, x, momentum: _new_running(m, v, x, momentum, correction=1),
        cases=_running_cases,
        mistakes={
            "turned the momentum round; in PyTorch it is the weight of the new value": (
                lambda m, v, x, momentum: _new_running(m, v, x, 1 - momentum, correction=1)
            ),
            "kept the biased variance; the running one is unbiased": (
                lambda m, v, x, momentum: _new_running(m, v, x, momentum, correction=0)
            ),
            "turned the momentum round (in PyTorch it is the weight of the new value) and kept the biased "
            "variance": lambda m, v, x, momentum: _new_running(m, v, x, 1 - momentum, correction=0),
            "returned the variance before the mean": (
                lambda m, v, x, momentum: _new_running(m, v, x, momentum, correction=1)[::-1]
            ),
        },
    ),
    "fold_batch_norm": Exercise(
        title="Folding batch norm",
        signature="fold(weight, bias, running_mean, running_var, gamma, beta, eps)",
        task="folds a batch norm in eval mode into the convolution before it, and returns its new "
        "(weight, bias)",
        reference=_folded,
        cases=_folding_cases,
        mistakes={
            "left the old bias unscaled": lambda w, b, m, v, g, beta, eps: (
                _folded(w, b, m, v, g, beta, eps)[0],
                b - m * g / (v + eps).sqrt() + beta,
            ),
            "lost the convolution's own bias": (
                lambda w, b, m, v, g, beta, eps: _folded(w, 0 * b, m, v, g, beta, eps)
            ),
            "divided by the variance, not the std": (
                lambda w, b, m, v, g, beta, eps: _folded(w, b, m, (v + eps) ** 2 - eps, g, beta, eps)
            ),
            EPS_FORGOTTEN: lambda w, b, m, v, g, beta, eps: _folded(w, b, m, v, g, beta, 0),
            "scaled the input channels of the weight; γ and σ belong to the output channels": (
                lambda w, b, m, v, g, beta, eps: (
                    _folded(w.transpose(0, 1), b, m, v, g, beta, eps)[0].transpose(0, 1),
                    _folded(w, b, m, v, g, beta, eps)[1],
                )
            ),
        },
    ),
    "layer_norm": Exercise(
        title="Layer norm",
        signature="layer_norm(x, weight, bias, eps)",
        task="normalizes each token of sequences (N, L, D) over its D features, then restores with γ and "
        "β, the weight and bias of shape (D,)",
        reference=lambda x, w, b, eps: functional.layer_norm(x, w.shape, w, b, eps),
        cases=_token_cases(bias=True),
        mistakes={
            **wrong_stds(lambda norm, x, w, b, eps: norm(x, (-1,), eps) * w + b),
            "averaged over the sequence as well; each token has its own statistics": (
                lambda x, w, b, eps: standard(x, (1, 2), eps) * w + b
            ),
            "averaged over the sequence instead of the features": (
                lambda x, w, b, eps: standard(x, (1,), eps) * w + b
            ),
            "normalized over batch and sequence, as batch norm does": (
                lambda x, w, b, eps: standard(x, (0, 1), eps) * w + b
            ),
            "forgot to subtract the mean": (
                lambda x, w, b, eps: x / (x.var(-1, correction=0, keepdim=True) + eps).sqrt() * w + b
            ),
            "divided by the root mean square; that is RMS norm": (
                lambda x, w, b, eps: functional.rms_norm(x, w.shape, w, eps) + b
            ),
            "left out γ and β": lambda x, w, b, eps: standard(x, (-1,), eps),
        },
    ),
    "layer_norm_2d": Exercise(
        title="Layer norm for images",
        signature="layer_norm_2d(x, weight, bias, eps)",
        task="normalizes the channels of each position of images (N, C, H, W), then restores with γ and β, "
        "the weight and bias of shape (C,)",
        reference=lambda x, w, b, eps: functional.layer_norm(x.movedim(1, -1), w.shape, w, b, eps).movedim(
            -1, 1
        ),
        cases=_image_cases,
        mistakes={
            **wrong_stds(lambda norm, x, w, b, eps: by_channel(norm(x, (1,), eps), w, b)),
            "averaged over the whole image; here each position has its own statistics": (
                lambda x, w, b, eps: by_channel(standard(x, (1, 2, 3), eps), w, b)
            ),
            "normalized each channel by itself; that is instance norm": (
                lambda x, w, b, eps: by_channel(standard(x, (2, 3), eps), w, b)
            ),
            "averaged along the last axis, the width": (
                lambda x, w, b, eps: by_channel(standard(x, (3,), eps), w, b)
            ),
            "multiplied the columns by γ; it belongs to the channels, axis 1": (
                lambda x, w, b, eps: standard(x, (1,), eps) * w + b
            ),
            "left out γ and β": lambda x, w, b, eps: standard(x, (1,), eps),
        },
    ),
    "rms_norm": Exercise(
        title="RMS norm",
        signature="rms_norm(x, weight, eps)",
        task="divides each token of sequences (N, L, D) by the root mean square of its D features, and "
        "multiplies by γ, the weight of shape (D,)",
        reference=lambda x, w, eps: functional.rms_norm(x, w.shape, w, eps),
        cases=_token_cases(bias=False),
        mistakes={
            "subtracted the mean; that is layer norm": lambda x, w, eps: standard(x, (-1,), eps) * w,
            "divided by the std; RMS is measured from zero, not from the mean": (
                lambda x, w, eps: x / (x.var(-1, correction=0, keepdim=True) + eps).sqrt() * w
            ),
            "forgot the root": lambda x, w, eps: x / (x.square().mean(-1, keepdim=True) + eps) * w,
            "summed the squares instead of averaging them": (
                lambda x, w, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * w
            ),
            "averaged over the sequence as well; each token has its own": (
                lambda x, w, eps: x / (x.square().mean((1, 2), keepdim=True) + eps).sqrt() * w
            ),
            EPS_OUTSIDE.replace("std", "root").replace("variance", "mean square"): (
                lambda x, w, eps: x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * w
            ),
            EPS_FORGOTTEN: lambda x, w, eps: x / x.square().mean(-1, keepdim=True).sqrt() * w,
            "left out γ": lambda x, w, eps: x / (x.square().mean(-1, keepdim=True) + eps).sqrt(),
        },
    ),
    "instance_norm": Exercise(
        title="Instance norm",
        signature="instance_norm(x, eps)",
        task="normalizes each channel of each image (N, C, H, W) by itself",
        reference=lambda x, eps: functional.instance_norm(x, eps=eps),
        cases=feature_cases(params=False),
        mistakes={
            **wrong_stds(lambda norm, x, eps: norm(x, (2, 3), eps)),
            "averaged over the batch as well; that is batch norm": (
                lambda x, eps: standard(x, (0, 2, 3), eps)
            ),
            "averaged over the channels as well; that is layer norm": (
                lambda x, eps: standard(x, (1, 2, 3), eps)
            ),
            "averaged over one spatial axis only": lambda x, eps: standard(x, (3,), eps),
        },
    ),
    "correction_of": Exercise(
        title="Which variance did they use?",
        signature="correction_of(z)",
        task="tells from the output z (N, C, H, W) of an instance norm alone which variance it divided by: 0 "
        "for the biased one, 1 for the unbiased one",
        reference=_correction_of,
        cases=_normalized_cases,
        mistakes={
            # First, since it errs only where 1 is right; one case cannot tell the two mistakes apart.
            "measured z with the unbiased variance, which divides by m − 1 (torch.var does unless told)": (
                lambda z: _correction_of(z, correction=1)
            ),
            "turned the two round; 0 is the biased variance, which divides by m": (
                lambda z: 1 - _correction_of(z)
            ),
        },
    ),
    "group_norm": Exercise(
        title="Group norm",
        signature="group_norm(x, num_groups, eps)",
        task="normalizes num_groups groups of neighbouring channels of each image (N, C, H, W)",
        reference=lambda x, groups, eps: functional.group_norm(x, groups, eps=eps),
        cases=_group_cases,
        mistakes={
            **wrong_stds(lambda norm, x, groups, eps: _grouped(lambda v: norm(v, (2,), eps), x, groups)),
            "averaged over the batch as well; each image has its own statistics": (
                lambda x, groups, eps: _grouped(lambda v: standard(v, (0, 2), eps), x, groups)
            ),
            "put every G-th channel into a group; a group is C/G channels in a row": _interleaved,
            "made groups of num_groups channels; it is the number of groups": (
                lambda x, groups, eps: functional.group_norm(x, x.shape[1] // groups, eps=eps)
            ),
            "normalized each channel by itself; that is instance norm": (
                lambda x, groups, eps: standard(x, (2, 3), eps)
            ),
            "put all channels into one group": lambda x, groups, eps: standard(x, (1, 2, 3), eps),
        },
    ),
    "scale_shift_norm": Exercise(
        title="Scale and shift from a time step",
        signature="scale_shift_norm(h, scale, shift, num_groups, eps)",
        task="normalizes features h (N, C, H, W) in num_groups groups, multiplies them by 1 + scale and adds "
        "shift; scale and shift have shape (N, C)",
        reference=_scaled,
        cases=_scale_shift_cases,
        mistakes={
            "multiplied by scale instead of 1 + scale": lambda h, scale, shift, groups, eps: _scaled(
                h, scale - 1, shift, groups, eps
            ),
            "took scale for shift and shift for scale": lambda h, scale, shift, groups, eps: _scaled(
                h, shift, scale, groups, eps
            ),
            "left out the shift": lambda h, scale, shift, groups, eps: _scaled(
                h, scale, 0 * shift, groups, eps
            ),
            "left out the scale": lambda h, scale, shift, groups, eps: _scaled(
                h, 0 * scale, shift, groups, eps
            ),
            "multiplied the shift by 1 + scale as well; it is added last": (
                lambda h, scale, shift, groups, eps: _scaled(h, scale, shift * (1 + scale), groups, eps)
            ),
            "scaled and shifted before the norm, which removes most of it": (
                lambda h, scale, shift, groups, eps: functional.group_norm(
                    h * (1 + _wide(scale)) + _wide(shift), groups, eps=eps
                )
            ),
            "used scale and shift of shape (N, C) as they are, along H and W; they belong to N and C": (
                lambda h, scale, shift, groups, eps: (
                    functional.group_norm(h, groups, eps=eps) * (1 + scale) + shift
                )
            ),
            EPS_FORGOTTEN: lambda h, scale, shift, groups, eps: _scaled(h, scale, shift, groups, 0),
            "normalized each channel by itself; that is instance norm": (
                lambda h, scale, shift, groups, eps: _scaled(h, scale, shift, h.shape[1], eps)
            ),
            "put all channels into one group": (
                lambda h, scale, shift, groups, eps: _scaled(h, scale, shift, 1, eps)
            ),
        },
    ),
    "merge": Exercise(
        title="Merging statistics",
        signature="merge(counts, means, m2s)",
        task="combines the parts of a whole, whose counts have shape (P,), means and sums of squared "
        "deviations (P, C), into (count, mean, m2); parts may be empty, their mean and m2 are 0 "
        "then",
        reference=distributed.merge_moments,
        cases=_part_cases,
        mistakes={
            "divided 0 by 0: a part may be empty": lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                (n[:, None] * (m2 / n[:, None] + (m - _common_mean(n, m)) ** 2)).sum(0),
            ),
            "averaged the means without weighing them by the counts": lambda n, m, m2: _merged(
                n, m, m2, m.mean(0)
            ),
            "forgot the spread of the parts' means around the common mean": lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                m2.sum(0),
            ),
            "did not weigh the spread of the means by the counts": lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                (m2 + (m - _common_mean(n, m)) ** 2).sum(0),
            ),
            "returned the variance instead of the sum of squared deviations": lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                _merged(n, m, m2, _common_mean(n, m))[2] / n.sum(),
            ),
            CANCELS: lambda n, m, m2: (
                n.sum(),
                _common_mean(n, m),
                (m2 + n[:, None] * m**2).sum(0) - n.sum() * _common_mean(n, m) ** 2,
            ),
        },
    ),
    "input_grad": Exercise(
        title="The gradient through a batch norm",
        signature="input_grad(z, g, std)",
        task="returns the gradient at x, for one channel: z = (x − mean) / std and the gradient g at z are "
        "vectors over the whole batch, std is a number",
        reference=_through_norm,
        cases=_grad_cases,
        mistakes={
            "took mean and std for constants; every x has a share in both": lambda z, g, std: g / std,
            "took the std for a constant; every x has a share in it": lambda z, g, std: (g - g.mean()) / std,
            "took the mean for a constant; every x has a share in it": (
                lambda z, g, std: (g - z * (g * z).mean()) / std
            ),
            "forgot to divide by the std": lambda z, g, std: g - g.mean() - z * (g * z).mean(),
            "summed where the equation averages": lambda z, g, std: (g - g.sum() - z * (g * z).sum()) / std,
            "left z out of the last term, which is z · ⟨g z⟩, a vector": (
                lambda z, g, std: (g - g.mean() - (g * z).mean()) / std
            ),
            "lost a sign: both terms are subtracted": (
                lambda z, g, std: (g - g.mean() + z * (g * z).mean()) / std
            ),
        },
    ),
}
