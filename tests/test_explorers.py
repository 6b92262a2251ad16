"""The pictures to play with, worked as a reader works them, against normtut's own numbers."""

from __future__ import annotations

import base64
import io
import re

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from test_pages import FLAGS, HTML, ROOT, address, axe, browser, pytestmark, visit  # noqa: F401

from normtut import IMAGENET, Normalize, data, images, layers, plots
from normtut.book import explorers
from normtut.book.axes import NORMS, index_sets
from normtut.style import StyleTransfer

MAX_CODE = 8 * 1024  # bytes of HTML, style and script, without the pictures and numbers that they show
SHAPE = (3, 6, 4)
SETS = {title: index_sets(norm, SHAPE).flatten().tolist() for title, norm in NORMS.items()}
FIRST = 1 * 24 + 3 * 4 + 2  # the element that is chosen at first


@pytest.fixture(scope="module")
def made() -> dict[str, explorers.Explorer]:
    styles = {"waves": data.styles("waves")["waves"], "mosaic": data.styles("mosaic")["mosaic"]}
    return {
        "axes": plots.axes_explorer(),
        "clipping": plots.clipping_explorer(),
        "running": plots.running_explorer(),
        "mixing": plots.mixing_explorer(
            StyleTransfer.pretrained(), data.photos("cat")["cat"], styles, size=48
        ),
    }


@pytest.fixture(scope="module")
def pages(browser, made):  # noqa: F811
    """Each explorer alone on a narrow page, as Colab shows it; an error in a script fails the test."""
    context = browser.new_context(viewport={"width": 360, "height": 800})
    problems, opened = [], {}
    for name, explorer in made.items():
        page = opened[name] = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.set_content(
            f'<!doctype html><html lang="en"><title>{name}</title><main><h1>{name}</h1>{explorer.html}'
        )
        page.wait_for_function("!document.querySelector('.nx div').hidden")
    yield opened
    assert not problems
    context.close()


