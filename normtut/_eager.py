"""moments → normalize → denormalize in one step: faster, with the same results.

In eager mode, autograd through the three functions of `normtut.core` writes a dozen tensors of the input's
size to memory, and memory is what such layers spend their time on. Here the gradient is in closed form, and
the work goes piece by piece: groups of values that share no statistics are independent of each other, so a
piece that fits the processor's cache passes through all the steps before the next one is fetched.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .core import denormalize, moments, normalize

# Elements of a piece, per thread: 2 MiB of float32. Smaller ones would spend their time in Python.
_PIECE = 1 << 19

# On the CPU `vector_norm` adds up one value after the other, and over millions loses digits: longer axes go
# in parts.
_LONG = 1 << 14


class Standardize(torch.autograd.Function):
    r"""``denormalize(normalize(x, *moments(x, dim, eps=eps)), bias, weight)``, the mean, the variance, 1/σ.

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
        mean, norm, rstd = (torch.zeros(shape, dtype=wide, device=x.device) for _ in range(3))
        y = torch.empty_like(x)
        m = math.prod([x.shape[d] for d in dim])
        eps_ = torch.full((), eps, dtype=wide, device=x.device)
        for x_, w_, b_, mean_, norm_, rstd_, y_ in _pieces(x, dim, weight, bias, mean, norm, rstd, y):
            if center:
                torch.mean(x_, dim, keepdim=True, dtype=wide, out=mean_)
            z = _centred(x_, mean_, y_)
            _norm(z, dim, out=norm_)
            torch.addcmul(eps_, norm_, norm_, value=1 / m, out=rstd_).rsqrt_()
            if w_.shape[-1] == 1:
                torch.add(z.mul_(rstd_ * w_), b_, out=y_)
            else:
                torch.addcmul(b_, z.mul_(rstd_), w_, out=y_)
        return y, mean, norm.square_().div_(m), rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs: the input itself and its statistics, never z."""
        x, weight, bias, ctx.dim, ctx.eps, ctx.center = inputs
        _, mean, var, rstd = output
        ctx.mark_non_differentiable(mean, var, rstd)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.save_for_forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Any:
        """The formula above; in plain differentiable steps where a second derivative may follow."""
        if g is None:
            return (None,) * 6
        if torch.is_grad_enabled():
            x, weight, bias, *_ = ctx.saved_tensors
            mean, std = _moments(x, ctx.dim, ctx.eps, ctx.center)
            return *_gradients(x, weight, bias, mean, 1 / std, g, ctx.dim, ctx.center), None, None, None
        with torch.autocast(g.device.type, enabled=False):  # its matrix products are sums, and stay precise
            return *Standardize._in_pieces(ctx, g), None, None, None

    @staticmethod
    def _in_pieces(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dim = ctx.dim
        dx = torch.empty_like(x)
        inner = [d for d in dim if weight.shape[d] == 1]  # axes that share both statistics and weight
        sums = [1 if d in inner else n for d, n in enumerate(x.shape if inner else weight.shape)]
        db, dw = (torch.zeros(sums, dtype=mean.dtype, device=x.device) for _ in range(2))
        v = weight.to(mean.dtype) / -math.prod([x.shape[d] for d in dim])
        gz = x.new_empty(0)
        for x_, g_, w_, v_, mean_, rstd_, dx_, db_, dw_ in _pieces(
            x, dim, g, weight, v, mean, rstd, dx, db, dw
        ):
            z = _centred(x_, mean_, dx_)  # not yet divided by σ: that is done where it is small
            gz = torch.mul(g_, z, out=gz if gz.shape == z.shape else torch.empty_like(z))
            # What follows is g·w − mean(g·w) − z·mean(g·w·z), times 1/σ.
            if inner:
                torch.sum(g_, inner, keepdim=True, dtype=db.dtype, out=db_)
                torch.sum(gz, inner, keepdim=True, out=dw_).mul_(rstd_)
                z.mul_((dw_ * v_).sum(dim, keepdim=True).mul_(rstd_).mul_(rstd_))
                if ctx.center:
                    z.add_((db_ * v_).sum(dim, keepdim=True).mul_(rstd_))
                torch.addcmul(z, g_, rstd_ * w_, out=dx_)
            else:  # a matrix, with one weight per element of its rows
                db_ += g_.sum(0, keepdim=True, dtype=db.dtype)
                dw_.addmm_(rstd_.t(), gz)
                z.mul_((gz @ v_.t()).mul_(rstd_).mul_(rstd_).mul_(rstd_))
                if ctx.center:
                    gw = torch.addcmul(g_.to(z.dtype) @ v_.t(), g_, w_, out=gz)
                else:
                    gw = torch.mul(g_, w_, out=gz)
                torch.addcmul(z, gw, rstd_, out=dx_)
        db, dw = (t.sum_to_size(weight.shape) for t in (db, dw))
        return dx, dw.to(weight.dtype), db.to(bias.dtype)

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
        return (dy if db is None else dy + db).to(x.dtype), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor, bias: Tensor, *args: Any) -> Any:
        """Over a batch of inputs: the three steps themselves."""
        y, mean, var = torch.vmap(lambda x, w, b: compose(x, w, b, *args), in_dims[:3])(x, weight, bias)
        return (y, mean, var, (var + args[1]).rsqrt()), (0, 0, 0, 0)


# `apply` binds its arguments to this at every call; found once, it need not be worked out each time.
Standardize.forward.__signature__ = inspect.signature(Standardize.forward)  # type: ignore[attr-defined]


class Traced(Standardize):
    """The same for `torch.compile`, which needs the formulas and not the pieces."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float, center: bool
    ) -> Any:
        """What is constant over ``dim`` is worked out first, so that compilers need not see that it is."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, var = _mean_and_variance(wide, dim, center)
        rstd = (var + eps).rsqrt()
        y = (wide - mean) * rstd * weight + bias
        return y.to(x.dtype), mean, var, rstd

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Any:
        """The formula of `Standardize`."""
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if g is None:
            return (None,) * 6
        return *_gradients(x, weight, bias, mean, rstd, g, ctx.dim, ctx.center), None, None, None


def _traced(*args: Any) -> Any:
    return Traced.apply(*args)[:3]


# A call of it is one step of the graph, which it is left to autograd to look into, as in eager mode.
traced: Callable[..., tuple[Tensor, Tensor, Tensor]]
traced = torch.compiler.allow_in_graph(_traced)  # type: ignore[no-untyped-call]


def compose(
    x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float, center: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What `Standardize` must agree with, as one reads it."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = denormalize(normalize(wide, *_moments(wide, dim, eps, center)), bias, weight).to(x.dtype)
    return y, *_mean_and_variance(wide.detach(), dim, center)


def _moments(x: Tensor, dim: tuple[int, ...], eps: float, center: bool) -> tuple[Tensor, Tensor]:
    if center:
        return moments(x, dim, eps=eps)
    mean, var = _mean_and_variance(x.to(torch.promote_types(x.dtype, torch.float32)), dim, center)
    return mean, (var + eps).sqrt()


def _mean_and_variance(wide: Tensor, dim: tuple[int, ...], center: bool) -> tuple[Tensor, Tensor]:
    if center:
        var, mean = torch.var_mean(wide, dim, correction=0, keepdim=True)
        return mean, var
    mean_square = wide.square().mean(dim, keepdim=True)
    return torch.zeros_like(mean_square), mean_square


def _without_mean_and_z(g: Tensor, z: Tensor, dim: tuple[int, ...], center: bool) -> Tensor:
    rest = g - z * (g * z).mean(dim, keepdim=True)
    return rest - g.mean(dim, keepdim=True) if center else rest


def _gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    g: Tensor,
    dim: tuple[int, ...],
    center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    z = x - mean  # not yet divided by σ
    gz = g * z
    # One pass over the axes that share both statistics and weight; all other sums are of its results.
    inner = [d for d in dim if weight.shape[d] == 1]
    a, b = (t.sum(inner, keepdim=True, dtype=z.dtype) if inner else t.to(z.dtype) for t in (g, gz))
    b = b * rstd
    share = rstd * (1 / math.prod([x.shape[d] for d in dim]))
    dx = g * (weight * rstd) - z * ((b * weight).sum(dim, keepdim=True) * rstd * share)
    if center:
        dx = dx - (a * weight).sum(dim, keepdim=True) * share
    dw, db = b.sum_to_size(weight.shape), a.sum_to_size(bias.shape)
    return dx.to(x.dtype), dw.to(weight.dtype), db.to(bias.dtype)


def _centred(x: Tensor, mean: Tensor, room: Tensor) -> Tensor:
    """x − mean in the type of the mean: in ``room`` where that type fits, which spares a buffer."""
    return torch.sub(x, mean, out=room) if room.dtype == mean.dtype else x - mean


def _norm(z: Tensor, dim: tuple[int, ...], out: Tensor) -> None:
    """Root of the sum of squares; fast over one inner axis, which two are if they follow in memory."""
    norm = functools.partial(torch.linalg.vector_norm, keepdim=True)
    if dim == (z.ndim - 2, z.ndim - 1) and z.is_contiguous():
        z, out, dim = z.flatten(-2), out.squeeze(-1), dim[:1]
    for d in dim:
        if z.device.type == "cpu" and z.shape[d] > _LONG:
            z = torch.cat([norm(part, dim=d) for part in torch.split(z, _LONG, d)], d)
    if len(dim) > 1:
        z, dim = norm(z, dim=dim[-1]), dim[:-1]
    norm(z, dim=dim, out=out)


def _pieces(x: Tensor, dim: tuple[int, ...], *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of x and of what goes with it, along an axis that shares no statistics."""
    axis = next(d for d in range(x.ndim) if d not in dim)
    size = x.shape[axis]
    if x.device.type == "cpu" and not (x.stride(axis) == 1 and x.numel() > size):
        size = max(1, _PIECE * torch.get_num_threads() * size // max(1, x.numel()))
    if size >= x.shape[axis]:
        return iter([(x, *others)])
    return zip(
        *(
            torch.split(t, size, axis) if t.shape[axis] == x.shape[axis] else itertools.repeat(t)
            for t in (x, *others)
        ),
        strict=False,
    )
