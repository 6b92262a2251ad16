"""What a reader can do on the pages: answer a Predict, and play with the photograph of the landing page."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_explorers import decoded
from test_pages import HTML, ROOT, address, browser, pytestmark, visit  # noqa: F401

from common import chapters
from normtut import data, denormalize, moments, normalize
from normtut_book.chapters import after_words, read_chapter
from normtut_book.predict import MARK, mark_predicts, split_choices

MAX_FIRST_VIEW = 300 * 1024  # bytes of the landing page with all that it loads, gzipped


# --- Predict: from the notebook -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        (
            "It is (a) black, (b) of no\ncolour?",
            ["black", "of no colour"],
            ("It is …", ["black", "of no colour"]),
        ),
        ("How many?\n(a) $2^3$ (b) 9.", ["$2^3$", "9"], ("How many?", ["$2^3$", "9"])),
        ("So (a) 16 %, as ever (b) 45 %", ["16 %", "45 %"], ("So …", ["16 %, as ever", "45 %"])),
        ("Which? (a) (2) and (3) (b) (4)", ["(2) and (3)", "(4)"], ("Which?", ["(2) and (3)", "(4)"])),
    ],
)
def test_choices_are_split_from_the_question(text, choices, expected) -> None:
    assert split_choices(text, choices) == expected


def test_choices_that_are_not_there_are_an_error() -> None:
    with pytest.raises(ValueError, match="do not end the text"):
        split_choices("Is it (a) so (b) or so?", ["so", "otherwise"])


def predicts(path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = (cell["metadata"].get("normtut", {}).get("predict") for cell in cells)
    return [predict for predict in found if predict is not None]


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_every_predict_of_a_chapter_is_marked(path) -> None:
    source = [path.read_text(encoding="utf-8")]
    mark_predicts(None, path.stem, source)
    marked = [
        "".join(cell["source"]) for cell in json.loads(source[0])["cells"] if MARK in "".join(cell["source"])
    ]
    assert len(marked) == len(predicts(path))
    keys = set()
    for text, predict in zip(marked, predicts(path), strict=True):
        items = re.findall(r"^> - (.+)$", text, flags=re.MULTILINE)
        plain = [" ".join(choice.split()) for choice in predict.get("choices", [])]
        assert all(item.startswith(choice) for item, choice in zip(items, plain, strict=True))
        keys.add(json.loads(re.search(MARK + r" (\{.*\}) -->", text)[1])["key"])
    assert len(keys) == len(marked), "two questions would share a guess"


def test_chapters_before_a_chapter_in_words() -> None:
    assert [after_words(c) for c in ([3], [1, 2], [1, 2, 3, 5], [4, 6, 7, 8])] == [
        "3",
        "1 and 2",
        "1–3 and 5",
        "4 and 6–8",
    ]


# --- Predict: on the page -----------------------------------------------------------------------------------


def guess(page, number: int, value: int | str) -> None:
    form = page.locator(f"#predict-{number} form")
    if isinstance(value, int):
        form.get_by_role("radio").nth(value).check()
    else:
        form.get_by_label("Your number").fill(value)
    form.get_by_role("button", name="Check my guess").click()


def verdict(page, number: int) -> str:
    return page.locator(f"#predict-{number} [role=status]").inner_text()


def shown(page, number: int) -> bool:
    return page.locator(f"#predict-{number}-answer").evaluate(
        "e => e.checkVisibility({contentVisibilityAuto: true}) && e.getBoundingClientRect().height > 20"
    )


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_every_predict_has_a_form_and_an_answer_that_waits(address, path) -> None:  # noqa: F811
    text = (ROOT / "_build" / "html" / "book" / f"{path.stem}.html").read_text(encoding="utf-8")
    stored = [json.loads(d.replace("&quot;", '"')) for d in re.findall(r'data-predict="([^"]*)"', text)]
    expected = predicts(path)
    assert [{k: s[k] for k in s if k != "key"} for s in stored] == [
        {k: p[k] for k in p if k != "choices"} for p in expected
    ]
    assert len(re.findall(r'class="predict-answer[ "]', text)) == len(expected)
    assert ("predict.js" in text) == bool(expected), "a script where it is not needed, or none where it is"
    assert "landing.js" not in text


def test_a_guess_is_judged_and_kept(visit) -> None:  # noqa: F811
    visited = visit("book/05_batch.html")
    page = visited.page
    # 1 is a number (64 times), 2 a choice of three (the second), 3 a number in per cent (63).
    assert not any(shown(page, n) for n in (1, 2, 3))
    page.locator("#predict-1").get_by_role("button", name="Check").click()
    assert verdict(page, 1) == "Type a number first, such as 0.5."
    assert not shown(page, 1)
    guess(page, 1, "16")
    assert verdict(page, 1) == "You said 16, it is 64 times: 4 times too low."
    guess(page, 2, 0)
    assert verdict(page, 2) == "Not (a): it is (b)."
    assert page.locator("#predict-2 li.right").inner_text().startswith("β and γ")
    guess(page, 3, "60 %")
    assert verdict(page, 3) == "Close: you said 60, it is 63 %: 3 points too low."
    assert all(shown(page, n) for n in (1, 2, 3))
    assert not shown(page, 4)
    assert page.locator("#predict-3-answer details").first.get_attribute("open") is not None
    assert "3 of the 9" in page.locator(".predict-score p").first.inner_text()
    assert "1 of them right" in page.locator(".predict-score p").first.inner_text()
    page.reload()
    assert verdict(page, 2) == "Not (a): it is (b)."
    assert page.locator("#predict-2 input").first.is_checked()
    assert page.locator("#predict-1 input").input_value() == "16"
    assert shown(page, 2)
    page.locator("#predict-2").get_by_role("button", name="Guess again").click()
    assert not shown(page, 2)
    guess(page, 2, 1)
    assert verdict(page, 2) == "Right: (b)."
    page.get_by_role("button", name="Forget my guesses on this page").click()
    page.reload()
    assert not any(shown(page, n) for n in (1, 2, 3))
    assert not visited.problems  # and nothing was sent


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("64", "Right: 64 times."),
        ("6,4e1", "Right: 64 times."),
        ("1,000", "15.63 times too high"),
        ("61", "Close: you said 61"),
        ("-3", "67 too low"),
        ("1/2", "128 times too low"),
        ("many", "Type a number"),
    ],
)
def test_numbers_as_people_type_them(predict_page, typed: str, said: str) -> None:
    guess(predict_page, 1, typed)
    assert said in verdict(predict_page, 1)
    again = predict_page.locator("#predict-1").get_by_role("button", name="Guess again")
    if again.count():
        again.click()


@pytest.fixture(scope="module")
def predict_page(address, browser):  # noqa: F811
    """A page of Predicts in a browser that keeps nothing: reading its storage is an error there."""
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('denied'); } })"
    )
    page = context.new_page()
    page.goto(address + "book/05_batch.html")
    yield page
    context.close()


def test_the_keyboard_answers(visit) -> None:  # noqa: F811
    page = visit("book/05_batch.html", "phone", "dark").page
    form = page.locator("#predict-2 form")
    assert form.get_by_role("group", name="Your prediction").count() == 1
    described = form.locator("fieldset").get_attribute("aria-describedby")
    assert "We gave the three channels" in page.locator(f"#{described}").inner_text()
    form.get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert verdict(page, 2) == "Right: (b)."
    page.locator("#predict-3").get_by_role("button", name="Show me without guessing").focus()
    page.keyboard.press("Enter")
    assert shown(page, 3)
    assert page.locator(":focus").inner_text() == "Check my guess"  # it may still be tried
    page.locator("#predict-1").get_by_role("button", name="Show all answers").press("Enter")
    assert all(shown(page, n) for n in range(1, 10))


def test_a_link_into_an_answer_shows_it(visit) -> None:  # noqa: F811
    page = visit("book/05_batch.html#fig-5-1").page
    assert shown(page, 1)
    assert not shown(page, 2)
    box = page.locator("#fig-5-1").bounding_box()
    assert -10 < box["y"] < 800


def test_claims_have_a_score_to_share(visit) -> None:  # noqa: F811
    page = visit("book/15_claims.html").page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for number, choice in ((1, 2), (2, 0), (14, 2)):
        guess(page, number, choice)
    answer = page.locator("#predict-1-answer").get_by_text("It clips.")
    assert answer.is_visible()  # it has opened, too
    panel = page.locator("#your-score .predict-score")
    assert "3 of the 14 predictions on this page, 2 of them right" in panel.inner_text()
    panel.get_by_role("button", name="Copy my score").click()
    page.wait_for_function("document.querySelector('.predict-copy').textContent === 'Copied'")
    title, squares, url = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert title.endswith("Claims, tested: 2 of 14")
    assert squares == "🟩🟥" + "⬜" * 11 + "🟩"
    assert url.endswith("book/15_claims.html")


def test_without_scripts_answers_are_folds(address, browser) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + "book/05_batch.html")
    quote = page.locator("#predict-2")
    assert quote.locator("li").all_inner_texts() == ["0 and 1", "β and γ", "those that it had before"]
    assert quote.locator("button:visible, input:visible").count() == 0
    assert page.locator("#predict-2-answer summary").first.is_visible()
    page.goto(address + "index.html")
    assert page.locator("#play img:visible").count() == 1
    assert page.locator("#play :is(button, input, canvas):visible").count() == 0
    context.close()


# --- the landing page ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def landing(address, browser):  # noqa: F811
    """The landing page, where the slider stands at the style's end at once; what leaves it is a problem."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page, problems = context.new_page(), []
    page.on(
        "request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else problems.append(r.url)
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address + "index.html", wait_until="networkidle")
    page.wait_for_selector(".play-stage.ready")
    yield page
    assert not problems
    context.close()


