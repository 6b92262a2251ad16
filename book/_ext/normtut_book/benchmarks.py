"""The page of benchmarks, drawn from the results in `benchmarks/results/*.json` while the book is built.

In `book/benchmarks.md` a line `<!-- benchmarks: pixels -->` stands for the tables and charts of that section,
`<!-- benchmarks: behind -->` for the list of the tables in which we are slower than a peer, and
`<!-- benchmarks: machine -->` for what was measured on, when, and how long it took.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from normtut.book.palette import COLORS

PAGE = "book/benchmarks"
MARK = re.compile(r"^<!-- benchmarks: (\w+) -->$", re.MULTILINE)

#: Slower by more than this, in the median and in the lower quartile of the turns: less is noise.
BEHIND = 1.05

Section = dict[str, Any]


def load(folder: Path) -> dict[str, Section]:
    """The results of every section, by its name."""
    states = (
        json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))
    )
    return {state["section"]: state for state in states}


# --- words --------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    unit, size = next(
        (u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("µs", 0)) if seconds >= s
    )
    return f"{float(f'{seconds / (size or 1e-6):.3g}'):g} {unit}"


def times(ratio: float) -> str:
    digits = 3 if ratio < 0.095 else 2 if ratio < 10 else 0
    return f"{ratio:.{digits}f}"


def where_behind(
    sections: dict[str, Section],
) -> dict[tuple[str, str], list[tuple[float, str]]]:
    """(Title of a table, peer) → ratio and case of the rows in which the peer is faster, the slowest first."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for section in sections.values():
        for table in section["tables"]:
            for row in table["rows"] if table["kind"] == "comparison" else ():
                for peer, (median, low, _) in row["ratios"].items():
                    if peer not in row["floors"] and median > BEHIND and low > 1:
                        found.setdefault((table["title"], peer), []).append(
                            (median, row["case"])
                        )
    ordered = {key: sorted(rows, reverse=True) for key, rows in found.items()}
    return dict(sorted(ordered.items(), key=lambda item: -item[1][0][0]))


def behind(sections: dict[str, Section]) -> str:
    total = sum(
        len(set(row["ratios"]) - set(row["floors"]))
        for section in sections.values()
        for table in section["tables"]
        if table["kind"] == "comparison"
        for row in table["rows"]
    )
    if not total:
        return "**Nothing has been measured yet.** Run `make bench`."
    found = where_behind(sections)
    lines = [
        f"**Where we are behind:** in {sum(map(len, found.values()))} of {total} comparisons normtut takes more "
        f"than {BEHIND:g} times as long as the other.",
        "",
    ]
    for (title, peer), rows in found.items():
        (most, case), (least, _) = rows[0], rows[-1]
        many = f"{len(rows)} cases, {times(least)} to {times(most)} ×, the most for {case}"
        lines.append(
            f"- **{title}**, beside {peer}: {many if len(rows) > 1 else f'{times(most)} × for {case}'}."
        )
    return "\n".join(lines)


def machine(section: Section) -> str:
    found = section["machine"]
    gpu = f"{found['gpu']}" if "gpu" in found else "no GPU"
    packages = ", ".join(
        f"{name} {version}" for name, version in section["versions"].items()
    )
    return (
        f"Measured on {section['date']}: {found['processor']}, {found['cores']} cores, {gpu}, "
        f"{found['system']}; {packages}."
    )


def usual_machine(sections: dict[str, Section]) -> str:
    """What most sections were measured on; a section that was not says so itself."""
    return Counter(map(machine, sections.values())).most_common(1)[0][0] if sections else ""


def minutes(sections: dict[str, Section]) -> float:
    """What `make bench` takes: all sections but the one that is only run when it is asked for."""
    return sum(s["took"] for name, s in sections.items() if name != "make") / 60


def again(section: Section, usual: str) -> str:
    """How to measure a section again, and what was different from the others."""
    other = machine(section)
    return (
        f"*`make bench ONLY={section['section']}` measures this again, in {duration(section['took'])}; "
        f"the load of the machine was {section['load']:g} when it began."
        + (f" {other}" if other != usual else "")
        + "*"
    )


# --- tables -------------------------------------------------------------------------------------------------


