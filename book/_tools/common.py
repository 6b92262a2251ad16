"""What the book's tools share: where things are, the chapters, the project's address and version."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def pages(root: Path = ROOT) -> list[Path]:
    """Every page of `_toc.yml` in reading order, as a path that exists."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    names: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            names.extend(node[key] for key in ("root", "file") if key in node)
            for key in ("parts", "chapters", "sections", "entries", "subtrees"):
                walk(node.get(key))
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(toc)
    found = []
    for name in names:
        candidates = [root / f"{name}{suffix}" for suffix in ("", ".ipynb", ".md", ".rst")]
        path = next((c for c in candidates if c.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"_toc.yml names {name!r}, and there is no such .ipynb or .md"
            )
        found.append(path)
    return found


def chapters(root: Path = ROOT) -> list[Path]:
    """The notebooks among the pages."""
    return [path for path in pages(root) if path.suffix == ".ipynb"]


def repository_url(root: Path = ROOT) -> str:
    """The project's address, from the one place where it stands: `[project.urls]` in pyproject.toml."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^Repository = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise ValueError(
            'pyproject.toml has no line `Repository = "https://…"` under [project.urls]'
        )
    return match[1]


def version(root: Path = ROOT) -> str:
    """The version of normtut, from the one place where it stands."""
    text = (root / "normtut" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise ValueError('normtut/__init__.py has no line `__version__ = "…"`')
    return match[1]
