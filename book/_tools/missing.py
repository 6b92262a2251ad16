"""With an environment of your own (`make PYTHON=…`): say which packages it lacks, and the line that installs them.

It needs nothing but Python. What `make book` and `make test` use is in pyproject.toml: the dependencies of
normtut and the extras `book`, `test` and `dev`.
"""

from __future__ import annotations

import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LISTS = ("dependencies", "book", "test", "dev")


def requirements(text: str) -> list[str]:
    """What those lists of a pyproject.toml require; Python 3.10 has no reader of TOML."""
    found: list[str] = []
    for name in LISTS:
        (body,) = re.findall(
            rf"^{name} = \[((?:\"[^\"]*\"|[^\]\"])*)\]", text, flags=re.MULTILINE
        )
        found += re.findall(r"\"([^\"]+)\"", re.sub(r"#.*", "", body))
    return found


def missing(wanted: list[str]) -> list[str]:
    """Those that are not installed, in whatever version."""

    def is_there(requirement: str) -> bool:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name is not None, requirement
        try:
            metadata.distribution(name[0])
        except metadata.PackageNotFoundError:
            return False
        return True

    return [requirement for requirement in wanted if not is_there(requirement)]


def main() -> int:
    major, minor = sys.version_info[:2]
    if not (3, 10) <= (major, minor) <= (3, 14):
        found = f"{sys.executable} is {major}.{minor}"
        print(f"normtut needs Python 3.10 to 3.14; {found}", file=sys.stderr)
        return 1
    lacking = missing(requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    if lacking:
        line = shlex.join([sys.executable, "-m", "pip", "install", *lacking])
        print(
            f"{sys.executable} lacks what the book needs. This installs it:\n\n    {line}\n",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