def stand(page, at: int) -> None:
    page.locator("#play-at").evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", at)
    page.wait_for_function(
        "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(true))))"
    )


def six(page) -> torch.Tensor:
    rows = page.locator(".play-numbers tbody td:not(.play-track)").all_inner_texts()
    return torch.tensor([float(v.replace("−", "-")) for v in rows]).view(3, 2).T  # means, then stds


def pixels(page, make: str) -> torch.Tensor:
    """What a canvas shows, uint8 (3, H, W); `make` is a script that gives it."""
    return decoded(page.evaluate(f"({make}).toDataURL('image/png')"))


CANVAS = "document.querySelector('.play canvas')"


def assert_states(page, x: torch.Tensor, style: torch.Tensor) -> None:
    """All three stops against the library; `style` holds three means and three stds."""
    own = torch.stack([s.flatten() for s in moments(x, (1, 2))])
    z = normalize(x, *moments(x, (1, 2)))
    stand(page, 0)
    assert (six(page) - own).abs().max() < 0.00501
    assert torch.equal(pixels(page, CANVAS), (x * 255).round().byte())
    stand(page, 200)
    assert (six(page) - style).abs().max() < 0.00501
    styled = denormalize(z, *(s.view(3, 1, 1) for s in style)).clamp(0, 1) * 255
    assert (pixels(page, CANVAS) - styled).abs().max() < 0.51 + 255 * 5e-5 * 8  # the page has four decimals
    stand(page, 100)
    assert torch.equal(six(page), torch.tensor([[0.0] * 3, [1.0] * 3]))
    drawn, middle = pixels(page, CANVAS), x.shape[2] // 2
    rescaled = (z - z.min()) / (z.max() - z.min())
    left, right = np.s_[:, :, : middle - 2], np.s_[:, :, middle + 2 :]
    assert (drawn[left] - 255 * z.clamp(0, 1)[left]).abs().max() < 0.51
    assert (drawn[right] - 255 * rescaled[right]).abs().max() < 0.51
    share = 100 * ((z < 0) | (z > 1)).double().mean().item()
    assert abs(int(re.search(r"\d+", page.locator(".play-outside").inner_text())[0]) - share) < 0.6


