"""Links that chapters, which are plain Markdown, do not write themselves.

- "(5.1)" leads to equation (5.1), "Figure 5.1" to the figure.
- The first use of each word of `book/glossary.yml` in a chapter leads to its definition, and the page of the glossary
  lists these uses: it is the index of terms too. Its words and their synonyms are found by the search.
- A page of the book that is no notebook, which Colab does not open, stands in a chapter with the address at which it is
  published; on the page the link leads to the same build.
- A paper that a chapter cites has a dagger that leads to its place in the bibliography, which leads back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from docutils import nodes
from sphinx.addnodes import index as index_node
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from .tree import raw

BOOK = Path(__file__).resolve().parents[2]
CHAPTER = re.compile(r"book/(\d\d)_")
NO_PROSE = (
    nodes.reference,
    nodes.title,
    nodes.literal,
    nodes.literal_block,
    nodes.raw,
    nodes.strong,
    nodes.math,
    nodes.math_block,
    nodes.comment,
)
GLOSSARY, BIBLIOGRAPHY = "book/glossary", "book/bibliography"


class Term(NamedTuple):
    """A word of the glossary: what it means, how else it is written or searched for, where it is explained."""

    name: str
    text: str
    forms: list[str]
    also: list[str]
    where: str

    @property
    def id(self) -> str:
        return "term-" + re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@lru_cache(1)
def terms() -> tuple[Term, ...]:
    path = BOOK / "glossary.yml"
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
    made = [
        Term(t["term"], t["text"], t.get("forms", []), t.get("also", []), t["where"])
        for t in found
    ]
    return tuple(sorted(made, key=lambda term: term.name.lower()))


@lru_cache(1)
def spellings() -> dict[str, Term]:
    """Every way in which a word of the glossary is written, in small letters."""
    return {form.lower(): term for term in terms() for form in (term.name, *term.forms)}


@lru_cache(1)
def papers() -> dict[str, str]:
    """The key of each entry of the bibliography, by its address."""
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    found = {}
    for key, entry in re.findall(
        r"^@\w+\{(\w+),(.*?)^\}", text, flags=re.DOTALL | re.MULTILINE
    ):
        for kind, value in re.findall(
            r"^\s*(url|doi)\s*=\s*\{([^}]+)\}", entry, flags=re.MULTILINE
        ):
            found[value if kind == "url" else f"https://doi.org/{value}"] = key
    return found


@lru_cache(1)
def equations() -> dict[str, str]:
    """The chapter of each numbered equation and figure: ("5.1" or "Figure 5.1") → "book/05_batch"."""
    found = {}
    for path in sorted(BOOK.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join(
            "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"
        )
        names = re.findall(r"\\tag\{([\d.]+)\}", text)
        names += [
            f"Figure {n}"
            for n in re.findall(r"^\*\*Figure (\d+\.\d+)\.\*\*", text, re.MULTILINE)
        ]
        found |= dict.fromkeys(names, f"book/{path.stem}")
    return found


def target(name: str) -> str:
    """The address of an equation or a figure within its page."""
    kind, number = (
        ("fig", name.split()[1]) if name.startswith("Figure") else ("equation", name)
    )
    return f"{kind}-{number.replace('.', '-')}"


@lru_cache(1)
def pattern() -> re.Pattern[str]:
    """What becomes a link: numbers of equations, names of figures, words of the glossary."""
    forms = sorted((f for t in terms() for f in (t.name, *t.forms)), key=len, reverse=True)
    words = (
        rf"|(?<![\w-])(?P<word>{'|'.join(map(re.escape, forms))})(?:s\b|\b)(?!-)"
        if forms
        else ""
    )
    return re.compile(
        rf"\((?P<equation>\d+\.\d+)\)|\b(?P<figure>Figure \d+\.\d+)\b(?!\.\d){words}",
        flags=re.IGNORECASE,
    )


class Links(SphinxTransform):
    """Make the links of a chapter."""

    default_priority = 600  # after the captions

    def apply(self, **kwargs: Any) -> None:
        docname = self.env.docname
        if not CHAPTER.match(docname):
            return
        for block in list(self.document.findall(nodes.math_block)):
            if tag := re.search(r"\\tag\{([\d.]+)\}", block.astext()):
                block["ids"].append(target(tag[1]))
        uses: dict[str, str] = {}
        for text in list(self.document.findall(nodes.Text)):
            if not is_prose(text):
                continue
            made = list(linked(text, docname, uses))
            if any(isinstance(node, nodes.reference) for node in made):
                text.parent.replace(text, made)
        cited: set[str] = set()
        published = self.config.html_baseurl
        for reference in list(self.document.findall(nodes.reference)):
            uri = reference.get("refuri", "")
            if published and uri.startswith(published):
                reference["refuri"] = "../" + uri.removeprefix(published)
                reference["internal"] = True
            key = papers().get(uri)
            if key and key not in cited:
                cited.add(key)
                dagger = f'<a class="dagger" href="bibliography.html#{key}" aria-label="in the bibliography">†</a>'
                place = reference.parent.index(reference) + 1
                reference.parent.insert(place, raw(dagger))
        self.env.normtut_uses[docname] = {"terms": uses, "papers": sorted(cited)}  # type: ignore[attr-defined]
        index = [
            ("single", word, "", "main", None)
            for term in terms()
            if term.where.partition("#")[0] == docname.removeprefix("book/")
            for word in (term.name, *term.forms, *term.also)
        ]
        if index:
            self.document.insert(0, index_node(entries=index))


def is_prose(text: nodes.Text) -> bool:
    """Whether words stand in a paragraph, and in no link, heading, code or first word of a call-out."""
    parent, seen = text.parent, False
    while parent is not None:
        if isinstance(parent, NO_PROSE):
            return False
        seen |= isinstance(parent, (nodes.paragraph, nodes.caption))
        parent = parent.parent
    return seen


def linked(text: nodes.Text, docname: str, uses: dict[str, str]) -> Iterator[nodes.Node]:
    """A text, with links in it; `uses` remembers which words have had theirs."""
    plain, end = str(text), 0
    for match in pattern().finditer(plain):
        groups = match.groupdict()
        if groups.get("word"):
            term = spellings()[groups["word"].lower()]
            if term.name in uses or term.where.partition("#")[0] == docname.removeprefix(
                "book/"
            ):
                continue
            uses[term.name] = f"use-{term.id}"
            uri, classes, ids = f"glossary.html#{term.id}", ["term"], [uses[term.name]]
        else:
            name = groups["equation"] or groups["figure"]
            page = equations().get(name)
            if page is None:
                continue
            here = "" if page == docname else page.removeprefix("book/") + ".html"
            uri, classes, ids = f"{here}#{target(name)}", ["number"], []
        if match.start() > end:
            yield nodes.Text(plain[end : match.start()])
        yield nodes.reference(
            "", match[0], refuri=uri, classes=classes, ids=ids, internal=True
        )
        end = match.end()
    if end < len(plain):
        yield nodes.Text(plain[end:])


# --- the other ends -----------------------------------------------------------------------------------------


class Glossary(SphinxDirective):
    """`{terms}`: the words of `book/glossary.yml`, each with where it is explained and where it is used."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(BOOK / "glossary.yml"))
        found = nodes.definition_list(classes=["glossary"])
        for term in terms():
            said = nodes.definition()
            self.state.nested_parse([term.text], self.content_offset, said)
            said += nodes.paragraph("", "", raw(f"<!-- uses {term.name} -->"))
            found += nodes.definition_list_item(
                "", nodes.term("", term.name, ids=[term.id]), said
            )
        return [found]


