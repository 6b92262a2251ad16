"""moments → normalize → denormalize in one step, for eager mode: faster, with the same results.

Autograd through the three functions of `normtut.core` writes a dozen tensors of the input's size to memory,
and memory is what such layers spend their time on. Here the gradient is in closed form, and the work goes
piece by piece: groups of values that share no statistics are independent of each other, so a piece that
fits the processor's cache passes through all the steps before the next one is fetched.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .core import moments, normalize

# Elements of a piece, per thread: 512 KiB of float32.
_PIECE = 1 << 17


class Standardize(torch.autograd.Function):
    r"""``denormalize(normalize(x, *moments(x, dim, eps=eps)), bias, weight)``, and its mean and variance.

    With :math:`z = (x-\mu)/\sigma` and :math:`g = \gamma\,\partial L/\partial y`, where both moments depend
    on x, the chain rule gives (Ioffe & Szegedy 2015, section 3, with the terms collected)

    .. math:: \frac{\partial L}{\partial x} =
              \frac{1}{\sigma}\left(g - \overline{g} - z\,\overline{g z}\right)

    the bars being means over ``dim``: what is left of the gradient once its mean and its part along z are
    removed, for neither can change the output.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float) -> Any:
        """x: at least one axis is not in ``dim``; weight and bias: of as many axes as x."""
        wide = torch.promote_types(x.dtype, torch.float32)
        shape = [1 if d in dim else n for d, n in enumerate(x.shape)]
        mean, var = (torch.empty(shape, dtype=wide, device=x.device) for _ in range(2))
        y = torch.empty_like(x)
        m = math.prod(x.shape[d] for d in dim)
        for x_, w_, b_, mean_, var_, y_ in _pieces(x, dim, weight, bias, mean, var, y):
            torch.mean(x_, dim, keepdim=True, dtype=wide, out=mean_)
            z = x_ - mean_
            norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)  # in two steps: the inner axis is fast
            if len(dim) > 1:
                norm = torch.linalg.vector_norm(norm, dim=dim[:-1], keepdim=True)
            torch.div(norm.square_(), m, out=var_)
            z *= (var_ + eps).rsqrt_()
            torch.add(z.mul_(w_), b_, out=y_)
        return y, mean, var

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs: the input itself and its statistics, never z."""
        x, weight, bias, ctx.dim, ctx.eps = inputs
        _, mean, var = output
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, mean, var)
        ctx.save_for_forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Any:
        """The formula above; in plain differentiable steps where a second derivative may follow."""
        x, weight, bias, mean, var = ctx.saved_tensors
        dim = ctx.dim
        if g is None:
            return None, None, None, None, None
        if torch.is_grad_enabled():
            mean, std = moments(x, dim, eps=ctx.eps)
            z = (x - mean) / std
            dx = _without_mean_and_z(g * weight, z, dim) / std
            dw, db = (g * z).sum_to_size(weight.shape), g.sum_to_size(bias.shape)
            return dx.to(x.dtype), dw.to(weight.dtype), db.to(bias.dtype), None, None
        m = math.prod(x.shape[d] for d in dim)
        rstd = (var + ctx.eps).rsqrt_()
        dx = torch.empty_like(x)
        dw, db = (torch.zeros_like(weight, dtype=mean.dtype) for _ in range(2))
        alone = [d for d, n in enumerate(weight.shape) if n == 1]
        inner = [d for d in dim if d in alone]  # axes that share both statistics and weight

        for x_, g_, w_, mean_, rstd_, dx_, dw_, db_ in _pieces(x, dim, g, weight, mean, rstd, dx, dw, db):
            z = (x_ - mean_).mul_(rstd_)
            gz = g_ * z
            a, b = (t.sum(inner, keepdim=True, dtype=mean.dtype) if inner else t for t in (g_, gz))
            db_ += a.sum(alone, keepdim=True) if alone else a
            dw_ += b.sum(alone, keepdim=True) if alone else b
            z.mul_(_dot(b, w_, dim, inner).div_(m)).add_(_dot(a, w_, dim, inner).div_(m))
            torch.mul(g_, w_, out=gz).sub_(z)
            torch.mul(gz, rstd_, out=dx_)
        return dx, dw.to(weight.dtype), db.to(bias.dtype), None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dw: Tensor | None, db: Tensor | None, *_: None) -> Any:
        """Forward mode: the matrix of the derivative is symmetric, and so its formula is the same."""
        x, weight, _ = ctx.saved_tensors
        mean, std = moments(x, ctx.dim, eps=ctx.eps)
        z = (x - mean) / std
        dy = torch.zeros_like(z)
        if dx is not None:
            dy = dy + _without_mean_and_z(dx, z, ctx.dim) / std * weight
        if dw is not None:
            dy = dy + z * dw
        return (dy if db is None else dy + db).to(x.dtype), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor, bias: Tensor, *args: Any) -> Any:
        """Over a batch of inputs: the three steps themselves."""
        return torch.vmap(lambda x, w, b: compose(x, w, b, *args), in_dims[:3])(x, weight, bias), (0, 0, 0)


def compose(
    x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What `Standardize` must agree with, as one reads it; compilers make it fast themselves."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    z = normalize(wide, *moments(wide, dim, eps=eps))
    mean, std = moments(wide.detach(), dim)
    return (z * weight + bias).to(x.dtype), mean, std.square()


def _without_mean_and_z(g: Tensor, z: Tensor, dim: tuple[int, ...]) -> Tensor:
    return g - g.mean(dim, keepdim=True) - z * (g * z).mean(dim, keepdim=True)


def _dot(t: Tensor, w: Tensor, dim: tuple[int, ...], inner: list[int]) -> Tensor:
    """The sum over ``dim`` of t·w, of which the axes ``inner`` are summed already."""
    if inner:
        return (t * w).sum(dim, keepdim=True)
    return (t @ w.to(t.dtype).flatten()).unsqueeze(-1)  # one weight per element of the last axis


def _pieces(x: Tensor, dim: tuple[int, ...], *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of x and of what goes with it, along an axis that shares no statistics."""
    axis = next(d for d in range(x.ndim) if d not in dim)
    size = x.shape[axis]
    if x.device.type == "cpu" and not (x.stride(axis) == 1 and x.numel() > size):
        size = max(1, _PIECE * torch.get_num_threads() * size // max(1, x.numel()))
    return zip(
        *(
            torch.split(t, size, axis) if t.shape[axis] == x.shape[axis] else itertools.repeat(t)
            for t in (x, *others)
        ),
        strict=False,
    )
