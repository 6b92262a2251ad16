"""A pytest plugin that lets nbval compare the outputs of notebooks as numbers, and figures by theirs.

    PYTHONPATH=book/_tools python -m pytest -p nbnumbers --nbval --nbval-current-env book/02_inverse.ipynb

nbval runs every cell and compares its output with the stored one character by character, and pictures not at all.
With this plugin

- words must be equal, and white space is layout;
- numbers must be equal within one unit of the last digit that is printed: 0.64 passes for 0.63, 0.65 does not;
- numbers without decimals are counts, and exact, unless a % follows;
- a tag `approx-20%` on a cell allows each of its numbers 20 % of the stored one, `approx-0.05` allows 0.05;
- a figure is compared by the numbers that it carries beside its picture, as `figure_numbers` writes them.

In a figure, curves and points may be off by 0.2 % of the axis (about a pixel), or with `approx-20%` by 20 % of it;
what lies beyond the axis is not seen, hence not compared. Colours and the pixels of thumbnails may be off by
2 of 255 levels, or 20 % of 255.

The file needs nothing but pytest and nbval: copy it.
"""

from __future__ import annotations

import copy
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from nbval.plugin import IPyNbCell

FIGURE = "application/vnd.normtut.figure+json"
MAX_MESSAGES = 5
AXIS_SHARE = 0.002  # of the length of an axis: about one pixel
LEVELS = 2  # of 255


class Tolerance(NamedTuple):
    """What the tags of a cell allow beyond the precision that is printed."""

    share: float = 0.0
    absolute: float = 0.0


EXACT = Tolerance()


def tolerance(tags: list[str]) -> Tolerance:
    """Read `approx-20%` and `approx-0.05`; ValueError for another tag that begins with approx."""
    found = Tolerance()
    for tag in tags:
        match = re.fullmatch(r"approx-(\d+(?:\.\d+)?)(%?)", tag)
        if match and match[2]:
            found = found._replace(share=float(match[1]) / 100)
        elif match:
            found = found._replace(absolute=float(match[1]))
        elif tag.startswith("approx"):
            raise ValueError(
                f"a tolerance looks like approx-20% or approx-0.05, got {tag!r}"
            )
    return found


# --- text -------------------------------------------------------------------------------

# Digits inside a word (conv1, float32) or a version (2.14.1) belong to the word. A sign is one
# only where no operand stands before it.
NUMBER = re.compile(
    r"""
    (?<![\w.])
    (?: (?<![)\]]) [-+−] )?
    (?: (?P<special> nan | inf | ∞ ) (?!\w)
      | (?: (?: \d{1,3}(?:,\d{3})+(?!\d) | \d+ ) (?P<decimals>\.\d*)? | (?P<bare>\.\d+) )
        (?P<exponent>[eE][-+−]?\d+)?
        (?!\.?\d)
        (?P<percent>(?=\s?%))? )
    """,
    re.VERBOSE,
)


class Number(NamedTuple):
    """A number as it was printed."""

    text: str
    value: Decimal
    unit: Decimal  # of its last digit
    is_count: bool


class Line(NamedTuple):
    """A line of output; where a bracket stays open, as in a tensor, the next line belongs to it."""

    text: str
    tokens: list[str | Number]


def read_number(match: re.Match[str]) -> Number:
    """What `NUMBER` has found."""
    plain = match[0].replace("−", "-").replace(",", "").replace("∞", "inf")
    places = len(match["decimals"] or match["bare"] or ".") - 1
    exponent = int((match["exponent"] or "e0")[1:].replace("−", "-"))
    is_count = not (places or match["exponent"] or match["percent"] is not None)
    return Number(match[0], Decimal(plain), Decimal(1).scaleb(exponent - places), is_count)


def read_lines(text: str) -> list[Line]:
    """Words and numbers, line by line, without white space and empty lines."""
    lines: list[Line] = []
    depth = 0
    for raw in text.splitlines():
        tokens: list[str | Number] = []
        end = 0
        for match in NUMBER.finditer(raw):
            tokens += [*raw[end : match.start()].split(), read_number(match)]
            end = match.end()
        tokens += raw[end:].split()
        if depth and lines:
            lines[-1] = Line(f"{lines[-1].text}\n{raw}", lines[-1].tokens + tokens)
        elif tokens:
            lines.append(Line(raw, tokens))
        brackets = "".join(t for t in tokens if isinstance(t, str))
        depth = max(0, depth + sum((c in "([{") - (c in ")]}") for c in brackets))
    return lines


