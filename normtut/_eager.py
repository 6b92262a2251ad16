"""moments → normalize → denormalize in one step: faster, with the same results.

In eager mode, autograd through the three functions of `normtut.core` writes a dozen tensors of the input's
size to memory, and memory is what such layers spend their time on. Here the gradient is in closed form, and
the work goes piece by piece: groups of values that share no statistics are independent of each other, so a
piece that fits the processor's cache passes through all the steps before the next one is fetched.
"""

from __future__ import annotations

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
    r"""``denormalize(normalize(x, *moments(x, dim, eps=eps)), bias, weight)``, the mean and the variance.

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
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float, center: bool
    ) -> Any:
        """x: at least one axis is not in ``dim``; weight and bias: of as many axes as x."""
        wide = torch.promote_types(x.dtype, torch.float32)
        shape = [1 if d in dim else n for d, n in enumerate(x.shape)]
        mean, norm, rstd = torch.zeros([3, *shape], dtype=wide, device=x.device)
        y = torch.empty_like(x)
        m = math.prod([x.shape[d] for d in dim])
        eps_ = torch.full((), eps, dtype=wide, device=x.device)
        for x_, w_, b_, mean_, norm_, rstd_, y_ in _pieces(x, dim, weight, bias, mean, norm, rstd, y):
            if center:
                _mean(x_, dim, out=mean_)
            z = _centred(x_, mean_, y_)
            _norm(z, dim, out=norm_)
            torch.addcmul(eps_, norm_, norm_, value=1 / m, out=rstd_).rsqrt_()
            if w_.shape[-1] == 1:
                torch.add(z.mul_(rstd_ * w_), b_, out=y_)
            else:
                torch.addcmul(b_, z.mul_(rstd_), w_, out=y_)
        var = norm.square_().div_(m)
        ctx.dim, ctx.eps, ctx.center = dim, eps, center
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, mean, rstd)  # the input itself, never z
        ctx.save_for_forward(x, weight, bias)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Any:
        """The formula above; in plain steps for a second derivative, or for many gradients at once."""
        if g is None:
            return (None,) * 6
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():
            mean, std = _moments(x, ctx.dim, ctx.eps, ctx.center)
            rstd = 1 / std
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(g):
            gradients = _gradients(x, weight, bias, mean, rstd, g, ctx.dim, ctx.center)
        else:
            with torch.autocast(g.device.type, enabled=False):  # its matrix products are precise sums
                gradients = _gradients_in_pieces(x, weight, bias, mean, rstd, g, ctx.dim, ctx.center)
        return *gradients, None, None, None

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


class Traced(torch.autograd.Function):
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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Apart from `forward`, as transforms ask for; 1/σ is an output only to be kept."""
        x, weight, bias, ctx.dim, ctx.eps, ctx.center = inputs
        _, mean, var, rstd = output
        ctx.mark_non_differentiable(mean, var, rstd)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.save_for_forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Any:
        """The formula of `Standardize`."""
        if g is None:
            return (None,) * 6
        x, weight, bias, mean, rstd = ctx.saved_tensors
        return *_gradients(x, weight, bias, mean, rstd, g, ctx.dim, ctx.center), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """The formula of `Standardize`."""
        return *Standardize.jvp(ctx, *tangents), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor, bias: Tensor, *args: Any) -> Any:
        """Over a batch of inputs: the three steps themselves."""
        y, mean, var = torch.vmap(lambda x, w, b: compose(x, w, b, *args), in_dims[:3])(x, weight, bias)
        return (y, mean, var, (var + args[1]).rsqrt()), (0, 0, 0, 0)


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
    if inner == [x.ndim - 1]:  # as rows of a matrix, by which compilers see that one pass does for both
        a, b = (t.reshape(-1, x.shape[-1]).sum(1, dtype=z.dtype).view(*x.shape[:-1], 1) for t in (g, gz))
    else:
        a, b = (t.sum(inner, keepdim=True, dtype=z.dtype) if inner else t.to(z.dtype) for t in (g, gz))
    b = b * rstd
    share = rstd * (1 / math.prod([x.shape[d] for d in dim]))
    dx = g * (weight * rstd) - z * ((b * weight).sum(dim, keepdim=True) * rstd * share)
    if center:
        dx = dx - (a * weight).sum(dim, keepdim=True) * share
    dw, db = b.sum_to_size(weight.shape), a.sum_to_size(bias.shape)
    return dx.to(x.dtype), dw.to(weight.dtype), db.to(bias.dtype)


