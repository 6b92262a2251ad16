"""The landing page: the photograph whose statistics a slider changes."""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from .pages import load_where
from .tree import raw

LANDING = Path(__file__).with_name("landing.html")
PICTURES = Path(__file__).resolve().parents[2] / "_assets" / "landing"
FIRST = "cat"  # the photograph that is shown first


class Landing(SphinxDirective):
    """`{landing}`: the photograph with the slider. The six numbers of each style come from `styles.json`."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(LANDING))
        six = json.loads((PICTURES / "styles.json").read_text(encoding="utf-8"))
        names = [p.stem.removesuffix("-small") for p in PICTURES.glob("*-small.webp")]
        names.sort(key=lambda name: (name != FIRST, name))
        photos = [
            choice(n, f'data-photo="_static/landing/{n}.webp"', f"{n}-small", n == FIRST)
            for n in names
        ]
        styles = [
            choice(
                n, f'data-style="{",".join(map(str, numbers))}"', n, n == next(iter(six))
            )
            for n, numbers in six.items()
        ]
        page = LANDING.read_text(encoding="utf-8")
        page = page.replace("@PHOTOS@", "".join(photos))
        return [raw(page.replace("@STYLES@", "".join(styles)))]


def choice(name: str, data: str, picture: str, chosen: bool) -> str:
    """A button with a small picture; its word says all, so that the picture is a background."""
    return (
        f'<button type="button" aria-pressed="{str(chosen).lower()}" {data}><span '
        f'style="background-image: url(_static/landing/{picture}.webp)"></span>{name}</button>\n'
    )


def setup(app: Sphinx) -> None:
    app.add_directive("landing", Landing)
    shown = 'document.documentElement.classList.add("nt-play");'
    load_where(app, 'id="play"', "landing", shown)
