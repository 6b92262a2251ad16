"""What the page folds away follows from a cell's tags: authors write `draw-cell`, and this writes the metadata.

| tag | folded | prompt |
|---|---|---|
| `setup-cell` | the input | Show the imports |
| `check-cell` | all | Show the check |
| `draw-cell` | the input | Show the code of this figure |
| `answer-cell` | all | Reveal the answer |

A code cell that begins with `# @title Solution 5.1` (or, where that takes two, `# @title Check of solution 5.1`) is
folded on the page, in Colab and in Jupyter.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Fold(NamedTuple):
    """How myst-nb folds a cell: the tag that it reads, and the words to click on."""

    tag: str
    show: str
    hide: str


#: By the author's tag; of a cell with two of them, the first that stands here decides.
FOLDS = {
    "answer-cell": Fold("hide-cell", "Reveal the answer", "Hide the answer"),
    "check-cell": Fold("hide-cell", "Show the check", "Hide the check"),
    "draw-cell": Fold(
        "hide-input", "Show the code of this figure", "Hide the code of this figure"
    ),
    "setup-cell": Fold("hide-input", "Show the imports", "Hide the imports"),
}
TITLES = {
    "# @title Solution": Fold("hide-cell", "Show the solution", "Hide the solution"),
    "# @title Check of solution": FOLDS["check-cell"],
}


def has_title(cell: Any) -> bool:
    """Whether Colab shows the cell as a form, closed, under its title."""
    return cell.cell_type == "code" and cell.source.startswith(tuple(TITLES))


def fold_of(cell: Any) -> Fold | None:
    """What becomes of a cell on the page, by its tags or its first line; None where nothing is folded."""
    if cell.cell_type != "code":
        return None
    tags = cell.metadata.get("tags", [])
    folds = [fold for title, fold in TITLES.items() if cell.source.startswith(title)]
    folds += [fold for tag, fold in FOLDS.items() if tag in tags]
    return next(iter(folds), None)


def fold(notebook: Any) -> None:
    """Write the metadata that follow from the tags, and remove what an earlier tag has left."""
    from nbformat import NotebookNode

    written_here = {f.show for f in (*FOLDS.values(), *TITLES.values())}
    for cell in notebook.cells:
        mystnb = cell.metadata.get("mystnb", {})
        wanted = fold_of(cell)
        if wanted is None and mystnb.get("code_prompt_show") not in written_here:
            continue  # its metadata are its author's, as the install cell's are
        mystnb.pop("code_prompt_show", None)
        mystnb.pop("code_prompt_hide", None)
        tags = [t for t in cell.metadata.get("tags", []) if not t.startswith("hide-")]
        if wanted is not None:
            tags.append(wanted.tag)
            mystnb = NotebookNode(
                mystnb, code_prompt_show=wanted.show, code_prompt_hide=wanted.hide
            )
        if has_title(cell):
            cell.metadata["cellView"] = "form"
            cell.metadata["jupyter"] = NotebookNode(source_hidden=True)
        elif cell.metadata.pop("cellView", None) is not None:
            cell.metadata.pop("jupyter", None)
        for key, value in (("mystnb", mystnb), ("tags", tags)):
            if value:
                cell.metadata[key] = value
            else:
                cell.metadata.pop(key, None)
