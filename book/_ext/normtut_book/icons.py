"""The theme's icons, without its script and with no more of its fonts than the book shows."""

from __future__ import annotations

import re
from pathlib import Path

from fontTools.subset import Options, Subsetter, load_font, save_font
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


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


def setup(app: Sphinx) -> None:
    app.connect("build-finished", lighten)