def _gradients_in_pieces(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    g: Tensor,
    dim: tuple[int, ...],
    center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """g·w − mean(g·w) − z·mean(g·w·z), times 1/σ; here z is not divided by σ: what is small is, instead."""
    dx = torch.empty_like(x)
    inner = [d for d in dim if weight.shape[d] == 1]  # axes that share both statistics and weight
    sums = [1 if d in inner else n for d, n in enumerate(x.shape if inner else weight.shape)]
    db, dw = torch.zeros([2, *sums], dtype=mean.dtype, device=x.device)
    v = weight.to(mean.dtype) / -math.prod([x.shape[d] for d in dim])
    gz = x.new_empty(0)
    if inner:
        for x_, g_, w_, v_, mean_, rstd_, dx_, db_, dw_ in _pieces(
            x, dim, g, weight, v, mean, rstd, dx, db, dw
        ):
            z = _centred(x_, mean_, dx_)
            gz = torch.mul(g_, z, out=gz if gz.shape == z.shape else torch.empty_like(z))
            torch.sum(g_, inner, keepdim=True, dtype=db.dtype, out=db_)
            torch.sum(gz, inner, keepdim=True, out=dw_).mul_(rstd_)
            z.mul_((dw_ * v_).sum(dim, keepdim=True).mul_(rstd_).mul_(rstd_))
            if center:
                z.add_((db_ * v_).sum(dim, keepdim=True).mul_(rstd_))
            torch.addcmul(z, g_, rstd_ * w_, out=dx_)
        db, dw = (t.sum_to_size(weight.shape) for t in (db, dw))
    else:  # a matrix, with one weight per element of its rows
        v = v.t()
        for x_, g_, mean_, rstd_, dx_ in _pieces(x, dim, g, mean, rstd, dx):
            z = _centred(x_, mean_, dx_)
            gz = torch.mul(g_, z, out=gz if gz.shape == z.shape else torch.empty_like(z))
            db += g_.sum(0, dtype=db.dtype)
            dw.addmm_(rstd_.t(), gz)
            z.mul_((gz @ v).mul_(rstd_).mul_(rstd_).mul_(rstd_))
            if center:
                gw = torch.addcmul(g_.to(z.dtype) @ v, g_, weight, out=gz)
            else:
                gw = torch.mul(g_, weight, out=gz)
            torch.addcmul(z, gw, rstd_, out=dx_)
    return dx, dw.to(weight.dtype), db.to(bias.dtype)


def _centred(x: Tensor, mean: Tensor, room: Tensor) -> Tensor:
    """x − mean in the type of the mean: in ``room`` where that type fits, which spares a buffer."""
    return torch.sub(x, mean, out=room) if room.dtype == mean.dtype else x - mean


def _mean(x: Tensor, dim: tuple[int, ...], out: Tensor) -> None:
    """Along one axis after the other where they are apart: at once is slow on the CPU, and loses digits."""
    if not x.is_contiguous() and x.device.type == "cpu":
        for d in dim[:0:-1]:
            x = torch.mean(x, d, keepdim=True, dtype=out.dtype)
        dim = dim[:1]
    torch.mean(x, dim, keepdim=True, dtype=out.dtype, out=out)


def _norm(z: Tensor, dim: tuple[int, ...], out: Tensor) -> None:
    """Root of the sum of squares; fast over one inner axis, which two are if they follow in memory."""
    norm = torch.linalg.vector_norm
    if dim == (z.ndim - 2, z.ndim - 1) and z.is_contiguous():
        z, out, dim = z.flatten(-2), out.squeeze(-1), dim[:1]
    for d in dim:
        if z.shape[d] > _LONG and z.device.type == "cpu":
            z = torch.cat([norm(part, dim=d, keepdim=True) for part in torch.split(z, _LONG, d)], d)
    if len(dim) > 1:
        z, dim = norm(z, dim=dim[-1], keepdim=True), dim[:-1]
    norm(z, dim=dim, keepdim=True, out=out)


def _pieces(x: Tensor, dim: tuple[int, ...], *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of x and of what goes with it, along an axis that shares no statistics."""
    axis = next(d for d in range(x.ndim) if d not in dim)
    size = x.shape[axis]
    if x.device.type == "cpu" and not (x.stride(axis) == 1 and x.numel() > size):
        size = math.ceil(size / max(1, round(x.numel() / (_PIECE * torch.get_num_threads()))))
    if size >= x.shape[axis]:
        return iter([(x, *others)])
    return zip(
        *(
            torch.split(t, size, axis) if t.shape[axis] == x.shape[axis] else itertools.repeat(t)
            for t in (x, *others)
        ),
        strict=False,
    )
