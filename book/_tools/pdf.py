"""Make the whole book one PDF, `_build/normtut.pdf`: a title, contents with page numbers, the chapters, the solutions.

The pages are those of `make book`, one after the other, printed by Chromium (taken from PATH or from $CHROMIUM) with the
style sheet's rules for paper. It prints twice: where a chapter begins is known after the first time.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from common import ROOT, pages

HTML = ROOT / "_build" / "html"
PDF = ROOT / "_build" / "normtut.pdf"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Folds open, and solutions stand at the end, as in any book.
PREPARE = """() => {
  const last = document.createElement("article");
  last.className = "bd-article";
  last.innerHTML = '<h1 id="solutions">Solutions</h1>';
  document.querySelectorAll("details").forEach((fold) => {
    fold.open = true;
    const said = fold.querySelector("summary")?.textContent ?? "";
    if (!/solution/i.test(said)) return;
    const title = fold.textContent.match(/@title ((?:Check of s|S)olution [\\d.]+)/);
    const heading = document.createElement("h3");
    heading.textContent = title ? title[1] : "Solution";
    last.append(heading, fold.closest(".cell"));
  });
  document.querySelector("main").append(last);
  document.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
  return Promise.all([...document.images].map((image) => image.decode().catch(() => 0)));
}"""


def part(path: Path) -> tuple[str, str]:
    """The title of a page, and its article with names that no other page has and links that stay in the book."""
    html = path.read_text(encoding="utf-8")
    article = html[html.index("<article") : html.rindex("</article>") + len("</article>")]
    folder = path.parent.relative_to(HTML)
    name = path.relative_to(HTML).with_suffix("").as_posix().replace("/", "-")

    def address(match: re.Match[str]) -> str:
        kind, value = match.groups()
        if re.match(r"[a-z]+:", value):
            return match[0]
        file, _, anchor = value.partition("#")
        if kind == "href" and (not file or file.endswith(".html")):
            where = (folder / file).with_suffix("").as_posix() if file else name
            where = os.path.normpath(where).replace("/", "-")
            return f'href="#{where}--{anchor}"' if anchor else f'href="#{where}"'
        return f'{kind}="{os.path.normpath(folder / file).replace(os.sep, "/")}"'

    article = re.sub(r'\b(href|src)="([^"]*)"', address, article)
    article = re.sub(r'(?<=\s)id="([^"]+)"', rf'id="{name}--\1"', article)
    # Within an SVG, names and references have become those of this page alike.
    article = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}--\1)", article)
    title = re.search(r"<h1>(.*?)<a class=\"headerlink\"", article, re.DOTALL)
    return re.sub(
        r"<[^>]+>", "", title[1] if title else name
    ), f'<a id="{name}"></a>{article}'


def compose(numbers: dict[str, int]) -> str:
    """One page of HTML with everything; `numbers` says on which sheet a page of the book begins."""
    first = (HTML / "index.html").read_text(encoding="utf-8")
    styles = "\n".join(re.findall(r'<link[^>]*rel="stylesheet"[^>]*>', first))
    paths = [HTML / path.relative_to(ROOT).with_suffix(".html") for path in pages()]
    parts = [
        (path.relative_to(HTML).with_suffix("").as_posix().replace("/", "-"), *part(path))
        for path in paths
    ]
    entries = [(name, title) for name, title, _ in parts[1:]] + [("solutions", "Solutions")]
    contents = "".join(
        f'<li><a href="#{name}">{title}</a><span class="dots"></span>{numbers.get(name, "")}</li>'
        for name, title in entries
    )
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head><meta charset="utf-8"><title>{parts[0][1]}</title>{styles}
<style>
  .title-page {{ padding-top: 30vh; text-align: center; }}
  .title-page h1 {{ font-size: 30pt; break-before: auto !important; }}
  .contents {{ break-before: page; }}
  .contents ol {{ padding: 0; list-style: none; }}
  .contents li {{ display: flex; gap: 0.5em; }}
  .contents .dots {{ flex: 1; border-bottom: 1px dotted #888; transform: translateY(-0.3em); }}
</style></head>
<body><main>
<section class="title-page"><h1>{parts[0][1]}</h1><p>The normtut authors</p></section>
<nav class="contents"><h2>Contents</h2><ol>{contents}</ol></nav>
{"".join(article for _, _, article in parts)}
</main></body></html>"""


def begins(pdf: bytes) -> dict[str, int]:
    """The sheet on which each name lies, as Chromium's PDF says: its pages and its destinations are plain text."""
    sheets = re.findall(rb"(\d+) 0 obj\s*<<\s*/Type /Page\b(?!s)", pdf)
    order = {int(number): place for place, number in enumerate(sheets, 1)}
    found = re.findall(rb"/([^\s/<>\[\]()]+) \[(\d+) 0 R /XYZ", pdf)
    return {
        re.sub(
            rb"#([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), name
        ).decode(): order[int(number)]
        for name, number in found
        if int(number) in order
    }


def main() -> int:
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), None
    )
    if chromium is None:
        print(
            "make pdf: no Chromium on PATH (Debian: apt-get install chromium)",
            file=sys.stderr,
        )
        return 1
    whole = HTML / "_whole.html"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox"]
            )
            numbers: dict[str, int] = {}
            for _ in range(2):
                whole.write_text(compose(numbers), encoding="utf-8")
                page = browser.new_page()
                page.goto(whole.as_uri())
                page.evaluate(PREPARE)
                page.pdf(
                    path=PDF,
                    prefer_css_page_size=True,
                    print_background=True,
                    outline=True,
                    tagged=True,
                )
                page.close()
                numbers = begins(PDF.read_bytes())
            browser.close()
    finally:
        whole.unlink(missing_ok=True)
    print(f"Printed {PDF} ({PDF.stat().st_size / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
