"""The built book, as a reader's browser sees it: every page, at two widths, in light and in dark mode.

Chromium (Debian's package, or Chrome) is taken from PATH or from $CHROMIUM; without one these tests skip.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest

from common import chapters, pages, repository_url
from set_repository import forms

ROOT = Path(__file__).resolve().parents[1]

HTML = ROOT / "_build" / "html"
PUBLISHED = forms(repository_url())[1]  # where the book will be read
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
# The scheme that a page is loaded in at each width, and looked at by axe: that takes longer than all the
# rest, most of it for the contrast of colours, which the scheme sets and not the width.
SCHEMES = {"desktop": "light", "phone": "dark"}
# Bytes, gzipped: of what a page loads at first, and of the whole of it, when one has seen all its pictures.
MAX_FIRST, MAX_GZIPPED = 300 * 1024, 450 * 1024
# The chapter of many pictures, most of which come when one scrolls to them.
MAX_SHOWPIECE = {"book/12_style.html": 700 * 1024}
MAX_SHIFT = 0.05  # of the layout, as browsers count it
COUNT_SHIFT = """window.shift = 0;
new PerformanceObserver((list) => list.getEntries().forEach((e) => {
  if (!e.hadRecentInput) shift += e.value;
})).observe({ type: "layout-shift", buffered: true });"""
STILL = "document.getAnimations().every(a => a.playState !== 'running')"  # all transitions have ended

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt-get install chromium)"),
]


def built(path: Path) -> str:
    """Where a page of `_toc.yml` lies in the built book."""
    return path.relative_to(ROOT).with_suffix(".html").as_posix()


CHAPTERS = [built(path) for path in chapters()]
PAGES = [*(built(path) for path in pages()), "search.html"]


@dataclass
class Visit:
    """A loaded page, and what went wrong or was fetched while it loaded."""

    page: object
    problems: list[str] = field(default_factory=list)
    responses: dict[str, object] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Gzipped bytes of all that the page loaded.

        Bodies are read here, after the page has loaded: a handler that waits for a body may be overtaken by
        the test's end, and the page would weigh too little. Responses may still arrive meanwhile.
        """
        found: dict[str, int] = {}
        while waiting := [url for url in self.responses if url not in found]:
            for url in waiting:
                found[url] = len(gzip.compress(self.responses[url].body()))
        return found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The book as it is now, built if need be and served on a free port of localhost."""
    done = subprocess.run(
        [sys.executable, ROOT / "book/_tools/build.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(address, browser):
    """A function that loads a page in a fresh profile, so that nothing comes from a cache."""
    contexts = []

    def load(name: str, width: str = "desktop", scheme: str = "light", **options) -> Visit:
        w, h = WIDTHS[width]
        context = browser.new_context(viewport={"width": w, "height": h}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(COUNT_SHIFT)
        visited = Visit(page)

        def request(req) -> None:
            if not req.url.startswith((address, "data:", "blob:")):
                visited.problems.append(f"request leaves the book: {req.url}")

        def response(res) -> None:
            if res.status >= 400:
                visited.problems.append(f"{res.status}: {res.url}")
            elif res.url.startswith(address):
                visited.responses[res.url] = res

        page.on("request", request)
        page.on("requestfailed", lambda r: visited.problems.append(f"failed: {r.url} {r.failure}"))
        page.on("response", response)
        page.on("pageerror", lambda error: visited.problems.append(f"page error: {error}"))
        page.on(
            "console",
            lambda m: (
                visited.problems.append(f"console {m.type}: {m.text}")
                if m.type in ("error", "warning")
                else None
            ),
        )
        page.goto(address + name, wait_until="networkidle")
        page.evaluate("document.fonts.ready.then(() => true)")
        return visited

    yield load
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(visit, name: str, width: str) -> None:
    """No request out, error, raw TeX, sideways scrolling, picture without words, or finding of axe; in a
    chapter no equation missing, and not too many bytes. The page follows the system to its other scheme, and
    nothing is wrong there either."""
    visited = visit(name, width, SCHEMES[width])
    page, problems = visited.page, visited.problems
    first = sum(visited.sizes().values()) if name in CHAPTERS and width == "desktop" else 0
    if first >= MAX_FIRST:
        problems.append(f"{first / 1024:.0f} KiB gzipped before anything is scrolled")
    see_all(page)
    if name in CHAPTERS and width == "desktop":
        problems += [*weighed(visited, name), *equations(page, name)]
    if (shift := page.evaluate("shift")) >= MAX_SHIFT:
        problems.append(f"the layout shifts by {shift:.3f}")
    if width == "phone":
        page.set_viewport_size({"width": 360, "height": 740})
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    problems += [*faults(page), *axe(page)]
    other = "dark" if SCHEMES[width] == "light" else "light"
    page.emulate_media(color_scheme=other)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{other}'")
    problems += [f"{other}: {fault}" for fault in faults(page)]
    assert not problems, "\n".join(problems)


def see_all(page) -> None:
    """Load the pictures that would come when one scrolls to them."""
    page.evaluate(
        """() => {
          const late = [...document.querySelectorAll("img[loading]")];
          late.forEach((image) => { image.loading = "eager"; });
          return Promise.all(late.map((image) => image.decode().catch(() => 0)));
        }"""
    )


def faults(page) -> list[str]:
    return page.evaluate(
        r"""() => {
          const found = [];
          for (const e of document.querySelectorAll(".katex-error, merror, mjx-merror"))
            found.push("maths did not render: " + e.textContent.slice(0, 80));
          const article = document.querySelector("article, main").cloneNode(true);
          article.querySelectorAll("pre, code, script, style, annotation").forEach(e => e.remove());
          const raw = article.textContent.match(/\$\$|\$\\|\\\(|\\\[|\\(frac|begin|sigma|mu|tag)\b/);
          if (raw) found.push("raw TeX on the page: " + raw[0]);
          if (document.querySelector(".katex") && !document.fonts.check("16px KaTeX_Math"))
            found.push("the maths font is not loaded");
          for (const image of document.querySelectorAll("article img"))
            if ((image.getAttribute("alt") || "").trim().length < 10)
              found.push("no alt text: " + image.getAttribute("src"));
            else if (!image.complete || image.naturalWidth === 0)
              found.push("picture did not load: " + image.getAttribute("src"));
          const root = document.documentElement;
          if (root.scrollWidth > root.clientWidth) {
            const wide = [...document.querySelectorAll("body *")].filter(
              e => e.getBoundingClientRect().right > root.clientWidth + 1);
            found.push(`scrolls sideways (${root.scrollWidth} > ${root.clientWidth}): `
              + wide.slice(0, 5).map(e => e.tagName + "." + e.className).join(", "));
          }
          for (const box of document.querySelectorAll("article :is(pre, .equation-box)"))
            if (box.scrollWidth > box.clientWidth + 2 && !/more-(left|right)/.test(box.className))
              found.push("runs out of sight without a cue: " + box.textContent.slice(0, 60));
          if (root.dataset.theme !== (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"))
            found.push("the theme does not follow the system: " + root.dataset.theme);
          return found;
        }"""
    )


def axe(page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_function(STILL)  # else axe measures a colour on its way
    # A page has thousands of words of code and signs of maths, in some ten colours. Of those that look the
    # same on the same ground axe is shown five, which takes a third of the time.
    page.evaluate(
        """() => {
          const shown = {}, style = getComputedStyle;
          const bare = e => e.parentElement && style(e).backgroundColor === "rgba(0, 0, 0, 0)";
          const words = ":is(pre, .katex, dl) :is(span, em, strong):not(a *, :has(*))";
          for (const e of document.querySelectorAll(words)) {
            if (!e.checkVisibility()) continue;  // in a folded cell: axe does not see it anyway
            let ground = e;
            while (bare(ground)) ground = ground.parentElement;
            const { color, opacity, fontSize, fontWeight } = style(e);
            const look = [color, opacity, fontSize, fontWeight, style(ground).backgroundColor];
            shown[look] = (shown[look] || 0) + 1;
            if (shown[look] > 5) e.style.visibility = "hidden";
          }
        }"""
    )
    # Without `preload: false` axe fetches style sheets anew, from addresses that it resolves wrongly.
    options = {"resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=options)
    return [
        f"axe {violation['id']} ({len(violation['nodes'])}): "
        + "; ".join(node["html"][:120] for node in violation["nodes"][:3])
        for violation in found.response["violations"]
    ]


def weighed(visited: Visit, name: str) -> list[str]:
    """What is wrong with the bytes of a page, and of all that it loads."""
    sizes = visited.sizes()
    # A weight is worth something only if nothing is missing from it: lazy pictures are below the fold.
    pictures = visited.page.evaluate("[...document.querySelectorAll('article img')].map(e => e.src)")
    problems = [f"not weighed: {url}" for url in pictures if url.startswith("http") and url not in sizes]
    for ending in (".woff2", name):
        if not any(url.endswith(ending) for url in sizes):
            problems.append(f"nothing that ends in {ending} was weighed")
    total = sum(sizes.values())
    if total >= MAX_SHOWPIECE.get(name, MAX_GZIPPED):
        heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
        problems.append(
            f"{total / 1024:.0f} KiB gzipped; "
            + ", ".join(f"{url.rsplit('/', 1)[1]} {size / 1024:.0f}" for url, size in heaviest)
        )
    return problems


def equations(page, name: str) -> list[str]:
    """Whether a page shows as many display equations as its notebook's Markdown has."""
    notebook = nbformat.read((ROOT / name).with_suffix(".ipynb"), as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    expected = len(re.findall(r"\$\$.+?\$\$", text, flags=re.DOTALL))
    found = page.locator("article .katex-display").count()
    return [] if found == expected else [f"{found} equations are rendered, of {expected}"]


def test_keyboard_reaches_the_text(visit) -> None:
    """The first Tab shows the link that skips the navigation, and it works."""
    page = visit(PAGES[0]).page
    page.keyboard.press("Tab")
    link = page.locator(":focus")
    assert link.inner_text() == "Skip to main content"
    page.wait_for_function("document.activeElement.getBoundingClientRect().top >= 0")  # the link slides in
    box = link.bounding_box()
    assert box is not None
    assert box["y"] >= 0
    page.keyboard.press("Enter")
    page.wait_for_url("**/*#main-content")  # a jump within a page may be told later than the key
    assert page.url.endswith("#main-content")


def test_focus_is_visible(visit) -> None:
    """Whatever Tab reaches on a page shows that it has the focus."""
    page = visit((CHAPTERS or PAGES)[0]).page
    for _ in range(40):
        page.keyboard.press("Tab")
        page.wait_for_function(STILL)
        bare = page.evaluate(
            """() => {
              const e = document.activeElement, s = getComputedStyle(e);
              const ring = s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0;
              return e === document.body || ring || s.boxShadow !== "none" ? "" : e.outerHTML.slice(0, 160);
            }"""
        )
        assert bare == ""


@pytest.mark.parametrize(
    ("query", "chapter"),
    [
        ("group norm", "08_group"),
        ("running variance", "05_batch"),
        ("inverse", "02_inverse"),
        ("unnormalize", "02_inverse"),
        ("denormalize", "02_inverse"),
        ("inverse normalize", "02_inverse"),
        ("standard deviation of dataset", "03_statistics"),
    ],
)
def test_search_puts_the_chapter_first(visit, query: str, chapter: str) -> None:
    visited = visit(f"search.html?q={query.replace(' ', '+')}")
    first = visited.page.wait_for_selector("#search-results li a", timeout=10_000)
    assert f"book/{chapter}.html" in first.get_attribute("href")
    assert not visited.problems


def test_a_link_into_a_chapter_stays_where_it_leads(visit) -> None:
    for width in WIDTHS:
        page = visit(f"{CHAPTERS[11]}#sources", width).page
        top = page.evaluate("document.getElementById('sources').getBoundingClientRect().top")
        assert 0 <= top < WIDTHS[width][1]
        shifts = [page.evaluate("shift")]
        # A machine with much else to do may paint before a font is there. What the page does wrong, it does
        # at each visit.
        while shifts[-1] >= MAX_SHIFT and len(shifts) < 3:
            link = page.url
            page.goto("about:blank")
            page.goto(link, wait_until="networkidle")
            shifts.append(page.evaluate("shift"))
        assert min(shifts) < MAX_SHIFT, (width, shifts)
        # For a reader who has all answers shown the page is longer, and as still.
        page.evaluate("localStorage.setItem('normtut-predict', JSON.stringify({all: 1}))")
        link = page.url
        page.goto("about:blank")  # or the browser restores where one was
        page.goto(link, wait_until="networkidle")
        page.wait_for_function("!document.documentElement.matches('.nt-returning')")
        assert page.locator(".predict-answer.shown").count() > 0
        top = page.evaluate("document.getElementById('sources').getBoundingClientRect().top")
        assert 0 <= top < WIDTHS[width][1]
        assert page.evaluate("shift") < MAX_SHIFT, width


def test_without_scripts_a_phone_has_the_menu_and_the_folds(visit) -> None:
    page = visit(CHAPTERS[4], "phone", java_script_enabled=False).page
    assert page.locator(".bd-sidebar-primary a:visible").count() >= len(CHAPTERS)
    fold = page.locator("article details").first
    fold.locator("summary").click()
    assert fold.locator("pre").first.is_visible()


def test_a_picture_of_a_gallery_opens_and_closes_from_the_keyboard(visit) -> None:
    page = visit(CHAPTERS[1]).page
    links = page.locator(".gallery a:visible")
    links.first.focus()
    page.keyboard.press("Enter")
    shown = page.locator("dialog.enlarged[open] img")
    assert shown.get_attribute("src") == links.nth(0).evaluate("a => a.href")
    page.keyboard.press("ArrowRight")
    assert shown.get_attribute("src") == links.nth(1).evaluate("a => a.href")
    page.keyboard.press("Escape")
    assert page.locator("dialog.enlarged[open]").count() == 0
    assert page.evaluate("document.activeElement.href") == links.nth(1).evaluate("a => a.href")


def test_paper_loses_nothing_and_is_light(visit) -> None:
    """At the width of A4 no code, table or equation of a chapter is cut, and dark readers print on white."""
    page = visit(CHAPTERS[7], scheme="dark").page
    page.set_viewport_size({"width": 665, "height": 900})
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    cut = page.evaluate(
        """() => [...document.querySelectorAll("article :is(pre, table, .equation-box)")]
          .filter((e) => e.scrollWidth > e.clientWidth + 2
            || e.getBoundingClientRect().right > innerWidth + 1)
          .map((e) => e.textContent.slice(0, 60))"""
    )
    assert cut == []
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    ink = page.locator("svg.chart").first.evaluate("e => getComputedStyle(e).color")
    assert max(int(v) for v in re.findall(r"\d+", ink)) < 60
    pale = page.evaluate(
        """() => [...document.querySelectorAll("article .highlight span")].filter((e) =>
          Math.min(...getComputedStyle(e).color.match(/\\d+/g).slice(0, 3)) > 150).length"""
    )
    assert pale == 0
    assert page.locator(".bd-article h1").evaluate("e => getComputedStyle(e).breakBefore") == "auto"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def heads(name: str) -> str:
    html = (HTML / name).read_text(encoding="utf-8")
    return html[: html.index("</head>")]


@pytest.mark.parametrize("name", PAGES)
def test_head_of_a_page(address, name: str) -> None:
    """What is known before the page is painted, and what a shared link shows."""
    head = heads(name)
    assert head.index("prefers-color-scheme") < head.index('rel="stylesheet"'), (
        "the theme comes after the paint"
    )
    assert ("searchindex.js" in head) == (name == "search.html")
    if name != "search.html":
        described = re.search(r'<meta property="og:description" content="([^"]{40,})"', head)
        assert described, "no description"
        assert "og:title" in head
        assert f'<link rel="canonical" href="{PUBLISHED}{name}"' in head
    html = (HTML / name).read_text(encoding="utf-8")
    for image in re.findall(r"<img\b[^>]*>", html[html.index("<article") :] if "<article" in html else ""):
        if "_images/" in image:
            assert re.search(r'width="?\d', image), image
            assert 'loading="lazy"' in image, image


def test_map_of_the_site_and_the_page_for_what_is_missing(address) -> None:
    listed = re.findall(rf"<loc>{re.escape(PUBLISHED)}([^<]+)</loc>", (HTML / "sitemap.xml").read_text())
    assert set(listed) == set(PAGES) - {"search.html"}
    missing = (HTML / "404.html").read_text(encoding="utf-8")
    assert f'href="{PUBLISHED}"' in missing
    assert "_static" not in missing  # it is served at any depth


@pytest.mark.skipif(not CHAPTERS, reason="no chapter yet")
def test_folded_cells_open(visit) -> None:
    """The install cell is folded, and opens from the keyboard."""
    page = visit(CHAPTERS[0]).page
    details = page.locator("article details").first
    assert details.get_attribute("open") is None
    details.locator("summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('article details').open")
    assert details.get_attribute("open") is not None
    assert "find_spec" in details.inner_text()