def allowed(stored: Number, new: Number, tol: Tolerance) -> Decimal:
    """By how much two numbers may differ."""
    if not (stored.value.is_finite() and new.value.is_finite()):
        return Decimal(0)
    both_counts = stored.is_count and new.is_count
    printed = Decimal(0) if both_counts else min(stored.unit, new.unit)
    share = Decimal(str(tol.share)) * abs(stored.value)
    return max(printed, share, Decimal(str(tol.absolute)))


def agree(stored: Number, new: Number, tol: Tolerance) -> bool:
    """Whether a number is what was stored: nan is nan, and inf only inf of the same sign."""
    a, b = stored.value, new.value
    if a.is_nan() or b.is_nan():
        return a.is_nan() and b.is_nan()
    return a == b or abs(a - b) <= allowed(stored, new, tol)


def text_differences(stored: str, new: str, tol: Tolerance = EXACT) -> list[str]:
    """What differs between two outputs; empty where nothing does."""
    ours, theirs = read_lines(stored), read_lines(new)
    found = []
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False), 1):
        words_a, words_b = (
            [None if isinstance(t, Number) else t for t in line.tokens] for line in (a, b)
        )
        if words_a != words_b:
            found.append(
                f"line {number} reads otherwise\n  stored: {a.text}\n  new:    {b.text}"
            )
            continue
        wrong = [
            f"stored {x.text}, new {y.text} (may differ by {allowed(x, y, tol):f})"
            for x, y in zip(a.tokens, b.tokens, strict=True)
            if isinstance(x, Number) and isinstance(y, Number) and not agree(x, y, tol)
        ]
        if wrong:
            found.append(
                f"line {number}: {'; '.join(wrong)}\n  stored: {a.text}\n  new:    {b.text}"
            )
    if len(ours) != len(theirs):
        extra = (ours if len(ours) > len(theirs) else theirs)[min(len(ours), len(theirs))]
        found.append(
            f"{len(ours)} lines stored, {len(theirs)} new; the first without a partner: {extra.text}"
        )
    return found


# --- figures ----------------------------------------------------------------------------


