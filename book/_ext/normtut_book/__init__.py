"""The book's own Sphinx extension: what makes the built pages light, offline and accessible.

- `maths`: equations are rendered while the book is built (KaTeX in an embedded V8); TeX that KaTeX cannot
  read is a warning, hence stops the build.
- `callouts`: a block quote whose first word is bold (`> **Predict.** …`) becomes a call-out.
- `predict`: a Predict becomes a form whose answer waits.
- `landing`, `chapters`: the photograph with the slider; what is said of each chapter, there and under its title.
- `figures`: charts as SVG in the page's colours, galleries of pictures, captions.
- `links`: numbers of equations, words of the glossary, the bibliography, synonyms for the search.
- `api`: docstrings.
- `tables`: long rows that a phone stacks.
- `benchmarks`: the page that is drawn from results.
- `pages`: what the theme writes into every page, and what the book leaves out of it.
- `icons`: the icons that the book shows, and no others.
- `tree`: what several of these share.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

MODULES = (
    *("maths", "callouts", "figures", "predict", "landing", "chapters", "links"),
    *("api", "benchmarks", "pages", "icons"),
)
ASSETS = Path(__file__).resolve().parents[2] / "_assets"


def setup(app: Sphinx) -> dict[str, Any]:
    app.config.html_static_path.append(str(ASSETS))
    for name in MODULES:
        import_module(f".{name}", __name__).setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