def link(chapter: str, anchor: str) -> str:
    return f'<a href="{chapter}.html#{anchor}">{int(chapter[:2])}</a>'


def fill_in(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Where a word is used, and where a paper is cited: known when all chapters have been read."""
    uses: dict[str, Any] = app.env.normtut_uses  # type: ignore[attr-defined]
    chapters = sorted(uses)
    if pagename == GLOSSARY:
        for term in terms():
            places = [
                link(c.removeprefix("book/"), uses[c]["terms"][term.name])
                for c in chapters
                if term.name in uses[c]["terms"]
            ]
            chapter, _, anchor = term.where.partition("#")
            explained = f'Explained in <a href="{chapter}.html#{anchor}">chapter {int(chapter[:2])}</a>'
            more = f"; used in {', '.join(places)}" if places else ""
            also = (*term.forms, *term.also)
            called = f" Also: {escape(', '.join(also))}." if also else ""
            context["body"] = context["body"].replace(
                f"<!-- uses {term.name} -->", f"<small>{explained}{more}.{called}</small>"
            )
    elif pagename == BIBLIOGRAPHY:
        cited = {
            key: [c.removeprefix("book/") for c in chapters if key in uses[c]["papers"]]
            for key in papers().values()
        }

        def entry(match: re.Match[str]) -> str:
            key = next(
                (
                    papers()[uri]
                    for uri in re.findall(r'href="([^"]+)"', match[0])
                    if uri in papers()
                ),
                "",
            )
            places = ", ".join(
                f'<a href="{c}.html">{int(c[:2])}</a>' for c in cited.get(key, [])
            )
            back = f" <small>Cited in {places}.</small>" if places else ""
            start = f'<div class="citation" id="{key}"' if key else match[1]
            return re.sub(r"</p>\s*</div>$", f"{back}</p>\n</div>", start + match[2])

        context["body"] = re.sub(
            r'(<div class="citation" id="[^"]+")(.*?</p>\s*</div>)',
            entry,
            context["body"],
            flags=re.DOTALL,
        )


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    env.normtut_uses.pop(docname, None)  # type: ignore[attr-defined]


def start(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    if not hasattr(env, "normtut_uses"):
        env.normtut_uses = {}  # type: ignore[attr-defined]


def write_again(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Pages that list what others use."""
    return [page for page in (GLOSSARY, BIBLIOGRAPHY) if page in env.found_docs]


def setup(app: Sphinx) -> None:
    app.add_transform(Links)
    app.add_directive("terms", Glossary)
    app.connect("env-before-read-docs", start)
    app.connect("env-purge-doc", forget)
    app.connect("env-updated", write_again)
    app.connect("html-page-context", fill_in, priority=800)
    scorer = Path(__file__).with_name("scorer.js")
    app.connect(
        "config-inited",
        lambda app, config: setattr(config, "html_search_scorer", str(scorer)),
    )
