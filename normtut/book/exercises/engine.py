"""How an exercise is tried: on hidden cases, within a time, looking for the mistakes that people make."""

from __future__ import annotations

import contextlib
import math
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils import _device

from normtut.book.exercises.comparison import copied, described, difference, said, same

__all__ = ["Args", "Exercise", "attempted", "fixed_settings"]

Args = tuple[Any, ...]


@dataclass(frozen=True)
class Exercise:
    """What `check` needs to know about one exercise.

    >>> double = Exercise("Twice", "double(x)", "doubles x", lambda x: 2 * x, lambda seeded: iter([(0.5,)]))
    >>> double.statement
    'Write double(x), which doubles x.'

    Args:
        title: what it is called in a list of exercises.
        signature: the function to write, as ``inverse(z, mean, std)``; messages name its parameters.
        task: what the function does; it completes "Write inverse(z, mean, std), which …".
        reference: a correct solution.
        cases: makes the hidden inputs from a seeded generator.
        mistakes: wrong solutions that people write, by the sentence that explains them; it completes
            "It looks as if you …".
        atol: largest allowed difference, relative to the largest value of the right result (or to 1).
    """

    title: str
    signature: str
    task: str
    reference: Callable[..., Any]
    cases: Callable[[torch.Generator], Iterator[Args]]
    mistakes: dict[str, Callable[..., Any]] = field(default_factory=dict)
    atol: float = 1e-5

    @property
    def statement(self) -> str:
        """Signature and task, in one sentence."""
        return f"Write {self.signature}, which {self.task}."


def attempted(exercise: Exercise, attempt: object, seconds: float | None) -> tuple[bool, str]:
    """Whether ``attempt`` solves the exercise, and the sentences that say so or what is wrong."""
    if not callable(attempt):
        wrong = f"the second argument must be the function itself, not called; got {described(attempt)}."
        return False, f"{wrong}\n  {exercise.statement}"
    _check_seconds(seconds)
    with fixed_settings():
        cases = list(exercise.cases(torch.Generator().manual_seed(0)))
    for i, args in enumerate(cases, start=1):
        try:
            with fixed_settings(), _time_limit(seconds):
                wrong = _what_is_wrong(exercise, attempt, args)
        except _TimeIsUpError:
            wrong = f"was not done after {seconds:g} s: is there a loop that does not end?"
            wrong += f"\n  {exercise.statement}"
        if wrong:
            comma = "," if wrong.startswith("result ") else ""
            return False, f"case {i} of {len(cases)}{comma} {wrong}"
    return True, f"all {len(cases)} cases agree."


def _what_is_wrong(exercise: Exercise, attempt: Callable[..., Any], args: Args) -> str:
    """What is wrong with the result of one case, with all that helps to see why; empty if nothing is."""
    given = copied(args)
    try:
        with fixed_settings():
            result = attempt(*given)
    except (KeyboardInterrupt, _TimeIsUpError):
        raise
    except BaseException as error:  # exit() raises SystemExit, which is no Exception
        return f"raised {said(error)}{_line(error)}\n  {exercise.statement}{_arguments(exercise, args)}"
    expected = exercise.reference(*copied(args))  # only now: the attempt could have looked for it
    try:
        return _what_differs(exercise, result, expected, args, given)
    except (KeyboardInterrupt, _TimeIsUpError):
        raise
    except BaseException as error:  # of a method of what was returned
        return f"returned something that raises {said(error)} when one looks at it.\n  {exercise.statement}"


def _what_differs(exercise: Exercise, result: Any, expected: Any, args: Args, given: Args) -> str:
    wrong = difference(result, expected, exercise.atol)
    if wrong is None:
        # There is no mistake to look for: the result is right, and a mistake may agree with it in this case.
        return "" if same(args, given) else "changes its input in place; work on a copy."
    for explanation, mistake in exercise.mistakes.items():
        with contextlib.suppress(Exception):  # a mistake may raise on some cases
            if difference(result, mistake(*copied(args)), exercise.atol, nan_is_right=True) is None:
                return f"{wrong}\n  It looks as if you {explanation}.\n  {exercise.statement}"
    return f"{wrong}\n  {exercise.statement}{_arguments(exercise, args)}"


def _arguments(exercise: Exercise, args: Args) -> str:
    names = exercise.signature.partition("(")[2].partition(")")[0].split(", ")
    listed = [f"{name} = {described(arg)}" for name, arg in zip(names, args, strict=True)]
    return f"\n  In this case {', '.join(listed)}."


def _line(error: BaseException) -> str:
    """Where in the attempt it was raised. The first frame is ours; none follows if it could not be called."""
    try:
        frames = traceback.extract_tb(error.__traceback__, limit=2)[1:]
    except Exception:  # a class of exceptions can say anything to be its traceback
        return ""
    return "".join(f"\n  in line {f.lineno} of {f.name}: {f.line}" for f in frames if f.line)


def _default_device() -> torch.device:
    """`torch.get_default_device` of older versions raises once the default has been set to None."""
    return torch.empty(0).device


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """torch's own defaults, the same for everyone; afterwards the caller's, whatever has been changed."""
    device, dtype = _default_device(), torch.get_default_dtype()
    stdout, stderr, depth = sys.stdout, sys.stderr, sys.getrecursionlimit()
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.enable_grad(), torch.autocast("cpu", enabled=False), torch.random.fork_rng(devices=[]):
        try:
            torch.set_default_dtype(torch.float32)
            if device.type != "cpu":
                torch.set_default_device(None)
            with _modes_left():
                yield
        finally:
            sys.stdout, sys.stderr = stdout, stderr
            sys.setrecursionlimit(depth)
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)  # noqa: NPY002
            torch.set_default_dtype(dtype)
            if _default_device() != device:
                torch.set_default_device(None if device.type == "cpu" else device)


@contextlib.contextmanager
def _modes_left() -> Iterator[None]:
    """Modes of torch that were entered and not left would also compute the right results, and compare."""
    functions, dispatches = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
    try:
        yield
    finally:
        while torch._C._len_torch_dispatch_stack() > dispatches:
            torch._C._pop_torch_dispatch_stack(None)
        entered = range(torch._C._len_torch_function_stack() - functions)
        for mode in reversed([torch._C._pop_torch_function_stack() for _ in entered]):
            if isinstance(mode, _device.DeviceContext):  # the default device, which torch keeps a note of
                torch._C._push_on_torch_function_stack(mode)


class _TimeIsUpError(BaseException):
    """Not an Exception, or the attempt's own ``except Exception`` would swallow it."""


def _check_seconds(seconds: float | None) -> None:
    if seconds is None:
        return
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be positive, got {seconds}")
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        raise ValueError("seconds= needs the main thread of a process on Linux or macOS; leave it out here")


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return
    rang = False

    def ring(_: int, frame: FrameType | None) -> None:
        nonlocal rang
        rang = True
        # A loop around `try: … except: pass` would go on. So the next line that is run, which is one of the
        # `except`, raises too, and from there nothing but an outer `try` can catch.
        sys.settrace(again)
        while frame is not None and frame.f_code is not _what_is_wrong.__code__:
            frame.f_trace = again
            frame = frame.f_back
        raise _TimeIsUpError

    def again(_: FrameType, event: str, __: Any) -> Any:  # pragma: no cover  # what traces is not traced
        if event == "line":
            raise _TimeIsUpError
        return again

    handler, tracer = signal.signal(signal.SIGALRM, ring), sys.gettrace()
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)  # and again, in case it is swallowed
    try:
        yield
    finally:
        sys.settrace(tracer)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
        if rang:
            raise _TimeIsUpError