def test_the_slider_normalizes_and_denormalizes(landing) -> None:
    photo = """(() => {
      const i = document.querySelector(".play-stage img"), c = document.createElement("canvas");
      c.width = i.naturalWidth;
      c.height = i.naturalHeight;
      c.getContext("2d").drawImage(i, 0, 0);
      return c;
    })()"""
    x = pixels(landing, photo).double() / 255
    strokes = data.styles("strokes")["strokes"].double() / 255
    assert_states(landing, x, torch.stack([s.flatten() for s in moments(strokes, (1, 2))]))


def test_a_picture_of_ones_own(landing) -> None:
    g = torch.Generator().manual_seed(0)
    files, tensors = [], []
    for height, width in ((20, 30), (16, 16)):
        picture = torch.randint(0, 256, (height, width, 3), generator=g, dtype=torch.uint8)
        file = io.BytesIO()
        Image.fromarray(picture.numpy()).save(file, "PNG")
        files.append({"name": "mine.png", "mimeType": "image/png", "buffer": file.getvalue()})
        tensors.append(picture.permute(2, 0, 1).double() / 255)
    landing.locator("[data-for=photo]").set_input_files(files[0])
    landing.locator("[data-for=style]").set_input_files(files[1])
    landing.wait_for_function("document.querySelector('.play-name').textContent === 'your picture'")
    landing.wait_for_function(f"{CANVAS}.width === 30")
    assert_states(landing, tensors[0], torch.stack([s.flatten() for s in moments(tensors[1], (1, 2))]))
    assert landing.locator("#play [aria-pressed=true]").count() == 0
    landing.locator("[data-for=photo]").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    )
    landing.wait_for_function(
        "document.querySelector('.play-outside').textContent.startsWith('notes.txt is not')"
    )


