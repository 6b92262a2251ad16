"""The figures' own arithmetic: what is painted, what is drawn, what is refused."""

import logging
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch

from normtut import plots
from normtut.style import StyleTransfer


def test_setup_needs_no_ipython(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    with mpl.rc_context({"lines.linewidth": 1}):
        plots.setup()
        assert mpl.rcParams["lines.linewidth"] == 2


class TestPainted:
    def test_values_in_range_are_multiplied_by_255_and_truncated(self):
        x = torch.linspace(0, 1, 3 * 17 * 23).view(3, 17, 23)
        pixels, messages = plots.painted(x)
        assert torch.equal(pixels, x.mul(255).byte())
        assert messages == []

    def test_values_outside_are_clipped_and_matplotlib_says_so(self):
        x = torch.linspace(-2, 3, 3 * 40).view(3, 5, 8)
        pixels, messages = plots.painted(x)
        assert torch.equal(pixels, x.clamp(0, 1).mul(255).byte())
        assert len(messages) == 1
        assert "Clipping input data" in messages[0]

    def test_gray_pictures_are_stretched_from_lowest_to_highest(self):
        pixels, messages = plots.painted(torch.tensor([[-2.0, 0.5, 3.0]]))
        viridis = (np.array(plt.get_cmap("viridis")([0.0, 0.5, 1.0]))[:, :3] * 255).astype(int)
        assert np.abs(pixels[:, 0].T.numpy().astype(int) - viridis).max() <= 1
        assert messages == []

    def test_uint8_and_half_precision(self):
        levels = torch.arange(0, 192, dtype=torch.uint8).view(3, 8, 8)
        assert torch.equal(plots.painted(levels)[0], levels)
        assert plots.painted(torch.ones(3, 2, 2, dtype=torch.bfloat16))[0].unique().tolist() == [255]

    @pytest.mark.parametrize("propagate", [True, False])
    def test_the_logger_is_left_as_it_was(self, propagate, monkeypatch):
        logger = logging.getLogger("matplotlib.image")
        monkeypatch.setattr(logger, "propagate", propagate)
        handlers = list(logger.handlers)
        plots.painted(torch.full((3, 2, 2), 7.0))
        assert logger.propagate is propagate
        assert logger.handlers == handlers

    def test_a_wrong_shape_is_named(self):
        with pytest.raises(ValueError, match=r"x must be .* got \(2, 4, 4\)"):
            plots.painted(torch.rand(2, 4, 4))


class TestRoundtripErrors:
    def test_draws_what_it_was_given(self):
        offsets = {
            "up": {"a": torch.full((3, 256), 0.25), "b": torch.zeros(256)},
            "down": {"a": torch.full((3, 256), -0.5), "b": torch.zeros(256)},
        }
        fig = plots.roundtrip_errors(offsets, {"up": (0, 1), "down": (-0.5, 0.5)})
        assert [ax.get_title() for ax in fig.axes] == ["up", "down"]
        for ax, value in zip(fig.axes, (0.25, -0.5), strict=True):
            a, b = ax.lines
            assert len(a.get_ydata()) == 768
            assert set(np.asarray(a.get_ydata()).tolist()) == {value}
            assert len(b.get_ydata()) == 256
            assert np.asarray(b.get_xdata()).tolist() == list(range(256))


class TestDescents:
    def test_draws_the_path_the_lowest_point_and_contours_around_it(self):
        lowest = torch.tensor([4.0, -1.0], dtype=torch.float64)
        path = torch.tensor([[0.0, 0.0], [2.0, -2.0], [3.0, -0.5]], dtype=torch.float64)
        steep = torch.tensor([1.0, 9.0], dtype=torch.float64)

        def loss(w):
            return ((w - lowest) ** 2 * steep).sum(-1) + 5

        fig = plots.descents({"valley": (loss, path, lowest)}, xlabel="a", ylabel="b")
        (ax,) = fig.axes
        assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("valley", "a", "b")
        assert ax.get_aspect() == 1  # one scale: a valley is as narrow as it looks
        drawn, star = ax.lines
        assert drawn.get_xydata().tolist() == path.tolist()
        assert star.get_xydata().tolist() == [lowest.tolist()]
        heights = [
            loss(torch.from_numpy(p.vertices))
            for c in ax.collections
            for p in c.get_paths()
            if len(p.vertices)
        ]
        start = loss(path[0]).item()
        assert len(heights) >= 6
        for h in heights:  # each contour is level; one of them begins where the path does
            assert h.max() - h.min() < 0.02 * start
        assert min(abs(h.mean().item() - start) for h in heights) < 0.02 * start
        for point in (*path, lowest):
            assert ax.get_xlim()[0] < point[0] < ax.get_xlim()[1]
            assert ax.get_ylim()[0] < point[1] < ax.get_ylim()[1]


class TestShow:
    def test_pixels_reach_the_axes_unchanged(self):
        x = torch.rand(2, 3, 4, 5)
        fig = plots.show(x)
        for picture, ax in zip(x, fig.axes, strict=True):
            assert np.array_equal(ax.images[0].get_array(), picture.permute(1, 2, 0).numpy())

    def test_a_batch_of_one_is_a_picture_and_a_batch_of_two_is_not(self):
        x = torch.rand(2, 3, 4, 5)
        fig = plots.show({"one": x[:1]})
        assert np.array_equal(fig.axes[0].images[0].get_array(), x[0].permute(1, 2, 0).numpy())
        with pytest.raises(ValueError, match=r"'two' must be .* got \(2, 3, 4, 5\)"):
            plots.show({"two": x})

    def test_floats_outside_0_to_1_are_refused_unless_clipped(self):
        x = {"z": torch.full((3, 2, 2), -1.5)}
        with pytest.raises(ValueError, match=r"'z' has values from -1\.5 to -1\.5"):
            plots.show(x)
        assert plots.show(x, clip=True).axes[0].images[0].get_array().max() == 0

    @pytest.mark.parametrize("shape", [(3, 0, 4), (1, 3, 4, 0), (0, 4)])
    def test_a_picture_without_pixels_is_named(self, shape):
        with pytest.raises(ValueError, match=r"picture 0 must be .* not empty, got \("):
            plots.show([torch.zeros(shape)])
        with pytest.raises(ValueError, match="picture 0 must be"):
            plots.show([torch.zeros(shape)], clip=True)

    @pytest.mark.parametrize("picture", [np.zeros((8, 8)), PIL.Image.new("RGB", (8, 8))])
    def test_what_is_no_tensor_is_named(self, picture):
        with pytest.raises(TypeError, match=rf"picture 0 must be a torch.Tensor.*{type(picture).__name__}"):
            plots.show([picture])
        with pytest.raises(TypeError, match=r"images must be .* got Image"):
            plots.show(PIL.Image.new("RGB", (8, 8)))


class TestHistograms:
    def test_each_channel_has_a_density_that_integrates_to_one(self):
        fig = plots.histograms({"x": torch.rand(2, 3, 16, 16)}, bins=10, value_range=(0, 1))
        steps = fig.axes[0].patches
        assert [s.get_label() for s in steps] == ["R", "G", "B"]
        for step in steps:
            values, edges, _ = step.get_data()
            assert (values * np.diff(edges)).sum() == pytest.approx(1)

    @pytest.mark.parametrize("shape", [(8, 8), (3, 0, 4)])
    def test_a_wrong_shape_is_named(self, shape):
        with pytest.raises(ValueError, match=r"x\['a'\] must be .* got \(\d, \d"):
            plots.histograms({"a": torch.rand(shape)})


@pytest.mark.parametrize("ncols", [1, 2, 3, 4])
def test_any_number_of_columns_and_the_spare_axes_are_hidden(ncols):
    fig = plots.histograms(dict.fromkeys("abc", torch.rand(3, 4, 4)), ncols=ncols)
    shown = [ax for ax in fig.axes if ax.axison]
    assert [ax.get_title() for ax in shown] == ["a", "b", "c"]
    assert len(fig.axes) - len(shown) == (1 if ncols == 2 else 0)
    for i, ax in enumerate(shown):  # the lowest panel of each column has the labels
        lowest = i + ncols >= 3
        assert ax.get_xlabel() == ("value" if lowest else "")
        assert ax.xaxis.get_tick_params()["labelbottom"] is lowest


def test_curves_draw_every_series_against_x():
    ax = plots.curves({"a": [3.0, 2.0], "b": [1.0, 0.0]}, x=[10, 20], ylabel="error")
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert ax.lines[1].get_ydata().tolist() == [1.0, 0.0]
    assert ax.lines[0].get_xdata().tolist() == [10, 20]
    assert ax.get_ylabel() == "error"


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (plots.show, "images"),
        (plots.axes_picture, "norms"),
        (plots.histograms, "x"),
        (lambda nothing: plots.roundtrip_errors(nothing, {}), "offsets"),
        (plots.curves, "ys"),
        (lambda nothing: plots.descents(nothing, xlabel="", ylabel=""), "panels"),
        (plots.bars, "panels"),
        (lambda nothing: plots.stacked(nothing, ["a"]), "parts"),
        (plots.by_rank, "panels"),
        (plots.messages, "panels"),
        (lambda nothing: plots.scatter(nothing, limit=1), "panels"),
        (lambda nothing: plots.error_bars(nothing, xlabel=""), "panels"),
        (lambda nothing: plots.orientations(nothing, ncols=2), "panels"),
    ],
)
def test_of_nothing_no_figure_is_drawn(draw, name):
    with pytest.raises(ValueError, match=f"^{name} is empty: there is nothing to draw$"):
        draw({})
    assert not plt.get_fignums()


def test_what_a_picture_to_play_with_cannot_show_is_named() -> None:
    with pytest.raises(ValueError, match=r"photo must be uint8 .*, got torch\.float32, \(3, 4, 4\)"):
        plots.clipping_explorer(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"images must be of shape \(N, H, W\), got \(2, 3\)"):
        plots.running_explorer(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="styles must be two, got 1: a"):
        plots.mixing_explorer(StyleTransfer(), torch.zeros(3, 8, 8), {"a": torch.zeros(3, 8, 8)})
