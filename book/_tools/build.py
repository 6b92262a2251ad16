"""Build the book to `_build/html` from the committed outputs. Warnings are errors.

Nothing is executed. When nothing that the book is made from has changed since the last good build, this does
nothing; when only pages changed, Sphinx rebuilds those; when the configuration, the theme or the tools changed,
everything is built anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from common import ROOT, pages

BUILD = ROOT / "_build"
STAMP = BUILD / "inputs.json"


def digest(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(
            str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0"
        )
    return total.hexdigest()


def inputs() -> dict[str, str]:
    """What the book is made from: its pages and what they document, and the machinery."""
    content = [
        *pages(),
        *ROOT.glob("normtut/**/*.py"),
        *ROOT.glob("book/*.bib"),
        *ROOT.glob("book/*.yml"),
        *ROOT.glob("book/figures/*"),
        *ROOT.glob("benchmarks/results/*.json"),
    ]
    machinery = [ROOT / "_config.yml", ROOT / "_toc.yml"]
    for folder in ("_ext", "_assets", "_vendor", "_tools"):
        machinery += [
            p
            for p in (ROOT / "book" / folder).rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        ]
    versions = {
        name: metadata.version(name)
        for name in ("jupyter-book", "sphinx", "sphinx-book-theme", "myst-nb")
    }
    return {
        "content": digest(content),
        "machinery": digest(machinery) + json.dumps(versions),
    }


def main() -> int:
    start = time.perf_counter()
    page = BUILD / "html" / "index.html"
    try:
        now = inputs()
    except (FileNotFoundError, metadata.PackageNotFoundError) as error:
        print(f"make book: {error}", file=sys.stderr)
        return 1
    before = json.loads(STAMP.read_text()) if STAMP.exists() and page.exists() else {}
    if before == now:
        print(f"The book is up to date. Open {page}")
        return 0
    STAMP.unlink(missing_ok=True)
    if before.get("machinery") != now["machinery"]:
        shutil.rmtree(BUILD, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command += ["build", str(ROOT), "-W", "-n", "--keep-going", "--quiet"]
    # Warnings come on stderr; what Jupyter Book says on stdout matters only when it fails.
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        # A page that gave a warning must be read again next time, or the second build would pass.
        shutil.rmtree(BUILD, ignore_errors=True)
        print(
            "make book: the build failed; the warnings above are errors.", file=sys.stderr
        )
        return 1
    STAMP.write_text(json.dumps(now))
    print(f"Built {len(pages())} pages in {time.perf_counter() - start:.1f} s. Open {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
