"""What a reader can do on the built pages: answer a Predict, and choose a chapter by its card.

- A cell `> **Predict.** …` whose metadata say what may be answered becomes a form. What follows from the answer
  (the answer-cells, and the explanation after them) is kept back until the reader has answered, or asks to see
  it. Without scripts the choices are a list, and the answer is a fold as before.
- `{chapter-cards}` makes a card for each chapter, with what can be read off the chapter itself; the chapter says
  the same under its title.

A page loads the scripts and styles of this only where it needs them.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

MARK = "normtut-predict"
# A link into a chapter stays where it leads also when the script opens answers above, for a reader who has guessed
# before: the text is not shown until they are open.
BEFORE_PAINT = """document.documentElement.classList.add("nt-predict");
try {
  if (location.hash && /\\w/.test(localStorage.getItem("normtut-predict") || ""))
    document.documentElement.classList.add("nt-returning");
} catch { /* a private window has no guesses */ }"""
SHOW_ALL = '<button type="button" class="predict-all">Show all answers</button>'


# --- Predict: from the notebook -----------------------------------------------------------------------------


def words(text: str) -> str:
    """A pattern that finds `text` whatever its spaces and line breaks."""
    return r"\s+".join(re.escape(word) for word in text.split())


def split_choices(text: str, choices: list[str]) -> tuple[str, list[str]]:
    """The question of a Predict, and what stands after its (a), (b), …, both without what only joins them.

    >>> split_choices("The border is (a) black, (b) of no colour?", ["black", "of no colour"])
    ('The border is …', ['black', 'of no colour'])
    """
    letters = "abcdefgh"[: len(choices)]
    pattern = r"\s+".join(
        rf"\({letter}\)\s*({words(choice)}.*?)"
        for letter, choice in zip(letters, choices, strict=True)
    )
    found = re.search(pattern + r"\s*$", text, flags=re.DOTALL)
    if found is None:
        raise ValueError(f"the choices {choices} do not end the text {text!r}")
    question = text[: found.start()].rstrip()
    if question[-1] not in ".?!:":
        question += " …"
    return question, [
        re.sub(r"[\s,;.?]+$", "", " ".join(label.split())) for label in found.groups()
    ]


def mark_predicts(app: Sphinx, docname: str, source: list[str]) -> None:
    """Write the choices of a Predict as a list, and what its metadata say into a comment that the parser keeps."""
    if '"predict"' not in source[0]:
        return
    notebook = json.loads(source[0])
    asked: Counter[str] = Counter()
    for cell in notebook["cells"]:
        predict = cell["metadata"].get("normtut", {}).get("predict")
        if predict is None:
            continue
        quote = "".join(cell["source"])
        text = re.sub(r"^> ?", "", quote, flags=re.MULTILINE)
        items = []
        if "choices" in predict:
            text, items = split_choices(text, predict["choices"])
        # Guesses are kept under what was asked, and how often before: a question that is rewritten is asked anew.
        key = hashlib.sha256(f"{docname} {quote} {asked[quote]}".encode()).hexdigest()[:8]
        asked[quote] += 1
        data = json.dumps({**predict, "key": key}).replace("--", "- -")
        lines = [
            *text.splitlines(),
            "",
            *(f"- {item}" for item in items),
            "",
            f"<!-- {MARK} {data} -->",
        ]
        cell["source"] = "\n".join(f"> {line}" for line in lines)
    source[0] = json.dumps(notebook)


# --- Predict: to the page -----------------------------------------------------------------------------------


class Predicts(SphinxTransform):
    """Make a form of each marked Predict, and hold back what gives its answer away."""

    default_priority = 520  # after the call-outs and the captions

    def apply(self, **kwargs: Any) -> None:
        marks = [
            raw
            for raw in self.document.findall(nodes.raw)
            if raw.astext().startswith(f"<!-- {MARK} ")
        ]
        for number, mark in enumerate(marks, start=1):
            quote = mark.parent
            data = json.loads(
                mark.astext().removeprefix(f"<!-- {MARK} ").removesuffix("-->")
            )
            quote.remove(mark)
            make_form(quote, data, number)
            hold_back(quote, number)
        if marks:
            place_score(self.document, len(marks))


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def make_form(quote: nodes.block_quote, data: dict[str, Any], number: int) -> None:
    name = f"predict-{number}"
    quote["ids"].append(name)
    quote["classes"].append("predict")
    question = quote[0]
    question["ids"].append(f"{name}-question")
    lists = [child for child in quote if isinstance(child, nodes.bullet_list)]
    stored = html.escape(
        json.dumps({k: data[k] for k in ("answer", "number", "unit", "key") if k in data})
    )
    quote += raw(
        f'<form class="predict-form" data-predict="{stored}" novalidate>'
        f'<fieldset aria-describedby="{name}-question"><legend>Your prediction</legend>'
    )
    if lists:
        quote.remove(lists[0])
        short = all(len(item.astext()) <= 12 for item in lists[0])
        quote += raw(f'<ul class="predict-choices{" short" if short else ""}">')
        for value, item in enumerate(lists[0]):
            quote += raw(f'<li><label><input type="radio" name="{name}" value="{value}">')
            quote += nodes.inline("", "", *item[0].children)
            quote += raw("</label></li>")
        quote += raw("</ul>")
    else:
        unit = html.escape(data["unit"])
        quote += raw(
            f'<p class="predict-number"><label>Your number <input type="text" inputmode="decimal" '
            f'autocomplete="off" name="{name}" size="8"> <span>{unit}</span></label></p>'
        )
    quote += raw(
        '</fieldset><p class="predict-buttons"><button type="submit">Check my guess</button> '
        '<button type="button" class="predict-skip">Show me without guessing</button> '
        f"{SHOW_ALL if number == 1 else ''}</p>"
        '<p class="predict-verdict" role="status"></p></form>'
    )


def is_cell(node: nodes.Node, *tags: str) -> bool:
    """Whether a node is a code cell, and one with any of these tags if there are some."""
    if not isinstance(node, nodes.container) or node.get("nb_element") != "cell_code":
        return False
    return not tags or any(f"tag_{tag}" in node["classes"] for tag in tags)


def hold_back(quote: nodes.block_quote, number: int) -> None:
    """Wrap what answers: from the first answer-cell to the end of the explanation after the last.

    The explanation ends where a section, a code cell or the next Predict begins. The last paragraph before a
    cell or a Predict usually leads to it, and stays, unless it is the only one.
    """
    siblings = quote.parent.children
    at = siblings.index(quote) + 1
    while at < len(siblings) and not is_cell(siblings[at]):
        at += 1
    end = at
    while end < len(siblings) and is_cell(siblings[end], "answer-cell", "check-cell"):
        end += 1
    if end == at:
        return
    cells = end
    while end < len(siblings) and not (
        isinstance(siblings[end], nodes.section)
        or is_cell(siblings[end])
        or "callout-predict" in siblings[end].get("classes", [])
    ):
        end += 1
    if (
        end < len(siblings)
        and not isinstance(siblings[end], nodes.section)
        and end - cells > 1
    ):
        end -= 1
    held = siblings[at:end]
    wrapper = nodes.container(
        "", *held, classes=["predict-answer"], ids=[f"predict-{number}-answer"]
    )
    for node in held:
        quote.parent.remove(node)
    quote.parent.insert(at, wrapper)


def place_score(document: nodes.document, count: int) -> None:
    """Where a page counts its predictions: under "Your score", else before the exercises, else at the end.

    It stands there whole before the script comes, or what follows it would move then.
    """
    panel = raw(
        f'<div class="predict-score"><p role="status">This page has {count} predictions. '
        'You have answered none yet.</p><p class="predict-buttons">'
        '<button type="button" class="predict-copy" hidden>Copy my score</button> '
        '<button type="button" class="predict-forget" hidden>Forget my guesses on this page</button> '
        f"{SHOW_ALL}</p></div>"
    )
    sections = {
        name: section
        for section in document.findall(nodes.section)
        for name in section["names"]
    }
    if "your score" in sections:
        sections["your score"].insert(1, panel)
    elif "exercises" in sections:
        parent = sections["exercises"].parent
        parent.insert(parent.index(sections["exercises"]), panel)
    else:
        document[-1].append(panel)


# --- the landing page ---------------------------------------------------------------------------------------

LANDING = Path(__file__).with_name("landing.html")
PICTURES = Path(__file__).resolve().parents[1] / "_assets" / "landing"


class Landing(SphinxDirective):
    """`{landing}`: the photograph with the slider. The six numbers of each style come from `styles.json`."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(LANDING))
        six = json.loads((PICTURES / "styles.json").read_text(encoding="utf-8"))
        photos = [
            path.stem.removesuffix("-small")
            for path in sorted(PICTURES.glob("*-small.webp"))
        ]
        photos.sort(key=lambda name: name != "cat")  # the one that is shown first
        page = LANDING.read_text(encoding="utf-8")
        page = page.replace(
            "@PHOTOS@",
            "".join(
                choice(
                    name,
                    f'data-photo="_static/landing/{name}.webp"',
                    f"{name}-small",
                    name == "cat",
                )
                for name in photos
            ),
        )
        page = page.replace(
            "@STYLES@",
            "".join(
                choice(name, f'data-style="{",".join(map(str, numbers))}"', name, k == 0)
                for k, (name, numbers) in enumerate(six.items())
            ),
        )
        return [raw(page)]


