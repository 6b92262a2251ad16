"""Call-outs: a block quote whose first word is bold (`> **Predict.** …`)."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from .tree import first_child


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


def setup(app: Sphinx) -> None:
    app.add_transform(CallOuts)