def grid(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def comparison(table: dict[str, Any]) -> str:
    """Ratios first, then the seconds of ours."""
    peers = list(dict.fromkeys(p for row in table["rows"] for p in row["ratios"]))
    ours = {row["ours"] for row in table["rows"]}
    rows = []
    for row in table["rows"]:
        cells = []
        for peer in peers:
            if peer in row["ratios"]:
                median, low, high = row["ratios"][peer]
                cells.append(f"{times(median)} ({times(low)} to {times(high)})")
            else:
                cells.append("")
        rows.append([row["case"], *cells, duration(row["seconds"][row["ours"]][0])])
    head = [
        "",
        *(f"÷ {peer}" for peer in peers),
        "time" + (f" of {ours.pop()}" if len(ours) == 1 else ""),
    ]
    return grid(head, rows)


def growth(table: dict[str, Any]) -> str:
    rows = []
    for series in table["series"]:
        seconds = [duration(s[0]) for s in series["seconds"]]
        rows.append([f"{series['name']}, time", *seconds, f"{series['exponent']:.2f}"])
        if "mb" in series:
            exponent = series["mb_exponent"]
            memory = [f"{mb:.0f} MB" for mb in series["mb"]]
            rows.append(
                [
                    f"{series['name']}, memory",
                    *memory,
                    "flat" if exponent is None else f"{exponent:.2f}",
                ]
            )
    points = [f"{x:,g}" if x < 1e4 else f"{x:,.0f}" for x in table["series"][0]["x"]]
    return grid([table["variable"], *points, "exponent"], rows)


def facts(table: dict[str, Any]) -> str:
    return grid(["", "value"], [[name, f"{value:,}"] for name, value in table["rows"]])


# --- charts -------------------------------------------------------------------------------------------------

INKS = COLORS[:6]  # without black and the yellow that is hard to see


def ink(i: int) -> str:
    return f"var(--plot-{i % len(INKS)}, {INKS[i % len(INKS)]})"


def mark(i: int, x: float, y: float) -> str:
    """A point of a colour and of a shape of its own."""
    r, colour = 4.2, ink(i)
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{colour}"/>',
        f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}" fill="{colour}"/>',
        f'<path d="M{x:.1f} {y - 5:.1f}l5 9h-10z" fill="{colour}"/>',
        f'<path d="M{x:.1f} {y - 6:.1f}l5 6-5 6-5-6z" fill="{colour}"/>',
    )
    return shapes[i % len(shapes)]


def ratio_chart(table: dict[str, Any]) -> str:
    """A line for each row, with a point for each peer and a bar from quartile to quartile; logarithmic."""
    rows = table["rows"]
    peers = list(dict.fromkeys(p for row in rows for p in row["ratios"]))
    values = [v for row in rows for r in row["ratios"].values() for v in r]
    low, high = min(0.5, *values), max(2.0, *values)
    left = 24 + 6.9 * max(len(row["case"]) for row in rows)
    right, top, step = left + 370, 24 + 18 * len(peers), 24
    bottom = top + step * len(rows)

    def at(ratio: float) -> float:
        return left + (right - left) * math.log(ratio / low) / math.log(high / low)

    parts = []
    for i, peer in enumerate(peers):
        parts.append(mark(i, left + 6, 14 + 18 * i))
        parts.append(
            f'<text x="{left + 18:.0f}" y="{18 + 18 * i}">÷ {html.escape(peer)}</text>'
        )
    ticks = [
        t
        for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
        if low <= t <= high
    ]
    for tick in ticks:
        width = 1.6 if tick == 1 else 0.4
        parts.append(
            f'<path d="M{at(tick):.1f} {top - 6}V{bottom}" stroke="currentColor" stroke-width="{width}"/>'
        )
        parts.append(
            f'<text x="{at(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
        )
    for k, row in enumerate(rows):
        y = top + step * k + 8
        parts.append(
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{html.escape(row["case"])}</text>'
        )
        for i, peer in enumerate(peers):
            if peer in row["ratios"]:
                median, first, third = row["ratios"][peer]
                parts.append(
                    f'<path d="M{at(first):.1f} {y}H{at(third):.1f}" stroke="{ink(i)}" stroke-width="2"/>'
                )
                parts.append(mark(i, at(median), y))
    words = (
        "left of 1, normtut is faster"
        if rows[0]["ours"] == "normtut"
        else "left of 1, it is faster"
    )
    parts.append(
        f'<text x="{right}" y="{bottom + 34}" text-anchor="end">ratio of the times: {words}</text>'
    )
    alt = f"{table['title']}: ratios to {', '.join(peers)}, the numbers of the table below."
    return svg(round(right + 15), bottom + 44, alt, parts)


