"""What the theme writes into every page, and what the book leaves out of it."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

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


def setup(app: Sphinx) -> None:
    app.connect("config-inited", lambda app, config: drop_unused(app), priority=900)
    app.connect("builder-inited", lambda app: drop_unused(app), priority=0)
    app.connect("html-page-context", page_context, priority=900)
    app.add_css_file("normtut.css", priority=900)
    app.add_js_file("normtut.js", loading_method="defer")
