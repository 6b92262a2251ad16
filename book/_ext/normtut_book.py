"""The book's own Sphinx extension: what makes the built pages light, offline and accessible.

- Maths is rendered to HTML and MathML while the book is built (KaTeX in an embedded V8), so that a page needs
  neither a network nor a maths script; TeX that KaTeX cannot read is a warning, hence stops the build.
- A block quote whose first word is bold (`> **Predict.** …`) becomes a call-out.
- A paragraph `**Figure 5.1.** …` after a cell that draws becomes its caption, with the picture in one `<figure>`.
- The theme's live-code and icon scripts, which the book does not use, are left out; its icon fonts are cut.
"""

from __future__ import annotations

import atexit
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from fontTools.subset import Options, Subsetter, load_font, save_font
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.fileutil import copy_asset

logger = logging.getLogger(__name__)
BOOK = Path(__file__).resolve().parents[1]
KATEX = BOOK / "_vendor" / "katex"


# --- maths --------------------------------------------------------------------------------------------------


@lru_cache(1)
def javascript() -> MiniRacer:
    engine = MiniRacer()
    # Python 3.13 waits for ever for the engine's thread if it is collected while the interpreter ends.
    atexit.register(engine.close)
    engine.eval((KATEX / "katex.min.js").read_text(encoding="utf-8"))
    return engine


@lru_cache(4096)
def to_html(tex: str, display: bool) -> str:
    """`tex` as HTML for the eye with MathML for screen readers; raises JSEvalException on TeX it cannot read."""
    options = {
        "displayMode": display,
        "throwOnError": True,
        "strict": "error",
        "output": "htmlAndMathml",
    }
    call = f"katex.renderToString({json.dumps(tex)}, {json.dumps(options)})"
    return str(javascript().eval(call))


JOINER = "\u2060"


def neighbour(node: nodes.Element, step: int) -> str:
    """The text beside `node` in its paragraph; a space at either end of it."""
    siblings = node.parent.children
    index = siblings.index(node) + step
    return (siblings[index].astext() if 0 <= index < len(siblings) else "") or " "


def render(translator: Any, node: nodes.Element, display: bool) -> None:
    tex = node.astext()
    try:
        html = to_html(tex, display)
    except JSEvalException as error:
        reason = str(error).strip().splitlines()[0]
        logger.warning(
            "KaTeX cannot render %r: %s", tex, reason, location=node, type="katex"
        )
        html = f'<code class="katex-error">{translator.encode(tex)}</code>'
    if display:
        # A wide equation scrolls inside its box.
        start = translator.starttag(
            node,
            "div",
            "",
            CLASS="equation-box",
            role="group",
            **{"aria-label": "equation"},
        )
        translator.body.append(f"{start}{html}</div>")
    else:
        # A line may break before or after an inline block, thus between an equation and its full stop: a word
        # joiner on the side of a neighbour that is no space forbids that.
        before, after = (neighbour(node, step) for step in (-1, 1))
        start = translator.starttag(node, "span", "", CLASS="math")
        joined = ("" if before[-1:].isspace() else JOINER) + f"{start}{html}</span>"
        translator.body.append(joined + ("" if after[:1].isspace() else JOINER))


def visit_math(translator: Any, node: nodes.math) -> None:
    render(translator, node, display=False)
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.math_block) -> None:
    render(translator, node, display=True)
    raise nodes.SkipNode


# --- call-outs ----------------------------------------------------------------------------------------------


def first_child(paragraph: nodes.Element) -> nodes.Node | None:
    """The first child that is not the empty text that MyST puts before a bold word."""
    return next((n for n in paragraph if n.astext()), None)


