"""Figures: a chart is SVG in the page's own colours, a gallery shows its pictures one by one, both with a caption.

A notebook stores a figure as PNG or JPEG, which every viewer shows; beside it lies what `normtut.book.for_page` has
prepared for the page. What an explorer holds for notebooks, the page loads from files when it comes near. A paragraph
`**Figure 5.1.** …` after the cell becomes the caption.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

from .tree import first_child, is_cell

logger = logging.getLogger(__name__)

EXPLORER = "data:image/webp;base64,"
EMBEDDED = re.compile(re.escape(EXPLORER) + r"([A-Za-z0-9+/=]+)")
FIGURE_NUMBERS = "application/vnd.normtut.figure+json"
PIXELS_PER_POINT = (
    1.5  # of a chart on a wide page: its words of ten points are as large as the text
)


# --- what a notebook stores ---------------------------------------------------------------------------------


def prepare_figures(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what is prepared for the page in the place of a figure's picture; its numbers are for tests alone."""
    if FIGURE_NUMBERS not in source[0] and EXPLORER not in source[0]:
        return
    folder, up = Path(app.outdir, "_images"), "../" * docname.count("/")
    notebook = json.loads(source[0])
    count = 0
    for cell in notebook["cells"]:
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            page = data.pop(FIGURE_NUMBERS, {}).get("page", {})
            if "svg" in page:
                count += 1
                output["data"] = {"text/html": chart(page["svg"], alt, f"f{count}-")}
            elif "panels" in page and "image/jpeg" in data:
                picture = Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"])))
                output["data"] = {"text/html": gallery(picture, page, alt, folder, up)}
            elif "text/html" in data:
                data["text/html"] = without_embedded("".join(data["text/html"]), folder, up)
    source[0] = json.dumps(notebook)


def store(picture: bytes, folder: Path) -> str:
    """Write a WebP picture under a name that follows from what is in it, and return the name."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{hashlib.sha256(picture).hexdigest()[:20]}.webp"
    (folder / name).write_bytes(picture)
    return name


def without_embedded(html: str, folder: Path, up: str) -> str:
    """The HTML with the addresses of files in the place of the pictures that it held."""
    return EMBEDDED.sub(
        lambda m: f"{up}_images/{store(base64.b64decode(m[1]), folder)}", html
    )


def chart(svg: str, alt: str, prefix: str) -> str:
    """The SVG with its words for those who cannot see it, its size, and names that no other has on the page."""
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    match = re.match(r'<svg viewBox="0 0 (\d+) (\d+)">', svg)
    assert match is not None, svg[:80]
    width, height = (round(PIXELS_PER_POINT * int(v)) for v in match.groups())
    start = (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{escape(alt)}" width="{width}" height="{height}"'
    )
    return start + svg.removeprefix("<svg")


def gallery(
    picture: Image.Image, page: dict[str, Any], alt: str, folder: Path, up: str
) -> str:
    """The pictures of a figure, cut out of it, each a link to itself alone."""
    panels, ncols = page["panels"], page["ncols"]
    cells = []
    for number, (title, *box) in enumerate(panels, 1):
        # Whole pixels inside the box: nothing of the white around it.
        left, top, right, bottom = (
            side * size for side, size in zip(box, picture.size * 2, strict=True)
        )
        inside = (math.ceil(left), math.ceil(top), math.floor(right), math.floor(bottom))
        cut = picture.crop(inside)
        buffer = io.BytesIO()
        cut.save(buffer, "webp", quality=70, method=6)
        name = store(buffer.getvalue(), folder)
        said = title.replace("\n", " ") or f"picture {number} of {len(panels)}"
        cells.append(
            f'<div><a href="{up}_images/{name}"><img src="{up}_images/{name}" alt="Enlarge: {escape(said)}" '
            f'width="{cut.width}" height="{cut.height}" loading="lazy"></a>'
            + (f"<span>{escape(title)}</span>" if title.strip() else "")
            + "</div>"
        )
    # Pictures with titles may stand otherwise on a phone; without titles their places say what they are.
    phone = min(ncols, 2) if all(title.strip() for title, *_ in panels) else ncols
    return (
        f'<div class="gallery" role="group" aria-label="{escape(alt)}" '
        f'style="--columns:{ncols};--phone-columns:{phone}">{"".join(cells)}</div>'
    )


# --- captions -----------------------------------------------------------------------------------------------


class numbered_figure(nodes.figure):
    """A figure whose number stands in its caption: Sphinx, which looks for the class, gives it no other."""


CAPTION = re.compile(r"Figure (\d+)\.(\d+)\.$")
PREPARED = ('<svg class="chart"', '<div class="gallery"')


def drawing(node: nodes.Node | None) -> nodes.Element | None:
    """The output of a code cell that holds a picture; None for anything else."""
    if not is_cell(node):
        return None
    for bundle in node.findall(nodes.container):
        if bundle.get("nb_element") == "mime_bundle" and (
            any(bundle.findall(nodes.image))
            or any(raw.astext().startswith(PREPARED) for raw in bundle.findall(nodes.raw))
        ):
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


def setup(app: Sphinx) -> None:
    app.connect("source-read", prepare_figures)
    app.add_transform(Captions)
    app.add_node(
        numbered_figure,
        html=(
            lambda translator, node: translator.visit_figure(node),
            lambda translator, node: translator.depart_figure(node),
        ),
    )
