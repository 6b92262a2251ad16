"""What several of these modules ask of a page's tree, or put into it."""

from __future__ import annotations

from docutils import nodes


def raw(html: str) -> nodes.raw:
    """HTML as it is."""
    return nodes.raw("", html, format="html")


def first_child(paragraph: nodes.Element) -> nodes.Node | None:
    """The first child that is not the empty text that MyST puts before a bold word."""
    return next((n for n in paragraph if n.astext()), None)


def is_cell(node: nodes.Node | None, *tags: str) -> bool:
    """Whether a node is a code cell, and one with any of these tags if there are some."""
    if not isinstance(node, nodes.container) or node.get("nb_element") != "cell_code":
        return False
    return not tags or any(f"tag_{tag}" in node["classes"] for tag in tags)
