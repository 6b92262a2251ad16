"""The figures of chapters 7 and 8: what is drawn is what was given."""

import numpy as np
import torch

from normtut import plots


def test_bars_have_the_lengths_and_the_labels():
    fig = plots.bars({"a": {"x": 0.25, "y": 1.0}, "b": {"x": 0.5, "y": 0.0}}, marks={"a": 0.1}, percent=True)
    first, second = fig.axes
    assert [p.get_width() for p in first.patches] == [0.25, 1.0]
    assert [p.get_width() for p in second.patches] == [0.5, 0.0]
    assert [t.get_text() for t in first.texts] == ["25%", "100%"]
    assert first.lines[0].get_xdata() == [0.1, 0.1]
    assert not second.lines
    assert first.yaxis_inverted()  # the first name on top


def test_a_stroke_lies_along_the_edge_and_at_its_cell():
    histogram = torch.zeros(9, 3, 4)
    histogram[4, 1, 2] = 1.0  # gradient straight down: the edge is horizontal
    fig = plots.orientations({"picture": torch.rand(3, 8, 8), "strokes": histogram}, ncols=2)
    (strokes,) = fig.axes[1].collections
    ((start, end),) = strokes.get_segments()
    np.testing.assert_allclose((start + end) / 2, [2, 1], atol=1e-12)
    np.testing.assert_allclose(np.abs(end - start), [0.9, 0], atol=1e-12)
    np.testing.assert_allclose(strokes.get_colors()[0][:3], 0)
    assert len(fig.axes[0].images) == 1


def test_every_message_is_an_arrow_over_all_lanes_after_its_work():
    fig = plots.messages({"a": [("x", ""), ("y", "m")], "b": [("z", "n")]}, ranks=3)
    first, second = fig.axes
    assert [t.get_text() for t in first.texts if t.get_text()] == ["x"] * 3 + ["y"] * 3 + ["m"]
    boxes = [p for p in first.patches if p.get_height() > 0.5]
    assert len(boxes) == 6
    arrows = [t for t in first.texts if getattr(t, "arrow_patch", None)]
    (arrow,) = arrows
    assert arrow.xy[0] == arrow.xyann[0] > max(b.get_x() + b.get_width() for b in boxes)
    assert arrow.xy[1] > 0
    assert arrow.xyann[1] < -2
    assert [t.get_text() for t in second.get_yticklabels()] == ["rank 0", "rank 1", "rank 2"]


def test_ranks_are_drawn_in_one_panel_each_way():
    vectors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    fig = plots.by_rank({"without": vectors, "with": vectors[:1]})
    drawn = [[c.get_offsets().tolist() for c in ax.collections] for ax in fig.axes]
    assert drawn == [[[[0, 1], [1, 2]], [[0, 3], [1, 4]]], [[[0, 1], [1, 2]]]]


def test_error_bars_reach_from_the_lowest_run_to_the_highest():
    runs = {2: [0.5, 0.2, 0.2], 4: [0.1, 0.1, 0.1]}
    fig = plots.error_bars({"one": {"a": runs, "b": runs}, "two": {"a": runs, "b": runs}}, xlabel="x")
    assert [ax.get_title() for ax in fig.axes] == ["one", "two"]
    line, _, (bars,) = fig.axes[1].containers[0]
    np.testing.assert_allclose(line.get_ydata(orig=False), [0.3, 0.1])
    np.testing.assert_allclose(np.asarray(bars.get_segments())[:, :, 1], [[0.2, 0.5], [0.1, 0.1]])
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["a", "b"]


def test_points_lie_where_they_are_and_at_most_on_the_edge():
    points = {name: torch.tensor([[0.5, -1.0], [9.0, 0.0]]) for name in ("a", "b", "c")}
    fig = plots.scatter(points, marks=torch.tensor([[1.0, 2.0]]), limit=3)
    first, *_, fourth = fig.axes
    marks, dots = first.lines
    assert [marks.get_xdata().tolist(), marks.get_ydata().tolist()] == [[1], [2]]
    assert [dots.get_xdata().tolist(), dots.get_ydata().tolist()] == [[0.5, 3], [-1, 0]]
    assert len(fig.axes) == 4
    assert not fourth.axison  # a row of two, and one place is empty


def test_levels_of_eight_bits_are_shown_as_they_are():
    levels = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)
    (ax,) = plots.show([levels]).axes
    assert np.array_equal(ax.images[0].get_array(), levels.movedim(0, -1))