def status(page) -> str:
    return page.locator("[role=status]").inner_text()


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def slide(page, name: str, value: float) -> None:
    """Move a slider as its keys do: the value, and the event."""
    page.get_by_label(name, exact=True).evaluate(
        "(s, v) => { s.value = v; s.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def pixels(page, selector: str) -> torch.Tensor:
    """What a canvas or an image shows, uint8 (3, H, W)."""
    stored = page.locator(selector).first.evaluate(
        """e => {
          if (e.tagName === "CANVAS") return e.toDataURL("image/png");
          const c = document.createElement("canvas");
          c.width = e.naturalWidth;
          c.height = e.naturalHeight;
          c.getContext("2d").drawImage(e, 0, 0);
          return c.toDataURL("image/png");
        }"""
    )
    return decoded(stored)


def decoded(stored: str) -> torch.Tensor:
    picture = Image.open(io.BytesIO(base64.b64decode(stored.split(",")[1]))).convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


# --- all of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["axes", "clipping", "running", "mixing"])
def test_explorer_is_light_narrow_and_accessible(pages, made, name: str) -> None:
    code = re.sub(r"data:image[^\"]*", "", made[name].html)
    code = re.sub(r"const D = \{.*?\}, root", "const D = {}, root", code)
    assert "const D = {}, root" in code
    assert "@" not in re.sub(r"@media", "", code)  # all placeholders are filled in
    assert len(code.encode()) < MAX_CODE
    page = pages[name]
    root = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert root[0] <= root[1], "it scrolls sideways"
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, input, td[role=gridcell]")].filter(e => {
          const b = e.getBoundingClientRect();
          return b.width < 24 || b.height < 24;
        }).map(e => e.outerHTML)"""
    )
    assert not small, "targets under 24 pixels"
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('input')].filter(e => !e.labels.length).map(e => e.outerHTML)"
    )
    assert not unnamed
    assert not axe(page)


@pytest.mark.parametrize("name", ["axes", "clipping", "running", "mixing"])
def test_without_a_script_nothing_is_dead(browser, made, name: str) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(made[name].html)
    assert "No script runs here" in status(page)
    assert page.locator("button:visible, input:visible, canvas:visible").count() == 0
    assert page.locator("img:visible").count() == (name in ("clipping", "mixing"))
    context.close()


def test_two_explorers_on_a_page_do_not_mix(browser) -> None:  # noqa: F811
    context = browser.new_context()
    page = context.new_page()
    page.set_content(plots.axes_explorer(name="a").html + plots.axes_explorer(name="b").html)
    page.locator("#normtut-b").get_by_role("button", name="Layer", exact=True).click()
    assert page.locator("#normtut-a [aria-pressed=true]").inner_text() == "Batch"
    assert page.locator("#normtut-b [aria-pressed=true]").inner_text() == "Layer"
    context.close()


def without_pictures(html: str) -> str:
    """Another version of the image library may write other bytes."""
    return re.sub(r"data:image[^\"]*", "", html)


@pytest.mark.parametrize(
    ("chapter", "name"), [("02_inverse", "clipping"), ("04_axes", "axes"), ("05_batch", "running")]
)
def test_the_chapter_holds_what_the_library_makes_now(made, chapter: str, name: str) -> None:
    notebook = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4)
    stored = [
        o["data"]["text/html"]
        for c in notebook.cells
        for o in c.get("outputs", [])
        if "text/html" in o.get("data", {})
    ]
    assert [without_pictures(html) for html in stored] == [without_pictures(made[name].html)]


# --- axes (chapter 4) ---------------------------------------------------------------------------------------


def cells(page) -> list[dict]:
    return page.evaluate(
        """() => [...document.querySelectorAll("td")].sort((a, b) => a.dataset.k - b.dataset.k).map((c) => ({
          color: c.style.getPropertyValue("--c"), member: c.classList.contains("in"),
          chosen: c.getAttribute("aria-selected") === "true", moved: c.classList.contains("moved"),
          hint: c.classList.contains("hint"), text: c.textContent, said: c.getAttribute("aria-label"),
          tab: c.tabIndex,
        }))"""
    )


def inputs(page) -> torch.Tensor:
    box = page.get_by_label("show the inputs x")
    box.check()
    x = torch.tensor([numbers(cell["text"])[0] for cell in cells(page)], dtype=torch.float64)
    box.uncheck()
    return x


@pytest.mark.parametrize("title", NORMS)
def test_axes_show_the_sets_and_outputs_of_the_library(pages, title: str) -> None:
    page = pages["axes"]
    page.get_by_role("button", name=title, exact=True).click()
    slide(page, "sample", 1), slide(page, "channel", 3), slide(page, "position", 2)
    drawn, sets = cells(page), SETS[title]
    assert [c["chosen"] for c in drawn] == [c["tab"] == 0 for c in drawn] == [k == FIRST for k in range(72)]
    assert [c["member"] for c in drawn] == [s == sets[FIRST] for s in sets]
    pairs = {(c["color"], s) for c, s in zip(drawn, sets, strict=True)}
    assert len(pairs) == len(set(sets)) == len({c["color"] for c in drawn}), "one colour for each set"
    said = status(page)
    assert said.startswith(f"{title}: Sᵢ has {sets.count(sets[FIRST])} elements (")
    assert said.endswith(f"there are {len(set(sets))} such sets.")
    assert ("mean square" in said) == title.startswith("RMS")
    z = NORMS[title](inputs(page).view(SHAPE)).flatten()
    shown = torch.tensor([numbers(c["text"])[0] for c in drawn])
    assert (z - shown).abs().max() < 0.0501
    assert drawn[FIRST]["said"] == f"channel 3, position 2: {drawn[FIRST]['text']}, in the set"


@pytest.mark.parametrize("title", ["Group (2)", "RMS, per position"])
def test_a_new_value_moves_the_outputs_of_its_set(pages, title: str) -> None:
    page = pages["axes"]
    page.get_by_role("button", name=title, exact=True).click()
    before = NORMS[title](inputs(page).view(SHAPE)).flatten()
    slide(page, "value xᵢ", -4)
    x = inputs(page)
    assert x[FIRST] == -4
    change = (NORMS[title](x.view(SHAPE)).flatten() - before).abs()
    assert [c["moved"] for c in cells(page)] == (change > 1e-9).tolist()
    count, farthest, rest = numbers(status(page))
    assert (count, rest) == ((change > 1e-9).sum(), (change <= 1e-9).sum())
    assert abs(farthest - change.max()) < 0.0501
    assert "all of them in Sᵢ" in status(page)
    slide(page, "value xᵢ", 5)


def test_axes_by_mouse_and_keyboard(pages) -> None:
    page = pages["axes"]
    page.get_by_role("button", name="Instance", exact=True).click()
    page.locator("td").nth(0).hover()
    assert [c["hint"] for c in cells(page)] == [s == SETS["Instance"][0] for s in SETS["Instance"]]

    def chosen() -> list[int]:
        return [
            int(v) for v in page.locator(".four input").evaluate_all("s => s.slice(0, 3).map(e => e.value)")
        ]

    # Cells lie in the page position by position: this is sample 0, position 1, channel 4.
    page.locator("td").nth(1 * 6 + 4).click()
    assert chosen() == [0, 4, 1]
    page.mouse.down()
    page.locator("td").nth(3 * 6 + 2).hover()
    page.mouse.up()
    assert chosen() == [0, 2, 3]
    page.locator("td[tabindex='0']").focus()
    for key in ("ArrowRight", "ArrowUp", "PageDown", "PageDown", "PageDown"):
        page.keyboard.press(key)
    assert chosen() == [2, 3, 2]
    assert page.evaluate("document.activeElement.tabIndex") == 0
    page.get_by_role("button", name="Batch", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert status(page).startswith("Layer: ")
    for _ in range(len(NORMS)):
        page.keyboard.press("Tab")  # the other norms, the grid (one stop), the first slider
    page.keyboard.press("Tab") if page.evaluate("document.activeElement.tagName") != "INPUT" else None
    page.keyboard.press("ArrowLeft")
    assert chosen()[0] == 1


# --- clipping (chapter 2) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["ImageNet", "this photo's own", "0.5 and 0.5", "0 and 1: nothing", None])
def test_clipping_is_that_of_the_library(pages, preset: str | None) -> None:
    page, photo = pages["clipping"], data.photos("coffee")["coffee"]
    page.get_by_role("button", name=preset or "ImageNet", exact=True).click()
    if preset is None:
        page.get_by_label("move the three channels together").uncheck()
        slide(page, "mean, green", 0.3)
        page.get_by_label("move the three channels together").check()
        slide(page, "std, red", 0.729)  # half a unit more, for all three
    mean, std = ([float(v) for v in page.locator(".six output").all_inner_texts()[k::2]] for k in (0, 1))
    if preset == "ImageNet":
        assert (tuple(mean), tuple(std)) == (tuple(IMAGENET.mean), tuple(IMAGENET.std))
        assert page.locator("[aria-pressed=true]").inner_text() == "ImageNet"
    elif preset is None:
        assert mean == [0.485, 0.3, 0.406]
        assert std == [0.729, 0.724, 0.725]
    normalize = Normalize(mean, std)
    painted = normalize(photo / 255).clamp(0, 1).mul(255).byte()  # as imshow does, chapter 2
    expected = [100 * (painted == level).double().mean().item() for level in (0, 255)]
    black, white, between, *rest = numbers(status(page))
    assert abs(black - expected[0]) < 0.06
    assert abs(white - expected[1]) < 0.06
    assert abs(between - (100 - sum(expected))) < 0.06
    back = images.to_uint8(normalize.inverse()(painted / 255).clamp(0, 1))
    off = (back.int() - photo.int()).abs().max().item()
    assert (rest[0] if rest else 0) == pytest.approx(off if off > 1 else 0, abs=1)
    # The pictures, from the small photo that the page itself has decoded.
    small, drawn = pixels(page, "img"), pixels(page, "canvas")
    clipped = normalize(small / 255).clamp(0, 1).mul(255).byte()
    assert (drawn.int() - clipped.int()).abs().max() <= 1
    restored = images.to_uint8(normalize.inverse()(clipped / 255).clamp(0, 1))
    assert (pixels(page, "canvas >> nth=1").int() - restored.int()).abs().max() <= 1


# --- running statistics (chapter 5) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "momentum", "steps"), [(8, 0.1, 20), (1, 0.01, 150), (64, 1.0, 3), (2, 0.9, 1)]
)
def test_running_statistics_are_those_of_the_layer(pages, size: int, momentum: float, steps: int) -> None:
    page, patches = pages["running"], explorers._patches().double()[:, None]
    slide(page, "batch size N", [1, 2, 4, 8, 16, 32, 64, 128].index(size))
    slide(page, "momentum a", [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.9, 1].index(momentum))
    slide(page, "batches seen t", steps)
    norm = layers.BatchNorm2d(1, momentum=momentum, affine=False).double()
    for step in range(steps):
        batch = patches[torch.arange(step * size, (step + 1) * size) % len(patches)]
        norm(batch)
    shown = [float(v) for v in page.locator("tbody td").all_inner_texts()]
    running = norm.running_mean.item(), norm.running_var.sqrt().item()
    expected = [
        batch.mean(),
        running[0],
        patches.mean(),
        batch.std(correction=0),
        running[1],
        patches.std(correction=0),
    ]
    assert torch.allclose(torch.tensor(shown), torch.tensor(expected, dtype=torch.float32), atol=1.1e-3)
    z = norm.eval()(patches)
    left, _, _, mean, std, *_ = numbers(status(page).replace("Less than ", ""))
    assert left == pytest.approx(max(100 * (1 - momentum) ** steps, 0 if momentum == 1 else 0.1), abs=0.06)
    assert mean == pytest.approx(z.mean().item(), abs=0.01 * z.std().item() + 0.002)
    assert std == pytest.approx(z.std().item(), rel=0.01)
    assert page.locator("circle").count() == 2 * steps


def test_the_running_variance_is_unbiased(browser) -> None:  # noqa: F811
    """Where a channel has two values in a batch, the stored variance is twice the one that it divides by."""
    images = torch.rand(7, 1, 2, generator=torch.Generator().manual_seed(0))
    context = browser.new_context()
    page = context.new_page()
    page.set_content(plots.running_explorer(images).html)
    slide(page, "batch size N", 0), slide(page, "momentum a", 7), slide(page, "batches seen t", 5)
    last, running = (float(page.locator("tbody td").nth(k).inner_text()) for k in (3, 4))
    assert running == pytest.approx(images[4].std(correction=1).item(), abs=1.1e-3)
    assert last == pytest.approx(images[4].std(correction=0).item(), abs=1.1e-3)
    context.close()


# --- mixing (chapter 12) ------------------------------------------------------------------------------------


def test_mixing_shows_what_the_network_paints(pages) -> None:
    page, model = pages["mixing"], StyleTransfer.pretrained()
    photo, *pair = (
        explorers._square(image, 48)
        for image in (
            data.photos("cat")["cat"],
            data.styles("waves")["waves"],
            data.styles("mosaic")["mosaic"],
        )
    )
    steps = (0.0, 0.25, 0.5, 0.75, 1.0)
    painted = {(a, w): model.stylize(photo, pair, a, weights=[1 - w, w])[0] for a in steps[1:] for w in steps}
    painted[0.0, 0.0] = model.stylize(photo, pair[0], 0.0)[0]
    for a, w in ((1.0, 0.0), (0.25, 0.75), (0.75, 1.0), (0.0, 0.5)):
        slide(page, "how much, α", steps.index(a))
        slide(page, "waves to mosaic", steps.index(w))
        shown = pixels(page, ".all canvas") / 255
        distance = {key: (picture - shown).abs().mean().item() for key, picture in painted.items()}
        assert min(distance, key=distance.get) == (a, w if a else 0.0)
        away = 255 * (shown - photo[0]).abs().mean().item()
        assert numbers(status(page))[0] == pytest.approx(away, abs=2)  # the photo is stored with loss, too
    slide(page, "how much, α", 4)
    ends = []
    for w in (0, 4, 2):
        slide(page, "waves to mosaic", w)
        ends.append(pixels(page, ".all canvas").double())
    faded = (ends[0] + ends[1]) / 2
    assert numbers(status(page))[-1] == pytest.approx((ends[2] - faded).abs().mean().item(), abs=0.06)
    page.get_by_label("cross-fade the two finished pictures instead").check()
    assert (pixels(page, ".all canvas").double() - faded).abs().max() <= 1


# --- in the book --------------------------------------------------------------------------------------------


def test_text_can_be_read_on_its_background(visit) -> None:  # noqa: F811
    """In dark mode the theme puts HTML output on a light card; an explorer must not keep light text there."""
    visited = visit("book/04_axes.html", "phone", "dark")
    ink, paper = visited.page.evaluate(
        """() => {
          const luminance = (c) => {
            const [r, g, b] = c.match(/[0-9.]+/g).map((v) => {
              const s = v / 255;
              return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const figure = document.querySelector(".nx");
          let e = figure;
          while (/rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement;
          return [getComputedStyle(figure).color, getComputedStyle(e).backgroundColor].map(luminance);
        }"""
    )
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7
    assert not visited.problems


@pytest.mark.parametrize("name", ["book/02_inverse.html", "book/12_style.html"])
def test_in_the_book_the_picture_comes_when_it_is_near_and_moves_nothing(visit, name: str) -> None:  # noqa: F811
    visited = visit(name)
    page, picture = visited.page, visited.page.locator(".nx > img")
    source = picture.evaluate("e => e.src")
    drawn = "e => e.toDataURL().length > 5000"  # a canvas of one colour has fewer
    canvas = page.locator(".nx canvas").first
    if "12" in name:  # the other explorer is soon reached from the top of its chapter
        assert source not in visited.responses
        assert not canvas.evaluate(drawn)
        assert numbers(page.locator(".nx [role=status]").inner_text()) == [255]
    height = page.locator(".nx").evaluate("e => e.getBoundingClientRect().height")
    page.locator(".nx").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.nx > img').complete")
    page.wait_for_function(f"({drawn})(document.querySelector('.nx canvas'))")
    assert source in visited.responses
    assert page.locator(".nx").evaluate("e => e.getBoundingClientRect().height") == height
    assert not visited.problems


def test_a_chapter_opened_as_a_file_shows_the_whole_picture(address, browser) -> None:  # noqa: F811
    """There the browser lets no script read a picture: the explorer says so, and nothing in it is dead."""
    page = browser.new_page()
    page.goto((HTML / "book/12_style.html").as_uri())
    page.locator(".nx").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.nx [role=status]').textContent.includes('as a file')")
    assert page.locator(".nx > img").is_visible()
    assert page.locator(".nx :is(canvas, input):visible").count() == 0
    page.close()
