"""Tables for narrow screens: where a row is long, each of its cells says of which column it is."""

from __future__ import annotations

import re
from html import escape, unescape

WIDE = 44  # characters: longer rows do not fit a phone

TABLE = re.compile(r'<table class="([^"]*\btable\b[^"]*)">(.*?)</table>', re.DOTALL)
ROW = re.compile(r"<tr((?:\s[^>]*)?)>(.*?)</tr>", re.DOTALL)
CELL = re.compile(r"<(t[hd])((?:\s[^>]*)?)>(.*?)</\1>", re.DOTALL)


def words(html: str) -> str:
    """The text of a cell, with each equation once: its MathML is for screen readers alone."""
    html = re.sub(r'<span class="katex-html".*', "", html, flags=re.DOTALL)
    html = re.sub(r"<annotation.*?</annotation>", "", html, flags=re.DOTALL)
    return unescape(" ".join(re.sub(r"<[^>]+>", "", html).split()))


def label_cells(body: str) -> str:
    """Mark the tables whose rows are long as `stacked`, and give their cells the head of their column."""
    return TABLE.sub(lambda m: _table(m[0], m[1], m[2]), body)


def _table(whole: str, classes: str, inside: str) -> str:
    rows = [CELL.findall(row) for _, row in ROW.findall(inside)]
    if len(rows) < 2 or len(rows[0]) < 3:
        return whole
    widest = [
        max(len(words(row[i][2])) for row in rows if len(row) > i)
        for i in range(len(rows[0]))
    ]
    if sum(widest) <= WIDE:
        return whole
    heads = [words(text) for _, _, text in rows[0]]

    def row(match: re.Match[str]) -> str:
        heads_left = iter(heads)

        def cell(found: re.Match[str]) -> str:
            tag, said, text = found.groups()
            return f'<{tag}{said} role="cell" data-label="{escape(next(heads_left, ""))}">{text}</{tag}>'

        return f'<tr{match[1]} role="row">{CELL.sub(cell, match[2])}</tr>'

    head, _, rest = inside.partition("</thead>")
    return f'<table class="{classes} stacked" role="table">{head}</thead>{ROW.sub(row, rest)}</table>'
