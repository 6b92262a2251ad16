"""Re-execute chapters in place, each from top to bottom in a fresh kernel of the interpreter that runs this.

    python book/_tools/refresh.py                      every chapter of _toc.yml
    python book/_tools/refresh.py book/02_inverse.ipynb ...

A chapter that raises, or that writes to stderr, stops the run; its stored file stays as it was.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from common import ROOT, chapters, repository_url, version
from folds import fold
from install_cell import repair
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

CELL_TIMEOUT = 600  # seconds


class RefreshError(Exception):
    """A chapter that could not be refreshed; the message names it and the cell."""


class ThisInterpreter(AsyncKernelManager):
    """Starts the running Python, whatever kernel is registered as `python3` on this machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(
            argv=[*argv, "--log-level=ERROR", "--HistoryManager.enabled=False"],
            display_name="Python 3",
            language="python",
        )


def execute(notebook: nbformat.NotebookNode, folder: Path, name: str) -> None:
    """Run every cell of `notebook` in `folder`; raise RefreshError on an error or on stderr."""
    running = 0

    def note(cell: Any, cell_index: int) -> None:
        nonlocal running
        running = cell_index

    def where(index: int) -> str:
        count = sum(c.cell_type == "code" for c in notebook.cells[: index + 1])
        first_line = (notebook.cells[index].source.splitlines() or [""])[0]
        return f"{name}, cell {index + 1} of {len(notebook.cells)} (In [{count}]: {first_line})"

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_manager_class=ThisInterpreter,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        on_cell_start=note,
    )
    with tempfile.TemporaryDirectory() as ipython_dir:
        # Neither the reader's IPython profile nor a random hash order may change what is stored.
        environment = os.environ | {"IPYTHONDIR": ipython_dir, "PYTHONHASHSEED": "0"}
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            trace = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).strip()
            raise RefreshError(f"{where(running)}\n{trace}") from None
        except CellTimeoutError:
            raise RefreshError(
                f"{where(running)}\nstill running after {CELL_TIMEOUT} s"
            ) from None
        except DeadKernelError:
            raise RefreshError(
                f"{where(running)}\nthe kernel died (out of memory?)"
            ) from None
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise RefreshError(
                    f"{where(index)}\nwrote to stderr:\n{output.text.strip()}"
                )


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Make what is stored depend on the sources and outputs alone."""
    keep = {
        k: v
        for k, v in notebook.metadata.items()
        if k not in ("jupytext", "widgets", "celltoolbar")
    }
    keep["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    keep["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata = nbformat.from_dict(keep)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: set[str] = set()
    for cell in notebook.cells:
        for key in (
            "execution",
            "collapsed",
            "scrolled",
            "ExecuteTime",
            "lines_to_next_cell",
        ):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.pop("transient", None)
        if cell.get("id") != "install-normtut":
            # An id that follows from the source: converting a draft anew does not touch every cell.
            digest = hashlib.sha256(
                f"{cell.cell_type}\n{cell.source}".encode()
            ).hexdigest()[:8]
            copies = 1
            cell["id"] = digest
            while cell["id"] in seen:
                copies += 1
                cell["id"] = f"{digest}-{copies}"
        seen.add(cell["id"])


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Replace `path` in one step, so that an interrupted run leaves the old file or the new one."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    scratch = path.with_suffix(".ipynb.new")
    scratch.write_text(text, encoding="utf-8", newline="\n")
    scratch.replace(path)


def refresh(path: Path, url: str) -> None:
    """Execute one chapter and store it; on any failure the file is left as it was."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise RefreshError(f"{path}: not a readable notebook: {error}") from None
    repair(notebook, url, version(ROOT))
    fold(notebook)
    execute(notebook, path.parent, os.path.relpath(path))
    tidy(notebook)
    write(notebook, path)


def main(arguments: list[str]) -> int:
    paths = [Path(a).resolve() for a in arguments] or chapters()
    url = repository_url(ROOT)
    for path in paths:
        start = time.perf_counter()
        try:
            refresh(path, url)
        except RefreshError as error:
            print(
                f"refresh failed: {error}\nThe stored notebook was left as it was.",
                file=sys.stderr,
            )
            return 1
        print(f"{os.path.relpath(path)}  {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
