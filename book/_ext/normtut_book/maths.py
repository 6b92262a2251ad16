"""Maths as HTML and MathML while the book is built: a page needs neither a network nor a maths script."""

from __future__ import annotations

import atexit
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.fileutil import copy_asset

logger = logging.getLogger(__name__)
KATEX = Path(__file__).resolve().parents[2] / "_vendor" / "katex"


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


def copy_vendored(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "katex"
        for name in ("katex.min.css", "LICENSE", "fonts"):
            copy_asset(
                str(KATEX / name), str(target / "fonts" if name == "fonts" else target)
            )


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("katex", (visit_math, None), (visit_math_block, None))
    app.add_css_file("katex/katex.min.css")
    app.connect("build-finished", copy_vendored)