class Window(NamedTuple):
    """An axis as it is seen: from low to high, logarithmic or not."""

    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value is seen, 0 at the low end and 1 at the high end; beyond them not at all."""
        if math.isnan(value):
            return value
        if self.is_log:
            return Window(math.log10(self.low), math.log10(self.high)).place(
                math.log10(value) if value > 0 else -math.inf
            )
        return (value - self.low) / (self.high - self.low)


def series_differences(
    stored: str, new: str, tol: Tolerance, window: Window | None, clip: bool = True
) -> list[str]:
    """Compare numbers of an axis: each where it is seen, and those that are not seen, as such."""
    ours, theirs = stored.split(), new.split()
    if len(ours) != len(theirs):
        return [f"{len(ours)} values stored, {len(theirs)} new"]
    share = max(AXIS_SHARE, tol.share)
    wrong = []
    for a, b in zip(ours, theirs, strict=True):
        if a == b:
            continue
        try:
            x, y = float(a), float(b)
        except ValueError:
            wrong.append(f"stored {a}, new {b}")
            continue
        last_digit = 1e-3 * abs(x)  # of four, at most
        if math.isfinite(x) and abs(x - y) <= tol.absolute + last_digit:
            continue
        if window is not None:
            p, q = (window.place(v) for v in (x, y))
            if clip:
                hidden = [not -share <= v <= 1 + share for v in (p, q)]  # nan too
                if all(hidden):
                    continue
                p, q = (min(max(v, 0.0), 1.0) for v in (p, q))
            if abs(p - q) <= share:
                continue
        wrong.append(f"stored {a}, new {b}")
    if not wrong:
        return []
    return [f"{len(wrong)} of {len(ours)} values: " + "; ".join(wrong[:3])]


def color_differences(stored: str, new: str, tol: Tolerance) -> list[str]:
    """Compare colours, or the pixels of a thumbnail, given as hexadecimal RGB."""
    a, b = bytes.fromhex(stored), bytes.fromhex(new)
    if len(a) != len(b):
        return [f"{len(a) // 3} colours stored, {len(b) // 3} new"]
    off = [abs(x - y) for x, y in zip(a, b, strict=True)]
    if max(off, default=0) <= max(LEVELS, 255 * tol.share):
        return []
    return [
        f"off by up to {max(off)} of 255 levels, by {sum(off) / len(off):.1f} in the mean"
    ]


def windows(axes: dict[str, Any]) -> dict[str, Window]:
    """The two axes of a panel."""
    found = {}
    for name in "xy":
        if f"{name}lim" in axes:
            low, high = sorted(map(float, axes[f"{name}lim"].split()))
            if low < high:
                is_log = axes.get(f"{name}scale") == "log"
                found[name] = Window(low, high, is_log)
    return found


def figure_differences(
    stored: Any,
    new: Any,
    tol: Tolerance = EXACT,
    where: str = "figure",
    seen: Any = None,
) -> list[str]:
    """What differs between the numbers of two figures; empty where nothing does."""
    seen = seen or {}
    key = where.rsplit(".", 1)[-1]
    if type(stored) is not type(new):
        return [f"{where}: stored {stored!r}, new {new!r}"]
    if isinstance(stored, dict):
        # The page's own copy of the picture is a picture: what it shows is in the numbers.
        stored, new = ({k: v for k, v in d.items() if k != "page"} for d in (stored, new))
        seen = windows(stored) or seen
        found = [
            f"{where}: {name} is {'missing' if name in stored else 'new'}"
            for name in sorted(stored.keys() ^ new.keys())
        ]
        for name in stored.keys() & new.keys():
            found += figure_differences(
                stored[name], new[name], tol, f"{where}.{name}", seen
            )
        return sorted(found)
    if isinstance(stored, list):
        if len(stored) != len(new):
            return [f"{where}: {len(stored)} stored, {len(new)} new"]
        pairs = enumerate(zip(stored, new, strict=True), 1)
        return [
            d
            for i, (a, b) in pairs
            for d in figure_differences(a, b, tol, f"{where} {i}", seen)
        ]
    if key == "rgb":
        found = color_differences(stored, new, tol)
    elif re.fullmatch(r"[xy](0|1|lim|range)?", key):
        found = series_differences(
            stored, new, tol, seen.get(key[0]), clip=not key.endswith("lim")
        )
    elif key in ("std", "step"):  # of an image, in levels: a decoder may round otherwise
        loose = Tolerance(max(0.02, tol.share), max(0.5, tol.absolute))
        found = text_differences(stored, new, loose)
    else:
        found = text_differences(str(stored), str(new), tol)
    return [f"{where}: {d}" for d in found]


# --- nbval ------------------------------------------------------------------------------


def values(outputs: list[Any]) -> dict[str, list[tuple[Any, str]]]:
    """Where the values lie that nbval compares, by its names for them: streams, MIME types, errors."""
    found = defaultdict(list)
    for output in outputs:
        if output["output_type"] == "stream":
            found[output["name"]].append((output, "text"))
        for key in output.get("data", {}):
            found[key].append((output["data"], key))
        for key in ("ename", "evalue"):
            if key in output:
                found[key].append((output, key))
    return found


def differences(stored: list[Any], new: list[Any], tol: Tolerance) -> list[str]:
    """Compare what two runs of a cell have in common, and make it equal: what one of them lacks, nbval finds."""
    ours, theirs = values(stored), values(new)
    found = []
    for key in sorted(ours.keys() & theirs.keys()):
        for (a, at), (b, bt) in zip(ours[key], theirs[key], strict=False):
            if key == FIGURE:
                found += figure_differences(a[at], b[bt], tol)
            elif (
                isinstance(a[at], str)
                and isinstance(b[bt], str)
                and not key.startswith("image/")
            ):
                found += [f"{key}: {d}" for d in text_differences(a[at], b[bt], tol)]
            else:
                continue  # pictures, and what is no text, are nbval's
            b[bt] = a[at]
    for place, key in [*ours[FIGURE], *theirs[FIGURE]]:
        place[key] = "the numbers of a figure"  # nbval can report text only
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Let a cell compare its outputs in this way; nbval does all else."""
    if isinstance(item, IPyNbCell):
        nbval_compares = item.compare_outputs
        tol = tolerance(item.cell.metadata.get("tags", []))

        def compare_outputs(new: list[Any], stored: list[Any]) -> bool:
            new, stored = copy.deepcopy((new, stored))
            found = differences(stored, new, tol)
            complete = bool(nbval_compares(new, stored))
            item.comparison_traceback += found[:MAX_MESSAGES]
            if len(found) > MAX_MESSAGES:
                item.comparison_traceback.append(f"and {len(found) - MAX_MESSAGES} more")
            return complete and not found

        item.compare_outputs = compare_outputs
    return (yield)
