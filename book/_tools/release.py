"""Set the version everywhere: python book/_tools/release.py 0.2.0 (a release) or 0.3.0.dev0 (what follows it).

It stands in normtut/__init__.py. A release pins the install cells of the chapters to its tag, closes the
section "Unreleased" of CHANGELOG.md, and lets README.md install normtut from PyPI, where it will be; a version under
development takes the pins away and opens a new section.
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

import nbformat
from common import ROOT, chapters, repository_url, version
from install_cell import repair
from refresh import write

VERSION = re.compile(r"\d+\.\d+\.\d+(\.dev0)?")
UNRELEASED = "## Unreleased\n"
NEXT = """\
git commit -a -m "Version {0}" && git push   # and wait until the tests of this commit have passed
git tag v{0} && git push origin v{0}         # the workflow release.yml builds, checks and publishes it
make release VERSION={1}              # then go on with the next version, and commit"""


def set_version(new: str, today: datetime.date, root: Path = ROOT) -> None:
    """Rewrite the version, the changelog and the install cells; the chapters' outputs stay as they are."""
    if not VERSION.fullmatch(new):
        raise ValueError(
            f"VERSION must look like 1.2.0, or 1.3.0.dev0 for what comes after it; got {new!r}"
        )
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    is_release = "dev" not in new
    section = text.partition(UNRELEASED)[2].partition("\n## ")[0].strip()
    if is_release and not section:
        raise ValueError(
            f'CHANGELOG.md has nothing under "{UNRELEASED.strip()}" to be released'
        )
    if is_release:
        text = text.replace(UNRELEASED, f"## {new} ({today:%Y-%m-%d})\n", 1)
    elif UNRELEASED not in text:
        text = text.replace("\n## ", f"\n{UNRELEASED}\n## ", 1)
    init = root / "normtut" / "__init__.py"
    old = f'__version__ = "{version(root)}"'
    source = init.read_text(encoding="utf-8").replace(old, f'__version__ = "{new}"')
    init.write_text(source, encoding="utf-8", newline="\n")
    changelog.write_text(text, encoding="utf-8", newline="\n")
    readme = root / "README.md"
    if is_release:  # from now on there is one to be had
        text = readme.read_text(encoding="utf-8")
        text = text.replace(f'"normtut @ git+{repository_url(root)}"', "normtut")
        readme.write_text(text, encoding="utf-8", newline="\n")
    for path in chapters(root):
        notebook = nbformat.read(path, as_version=4)
        repair(notebook, repository_url(root), new)
        write(notebook, path)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: make release VERSION=1.2.0", file=sys.stderr)
        return 2
    try:
        set_version(arguments[0], datetime.datetime.now(datetime.timezone.utc).date())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"The version is {version()}.")
    if "dev" not in arguments[0]:
        major, minor, _ = arguments[0].split(".")
        print(NEXT.format(arguments[0], f"{major}.{int(minor) + 1}.0.dev0"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
