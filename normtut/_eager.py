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

from .core import denormalize, moments, normalize

# Elements of a piece, per thread: 512 KiB of float32.
_PIECE = 1 << 17


class Standardize(torch.autograd.Function):
    r"""``denormalize(normalize(x, *moments(x, dim, eps=eps)), bias, weight)``, and its mean and variance.

    With :math:`z = (x-\mu)/\sigma` and :math:`g = \gamma\,\partial L/\partial y`, where both moments depend
    on x, the chain rule gives (Ioffe & Szegedy 2015, section 3, with the terms collected)

    .. math:: \frac{\partial L}{\partial x} =
              \frac{1}{\sigma}\left(g - \overline{g} - z\,\overline{g z}\right)

    the bars being means over ``dim``: what is left of the gradient once its mean and its part along z are
    removed, for neither can change the output. Without ``center`` the mean is taken to be 0, and with it
    goes the middle term: RMS normalization.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float, center: bool
    ) -> Any:
        """x: at least one axis is not in ``dim``; weight and bias: of as many axes as x."""
        wide = torch.promote_types(x.dtype, torch.float32)
        shape = [1 if d in dim else n for d, n in enumerate(x.shape)]
        mean, norm = (torch.zeros(shape, dtype=wide, device=x.device) for _ in range(2))
        y = torch.empty_like(x)
        m = math.prod([x.shape[d] for d in dim])
        eps_ = torch.full((), eps, dtype=wide, device=x.device)
        for x_, w_, b_, mean_, norm_, y_ in _pieces(x, dim, weight, bias, mean, norm, y):
            if center:
                torch.mean(x_, dim, keepdim=True, dtype=wide, out=mean_)
            z = x_ - mean_
            if len(dim) > 1:  # in two steps: the inner axis is fast
                inner = torch.linalg.vector_norm(z, dim=dim[-1], keepdim=True)
                torch.linalg.vector_norm(inner, dim=dim[:-1], keepdim=True, out=norm_)
            else:
                torch.linalg.vector_norm(z, dim=dim, keepdim=True, out=norm_)
            rstd = torch.addcmul(eps_, norm_, norm_, value=1 / m).rsqrt_()
            if w_.shape[-1] == 1:
                torch.add(z.mul_(rstd * w_), b_, out=y_)
            else:
                torch.addcmul(b_, z.mul_(rstd), w_, out=y_)
        return y, mean, norm.square_().div_(m)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs: the input itself and its statistics, never z."""
        x, weight, bias, ctx.dim, ctx.eps, ctx.center = inputs
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
            return (None,) * 6
        if torch.is_grad_enabled():
            mean, std = _moments(x, dim, ctx.eps, ctx.center)
            return *_gradients(x, weight, bias, mean, std, g, dim, ctx.center), None, None, None
        rstd = (var + ctx.eps).rsqrt_()
        dx = torch.empty_like(x)
        dw, db = (torch.zeros_like(weight, dtype=mean.dtype) for _ in range(2))
        alone = [d for d, n in enumerate(weight.shape) if n == 1]
        inner = [d for d in dim if d in alone]  # axes that share both statistics and weight
        v = weight.to(mean.dtype) / -math.prod([x.shape[d] for d in dim])
        for x_, g_, w_, v_, mean_, rstd_, dx_, dw_, db_ in _pieces(
            x, dim, g, weight, v, mean, rstd, dx, dw, db
        ):
            z = (x_ - mean_).mul_(rstd_)
            gz = g_ * z
            a, b = (t.sum(inner, keepdim=True, dtype=mean.dtype) if inner else t for t in (g_, gz))
            db_ += a.sum(alone, keepdim=True, dtype=mean.dtype) if alone else a
            dw_ += b.sum(alone, keepdim=True) if alone else b
            # What follows is g·w − mean(g·w) − z·mean(g·w·z), times 1/σ as early as it is small.
            if w_.shape[-1] == 1:
                z.mul_((b * v_).sum(dim, keepdim=True).mul_(rstd_))
                if ctx.center:
                    z.add_((a * v_).sum(dim, keepdim=True).mul_(rstd_))
                torch.add(z, torch.mul(g_, rstd_ * w_, out=gz), out=dx_)
            else:  # one weight per element of the last axis
                z.mul_((b @ v_[0]).unsqueeze_(1))
                if ctx.center:
                    z.add_((a.to(v_.dtype) @ v_[0]).unsqueeze_(1))
                torch.mul(z.addcmul_(g_, w_), rstd_, out=dx_)
        return dx, dw.to(weight.dtype), db.to(bias.dtype), None, None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dw: Tensor | None, db: Tensor | None, *_: None) -> Any:
        """Forward mode: the matrix of the derivative is symmetric, and so its formula is the same."""
        x, weight, _ = ctx.saved_tensors
        mean, std = _moments(x, ctx.dim, ctx.eps, ctx.center)
        z = (x - mean) / std
        dy = torch.zeros_like(z)
        if dx is not None:
            dy = dy + _without_mean_and_z(dx, z, ctx.dim, ctx.center) / std * weight
        if dw is not None:
            dy = dy + z * dw
        return (dy if db is None else dy + db).to(x.dtype), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor, bias: Tensor, *args: Any) -> Any:
        """Over a batch of inputs: the three steps themselves."""
        return torch.vmap(lambda x, w, b: compose(x, w, b, *args), in_dims[:3])(x, weight, bias), (0, 0, 0)


