"""The way of measuring, and the page that is drawn from the results."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import _measure as measure

ROOT = Path(__file__).resolve().parents[1]

page = pytest.importorskip("normtut_book.benchmarks", exc_type=ImportError)
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize(("seconds", "turn"), [(0.5, "aabb"), (1.0, "ab")])
def test_all_cases_get_as_many_turns_and_a_warm_up(seconds, turn):
    calls: list[str] = []
    cases = {name: lambda name=name: calls.append(name) for name in "ab"}
    taken = measure.in_turns(cases, seconds=0, least=4, watch=lambda case, times: case() or seconds)
    assert taken == {"a": [seconds] * 4, "b": [seconds] * 4}
    # A turn to warm up, one to see how long it takes, and four that count: with an untimed run where they are
    # short.
    assert "".join(calls) == "abab" + 4 * turn


def test_short_cases_are_repeated_until_a_clock_can_tell():
    repeats = []

    def watch(case, times):
        repeats.append(times)
        return 1e-5

    measure.in_turns({"a": lambda: None}, seconds=0, least=2, most=2, watch=watch)
    assert repeats == [1, 100, 100]


def test_a_ratio_is_of_neighbouring_turns():
    """Where the machine becomes three times as slow in the middle, the ratio does not notice."""
    ours, peer = [1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 6.0, 6.0]
    assert measure.ratio(ours, peer) == [0.5, 0.5, 0.5]
    assert measure.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == [3.0, 2.0, 4.0]


def test_the_exponent_of_a_power_law_is_found():
    x = [10.0, 100.0, 1000.0]
    assert measure.slope(x, [7 * v**1.5 for v in x]) == pytest.approx(1.5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_peak_memory_sees_what_is_allocated_and_nothing_before():
    code = "import numpy as np\na = np.ones(2_000_000)\n###\n{}"
    none, some = (measure.peak_memory(code.format(c)) for c in ("pass", "b = np.ones(8_000_000)"))
    assert none < 8
    assert 56 < some < 76  # 64 MB, which are 61 MiB


def results(tmp_path: Path) -> dict:
    found = measure.Results("pixels")
    add = found.table("Some title", "A note.")
    add(
        "fast",
        {"normtut": [1.0, 1.1, 0.9], "peer": [2.0, 2.2, 1.8], "floor": [0.5, 0.5, 0.5]},
        floors=["floor"],
    )
    add("slow", {"normtut": [3.0, 3.3, 2.7], "peer": [2.0, 2.2, 1.8], "other": [2.5, 6.6, 2.1]})
    grow = found.growth("Growing", "images")
    grow("normtut", [10, 100, 1000], [[0.1] * 3, [1.0] * 3, [10.0] * 3], [1.0, 1.1, 0.9])
    found.facts("Figures", [("bytes", 1234)])
    path = found.save(tmp_path, took=12)
    assert path.name == "pixels.json"
    return page.load(tmp_path)


def test_the_page_says_first_where_a_peer_is_faster(tmp_path):
    text = page.behind(results(tmp_path))
    assert "in 1 of 3 comparisons" in text
    assert "- **Some title**, beside peer: 1.50 × for slow." in text
    # Nobody is faster than a floor, and a ratio that is below 1 in a quarter of the turns is noise.
    assert "beside floor" not in text
    assert "beside other" not in text


def test_the_page_holds_every_table_with_its_chart_and_how_to_measure_it_again(tmp_path):
    text = page.filled(
        "Text.\n\n"
        + "\n\n".join(f"<!-- benchmarks: {m} -->" for m in ("behind", "machine", "pixels", "style")),
        results(tmp_path),
    )
    assert "| fast | 0.50 (0.50 to 0.50) | 2.00 (1.90 to 2.10) |  | 1 s |" in text
    assert "A note." in text
    assert "`make bench ONLY=pixels` measures this again, in 12 s" in text
    assert text.count("Measured on ") == 1  # for the whole page, where all sections agree
    assert "| images | 10 | 100 | 1,000 | exponent |" in text
    assert "| normtut, time | 100 ms | 1 s | 10 s | 1.00 |" in text
    assert "| normtut, memory | 1 MB | 1 MB | 1 MB | flat |" in text
    assert "| bytes | 1,234 |" in text
    assert "Not measured yet: `make bench ONLY=style`" in text
    assert "<!--" not in text
    charts = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(charts) == 2
    for chart in charts:
        numbers = [float(n) for n in re.findall(r' (?:cx|cy|x|y)="([^"]+)"', chart)]
        assert all(0 <= n <= 700 for n in numbers)
        assert 'aria-label="' in chart


def test_many_cases_are_told_in_one_line(tmp_path):
    found = measure.Results("layers")
    add = found.table("Some title")
    for case, slower in (("a", 1.5), ("b", 3.0), ("c", 2.0), ("d", 0.5)):
        add(case, {"normtut": [slower] * 3, "peer": [1.0] * 3})
    found.save(tmp_path, took=12)
    text = page.behind(page.load(tmp_path))
    assert "- **Some title**, beside peer: 3 cases, 1.50 to 3.00 ×, the most for b." in text


def test_a_section_from_another_machine_says_so(tmp_path):
    sections = {name: results(tmp_path)["pixels"] for name in ("pixels", "layers", "growth")}
    usual = page.usual_machine(sections)
    assert usual.startswith("Measured on 20")
    assert "Measured on" not in page.again(sections["layers"], usual)
    sections["layers"] = {**sections["layers"], "date": "1999-12-31"}
    assert page.usual_machine(sections) == usual
    assert "Measured on 1999-12-31" in page.again(sections["layers"], usual)


def test_all_of_make_bench_took_less_than_a_quarter_of_an_hour():
    sections = page.load(ROOT / "benchmarks" / "results")
    assert set(sections) >= set(command.SECTIONS) - {"make"}
    assert page.minutes(sections) < 15
    assert page.minutes({**sections, "make": {"took": 3600}}) == page.minutes(sections)


def test_an_empty_page_says_how_to_fill_it():
    assert "make bench" in page.behind({})
    assert page.filled("<!-- benchmarks: machine -->", {}) == ""


def test_every_section_can_be_run():
    for name in command.SECTIONS:
        assert callable(importlib.import_module(f"benchmarks.{name}").run), name
    with pytest.raises(SystemExit):
        command.main(["nonsense"])


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_stored_results_say_when_and_on_what_and_not_on_whose(path):
    state = json.loads(path.read_text(encoding="utf-8"))
    assert state["section"] == path.stem
    assert path.stem in command.SECTIONS
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", state["date"])
    assert (
        {"processor", "cores", "system"} <= set(state["machine"]) <= {"processor", "cores", "system", "gpu"}
    )
    assert {"python", "torch", "numpy"} <= set(state["versions"])
    assert state["tables"]
    assert state["load"] >= 0
    assert f"<!-- benchmarks: {path.stem} -->" in (ROOT / "book" / "benchmarks.md").read_text(
        encoding="utf-8"
    )
    drawn = page.tables(state)  # a result that cannot be drawn stops the build of the book
    assert all(table["title"] in drawn for table in state["tables"])
