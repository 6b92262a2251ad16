"""The interactive axes figure, worked as a reader works it: mouse, finger, keyboard, or without a script."""

from __future__ import annotations

import nbformat
import pytest
from test_pages import ROOT, WIDTHS, address, browser, pytestmark, visit  # noqa: F401

from normtut.book.axes import NORMS, axes_explorer, index_sets

PAGE = "book/04_axes.html"
SHAPE = (3, 6, 4)
SETS = {title: index_sets(norm, SHAPE).flatten().tolist() for title, norm in NORMS.items()}


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")], ids="-".join)
def page(request, visit):  # noqa: F811
    """The chapter as it is built, on a screen and on a phone, in light and dark mode."""
    visited = visit(PAGE, *request.param)
    yield visited.page
    assert not visited.problems
    root = visited.page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert root[0] <= root[1], "the page scrolls sideways"


def cells(page) -> list[dict]:
    return page.evaluate(
        """() => [...document.querySelectorAll(".normtut-axes rect")].map((r) => ({
          fill: r.getAttribute("fill"),
          member: r.classList.contains("in"),
          chosen: r.classList.contains("at"),
          opacity: getComputedStyle(r).opacity,
        }))"""
    )


def assert_drawn(page, title: str, i: int) -> None:
    drawn, sets = cells(page), SETS[title]
    assert [c["chosen"] for c in drawn] == [k == i for k in range(len(sets))]
    assert [c["member"] for c in drawn] == [s == sets[i] for s in sets]
    assert all((c["opacity"] == "1") == c["member"] for c in drawn)
    pairs = {(c["fill"], s) for c, s in zip(drawn, sets, strict=True)}
    assert len(pairs) == len(set(sets)) == len({c["fill"] for c in drawn}), "one colour for each set"
    said = page.locator(".normtut-axes [role=status]").inner_text()
    assert said.startswith(f"{title}: Sᵢ has {sets.count(sets[i])} elements (")
    assert said.endswith(f"there are {len(set(sets))} such sets.")
    assert ("mean square" in said) == title.startswith("RMS")


def test_pressing_a_norm_recolours_the_cells(page) -> None:
    i = 1 * 24 + 3 * 4 + 2  # where the sliders stand at first
    assert_drawn(page, "Batch", i)
    for title in reversed(NORMS):
        page.get_by_role("button", name=title, exact=True).click()
        assert_drawn(page, title, i)
        pressed = page.locator(".normtut-axes button[aria-pressed=true]")
        assert pressed.all_inner_texts() == [title]


def test_pointing_at_an_element_chooses_it(page) -> None:
    page.get_by_role("button", name="Group (2)", exact=True).click()
    page.locator(".normtut-axes rect").nth(2 * 24 + 4 * 4 + 1).click()
    assert_drawn(page, "Group (2)", 2 * 24 + 4 * 4 + 1)
    assert (
        "sample 2, channels 3 to 5, all positions" in page.locator(".normtut-axes [role=status]").inner_text()
    )
    values = page.locator(".normtut-axes input").evaluate_all("(es) => es.map((e) => e.value)")
    assert values == ["2", "4", "1"]


def test_the_keyboard_does_it_all(page) -> None:
    page.get_by_role("button", name="Batch", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert_drawn(page, "Layer", 1 * 24 + 3 * 4 + 2)
    for _ in range(len(NORMS) - 1):
        page.keyboard.press("Tab")  # to the first slider
    page.keyboard.press("ArrowRight")
    assert_drawn(page, "Layer", 2 * 24 + 3 * 4 + 2)
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert_drawn(page, "Layer", 2 * 24 + 0 * 4 + 2)


def test_text_can_be_read_on_its_background(page) -> None:
    """In dark mode the theme puts HTML output on a light card; the figure must not keep light text there."""
    ink, paper = page.evaluate(
        """() => {
          const luminance = (c) => {
            const [r, g, b] = c.match(/[0-9.]+/g).map((v) => {
              const s = v / 255;
              return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const figure = document.querySelector(".normtut-axes");
          let e = figure;
          while (/rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement;
          return [getComputedStyle(figure).color, getComputedStyle(e).backgroundColor].map(luminance);
        }"""
    )
    contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
    assert contrast > 7


def test_the_chapter_holds_what_the_library_makes_now() -> None:
    notebook = nbformat.read(ROOT / "book" / "04_axes.ipynb", as_version=4)
    stored = [
        o["data"]["text/html"]
        for c in notebook.cells
        for o in c.get("outputs", [])
        if "text/html" in o.get("data", {})
    ]
    assert stored == [axes_explorer().html]


def test_without_a_script_it_says_so(browser) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(axes_explorer().html)
    assert "No script runs here" in page.locator("[role=status]").inner_text()
    assert page.locator("rect").count() == 72
    context.close()


def test_two_figures_on_a_page_do_not_mix(browser) -> None:  # noqa: F811
    context = browser.new_context()
    page = context.new_page()
    page.set_content(axes_explorer(name="a").html + axes_explorer(name="b").html)
    page.locator("#normtut-b").get_by_role("button", name="Layer", exact=True).click()
    assert page.locator("#normtut-a [aria-pressed=true]").inner_text() == "Batch"
    assert page.locator("#normtut-b [aria-pressed=true]").inner_text() == "Layer"
    context.close()
