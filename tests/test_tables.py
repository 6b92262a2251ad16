"""Tables on a phone: which of them are stacked, and what their cells say then."""

from __future__ import annotations

import re

import pytest

from normtut_book.tables import label_cells, words


def table(*rows: tuple[str, ...]) -> str:
    head, *rest = ("".join(f"<CELL><p>{cell}</p></CELL>" for cell in row) for row in rows)
    body = "".join(f'<tr class="row-odd">{row}</tr>' for row in rest).replace("CELL", "td")
    head = head.replace("<CELL", '<th class="head"').replace("CELL", "th")
    return f'<table class="table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


LONG = ("a sentence of some length", "another one, longer than that", "and a third")


def test_a_table_of_long_rows_is_stacked_and_its_cells_say_their_column():
    found = label_cells("<p>before</p>" + table(("case", "choose <b>it</b>", "A &amp; B"), LONG, LONG))
    assert '<table class="table stacked" role="table">' in found
    labels = re.findall(r'<td role="cell" data-label="([^"]*)">', found)
    assert labels == ["case", "choose it", "A &amp; B"] * 2
    assert found.count('<tr class="row-odd" role="row">') == 2
    assert found.startswith("<p>before</p>")
    assert re.sub(r' (role|data-label|class)="[^"]*"', "", found) == re.sub(
        r' class="[^"]*"', "", "<p>before</p>" + table(("case", "choose <b>it</b>", "A &amp; B"), LONG, LONG)
    )


@pytest.mark.parametrize("rows", [[("a", "b", "c"), ("1", "2", "3")], [("one", "two"), LONG[:2]], [LONG]])
def test_a_narrow_table_and_one_of_two_columns_stay_tables(rows):
    assert label_cells(table(*rows)) == table(*rows)


def test_an_equation_counts_once():
    maths = "<math>x<annotation>x^{long}</annotation></math>"
    shown = '<span class="katex-html">xxxx</span>'
    assert words(f'<p>so <span class="katex">{maths}{shown}</span></p>') == "so x"