def test_the_landing_page_by_keyboard(landing) -> None:
    landing.get_by_role("button", name="coffee").press("Enter")
    landing.wait_for_function(f"{CANVAS}.width === 600")
    landing.get_by_role("button", name="waves").press("Enter")
    assert landing.locator("#play [aria-pressed=true]").all_inner_texts() == ["coffee", "waves"]
    slider = landing.get_by_role("slider", name="Whose statistics?")
    slider.press("End")
    landing.wait_for_function(
        "document.querySelector('#play-at').getAttribute('aria-valuetext').endsWith('of waves')"
    )
    waves = data.styles("waves")["waves"].double() / 255
    assert (six(landing) - torch.stack([s.flatten() for s in moments(waves, (1, 2))])).abs().max() < 0.00501
    slider.press("ArrowLeft")
    landing.wait_for_function(
        "document.querySelector('#play-at').getAttribute('aria-valuetext').startsWith('on the way')"
    )
    with landing.expect_download() as saved:
        landing.get_by_role("link", name="Save this picture").press("Enter")
    with Image.open(saved.value.path()) as picture:
        assert picture.size == (600, 400)


def test_the_landing_page_is_light_and_plays_by_itself(visit) -> None:  # noqa: F811
    visited = visit("index.html", "phone")
    total = sum(visited.sizes().values())
    assert total < MAX_FIRST_VIEW, f"{total / 1024:.0f} KiB gzipped"
    visited.page.wait_for_function("document.querySelector('#play-at').value > 20")
    visited.page.wait_for_function("document.querySelector('#play-at').value === '200'")
    assert not visited.problems


def test_every_chapter_has_a_card(landing) -> None:
    cards = landing.locator(".chapter-cards li")
    assert cards.count() == len(chapters())
    for card, path in zip(cards.all(), chapters(), strict=True):
        link = card.locator("a")
        chapter = read_chapter(path)
        assert link.get_attribute("href") == f"book/{path.stem}.html"
        assert link.inner_text() == f"{int(path.name[:2])}. {chapter.title}"
        assert f"{chapter.minutes} minutes" in card.inner_text()
        assert (ROOT / "book" / "_assets" / "landing" / f"{path.stem}.webp").is_file()


def test_a_chapter_says_under_its_title_what_its_card_says(visit, landing) -> None:  # noqa: F811
    cards = landing.locator(".chapter-cards small").all_inner_texts()
    for path, card in zip(chapters(), cards, strict=True):
        text = (HTML / "book" / f"{path.stem}.html").read_text(encoding="utf-8")
        (facts,) = re.findall(r'</h1>\s*<p class="chapter-facts">(.*?)</p>', text)
        minutes, needs = re.sub(r"<[^>]+>", "", facts).split(" · ")
        assert f"{minutes}, {re.sub('chapters? ', '', needs)}" == card
        for link, number in re.findall(r'<a href="([^"]+)">(\d+)</a>', facts):
            assert link.startswith(f"{int(number):02}_")
            assert (HTML / "book" / link).is_file()
    page = visit("book/12_style.html", "phone").page
    line = page.locator("h1 + .chapter-facts")
    assert line.is_visible()
    assert line.evaluate("e => e.clientHeight < 40"), "more than a line"


def test_the_pictures_were_made_from_the_styles_of_today() -> None:
    """`python book/_tools/landing.py` makes them anew."""
    stored = json.loads((ROOT / "book/_assets/landing/styles.json").read_text(encoding="utf-8"))
    for name, values in stored.items():
        picture = (data.styles(name) if name != "retina" else data.photos(name))[name].double() / 255
        now = torch.cat([s.flatten() for s in moments(picture, (1, 2))])
        assert torch.allclose(torch.tensor(values, dtype=torch.float64), now, atol=6e-5), name
    with Image.open(ROOT / "book/_assets/share.png") as share:
        assert share.size == (1200, 630)
