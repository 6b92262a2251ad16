"""What the page shows of a figure: the same shapes in its own colours, and each picture of a gallery."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch
from matplotlib.figure import Figure

from normtut import plots
from normtut.book import in_notebook
from normtut.book.for_page import figure_svg, is_gallery, panels
from normtut.book.palette import COLORS, NORM_COLORS


@pytest.fixture(autouse=True)
def _look():
    with mpl.rc_context():
        plots.setup()
        yield


def drawn(fig: Figure) -> ET.Element:
    return ET.fromstring(figure_svg(fig))


def points(path: str) -> np.ndarray:
    return np.array(re.findall(r"-?\d+(?:\.\d+)?", path), dtype=float).reshape(-1, 2)


def test_a_line_keeps_its_shape_and_takes_the_page_s_colour():
    y = [0.0, 3.0, 1.0, 2.0]
    fig, ax = plt.subplots()
    ax.plot(y, color=COLORS[0], solid_joinstyle="bevel")
    svg = drawn(fig)
    (line,) = [p for p in svg.iter("path") if "var(--plot-0,#0072b2)" in p.attrib.get("style", "")]
    x, height = points(line.attrib["d"]).T
    assert np.diff(x) == pytest.approx(np.full(3, np.diff(x).mean()), abs=0.11)  # tenths of a point
    assert (height[0] - height) / (height[0] - height[1]) * 3 == pytest.approx(y, abs=0.01)
    assert "#000000" not in figure_svg(fig)
    width, _ = map(float, svg.attrib["viewBox"].split()[2:])
    assert width <= 72 * plots.WIDTH + 6


def test_grays_are_mixed_of_ink_and_paper_and_words_are_words():
    fig, ax = plt.subplots()
    ax.axhspan(0, 1, color="0.8")
    ax.text(0.5, 0.5, "a <b> & σ", color="white")
    svg = drawn(fig)
    styles = [node.attrib.get("style", "") for node in svg.iter()]
    assert sum("color-mix(in srgb,currentColor 20%,var(--plot-paper,#fff))" in s for s in styles) >= 1
    (text,) = [t for t in svg.iter("text") if "σ" in "".join(t.itertext())]
    assert "".join(text.itertext()) == "a <b> & σ"
    assert "fill:var(--plot-paper,#fff)" in text.attrib["style"]
    assert "font-family" not in figure_svg(fig)


def test_nothing_covers_the_page():
    """Neither a figure nor its axes has a ground of its own."""
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    assert not re.search(r"fill:var\(--plot-paper,#fff\)", figure_svg(fig))


def test_a_thousand_dots_are_one_path_where_they_were():
    y = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = torch.stack([torch.linspace(-1, 1, 1000), y], 1)
    fig = plots.scatter({"a": x}, limit=1)
    (path,) = [p for p in drawn(fig).iter("path") if "stroke-linecap:round" in p.attrib.get("style", "")]
    dots = points(re.sub("h0", "", path.attrib["d"]))
    assert dots.shape == (1000, 2)
    for axis, sign in ((0, 1), (1, -1)):  # SVG counts downwards
        assert np.corrcoef(dots[:, axis], sign * x[:, axis])[0, 1] > 0.9999


def test_the_same_figure_gives_the_same_text():
    def text() -> str:
        fig, ax = plt.subplots()
        ax.plot([1, 3, 2], "o--", label="a")
        ax.legend()
        return figure_svg(fig)

    assert text() == text()
    assert "date" not in text().lower()


def test_references_lead_somewhere_and_nothing_else_has_a_name():
    fig, ax = plt.subplots()
    ax.plot([1, 3, 2], "s")
    svg = figure_svg(fig)
    named = re.findall(r'\bid="([^"]+)"', svg)
    assert set(named) == set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    assert len(named) == len(set(named))


def test_a_gallery_is_found_with_its_pictures():
    colours = torch.linspace(0, 1, 5)
    fig = plots.show({f"p{i}": c.expand(3, 20, 30) for i, c in enumerate(colours)}, ncols=3)
    assert is_gallery(fig)
    found = panels(fig)
    assert found["ncols"] == 3
    assert [title for title, *_ in found["panels"]] == ["p0", "p1", "p2", "p3", "p4"]
    fig.canvas.draw()
    dots = np.asarray(fig.canvas.buffer_rgba())[..., :3]
    height, width = dots.shape[:2]
    for (_, left, top, right, bottom), colour in zip(found["panels"], colours, strict=True):
        inside = dots[
            int(np.ceil(top * height)) : int(bottom * height), int(np.ceil(left * width)) : int(right * width)
        ]
        assert inside.shape[1] / inside.shape[0] == pytest.approx(1.5, rel=0.02)
        assert np.abs(inside.astype(int) - int(255 * colour)).max() <= 1


def test_a_chart_is_no_gallery():
    fig, ax = plt.subplots()
    ax.imshow(np.zeros((4, 4, 3)))
    assert not is_gallery(fig)  # it has axes
    assert not is_gallery(plots.curves({"a": [1, 2]}).figure)
    assert is_gallery(plots.show(torch.rand(2, 3, 4, 5)))


@pytest.mark.parametrize(("size", "dpi"), [(16, 130), (300, 150), (900, 200)])
def test_a_gallery_is_stored_with_a_dot_for_each_pixel_and_not_too_many(size, dpi):
    fig = plots.show({"a": torch.rand(3, size, size)}, width=2.0)
    assert in_notebook.dpi_of(fig) == pytest.approx(dpi)


class TestLooks:
    def test_a_norm_has_its_own_colour_in_every_figure(self):
        few = plots.curves({"batch norm": [1, 2], "plain": [2, 1]}).lines
        many = plots.curves({k: [1, 2] for k in ("no norm", "group (8)", "instance", "batch")}).lines
        assert few[0].get_color() == many[3].get_color() == COLORS[NORM_COLORS["batch"]]
        assert few[1].get_color() == many[0].get_color() == COLORS[NORM_COLORS["no norm"]]
        assert len({line.get_color() for line in many}) == 4

    def test_where_several_curves_name_one_norm_none_of_them_has_its_colour_alone(self):
        lines = plots.curves({k: [1, 2] for k in ("plain × 2", "plain × 1", "batch norm")}).lines
        assert len({line.get_color() for line in lines}) == 3
        assert lines[2].get_color() == COLORS[NORM_COLORS["batch"]]

    def test_curves_without_a_norm_take_the_colours_in_order(self):
        lines = plots.curves({k: [1, 2] for k in "abc"}).lines
        assert [line.get_color() for line in lines] == list(COLORS[:3])


def test_what_is_black_all_over_needs_no_colour():
    """A chart's shapes have the page's ink anyway."""
    fig, ax = plt.subplots()
    ax.bar([0], [1], color="black")
    ax.bar([1], [1], color=COLORS[0])
    ax.set_axis_off()
    bars = [p.attrib.get("style", "") for p in drawn(fig).iter("path")]
    assert sum("fill:" in style for style in bars) == 1


def test_a_label_on_its_side_stays_so():
    fig, ax = plt.subplots()
    ax.set_ylabel("loss")
    (label,) = [t for t in drawn(fig).iter("text") if t.text == "loss"]
    assert "rotate(-90 " in label.attrib["transform"]


@pytest.mark.parametrize(("look", "uses"), [({"mew": 0}, 0), ({"mfc": "none"}, 60)])
def test_many_full_dots_become_one_path_and_rings_stay_rings(look, uses):
    fig, ax = plt.subplots()
    ax.plot(range(60), "o", ls="", **look)
    ax.set_axis_off()
    assert figure_svg(fig).count("<use") == uses


def test_a_notebook_stores_each_figure_in_its_best_form_and_with_its_numbers():
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    interactive.instance()
    try:
        plots.setup()
        formats = {}
        for kind in ("chart", "photo"):
            fig, ax = plt.subplots()
            if kind == "chart":
                ax.plot([0, 1])
            else:
                ax.imshow(torch.rand(8, 8, 3).numpy())
            formats[kind], _ = interactive.instance().display_formatter.format(fig)
    finally:
        interactive.clear_instance()
    assert {kind: set(found) & {"image/png", "image/jpeg"} for kind, found in formats.items()} == {
        "chart": {"image/png"},
        "photo": {"image/jpeg"},
    }
    with PIL.Image.open(io.BytesIO(formats["chart"]["image/png"])) as picture:
        assert picture.mode == "P"
    for found in formats.values():
        assert found[in_notebook.MIME_TYPE]["axes"]
