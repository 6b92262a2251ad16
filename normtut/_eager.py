"""Why this file exists: the three steps of a normalization layer, computed in fewer passes over memory.

`normtut.functional` says what is computed, in the function that `in_pieces` decorates. Autograd through its
steps writes a dozen tensors of the input's size, and memory is what such layers spend their time on. Here the
gradient is in closed form, and the work goes piece by piece: values that share no statistics are independent
of each other, so a piece that fits the processor's cache passes through all the steps before the next one is
fetched. A compiler makes its own pieces; it gets the closed form and no loop.

What it buys on a CPU, forward and backward (``python -m benchmarks layers``): in eager mode the steps take 4
to 6 times as long. Compiled, they take 1.0 to 1.15 times as long, but for group norm, where it is 1.7 times.
Without the decorator everything works as before, only slower.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .core import at_least_float32

_F = TypeVar("_F", bound=Callable[..., tuple[Tensor, Tensor, Tensor]])

# Elements of a piece, per thread: 512 KiB of float32, of which the cache of a processor core holds two or
# three. Smaller ones would spend their time in Python.
_PIECE = 1 << 17

# On the CPU `vector_norm` adds up one value after the other, and over millions loses digits: longer axes go
# in parts.
_LONG = 1 << 14


def in_pieces(steps: _F) -> _F:
    """Let `Pieces` do the work of ``steps``, except where someone wants to see the steps themselves."""

    def fast(loop: bool, x: Tensor, dim: Any, eps: float, gamma: Any, beta: Any, center: bool) -> Any:
        params = [p for p in (gamma, beta) if isinstance(p, Tensor)]
        if x.numel() == 0 or _steps_are_watched(x, *params):
            return steps(x, dim, eps, gamma, beta, center)
        shape = params[0].shape if params else (1,) * x.ndim
        full = partial(torch.full, shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        gamma, beta = (p if isinstance(p, Tensor) else full(p) for p in (gamma, beta))
        return Pieces.apply(x, gamma, beta, dim, eps, center, loop)

    def without_loop(*args: Any) -> Any:
        return fast(False, *args)

    # One node of a compiler's graph, which it is left to autograd to look into, as in eager mode.
    node: Callable[..., Any] = torch.compiler.allow_in_graph(without_loop)  # type: ignore[no-untyped-call]

    @wraps(steps)
    def either(
        x: Tensor, dim: Any, eps: float, gamma: Any = 1.0, beta: Any = 0.0, center: bool = True
    ) -> Any:
        args = x, dim, eps, gamma, beta, center
        return node(*args) if torch.compiler.is_compiling() else fast(True, *args)

    return either  # type: ignore[return-value]


def _steps_are_watched(*tensors: Tensor) -> bool:
    """By a tracer, by `torch.func`, or by forward-mode derivatives."""
    return (
        torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch._C._functorch.peek_interpreter_stack() is not None
        or any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]
    )


class Pieces(torch.autograd.Function):
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
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        dim: tuple[int, ...],
        eps: float,
        center: bool,
        loop: bool,
    ) -> Any:
        """x: at least one axis is not in ``dim``; weight and bias: of as many axes as x."""
        compute = _forward_in_pieces if loop else _forward
        y, mean, var, rstd = compute(x, weight, bias, dim, eps, center)
        ctx.dim, ctx.eps, ctx.center, ctx.loop = dim, eps, center, loop
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, mean, rstd)  # the input itself, never z
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Any:
        """In plain steps for a second derivative, for many gradients at once, and for compilers."""
        if g is None:
            return (None,) * 7
        x, weight, bias, mean, rstd = ctx.saved_tensors
        again = torch.is_grad_enabled()  # for a second derivative, in which mean and 1/σ depend on x
        if again:
            mean, var = _mean_and_variance(x, ctx.dim, ctx.center)
            rstd = (var + ctx.eps).rsqrt()
        loop = ctx.loop and not (again or torch._C._functorch.is_legacy_batchedtensor(g))
        compute = _backward_in_pieces if loop else _backward
        with torch.autocast(g.device.type, enabled=False):  # the matrix products here are precise sums
            gradients = compute(x, weight, bias, mean, rstd, g, ctx.dim, ctx.center)
        return *gradients, None, None, None, None


def _mean_and_variance(x: Tensor, dim: tuple[int, ...], center: bool) -> tuple[Tensor, Tensor]:
    wide = at_least_float32(x)
    if center:
        var, mean = torch.var_mean(wide, dim, correction=0, keepdim=True)
        return mean, var
    mean_square = wide.square().mean(dim, keepdim=True)
    return torch.zeros_like(mean_square), mean_square


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float, center: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is constant over ``dim`` is worked out first, so that compilers need not see that it is."""
    mean, var = _mean_and_variance(x, dim, center)
    rstd = (var + eps).rsqrt()
    y = (x - mean) * rstd * weight + bias
    return y.to(x.dtype), mean, var, rstd