class Traced(torch.autograd.Function):
    """The same for `torch.compile`, which needs the formulas and not the pieces."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float, center: bool
    ) -> Any:
        """`compose`, keeping what the gradient needs."""
        y, mean, var = compose(x, weight, bias, dim, eps, center)
        ctx.save_for_backward(x, weight, bias, mean, (var + eps).sqrt())
        ctx.dim, ctx.center = dim, center
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        """The formula of `Standardize`."""
        x, weight, bias, mean, std = ctx.saved_tensors
        return *_gradients(x, weight, bias, mean, std, g, ctx.dim, ctx.center), None, None, None


def compose(
    x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float, center: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What `Standardize` must agree with, as one reads it; compilers make it fast themselves."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = denormalize(normalize(wide, *_moments(wide, dim, eps, center)), bias, weight).to(x.dtype)
    mean, std = _moments(wide.detach(), dim, 0.0, center)
    return y, mean, std.square()


def _moments(x: Tensor, dim: tuple[int, ...], eps: float, center: bool) -> tuple[Tensor, Tensor]:
    if center:
        return moments(x, dim, eps=eps)
    mean_square = x.to(torch.promote_types(x.dtype, torch.float32)).square().mean(dim, keepdim=True)
    return torch.zeros_like(mean_square), (mean_square + eps).sqrt()


def _without_mean_and_z(g: Tensor, z: Tensor, dim: tuple[int, ...], center: bool) -> Tensor:
    rest = g - z * (g * z).mean(dim, keepdim=True)
    return rest - g.mean(dim, keepdim=True) if center else rest


def _gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    std: Tensor,
    g: Tensor,
    dim: tuple[int, ...],
    center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    z = (x - mean) / std
    gz = g * z
    # One pass over the axes that share both statistics and weight; all other sums are of its results.
    inner = [d for d in dim if weight.shape[d] == 1]
    a, b = (t.sum(inner, keepdim=True, dtype=z.dtype) if inner else t.to(z.dtype) for t in (g, gz))
    m = math.prod([x.shape[d] for d in dim])
    dx = g * weight - z * ((b * weight).sum(dim, keepdim=True) / m)
    if center:
        dx = dx - (a * weight).sum(dim, keepdim=True) / m
    dw, db = b.sum_to_size(weight.shape), a.sum_to_size(bias.shape)
    return (dx / std).to(x.dtype), dw.to(weight.dtype), db.to(bias.dtype)


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
