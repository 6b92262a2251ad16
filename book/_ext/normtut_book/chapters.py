"""What pages say about a chapter: on its card on the landing page, and under its own title."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from .tree import raw


class Chapter(NamedTuple):
    """What is read off a chapter: its title, the minutes that it takes, the chapters that it builds on."""

    title: str
    minutes: int
    after: list[int]


def read_chapter(path: Path, card: dict[str, Any] | None = None) -> Chapter:
    """A chapter builds on those that its card names by `after`; else on the earlier ones that it links to."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    prose, _, _ = prose.partition("\n## Exercises")
    code = sum(
        len("".join(c["source"]).splitlines()) for c in cells if c["cell_type"] == "code"
    )
    # Two hundred words a minute, and three seconds for a line of code; the exercises take longer than any guess.
    minutes = 5 * max(1, round((len(prose.split()) / 200 + code / 20) / 5))
    linked = {int(found) for found in re.findall(r"\]\((\d\d)_\w+\.ipynb", prose)}
    title = re.search(r"^# (.+)$", prose, flags=re.MULTILINE)
    assert title is not None, path
    earlier = sorted(n for n in linked if n < int(path.name[:2]))
    return Chapter(title[1], minutes, (card or {}).get("after", earlier))


def after_words(chapters: list[int]) -> str:
    """Numbers of chapters as one says them.

    >>> after_words([1, 2, 3, 5])
    '1–3 and 5'
    >>> after_words([])
    ''
    """
    parts: list[str] = []
    for n in chapters:
        if n - 1 in chapters and n + 1 in chapters:
            continue
        if n - 1 in chapters and n - 2 in chapters:
            parts[-1] += f"–{n}"
        else:
            parts.append(str(n))
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


class ChapterCards(SphinxDirective):
    """`{chapter-cards}`: a card for each chapter, from a list of what no program can write.

    Each entry is `chapter: {says: a sentence, shows: what is on its picture}`, perhaps with `after: [1, 4]`, the
    numbers of the chapters that it builds on.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        items = []
        for name, card in yaml.safe_load("\n".join(self.content)).items():
            path = Path(self.env.srcdir) / "book" / f"{name}.ipynb"
            self.env.note_dependency(str(path))
            chapter = read_chapter(path, card)
            needs = (
                f"after {after_words(chapter.after)}" if chapter.after else "needs nothing"
            )
            title, shows, says = map(
                html.escape, (chapter.title, card["shows"], card["says"])
            )
            items.append(
                f'<li><img src="_static/landing/{name}.webp" alt="{shows}" width="400" height="225" '
                f'loading="lazy"><div><a href="book/{name}.html">{int(name[:2])}. {title}</a><p>{says}</p>'
                f"<small>{chapter.minutes} minutes, {needs}</small></div></li>"
            )
        return [raw(f'<ol class="chapter-cards">{"".join(items)}</ol>')]


class ChapterFacts(SphinxTransform):
    """Under a chapter's title: how long it takes, and what it builds on. Its card says the same."""

    default_priority = 520

    def apply(self, **kwargs: Any) -> None:
        path = Path(self.env.doc2path(self.env.docname))
        title = next(iter(self.document.findall(nodes.title)), None)
        if title is None or path.parent.name != "book" or not re.match(r"\d\d_", path.name):
            return
        home = Path(self.env.srcdir) / "index.md"
        self.env.note_dependency(str(home))
        title.parent.insert(title.parent.index(title) + 1, raw(chapter_facts(path, home)))


def chapter_facts(path: Path, home: Path) -> str:
    """A line of HTML: `25 minutes · after chapters 1 and 4`, each number a link; the cards are those of `home`."""
    block = re.search(
        r"^```\{chapter-cards\}\n(.*?)^```", home.read_text("utf-8"), re.M | re.S
    )
    cards = yaml.safe_load(block[1]) if block else {}
    chapter = read_chapter(path, cards.get(path.stem))
    names = {p.name[:2]: p.stem for p in path.parent.glob("[0-9][0-9]_*.ipynb")}
    linked = re.sub(
        r"\d+",
        lambda n: f'<a href="{names[n[0].zfill(2)]}.html">{n[0]}</a>',
        after_words(chapter.after),
    )
    plural = "s" if len(chapter.after) > 1 else ""
    needs = f"after chapter{plural} {linked}" if chapter.after else "needs nothing"
    return f'<p class="chapter-facts">{chapter.minutes} minutes · {needs}</p>'


def setup(app: Sphinx) -> None:
    app.add_directive("chapter-cards", ChapterCards)
    app.add_transform(ChapterFacts)