def choice(name: str, data: str, picture: str, chosen: bool) -> str:
    """A button with a small picture; its word says all, so that the picture is a background."""
    return (
        f'<button type="button" aria-pressed="{str(chosen).lower()}" {data}><span '
        f'style="background-image: url(_static/landing/{picture}.webp)"></span>{name}</button>\n'
    )


class ChapterCards(SphinxDirective):
    """`{chapter-cards}`: a card for each chapter, from a list of what no program can write.

    Each entry is `chapter: {says: a sentence, shows: what is on its picture}`; `after: [1, 4]` names the chapters
    that it builds on, which otherwise are the earlier ones that it links to. Titles and times are its own.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        cards = yaml.safe_load("\n".join(self.content))
        items = []
        for number, (name, entry) in enumerate(cards.items(), start=1):
            path = Path(self.env.srcdir) / "book" / f"{name}.ipynb"
            self.env.note_dependency(str(path))
            chapter = read_chapter(path, entry)
            after = chapter["after"]
            needs = f"after {after_words(after)}" if after else "needs nothing"
            title, shows, says = (
                html.escape(v) for v in (chapter["title"], entry["shows"], entry["says"])
            )
            items.append(
                f'<li><img src="_static/landing/{name}.webp" alt="{shows}" width="400" height="225" '
                f'loading="lazy"><div><a href="book/{name}.html">{number}. {title}</a><p>{says}</p>'
                f"<small>{chapter['minutes']} minutes, {needs}</small></div></li>"
            )
        return [raw(f'<ol class="chapter-cards">{"".join(items)}</ol>')]


def read_chapter(path: Path, card: dict[str, Any] | None = None) -> dict[str, Any]:
    """Title, minutes to read, and the earlier chapters that it builds on: its card's, or those it refers to."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    prose, _, _ = prose.partition("\n## Exercises")
    code = sum(
        len("".join(c["source"]).splitlines()) for c in cells if c["cell_type"] == "code"
    )
    # Two hundred words a minute, and three seconds for a line of code; the exercises take longer than any guess.
    minutes = 5 * max(1, round((len(prose.split()) / 200 + code / 20) / 5))
    number = int(path.name[:2])
    linked = {int(found) for found in re.findall(r"\]\((\d\d)_\w+\.ipynb", prose)}
    title = re.search(r"^# (.+)$", prose, flags=re.MULTILINE)
    assert title is not None, path
    return {
        "title": title[1],
        "minutes": minutes,
        "after": (card or {}).get("after", sorted(n for n in linked if n < number)),
    }


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


