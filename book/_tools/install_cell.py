"""The first code cell of every chapter: it installs normtut where it cannot be imported (Colab), and only there.

A chapter of a release installs that release: an old notebook must not meet a new library.
"""

from __future__ import annotations

from typing import Any

TAG = "install-cell"

SOURCE = """\
# In Colab this installs normtut; where it is already installed, nothing happens.
import importlib.util

if importlib.util.find_spec("normtut") is None:
    %pip install -q "normtut @ git+{address}\""""

METADATA = {
    "mystnb": {
        "code_prompt_hide": "Hide the install cell",
        "code_prompt_show": "Install normtut (needed in Colab only)",
    },
    "tags": [TAG, "hide-cell"],
}


def install_cell(url: str, version: str) -> dict[str, Any]:
    """The cell, as it is stored. Only a version under development installs what is newest."""
    address = url if "dev" in version else f"{url}@v{version}"
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "install-normtut",
        "metadata": METADATA,
        "outputs": [],
        "source": SOURCE.format(address=address),
    }


def repair(notebook: Any, url: str, version: str) -> None:
    """Give `notebook` its install cell: replace what carries the tag, or insert it before the first code cell.

    The cells' outputs are left alone.
    """
    import nbformat

    cell = nbformat.from_dict(install_cell(url, version))
    cells = notebook.cells
    old = [
        i
        for i, c in enumerate(cells)
        if TAG in c.metadata.get("tags", []) or c.get("id") == cell["id"]
    ]
    for i in reversed(old):
        cell["execution_count"] = cells[i].get("execution_count")
        del cells[i]
    first_code = next((i for i, c in enumerate(cells) if c.cell_type == "code"), len(cells))
    cells.insert(first_code, cell)