def _forward_in_pieces(
    x: Tensor, weight: Tensor, bias: Tensor, dim: tuple[int, ...], eps: float, center: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    return y, mean, norm.square_().div_(m), rstd


def _backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    g: Tensor,
    dim: tuple[int, ...],
    center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula of `Pieces`, and with it the sums over g·z and g that are the gradients of γ and β.

    No tensor of the input's size is divided by σ. What is small is divided instead: statistics and sums.
    """
    centred = x - mean
    g_centred = g * centred
    # One pass over the axes that share both statistics and weight; all other sums are of its results.
    inner = [d for d in dim if weight.shape[d] == 1]
    if inner == [x.ndim - 1]:  # as rows of a matrix, by which compilers see that one pass does for both
        db, dw = (
            t.reshape(-1, x.shape[-1]).sum(1, dtype=mean.dtype).view(*x.shape[:-1], 1) for t in (g, g_centred)
        )
    elif inner:
        db, dw = (t.sum(inner, keepdim=True, dtype=mean.dtype) for t in (g, g_centred))
    else:
        db, dw = g.to(mean.dtype), g_centred
    dw = dw * rstd
    share = rstd * (1 / math.prod([x.shape[d] for d in dim]))
    dx = g * (weight * rstd) - centred * ((dw * weight).sum(dim, keepdim=True) * rstd * share)
    if center:
        dx = dx - (db * weight).sum(dim, keepdim=True) * share
    dw, db = dw.sum_to_size(weight.shape), db.sum_to_size(bias.shape)
    return dx.to(x.dtype), dw.to(weight.dtype), db.to(bias.dtype)


def _backward_in_pieces(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    g: Tensor,
    dim: tuple[int, ...],
    center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`_backward`, with the gradient in place of the tensors that it goes through."""
    dx = torch.empty_like(x)
    inner = [d for d in dim if weight.shape[d] == 1]  # axes that share both statistics and weight
    sums = [1 if d in inner else n for d, n in enumerate(x.shape if inner else weight.shape)]
    db, dw = torch.zeros([2, *sums], dtype=mean.dtype, device=x.device)
    # In the type of the statistics: a product of two numbers in half precision would be rounded to that.
    weight_ = weight.to(mean.dtype)
    minus_share = weight_ / -math.prod([x.shape[d] for d in dim])
    gz = x.new_empty(0)
    if inner:
        for x_, g_, w_, v_, mean_, rstd_, dx_, db_, dw_ in _pieces(
            x, dim, g, weight_, minus_share, mean, rstd, dx, db, dw
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
        column = minus_share.t()
        for x_, g_, mean_, rstd_, dx_ in _pieces(x, dim, g, mean, rstd, dx):
            z = _centred(x_, mean_, dx_)
            gz = torch.mul(g_, z, out=gz if gz.shape == z.shape else torch.empty_like(z))
            db += g_.sum(0, dtype=db.dtype)
            dw.addmm_(rstd_.t(), gz)
            z.mul_((gz @ column).mul_(rstd_).mul_(rstd_).mul_(rstd_))
            if center:
                gw = torch.addcmul(g_.to(z.dtype) @ column, g_, weight_, out=gz)
            else:
                gw = torch.mul(g_, weight_, out=gz)
            torch.addcmul(z, gw, rstd_, out=dx_)
    return dx, dw.to(weight.dtype), db.to(bias.dtype)


def _centred(x: Tensor, mean: Tensor, room: Tensor) -> Tensor:
    """x − mean in the type of the mean: in ``room`` where that type fits, which spares a buffer."""
    return torch.sub(x, mean, out=room) if room.dtype == mean.dtype else x - mean


def _mean(x: Tensor, dim: tuple[int, ...], out: Tensor) -> None:
    """On the CPU, over axes that do not follow each other in memory, torch is slow and loses digits.

    Over one axis after the other it does not.
    """
    if not x.is_contiguous() and x.device.type == "cpu":
        for d in dim[:0:-1]:
            x = torch.mean(x, d, keepdim=True, dtype=out.dtype)
        dim = dim[:1]
    torch.mean(x, dim, keepdim=True, dtype=out.dtype, out=out)


def _norm(z: Tensor, dim: tuple[int, ...], out: Tensor) -> None:
    """Root of the sum of squares, for which `vector_norm` is fast over a single axis only.

    So two last axes become one where they follow each other in memory, and else take turns.
    """
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
    """Pieces of x, and of each tensor that goes with it, along the first axis that shares no statistics.

    A tensor that has no such axis goes with every piece. One piece is enough on a GPU, and where elements
    that follow each other in memory would end up in different pieces.
    """
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