class ChapterFacts(SphinxTransform):
    """Under a chapter's title: how long it takes, and what it builds on. The landing page's cards say the same."""

    default_priority = 520

    def apply(self, **kwargs: Any) -> None:
        path = Path(self.env.doc2path(self.env.docname))
        title = next(iter(self.document.findall(nodes.title)), None)
        if title is None or path.parent.name != "book" or not re.match(r"\d\d_", path.name):
            return
        home = Path(self.env.srcdir) / "index.md"
        self.env.note_dependency(str(home))
        facts = chapter_facts(path, home)
        title.parent.insert(title.parent.index(title) + 1, raw(facts))


def chapter_facts(path: Path, home: Path) -> str:
    """A line of HTML: `25 minutes · after chapters 1 and 4`, each number a link."""
    block = re.search(
        r"^```\{chapter-cards\}\n(.*?)^```",
        home.read_text(encoding="utf-8"),
        flags=re.M | re.S,
    )
    cards = yaml.safe_load(block[1]) if block else {}
    chapter = read_chapter(path, cards.get(path.stem, {}))
    after = chapter["after"]
    names = {int(p.name[:2]): p.stem for p in path.parent.glob("[0-9][0-9]_*.ipynb")}
    linked = re.sub(
        r"\d+",
        lambda n: f'<a href="{names[int(n[0])]}.html">{n[0]}</a>',
        after_words(after),
    )
    needs = (
        f"after chapter{'s' if len(after) > 1 else ''} {linked}"
        if after
        else "needs nothing"
    )
    return f'<p class="chapter-facts">{chapter["minutes"]} minutes · {needs}</p>'


# --- scripts and styles -------------------------------------------------------------------------------------


def add_files(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Load what a page needs, and nothing on the others."""
    if 'class="predict-form"' in context.get("body", ""):
        # Known before the page is painted, so that nothing moves when the script comes.
        app.add_js_file(None, body=BEFORE_PAINT, priority=1)
        app.add_js_file("play-predict.js", loading_method="defer")
        app.add_css_file("play-predict.css")
    if 'id="play"' in context.get("body", ""):
        app.add_js_file(
            None, body='document.documentElement.classList.add("nt-play");', priority=1
        )
        app.add_js_file("play-landing.js", loading_method="defer")
        app.add_css_file("play-landing.css")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", mark_predicts)
    app.add_transform(Predicts)
    app.add_transform(ChapterFacts)
    app.add_directive("landing", Landing)
    app.add_directive("chapter-cards", ChapterCards)
    app.connect("html-page-context", add_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
