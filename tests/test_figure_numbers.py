"""The numbers that a figure carries: all that it shows, and little of it."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from normtut import plots
from normtut.book import in_notebook
from normtut.book.figure_numbers import figure_numbers


def panel(draw, **settings):
    """What is read off a figure with one panel."""
    fig, ax = plt.subplots()
    draw(ax)
    ax.set(**settings)
    return figure_numbers(fig)["axes"][0]


def test_words_limits_and_scales():
    fig, ax = plt.subplots()
    ax.plot([1, 10], [2, 3], label="plain")
    ax.plot([1, 10], [3, 2], label="_hidden")
    ax.set(title="t", xlabel="step", ylabel="loss", xscale="log", xlim=(1, 10), ylim=(4, 0))
    ax.text(1, 1, "here")
    ax.annotate("there", (1, 1), (2, 2), arrowprops={})
    ax.legend()
    fig.suptitle("above")
    found = figure_numbers(fig)
    assert found["texts"] == ["above"]
    (axes,) = found["axes"]
    assert [line.get("label") for line in axes["lines"]] == ["plain", None]
    del axes["lines"]
    assert axes == {
        "title": "t",
        "xlabel": "step",
        "ylabel": "loss",
        "xscale": "log",
        "xlim": "1 10",
        "ylim": "4 0",
        "texts": ["here", "there"],
        "legend": ["plain"],
    }


def test_names_on_an_axis_and_the_bars():
    found = panel(lambda ax: ax.barh(["plain", "norm"], [0.25, 0.5], height=1, color=["red", "blue"]))
    assert found["yticks"] == ["plain", "norm"]
    (bars,) = found["bars"]
    assert bars == {
        "n": 2,
        "x0": "0 0",
        "y0": "-0.5 0.5",
        "x1": "0.25 0.5",
        "y1": "0.5 1.5",
        "rgb": "ff00000000ff",
    }
    assert "xticks" not in found  # numbers on ticks follow from the limits
    assert "patches" not in found


def test_a_long_series_is_thinned_and_says_how_far_it_goes():
    y = np.zeros(1000)
    y[501], y[600], y[700] = 3, 99, np.nan  # in the picture, above it, nowhere
    (line,) = panel(lambda ax: ax.plot(y), ylim=(-1, 4))["lines"]
    assert line["n"] == 1000
    assert line["x"] == "0 … 999"
    assert len(line["y"].split()) == 32
    assert line["yrange"] == "0 0.003006 3"
    (short,) = panel(lambda ax: ax.plot([0.5, 1.0, np.nan, -0.0, 1e-9]))["lines"]
    assert short["y"] == "0.5 1 nan 0 1e-09"


def test_steps_polygons_spans_and_arrows():
    def draw(ax):
        ax.stairs([3, 1], [0, 1, 2], label="steps")
        ax.fill([0, 1, 2, 3, 4, 0], [0, 2, 1, 2, 0, 0])
        ax.axhspan(0, 1, color="0.5")
        ax.add_patch(plt.matplotlib.patches.FancyArrowPatch((0, 0), (1, 1)))

    steps, polygon, boxes = panel(draw)["patches"]
    assert (steps["label"], steps["x"], steps["y"]) == ("steps", "0 … 2", "3 1")
    assert polygon["y"] == "0 2 1 2 0 0"
    assert (boxes["n"], boxes["y0"], boxes["y1"], boxes["rgb"]) == (1, "0", "1", "808080")


def test_points_and_areas():
    (points,) = panel(lambda ax: ax.scatter([1, 2], [3, 4], c=[0.0, 1.0], cmap="gray"))["collections"]
    assert (points["x"], points["y"], points["rgb"]) == ("1 2", "3 4", "000000ffffff")
    (area,) = panel(lambda ax: ax.fill_between([0, 1], [1, 2]))["collections"]
    assert set(area["y"].split()) == {"0", "1", "2"}
    one, two = (
        panel(lambda ax, sign=sign: ax.contour(sign * np.arange(9.0).reshape(3, 3)))["collections"]
        for sign in (1, -1)
    )
    assert one != two


@pytest.mark.parametrize("draw", ["imshow", "pcolormesh"])
def test_images_are_thumbnails_of_what_is_seen(draw):
    x = np.arange(24.0 * 36).reshape(24, 36)
    found = panel(lambda ax: getattr(ax, draw)(x, cmap="gray"))
    (image,) = found["images" if draw == "imshow" else "collections"]
    assert image["size"] == "24 × 36"
    thumbnail = np.frombuffer(bytes.fromhex(image["rgb"]), np.uint8).reshape(12, 12, 3)
    means = (x * 255 / x.max()).reshape(12, 2, 12, 3).mean((1, 3))
    assert np.abs(thumbnail - means[..., None]).max() < 2  # a colour map has 256 entries
    flat = panel(lambda ax: getattr(ax, draw)(np.zeros((1, 1))))
    assert "step" in json.dumps(flat)


def test_nothing_in_the_figure_changes():
    fig = plots.curves({"y": [1.0, 2.0]}).figure
    before = in_notebook.render(fig, "png", metadata={"Software": None})
    figure_numbers(fig)
    assert in_notebook.render(fig, "png", metadata={"Software": None}) == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.show(torch.rand(24, 3, 32, 32)),
        lambda: plots.axes_picture(),
        lambda: plots.histograms({title: torch.rand(3, 32, 32) for title in "abcd"}),
        lambda: plots.curves({label: range(500) for label in "abcdefgh"}).figure,
        lambda: plots.orientations({"a": torch.rand(9, 16, 16)}, ncols=1),
    ],
)
def test_they_are_few_and_no_json_is_broken(draw):
    fig = draw()
    fig.axes[0].set_title("nan")
    found = figure_numbers(fig)
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert len(text) < 9000
    assert text.count(",") < 300  # each item of a list is a line of the notebook


def test_spare_panels_say_nothing():
    fig = plots.histograms(dict.fromkeys("abc", torch.rand(3, 4, 4)), ncols=2)
    assert len(fig.axes) == 4
    assert [axes["title"] for axes in figure_numbers(fig)["axes"]] == ["a", "b", "c"]