class CallOuts(SphinxTransform):
    """Give `> **Predict.** …` the classes `callout callout-predict`."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        for quote in self.document.findall(nodes.block_quote):
            if not (quote.children and isinstance(quote[0], nodes.paragraph)):
                continue
            first = first_child(quote[0])
            if isinstance(first, nodes.strong):
                word = re.sub(r"[^a-z]+", "-", first.astext().lower()).strip("-")
                quote["classes"] += ["callout", f"callout-{word}"]


# --- captions -----------------------------------------------------------------------------------------------


class numbered_figure(nodes.figure):
    """A figure whose number stands in its caption: Sphinx, which looks for the class, gives it no other."""


CAPTION = re.compile(r"Figure (\d+)\.(\d+)\.$")


def drawing(node: nodes.Node | None) -> nodes.Element | None:
    """The output of a code cell that holds a picture; None for anything else."""
    if not isinstance(node, nodes.container) or node.get("nb_element") != "cell_code":
        return None
    for bundle in node.findall(nodes.container):
        if bundle.get("nb_element") == "mime_bundle" and any(bundle.findall(nodes.image)):
            return bundle
    return None


class Captions(SphinxTransform):
    """Join the picture of a code cell and the paragraph `**Figure 5.1.** …` after it in a figure, `#fig-5-1`."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        for paragraph in list(self.document.findall(nodes.paragraph)):
            bold = first_child(paragraph)
            match = isinstance(bold, nodes.strong) and CAPTION.match(bold.astext())
            if not match:
                continue
            bundle = drawing(paragraph.previous_sibling())
            if bundle is None or isinstance(bundle.parent, nodes.figure):
                logger.warning(
                    "%s follows no cell with a picture",
                    bold.astext(),
                    location=paragraph,
                    type="caption",
                )
                continue
            figure = numbered_figure(names=["fig-{}-{}".format(*match.groups())])
            bundle.replace_self(figure)
            figure += bundle
            figure += nodes.caption("", "", *paragraph.children)
            self.document.note_explicit_target(figure, figure)
            paragraph.parent.remove(paragraph)


# --- API ----------------------------------------------------------------------------------------------------


