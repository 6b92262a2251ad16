"""Results beside expected ones: what differs, in words. Whatever a function returns, nothing here raises."""

from __future__ import annotations

import copy
import math
import reprlib
import traceback
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["copied", "described", "difference", "said", "same"]

_FEW = 12  # numbers that can be taken in at a glance are shown; of more, the shape
_LONG = 500  # characters of an exception's text: what torch says of shapes is shorter
_BRIEF = reprlib.Repr()  # which looks at the first few of what is long, and not into what is deep
_BRIEF.maxlevel = 2
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 200


def _is_a(x: Any, kind: Any) -> bool:
    """As isinstance, which however believes what ``x`` says its class is; torch can crash on an impostor."""
    return issubclass(type(x), kind)


def difference(result: Any, expected: Any, atol: float, *, nan_is_right: bool = False) -> str | None:
    """What is wrong with ``result``, or None.

    >>> difference(torch.ones(2), torch.ones(3), 1e-5)
    'should return shape (3,), got (2,).'

    Args:
        result: anything that a function may return.
        expected: a tensor, number, bool, text or None; tuples and lists of these go element by element.
        atol: relative to the largest expected value, or to 1.
        nan_is_right: whether NaN where NaN is expected is no difference.
    """
    try:
        with torch._C.DisableTorchFunction():  # neither subclasses nor modes say what a difference is
            return _difference(result, expected, atol, nan_is_right)
    except Exception as error:
        return f"cannot be compared with the right result ({said(error)})."


def _difference(result: Any, expected: Any, atol: float, nan_is_right: bool) -> str | None:
    if isinstance(expected, tuple | list):
        if not _is_a(result, tuple | list) or len(result) != len(expected):
            return f"should return {len(expected)} results, got {described(result)}."
        for i, (r, e) in enumerate(zip(result, expected, strict=True), start=1):
            if problem := _difference(r, e, atol, nan_is_right):
                return f"result {i} of {len(expected)} {problem}"
        return None
    if expected is None or isinstance(expected, bool | str):
        right = type(result) is type(expected) and result == expected
        return None if right else f"should return {expected!r}, got {described(result)}."
    # A count is right by its value: 8, 8.0 and a tensor of either are the same number of pixels.
    is_count = isinstance(expected, Tensor) and not expected.ndim and not expected.is_floating_point()
    number_will_do = is_count or isinstance(expected, Real)
    if not _is_a(result, Tensor | Real if number_will_do else Tensor):
        kind = "tensor" if isinstance(expected, Tensor) else "number"
        return f"should return a {kind}, got {described(result)}."
    if _is_a(result, Tensor):
        if torch._C._dispatch_keys(result).has(torch._C.DispatchKey.Python):
            return (
                "should return an ordinary tensor, got one that computes by a __torch_dispatch__ of its own."
            )
        result = Tensor.detach(result)  # nor do methods of its own
    r, e = torch.as_tensor(result).detach(), torch.as_tensor(expected).detach()
    if r.is_nested or r.layout is not torch.strided:
        return f"should return an ordinary tensor, got {'a nested one' if r.is_nested else r.layout}."
    if r.device != e.device:
        return f"should return a tensor on {e.device}, got {r.device}."
    if r.shape != e.shape:
        return f"should return shape {tuple(e.shape)}, got {tuple(r.shape)}."
    if isinstance(expected, Tensor) and r.dtype != e.dtype and not is_count:
        return f"should return {e.dtype}, got {r.dtype}."
    if not e.numel():
        return None
    errors = (r.double() - e.double()).abs().masked_fill(r == e, 0)  # ∞ − ∞ is NaN
    if nan_is_right:
        errors = errors.masked_fill(r.isnan() & e.isnan(), 0)
    largest = errors.max().item()
    if largest <= atol * max(1.0, e.double().abs().nan_to_num().max().item()):
        return None
    what = f"differs: the largest error is {largest:.2g}" if math.isfinite(largest) else "differs"
    if bool((r.isnan() & ~e.isnan()).any()):
        what = "has NaN"
    return f"{what}, in a result of shape {tuple(r.shape)}.{_beside(r, e, errors)}"


def _beside(r: Tensor, e: Tensor, errors: Tensor) -> str:
    """A line with expected numbers and the ones got: all if they are few, else where they differ most."""
    where = "Expected"
    if e.numel() > _FEW:
        at = np.unravel_index(int(errors.nan_to_num(torch.inf).argmax()), e.shape)
        where, r, e = f"At [{', '.join(map(str, map(int, at)))}]: expected", r[at], e[at]
    digits = 6 if _numbers(r, 6) != _numbers(e, 6) else 17
    return f"\n  {where} {_numbers(e, digits)}, got {_numbers(r, digits)}."


def _numbers(x: Any, digits: int = 6) -> str:
    if isinstance(x, Tensor):
        x = x.tolist()
    if isinstance(x, list):
        return f"[{', '.join(_numbers(v, digits) for v in x)}]"
    return f"{x:.{digits}g}" if isinstance(x, float) else str(x)


def described(x: Any) -> str:
    """``x`` in a few words: its numbers if they are few, else kind, dtype and shape.

    >>> described(torch.tensor([0.5, 2])), described(np.zeros((4, 4)))
    ('tensor([0.5, 2])', 'a float64 array of shape (4, 4)')
    """
    try:
        with torch._C.DisableTorchFunction():
            text = str.__str__(_described(x))  # a text of another class could raise at its length
    except Exception:
        return f"something of type {type(x).__name__}"
    return text if len(text) <= 200 else f"{text[:197]}…"


def _described(x: Any) -> str:
    if _is_a(x, Tensor):
        x = Tensor.detach(x)
    if _is_a(x, Tensor | np.ndarray):
        kind = "tensor" if _is_a(x, Tensor) else "array"
        if 0 < np.prod(x.shape) <= _FEW and (_is_a(x, np.ndarray) or x.device.type != "meta"):
            return f"{kind}({_numbers(x.tolist())})"
        return f"a {x.dtype} {kind} of shape {tuple(x.shape)}"
    if _is_a(x, list | tuple) and len(x) <= _FEW:
        left, right = "[]" if _is_a(x, list) else "()"
        inner = (_BRIEF.repr(v) if _is_a(v, list | tuple) else _described(v) for v in x)
        return left + ", ".join(inner) + right
    return x if _is_a(x, str) else _BRIEF.repr(x)


def said(error: BaseException) -> str:
    """Type and text of an exception, as much of them as can be had.

    >>> said(ZeroDivisionError("oops"))
    'ZeroDivisionError: oops'
    """
    try:
        text = "".join(traceback.format_exception_only(type(error), error)).strip()
    except Exception:
        return "an exception that cannot be shown"
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies for a function that may change them."""
    return tuple(copy.deepcopy(a) for a in args)


def same(a: Any, b: Any) -> bool:
    """Whether two arguments are alike, in types, dtypes and values."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):  # torch.equal raises where devices or dtypes differ
        return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return not isinstance(a, Real | str) or a == b  # other objects: models, loaders
