"""Docstrings, as napoleon and MyST should read them."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx


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


def setup(app: Sphinx) -> None:
    # Before napoleon, and after it.
    app.connect("autodoc-process-docstring", keep_first_line, priority=100)
    app.connect("autodoc-process-docstring", escape_stars, priority=900)
