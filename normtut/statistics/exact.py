"""Sums of floating-point numbers, and of their squares, without rounding error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Count, sum and sum of squares of some numbers, for each channel, without rounding error.

    >>> a, b = Sums.of(np.array([[0.25, 0.5]])), Sums.of(np.array([[0.75]]))
    >>> (a + b).mean, (a + b).std
    ((0.5,), (0.2041241452319315,))
    """

    count: int = 0
    total: tuple[Fraction, ...] = ()
    squares: tuple[Fraction, ...] = ()

    @classmethod
    def nothing(cls, channels: int) -> Sums:
        """Of no numbers."""
        return cls(0, (Fraction(0),) * channels, (Fraction(0),) * channels)

    @classmethod
    def single(cls, values: Sequence[float]) -> Sums:
        """Of one number for each channel."""
        exact = tuple(map(Fraction, values))
        return cls(1, exact, tuple(v * v for v in exact))

    @classmethod
    def of(cls, v: Floats) -> Sums:
        """Of the rows of a float64 array (C, n), all finite."""
        size = np.abs(v)
        exponent = math.frexp(float(size.max(initial=0.0)))[1]
        exponent = exponent if abs(exponent) > 300 else 0
        # Numbers so much smaller than the largest that their squares would be lost are counted by themselves.
        lost = (size > 0) & (size < math.ldexp(1.0, exponent - 460))
        if lost.any():
            small = np.where(lost, v, 0.0)
            both = cls.of(v - small) + cls.of(small)
            return cls(v.shape[1], both.total, both.squares)
        # Very large or small numbers are scaled by a power of two, which is exact: no square is out of range.
        v, unit = np.ldexp(v, -exponent) if exponent else v, Fraction(2) ** exponent
        squares = exact_sums(_exact_squares(v))
        return cls(v.shape[1], tuple(t * unit for t in exact_sums(v)), tuple(q * unit**2 for q in squares))

    @property
    def mean(self) -> tuple[float, ...]:
        """Correctly rounded."""
        return tuple(float(t / self.count) for t in self.total)

    @property
    def std(self) -> tuple[float, ...]:
        """Square root of the biased variance (divided by n), correctly rounded."""
        n = self.count
        return tuple(_sqrt((n * q - t * t) / n**2) for t, q in zip(self.total, self.squares, strict=True))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.count + other.count,
            tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def affine(self, shift: Sequence[Fraction], scale: Sequence[Fraction]) -> Sums:
        """Of (x − shift) / scale instead of x."""
        n, rows = self.count, list(zip(self.total, self.squares, shift, scale, strict=True))
        return Sums(
            n,
            tuple((t - n * m) / s for t, _, m, s in rows),
            tuple((q - 2 * m * t + n * m * m) / (s * s) for t, q, m, s in rows),
        )


def _sqrt(x: Fraction) -> float:
    """The square root of a fraction, correctly rounded."""
    shift = 62 - (x.numerator.bit_length() - x.denominator.bit_length()) // 2
    scaled = x * Fraction(4) ** shift
    root = math.isqrt(math.floor(scaled))  # of 62 bits or so; one more says whether anything is cut off
    return math.ldexp(2 * root + (root * root != scaled), -shift - 1)


def exact_sums(v: Floats) -> tuple[Fraction, ...]:
    """The sum of each row of a float64 array (C, n) of finite numbers, without rounding error.

    >>> [float(s) for s in exact_sums(np.array([[1e16, 1.0, -1e16]]))]
    [1.0]

    Adding and subtracting a large power of two σ leaves the high bits of each number, as a multiple of one
    common unit and so few of them that their sum fits into 53 bits: floating-point addition of *these* is
    exact in any order. The rest goes round again (Rump, Ogita & Oishi 2008, "Accurate floating-point
    summation part I", algorithm 3.3).
    """
    totals = [Fraction(0)] * len(v)
    headroom = v.shape[1].bit_length() + 1
    while v.size and (top := float(np.abs(v).max())) > 0:
        sigma = math.ldexp(1.0, math.frexp(top)[1] + headroom)
        high = (v + sigma) - sigma
        v = v - high
        totals = [t + Fraction(s) for t, s in zip(totals, high.sum(axis=1).tolist(), strict=True)]
    return tuple(totals)


def _exact_squares(v: Floats) -> Floats:
    """Numbers (C, n or 3n) that add up to the squares of numbers (C, n), each without rounding error.

    Veltkamp's splitting: x = a + b with 26 bits each, so that a², 2ab and b² fit into 53. Numbers that were
    float32 have 24 bits, and need none.
    """
    with np.errstate(over="ignore"):
        if np.array_equal(v, v.astype(np.float32)):
            return v * v
    c = v * 134217729.0  # 2²⁷ + 1
    a = c - (c - v)
    b = v - a
    return np.concatenate([a * a, 2 * a * b, b * b], axis=1)
