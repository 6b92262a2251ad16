"""A Predict is answered on the page: a cell `> **Predict.** …` whose metadata say what may be answered becomes a form.

What follows from the answer (the answer-cells, and the explanation after them) is kept back until the reader has
answered, or asks to see it. Without scripts the choices are a list, and the answer is a fold as before.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections import Counter
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from .pages import load_where
from .tree import is_cell, raw

MARK = "normtut-predict"
# A link into a chapter stays where it leads also when the script opens answers above, for a reader who has guessed
# before: the text is not shown until they are open.
BEFORE_PAINT = """document.documentElement.classList.add("nt-predict");
try {
  if (location.hash && /\\w/.test(localStorage.getItem("normtut-predict") || ""))
    document.documentElement.classList.add("nt-returning");
} catch { /* a private window has no guesses */ }"""
SHOW_ALL = '<button type="button" class="predict-all">Show all answers</button>'


# --- from the notebook --------------------------------------------------------------------------------------


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


# --- to the page --------------------------------------------------------------------------------------------


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


def setup(app: Sphinx) -> None:
    app.connect("source-read", mark_predicts)
    app.add_transform(Predicts)
    # Known before the page is painted, so that nothing moves when the script comes.
    load_where(app, 'class="predict-form"', "predict", BEFORE_PAINT)