def growth_chart(table: dict[str, Any]) -> str:
    """Seconds over the variable, both logarithmic."""
    series = table["series"]
    xs = [x for s in series for x in s["x"]]
    ys = [v[0] for s in series for v in s["seconds"]]
    left, right, top, height = 70, 585, 24 + 18 * len(series), 200
    bottom = top + height
    low, high = min(ys) / 1.5, max(ys) * 1.5

    def px(x: float) -> float:
        return (
            left
            + 20
            + (right - left - 40) * math.log(x / min(xs)) / math.log(max(xs) / min(xs))
        )

    def py(y: float) -> float:
        return bottom - height * math.log(y / low) / math.log(high / low)

    parts = [
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor"/>'
    ]
    for x in series[0]["x"]:
        parts.append(
            f'<text x="{px(x):.1f}" y="{bottom + 16}" text-anchor="middle">{x:,g}</text>'
        )
    for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        y = 10.0**k
        parts.append(
            f'<path d="M{left} {py(y):.1f}H{right}" stroke="currentColor" stroke-width="0.4"/>'
            f'<text x="{left - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{duration(y)}</text>'
        )
    for i, s in enumerate(series):
        points = [(px(x), py(v[0])) for x, v in zip(s["x"], s["seconds"], strict=True)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{ink(i)}" stroke-width="2"/>')
        parts += [mark(i, x, y) for x, y in points]
        parts.append(mark(i, left + 6, 14 + 18 * i))
        name = f"{html.escape(s['name'])}: exponent {s['exponent']:.2f}"
        parts.append(f'<text x="{left + 18:.0f}" y="{18 + 18 * i}">{name}</text>')
    parts.append(
        f'<text x="{right}" y="{bottom + 34}" text-anchor="end">{table["variable"]}</text>'
    )
    alt = f"{table['title']}: time over {table['variable']}, both axes logarithmic, the numbers of the table below."
    return svg(600, bottom + 44, alt, parts)


def svg(width: int, height: int, alt: str, parts: list[str]) -> str:
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-size="12">'
        + "".join(parts)
        + "</svg>"
    )


# --- the page -----------------------------------------------------------------------------------------------


def tables(section: Section, usual: str = "") -> str:
    """All tables of a section as Markdown, each with its chart."""
    parts = [again(section, usual)]
    for table in section["tables"]:
        if table.get("rows") == [] or table.get("series") == []:
            continue
        parts.append(f"### {table['title']}")
        if table["note"]:
            parts.append(table["note"])
        if table["kind"] == "comparison":
            parts += [raw(ratio_chart(table)), comparison(table)]
        elif table["kind"] == "growth":
            parts += [raw(growth_chart(table)), growth(table)]
        else:
            parts.append(facts(table))
    return "\n\n".join(parts)


def raw(markup: str) -> str:
    return f"```{{raw}} html\n{markup}\n```"


def filled(text: str, sections: dict[str, Section]) -> str:
    """The page with its marks replaced."""
    usual = usual_machine(sections)

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name == "behind":
            return behind(sections)
        if name == "machine":
            return (
                f"{usual} All of it took {minutes(sections):.0f} minutes." if usual else ""
            )
        if name in sections:
            return tables(sections[name], usual)
        return f"*Not measured yet: `make bench ONLY={name}`.*"

    return MARK.sub(replace, text)


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == PAGE:
        folder = Path(app.srcdir) / "benchmarks" / "results"
        source[0] = filled(source[0], load(folder))
        for path in folder.glob("*.json"):
            app.env.dependencies.setdefault(docname, set()).add(
                path.relative_to(app.srcdir).as_posix()
            )


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill)