def keep_first_line(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Stop napoleon from reading a constant's first line, up to a colon, as the name of its type."""
    if what in ("data", "attribute", "property"):
        lines[:0] = ["..", ""]  # an empty comment


def escape_stars(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """The star of a shape, as in (N, C, *), opens no emphasis."""
    for index, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            plain = re.split(r"(`[^`]*`)", line)
            plain[::2] = [
                re.sub(r"(?<![\w*\\])\*(?=[\s),\]:;.]|$)", r"\\*", part)
                for part in plain[::2]
            ]
            lines[index] = "".join(plain)


# --- notebooks ----------------------------------------------------------------------------------------------

FIGURE_NUMBERS = "application/vnd.normtut.figure+json"


def drop_figure_numbers(app: Sphinx, docname: str, source: list[str]) -> None:
    """What a picture shows in numbers is for the tests; myst-nb would warn of a type that it does not know."""
    if FIGURE_NUMBERS in source[0]:
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                output.get("data", {}).pop(FIGURE_NUMBERS, None)
        source[0] = json.dumps(notebook)


# --- pages --------------------------------------------------------------------------------------------------

UNUSED = ("sphinx-thebe.js", "sphinx-thebe.css", "design-tabs.js")


def drop_unused(app: Sphinx) -> None:
    """Thebe (live code) declares its script's address twice and would fetch it from a CDN; no page uses it."""
    for event in (
        "builder-inited",
        "env-updated",
        "doctree-resolved",
        "env-before-read-docs",
    ):
        listeners = app.events.listeners.get(event, [])
        listeners[:] = [
            entry
            for entry in listeners
            if not entry.handler.__module__.startswith("sphinx_thebe")
        ]


def page_context(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    for kind in ("script_files", "css_files"):
        files = context.get(kind, [])
        context[kind] = [
            f for f in files if not str(getattr(f, "filename", f)).endswith(UNUSED)
        ]
    # docutils gives each entry of the bibliography a role that ARIA has withdrawn, and Markdown a table's empty
    # corner the rank of a header.
    body = context.get("body", "").replace('role="doc-biblioentry"', 'role="listitem"')
    # A fold is called by the words that it shows ("Reveal the answer"), not by what myst-nb calls them all.
    body = body.replace(' aria-label="Toggle hidden content"', "")
    context["body"] = re.sub(r'<th class="head">(<p></p>)?</th>', "<td></td>", body)


ICON_SCRIPT = re.compile(
    r'[ \t]*<(?:script|link)[^>]*(?:scripts/fontawesome\.js|fontawesome/[^"]*/js/all\.min\.js)[^>]*>(?:</script>)?\n?'
)


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Drop Font Awesome's script (1.4 MB) from the pages, and cut its fonts (270 KiB) to the icons in use.

    This works on what was written, because the two themes that requirements.txt pins (for Python 3.10 and for
    later ones) load their icons from different templates and folders.
    """
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    classes: set[str] = set()
    for page in sorted(out.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        light = ICON_SCRIPT.sub("", text)
        if light != text:
            page.write_text(light, encoding="utf-8")
        classes |= set(re.findall(r'class="([^"]*\bfa-[^"]*)"', text))
    styles = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("styles", "vendor")
        for path in sorted((out / "_static" / folder).rglob("*.css"))
    )
    codes = {
        icon: character
        for names, character in re.findall(
            r'((?:\.fa-[\w-]+::?before,?)+)\{content:"\\([0-9a-f]+)"', styles
        )
        for icon in re.findall(r"fa-[\w-]+", names)
    }
    for used in sorted(classes):
        if not codes.keys() & used.split():
            logger.warning("the theme has no icon for class=%r", used, type="icons")
    # Scripts draw a closing cross; the style sheets draw arrows and the marks of admonitions.
    characters = {
        chr(int(codes[name], 16))
        for used in classes | {"fa-xmark"}
        for name in used.split()
        if name in codes
    }
    characters |= set(
        re.findall(r"[\ue000-\uf8ff]", "".join(re.findall(r"--pst-icon-[^;}]*", styles)))
    )
    characters |= {
        chr(int(code, 16))
        for code in re.findall(r'onthispage::?after\{content:"\\([0-9a-f]+)"', styles)
    }
    for font in sorted((out / "_static" / "vendor").rglob("fa-*.woff2")):
        cut(font, characters)


def cut(path: Path, characters: set[str]) -> None:
    """Keep only `characters` in the font at `path`."""
    options = Options(
        flavor="woff2", layout_features=[], hinting=False, notdef_outline=True
    )
    font = load_font(str(path), options)
    subsetter = Subsetter(options)
    subsetter.populate(text="".join(characters))
    subsetter.subset(font)
    save_font(font, str(path), options)


def copy_vendored(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "katex"
        for name in ("katex.min.css", "LICENSE", "fonts"):
            copy_asset(
                str(KATEX / name), str(target / "fonts" if name == "fonts" else target)
            )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("katex", (visit_math, None), (visit_math_block, None))
    app.add_transform(CallOuts)
    app.add_transform(Captions)
    app.add_node(
        numbered_figure,
        html=(
            lambda translator, node: translator.visit_figure(node),
            lambda translator, node: translator.depart_figure(node),
        ),
    )
    app.connect("source-read", drop_figure_numbers)
    app.connect("config-inited", lambda app, config: drop_unused(app), priority=900)
    app.connect("builder-inited", lambda app: drop_unused(app), priority=0)
    # Before napoleon, and after it.
    app.connect("autodoc-process-docstring", keep_first_line, priority=100)
    app.connect("autodoc-process-docstring", escape_stars, priority=900)
    app.connect("html-page-context", page_context, priority=900)
    app.connect("build-finished", copy_vendored)
    app.connect("build-finished", lighten)
    app.add_css_file("katex/katex.min.css")
    app.config.html_static_path.append(str(BOOK / "_assets"))
    app.add_css_file("normtut.css", priority=900)
    app.add_js_file("normtut.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
