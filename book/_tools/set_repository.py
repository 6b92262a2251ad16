"""Set the project's address everywhere: python book/_tools/set_repository.py https://github.com/you/normtut

The address stands in pyproject.toml. What is made from it (the launch button's configuration, the install
cells, the README's links, CITATION.cff) is rewritten here, and tests/test_repository.py holds all of it together.
With the placeholder goes the README's paragraph about it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from common import ROOT, repository_url

PLACEHOLDER = "**The address is a placeholder.**"
NEXT = """\
1. Make {0} at https://github.com/new, public and empty, if it is not there. Then: git commit -am "Set the address" && git push {0} HEAD:main
2. At {0}/settings/pages choose "GitHub Actions" as the source. When the tests have passed, which {0}/actions shows, the book is at {1}
3. For PyPI, add a publisher at https://pypi.org/manage/account/publishing/ (project normtut, owner {owner}, repository {name}, workflow release.yml, environment pypi); "Publish" in CONTRIBUTING.md says how to release."""
URL = re.compile(r"https://github\.com/([A-Za-z0-9-]+)/([A-Za-z0-9._-]+)")


def forms(url: str) -> list[str]:
    """The shapes an address takes here: the repository, the published book, Colab's path to it, a single file's."""
    match = URL.fullmatch(url)
    if match is None:
        raise ValueError(
            f"URL must look like https://github.com/you/normtut (Colab opens notebooks from GitHub only); got {url!r}"
        )
    owner, name = match.groups()
    home = f"{owner.lower()}.github.io"  # also the name of the one repository that is published there itself
    return [
        url,
        f"https://{home}/" if name.lower() == home else f"https://{home}/{name}/",
        f"colab.research.google.com/github/{owner}/{name}/",
        f"https://raw.githubusercontent.com/{owner}/{name}/",
    ]


def files(root: Path) -> list[Path]:
    """The files that may hold the address."""
    patterns = (
        "pyproject.toml",
        "_config.yml",
        "CITATION.cff",
        "*.md",
        "book/*.md",
        "book/*.ipynb",
    )
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def set_repository(url: str, root: Path = ROOT) -> list[Path]:
    """Rewrite every file that holds the old address; return those that changed."""
    url = url.rstrip("/").removesuffix(".git")
    old, new = forms(repository_url(root)), forms(url)
    changed = []
    for path in files(root):
        text = path.read_text(encoding="utf-8")
        result = text
        for before, after in zip(old, new, strict=True):
            # `…/normtut` must not match inside `…/normtut-fork`.
            whole = (
                re.escape(before)
                if before.endswith("/")
                else re.escape(before) + r"(?![A-Za-z0-9_-])"
            )
            result = re.sub(whole, after, result)
        if path.name == "README.md":
            paragraphs = result.split("\n\n")
            result = "\n\n".join(p for p in paragraphs if not p.startswith(PLACEHOLDER))
        if result != text:
            path.write_text(result, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(
            "usage: make set-repository URL=https://github.com/you/normtut", file=sys.stderr
        )
        return 2
    try:
        changed = set_repository(arguments[0])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for path in changed:
        print(path.relative_to(ROOT))
    print(f"{len(changed)} files changed; the address is {repository_url()}")
    owner, name = repository_url().split("/")[-2:]
    print(NEXT.format(*forms(repository_url()), owner=owner, name=name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
