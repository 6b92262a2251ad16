"""Exercises that check themselves: your function is tried on hidden cases and told what is wrong.

>>> def my_inverse(z, mean, std):
...     return (z + mean.view(-1, 1, 1)) * std.view(-1, 1, 1)
>>> check("inverse", my_inverse)
✗ inverse: case 1 of 4 differs: the largest error is 0.46, in a result of shape (3, 4, 5).
  At [1, 1, 3]: expected 0.829612, got 0.374381.
  It looks as if you added the mean before multiplying by the std.
  Write inverse(z, mean, std), which puts mean and std, of shape (C,), back into images (…,
  C, H, W).
False

`engine` tries functions; the other files here are the catalogue, by chapter. To add an exercise, add it to
the ``EXERCISES`` of one of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from normtut.book.exercises import features, pixels, practice, style, weights
from normtut.book.exercises.engine import Args, Exercise, attempted, fixed_settings

__all__ = ["Exercise", "Task", "cases", "check", "names", "solution", "tasks"]

_EXERCISES: dict[str, Exercise] = {
    **pixels.EXERCISES,
    **features.EXERCISES,
    **weights.EXERCISES,
    **style.EXERCISES,
    **practice.EXERCISES,
}


def check(
    name: str,
    attempt: Callable[..., Any] | None = None,
    *,
    strict: bool = False,
    seconds: float | None = None,
) -> bool:
    """Try ``attempt`` on the hidden cases of an exercise; print what is wrong, and return the verdict.

    >>> check("inverse", lambda z, mean, std: z * std.view(-1, 1, 1) + mean.view(-1, 1, 1))
    ✓ inverse: all 4 cases agree.
    True

    Without a function it prints the task, and returns False: nothing is solved yet.

    The function runs under torch's own settings (float32, CPU, gradients on). Afterwards these, the random
    numbers of torch, NumPy and Python, and ``sys.stdout`` are as before. But it runs in this process: it
    could read the solutions, patch torch or this function, turn off the clock, or end the process. Graders
    who must not be cheated add hidden tests of their own, as ``normtut homework`` does, and a time limit
    outside of the process.

    Args:
        name: one of `names`.
        attempt: the function, itself, not its result.
        strict: raise instead of printing what is wrong, for graders.
        seconds: time for each case; a loop that does not end is then stopped, except within one call of C.

    Raises:
        KeyError: for an unknown name; it lists the known ones.
        AssertionError: if ``strict``, and the attempt is not right: with the explanation.
        ValueError: for ``seconds`` that are not positive, outside the main thread, or on Windows.
    """
    exercise = _exercise(name)
    if attempt is None:
        right, text = False, f"{name}: {exercise.title}\n  {exercise.statement}"
    else:
        right, text = attempted(exercise, attempt, seconds)
        text = f"{'✓' if right else '✗'} {name}: {text}"
    text = "\n".join(map(_wrapped, text.splitlines()))
    if strict and not right:
        raise AssertionError(text)
    print(text)
    return right


def _exercise(name: str) -> Exercise:
    if name not in _EXERCISES:
        raise KeyError(f"no exercise named {name!r}; there are {', '.join(_EXERCISES)}")
    return _EXERCISES[name]


def _wrapped(line: str) -> str:
    """Of 92 columns at most: what a page of the book shows without scrolling."""
    return textwrap.fill(line, 92, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def names() -> list[str]:
    """The names of all exercises.

    >>> "inverse" in names()
    True
    """
    return list(_EXERCISES)


class Task(NamedTuple):
    """What an exercise asks for: its name for `check`, its title, the function to write, what that does.

    >>> first = tasks()[0]
    >>> f"{first.signature} {first.task}"
    'normalize(x, mean, std) removes mean and std, of shape (C,), from images (…, C, H, W)'
    """

    name: str
    title: str
    signature: str
    task: str


def tasks() -> list[Task]:
    """All exercises, in the order of the chapters, for whoever chooses some as homework.

    >>> next(t.signature for t in tasks() if t.name == "adain")
    'adain(content, style, eps)'
    """
    return [Task(name, e.title, e.signature, e.task) for name, e in _EXERCISES.items()]


def solution(name: str) -> Callable[..., Any]:
    """A right function for an exercise, for the masters of homework; the book shows one too.

    >>> check("film", solution("film"))
    ✓ film: all 3 cases agree.
    True

    Raises:
        KeyError: for an unknown name; it lists the known ones.
    """
    return _exercise(name).reference


def cases(name: str, seed: int) -> list[Args]:
    """The arguments of each case of an exercise, with other random numbers for every ``seed``.

    `check` uses those of seed 0. Another seed gives hidden tests of one's own.

    >>> [z.shape[0] for z, mean, std in cases("inverse", seed=7)]
    [3, 2, 0, 1]

    Raises:
        KeyError: for an unknown name; it lists the known ones.
    """
    with fixed_settings():
        return list(_exercise(name).cases(torch.Generator().manual_seed(seed)))
