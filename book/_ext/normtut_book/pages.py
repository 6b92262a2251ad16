"""What the theme writes into every page: what the book leaves out of it, and what it adds.

Most of this works on the HTML that was written, since the two themes that requirements.txt pins (for Python 3.10 and
for later ones) write it from different templates. It is done once a page: a second time changes nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config

from .tables import label_cells

HERE = Path(__file__).resolve().parent
SHARE = HERE.parents[1] / "_assets" / "share.png"
UNUSED = ("sphinx-thebe.js", "sphinx-thebe.css", "design-tabs.js", "sphinx-design.min.css")

# Before anything is painted; the theme's own script, which comes last, agrees. Without scripts a page is light.
THEME = (
    "<script>(d=>{const m=d.mode,t=d.theme;d.theme=(m==='light'||m==='dark')?m:"
    "matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light'})"
    "(document.documentElement.dataset)</script>"
)
SEARCH_SCRIPTS = re.compile(
    r'[ \t]*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>\n?'
)
IMAGE = re.compile(r"<img\b[^>]*>")


def drop_unused(app: Sphinx) -> None:
    """Thebe (live code) declares its script's address twice and would fetch it from a CDN; no page uses it."""
    for event in (
        "builder-inited",
        "env-updated",
        "doctree-resolved",
        "env-before-read-docs",
    ):
        listeners = app.events.listeners.get(event, [])
        listeners[:] = [
            entry
            for entry in listeners
            if not entry.handler.__module__.startswith("sphinx_thebe")
        ]


def find_address(app: Sphinx, config: Config) -> None:
    """Where the book is published follows from where its sources are: GitHub's Pages of the repository."""
    match = re.fullmatch(
        r"https://github\.com/([^/]+)/([^/]+?)/?",
        config.html_theme_options.get("repository_url", ""),
    )
    if match and not config.html_baseurl:
        home, name = f"{match[1].lower()}.github.io", match[2]
        config.html_baseurl = (
            f"https://{home}/" if name.lower() == home else f"https://{home}/{name}/"
        )


def page_context(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    for kind in ("script_files", "css_files"):
        files = context.get(kind, [])
        context[kind] = [
            f for f in files if not str(getattr(f, "filename", f)).endswith(UNUSED)
        ]
    # docutils gives each entry of the bibliography a role that ARIA has withdrawn, and Markdown a table's empty
    # corner the rank of a header.
    body = context.get("body", "").replace('role="doc-biblioentry"', 'role="listitem"')
    # A fold is called by the words that it shows ("Reveal the answer"), not by what myst-nb calls them all.
    body = body.replace(' aria-label="Toggle hidden content"', "")
    body = re.sub(r'<th class="head">(<p></p>)?</th>', "<td></td>", body)
    context["body"] = label_cells(body)
    context["metatags"] = context.get("metatags", "") + card(app, pagename, context)
    if 'class="katex"' in body:
        # Known before the style sheet that names them is read: else lines with maths move when they come.
        context["metatags"] += "".join(
            '<link rel="preload" as="font" type="font/woff2" crossorigin '
            f'href="{context["pathto"](f"_static/katex/fonts/KaTeX_{name}.woff2", resource=True)}">\n'
            for name in ("Main-Regular", "Math-Italic")
        )


def load_where(app: Sphinx, mark: str, name: str, first: str) -> None:
    """Load a script and a style sheet where `mark` stands in a page; `first` runs before the page is painted."""

    def add(
        app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object
    ) -> None:
        if mark in context.get("body", ""):
            app.add_js_file(None, body=first, priority=1)
            app.add_js_file(f"{name}.js", loading_method="defer")
            app.add_css_file(f"{name}.css")

    app.connect("html-page-context", add)


def card(app: Sphinx, pagename: str, context: dict[str, Any]) -> str:
    """What a page looks like where its link is shared."""
    title = re.sub(r"<[^>]+>", "", context.get("title") or app.config.project)
    described = re.search(
        r'<meta (?:content="([^"]*)" name="description"|name="description" content="([^"]*)")',
        context.get("metatags", ""),
    )
    said = {"og:type": "article", "og:title": title, "og:site_name": app.config.html_title}
    if described:
        said["og:description"] = described[1] or described[2]
    if app.config.html_baseurl:
        said["og:url"] = f"{app.config.html_baseurl}{pagename}.html"
        if SHARE.exists():
            said["og:image"] = f"{app.config.html_baseurl}_static/{SHARE.name}"
    tags = [
        f'<meta property="{name}" content="{escape(value) if name != "og:description" else value}" />'
        for name, value in said.items()
    ]
    return (
        "\n"
        + "\n".join([*tags, '<meta name="twitter:card" content="summary_large_image" />'])
        + "\n"
    )


@lru_cache(1024)
def size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture in pixels."""
    if path.suffix == ".svg":
        box = re.search(
            r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', path.read_text(encoding="utf-8")
        )
        return (round(float(box[1])), round(float(box[2]))) if box else None
    with Image.open(path) as picture:
        return picture.size


def sized(tag: str, folder: Path) -> str:
    """A picture that says how large it is, so that nothing moves when it comes, and comes when it is near."""
    source = re.search(r'src="([^"#?]+)', tag)
    if source is None or ":" in source[1] or not (folder / source[1]).is_file():
        return tag
    found = size((folder / source[1]).resolve())
    if found and "width=" not in tag and "style=" not in tag:
        tag = tag.replace("<img", f'<img width="{found[0]}" height="{found[1]}"', 1)
    if "loading=" not in tag and "logo" not in tag:
        tag = tag.replace("<img", '<img loading="lazy"', 1)
    return tag


def finish(html: str, path: Path) -> str:
    """A page as it was written, with what a reader sees first made first."""
    html = html.replace('data-theme="auto">', 'data-theme="light">', 1)
    if THEME not in html:
        html = re.sub(
            r"(dataset\.theme = localStorage[^\n]*\n\s*</script>)",
            lambda m: m[1] + THEME,
            html,
            count=1,
        )
    if path.name != "search.html":
        html = SEARCH_SCRIPTS.sub("", html)
    # The arrow in the menu that unfolds a page's sections has no words.
    html = html.replace(
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="Sections"><span class="toctree-toggle"',
    )
    return IMAGE.sub(lambda m: sized(m[0], path.parent), html)


def finish_pages(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for path in sorted(out.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        finished = finish(text, path)
        if finished != text:
            path.write_text(finished, encoding="utf-8")
    home = app.config.html_baseurl or "/"
    names = sorted(f"{name}.html" for name in app.env.found_docs)
    urls = "".join(f"<url><loc>{home}{name}</loc></url>\n" for name in names)
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n',
        encoding="utf-8",
    )
    missing = (HERE / "404.html").read_text(encoding="utf-8").replace("@HOME@", home)
    (out / "404.html").write_text(missing, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("config-inited", lambda app, config: drop_unused(app), priority=900)
    app.connect("config-inited", find_address, priority=900)
    app.connect("builder-inited", lambda app: drop_unused(app), priority=0)
    app.connect("html-page-context", page_context, priority=900)
    app.connect("build-finished", finish_pages)
    app.add_css_file("normtut.css", priority=900)
    app.add_js_file("normtut.js", loading_method="defer")
