"""The comparison of outputs as numbers: what passes, what does not, and that nbval is told."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure

from nbnumbers import (
    FIGURE,
    Number,
    Tolerance,
    color_differences,
    figure_differences,
    read_lines,
    text_differences,
    tolerance,
)
from normtut.book.figure_numbers import MIME_TYPE, figure_numbers

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "book" / "_tools"

# --- text ---------------------------------------------------------------------------------------------------


def numbers(text: str) -> list[str]:
    return [t.text for line in read_lines(text) for t in line.tokens if isinstance(t, Number)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BatchNorm2d conv1 layer1.0.conv2 float32 F1", []),
        ("torch 2.14.1, Python 3.11", ["3.11"]),
        ("1,141 patches in 1,234,567.5 s; (1,141)", ["1,141", "1,234,567.5", "1,141"]),
        ("((1141, 3, 32, 32), (285, 3))", ["1141", "3", "32", "32", "285", "3"]),
        ("tensor([ 1.0000, -2.5e-05, 3.])", ["1.0000", "-2.5e-05", "3."]),
        ("−0.5 -0.5 +0.5 .5 -.5 ±1", ["−0.5", "-0.5", "+0.5", ".5", "-.5", "1"]),
        ("5-3 = 2, f(x)-1, x[0]-1, 3e8+2", ["5", "3", "2", "1", "0", "1", "3e8", "2"]),
        ("nan inf -inf −∞ information nano", ["nan", "inf", "-inf", "−∞"]),
        ("61% 61 % 9.1 ms 3 σ 0.64σ 2× 2x 10⁻⁷ 3j", ["61", "61", "9.1", "3", "0.64", "2", "2", "10", "3"]),
        ("the loss is 0.5. It was 1.", ["0.5", "1."]),
        ("[0.1,0.2] 1/255 3:4 0x7f x_1 #12", ["0.1", "0.2", "1", "255", "3", "4", "0", "12"]),
        ("1E+03 1e−5 2e 1_000", ["1E+03", "1e−5", "2", "1"]),
    ],
)
def test_numbers_are_found(text: str, expected: list[str]) -> None:
    assert numbers(text) == expected


SAME = [
    ("0.63", "0.64"),
    ("0.63", "0.62"),
    ("9.99", "10.00"),
    ("a:  9.99 s", "a: 10.00 s"),
    ("-0.00", "0.00"),
    ("[-0.01 0.50]", "[ 0.00  0.50]"),
    ("tensor([ 1.0000, -2.5000e-05])", "tensor([1.0001, -2.5001e-05])"),
    ("tensor([[ 1., -1.],\n        [ 1., -1.]])", "tensor([[ 1., -1.], [ 1., -1.]])"),
    ("1.", "1.0000"),
    ("0.999", "1"),
    ("1e+03", "999"),
    ("1,141.5", "1141.4"),
    ("61%", "62%"),
    ("61 %", "60 %"),
    ("nan inf -inf", "nan inf −inf"),
    ("−0.50", "-0.51"),
    ("a b\n\nc\n", "a  b\nc"),
    ("5.2e-07", "5.1e-07"),
]
DIFFERENT = [
    ("0.63", "0.65"),
    ("0.63", "0.61"),
    ("0.63", "-0.63"),
    ("9.98", "10.0"),
    ("1.", "2."),
    ("1.", "1.0002"),
    ("1e+03", "400"),
    ("12 patches", "13 patches"),
    ("(1141, 3)", "(1142, 3)"),
    ("1,141", "1,142"),
    ("61%", "63%"),
    ("61 %", "61 s"),
    ("nan", "0.0"),
    ("nan", "inf"),
    ("inf", "-inf"),
    ("inf", "1e308"),
    ("5.2e-07", "5.4e-07"),
    ("5.2e-07", "5.2e-06"),
    ("True", "False"),
    ("conv1", "conv2"),
    ("torch 2.14.1", "torch 2.14.2"),
    ("plain < batch norm", "batch norm < plain"),
    ("a\nb", "a b"),
    ("a\nb", "a"),
    ("a", ""),
    ("1 2", "1 2 3"),
    ("1 2", "12"),
    ("9.1 ms", "9.1 s"),
]


@pytest.mark.parametrize(("stored", "new"), SAME)
def test_what_is_equal_as_printed_passes(stored: str, new: str) -> None:
    assert text_differences(stored, new) == []
    assert text_differences(new, stored) == []


@pytest.mark.parametrize(("stored", "new"), DIFFERENT)
def test_what_differs_is_found(stored: str, new: str) -> None:
    assert text_differences(stored, new)
    assert text_differences(new, stored)


def test_the_message_names_the_line_the_numbers_and_what_is_allowed() -> None:
    (message,) = text_differences("loss\nplain 1.80, norm 0.63", "loss\nplain 1.81, norm 0.67")
    assert "line 2: stored 0.63, new 0.67 (may differ by 0.01)" in message
    assert "plain 1.80, norm 0.63" in message
    assert "plain 1.81, norm 0.67" in message


def test_tags_give_tolerances() -> None:
    assert tolerance(["draw-cell", "approx-20%"]) == Tolerance(0.2, 0)
    assert tolerance(["approx-0.5%", "approx-3"]) == Tolerance(0.005, 3)
    for tag in ("approx", "approx-", "approx-20 %", "approx20%", "approx-%"):
        with pytest.raises(ValueError, match="approx-20%"):
            tolerance([tag])


@pytest.mark.parametrize(
    ("stored", "new", "tag", "passes"),
    [
        ("10.00", "12.00", "approx-20%", True),
        ("10.00", "8.00", "approx-20%", True),
        ("10.00", "12.01", "approx-20%", False),
        ("-10.00", "-12.00", "approx-20%", True),
        ("-10.00", "10.00", "approx-20%", False),
        ("50 steps", "60 steps", "approx-20%", True),
        ("50 steps", "61 steps", "approx-20%", False),
        ("0.00", "0.01", "approx-20%", True),  # what is printed is allowed in any case
        ("0.00", "0.02", "approx-20%", False),
        ("0.00", "0.05", "approx-0.05", True),
        ("0.00", "0.06", "approx-0.05", False),
        ("61 %", "56 %", "approx-5", True),
        ("61 %", "55 %", "approx-5", False),
        ("nan", "1.0", "approx-50%", False),
        ("inf", "1.0", "approx-50%", False),
        ("2 rose", "2 fell", "approx-50%", False),
    ],
)
def test_tolerances(stored: str, new: str, tag: str, passes: bool) -> None:
    assert (text_differences(stored, new, tolerance([tag])) == []) is passes


# --- figures ------------------------------------------------------------------------------------------------


def figure(draw, **settings):
    """The numbers of a figure with one panel, drawn without a screen."""
    fig = Figure()
    ax = fig.subplots()
    draw(ax)
    ax.set(**settings)
    return figure_numbers(fig)


def curve(y, **settings):
    return figure(lambda ax: ax.plot(y, label="loss"), ylim=(0, 2), **settings)


Y = np.linspace(1.8, 0.6, 100)


def test_both_files_name_one_type() -> None:
    assert FIGURE == MIME_TYPE


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (lambda y: y + 0.003, True),  # 0.2 % of the axis are 0.004
        (lambda y: y + 0.02, False),
        (lambda y: -y, False),
        (lambda y: y[::-1], False),
        (lambda y: y[:-1], False),
        (lambda y: np.where(np.arange(100) == 50, 1.9, y), False),  # a spike that thinning would miss
        (lambda y: np.where(np.arange(100) > 90, np.nan, y), False),
    ],
)
def test_another_curve_is_found(change, passes: bool) -> None:
    found = figure_differences(curve(Y), curve(change(Y)))
    assert (found == []) is passes, found


def test_a_curve_has_the_tolerance_of_its_cell_in_shares_of_the_axis() -> None:
    assert figure_differences(curve(Y), curve(Y + 0.3), tolerance(["approx-20%"])) == []
    assert figure_differences(curve(Y), curve(Y + 0.5), tolerance(["approx-20%"]))
    assert figure_differences(curve(Y), curve(Y + 0.3), tolerance(["approx-0.3"])) == []
    assert figure_differences(curve(Y), curve(Y + 0.4), tolerance(["approx-0.3"]))


def test_what_is_beyond_the_axis_is_not_compared() -> None:
    """A loss that has left the picture may have gone anywhere; when it left is seen."""

    def broken(at, value):
        return curve(np.where(np.arange(100) > at, value, Y), xlim=(0, 99))

    for other in (7e12, np.inf, np.nan):
        assert figure_differences(broken(50, 1e9), broken(50, other)) == []
    assert figure_differences(broken(50, 1e9), broken(30, 1e9))
    assert figure_differences(broken(50, 1e9), broken(50, 1.0))
    # With a tolerance, what has left the picture may be back near its edge: 1.9 of 2, and not at 1.5.
    kept, gone, near, far = (curve([1.0, end], xlim=(0, 1)) for end in (2.0, 1e9, 1.9, 1.5))
    assert figure_differences(gone, near, Tolerance(0.2)) == []
    assert figure_differences(near, gone, Tolerance(0.2)) == []
    assert figure_differences(gone, far, Tolerance(0.2))
    assert figure_differences(kept, gone) == []


def test_logarithmic_axes_are_compared_in_decades() -> None:
    def errors(factor):
        return figure(lambda ax: ax.plot([factor * 1e-7, 1e-3]), yscale="log", ylim=(1e-8, 1e-2), xlim=(0, 1))

    assert figure_differences(errors(1), errors(1.02)) == []  # 0.0086 of six decades
    assert figure_differences(errors(1), errors(1.1))
    assert figure_differences(errors(1), errors(8), tolerance(["approx-20%"])) == []
    assert figure_differences(errors(1), errors(30), tolerance(["approx-20%"]))


@pytest.mark.parametrize(
    "settings", [{"title": "b"}, {"xlabel": "epoch"}, {"xlim": (0, 50)}, {"yscale": "log"}]
)
def test_other_words_limits_and_scales_are_found(settings: dict) -> None:
    stored = {"title": "a", "xlim": (0, 99)}
    assert figure_differences(curve(Y, **stored), curve(Y, **(stored | settings)))


def test_bars_are_compared_with_their_names() -> None:
    def bars(**heights):
        return figure(lambda ax: ax.bar_label(ax.bar(list(heights), list(heights.values()))), ylim=(0, 1))

    changed = figure_differences(bars(plain=0.5, norm=0.9), bars(plain=0.502, norm=0.9))
    assert "stored 0.5, new 0.502" in changed[0]  # the label, not the bar
    assert figure_differences(bars(plain=0.5, norm=0.9), bars(plain=0.5, norm=0.9)) == []
    assert figure_differences(bars(plain=0.5, norm=0.9), bars(plain=0.9, norm=0.5))
    assert figure_differences(bars(plain=0.5, norm=0.9), bars(other=0.5, norm=0.9))
    assert figure_differences(bars(plain=0.5, norm=0.9), bars(plain=0.6, norm=0.9), Tolerance(0.2)) == []


def test_pictures_are_compared_by_what_is_seen() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(40, 200, (8, 8, 3)).repeat(12, 0).repeat(12, 1).astype(np.uint8)

    def picture(pixels):
        return figure(lambda ax: ax.imshow(pixels))

    noise = rng.integers(-1, 2, photo.shape) * (rng.random(photo.shape) < 0.3)
    assert figure_differences(picture(photo), picture((photo + noise).astype(np.uint8))) == []
    assert figure_differences(picture(photo), picture(photo / 255)) == []  # what imshow makes of floats
    for other in (
        255 - photo,
        photo[::-1],
        photo[:, ::-1],
        photo[..., ::-1],
        (photo * 0.95).astype(np.uint8),
        np.full_like(photo, 128),
        photo[:48],
        (photo + 8 * (-1) ** np.indices(photo.shape).sum(0)).astype(np.uint8),  # the same means
    ):
        assert figure_differences(picture(photo), picture(other))
    darker = (photo * 0.95).astype(np.uint8)
    assert figure_differences(picture(photo), picture(darker), Tolerance(0.1)) == []


def test_limits_are_compared_as_such() -> None:
    """They are never beyond themselves."""
    stored = curve([1.0], xlim=(0, 10))
    assert figure_differences(stored, curve([1.0], xlim=(0, 10.01))) == []
    assert "xlim" in figure_differences(stored, curve([1.0], xlim=(0, 100)))[0]
    assert figure_differences(stored, curve([1.0], xlim=(0, 12)), Tolerance(0.2)) == []


@pytest.mark.parametrize(
    ("stored", "new", "share", "passes"),
    [
        ("0080ff", "0280fd", 0, True),
        ("0080ff", "0380ff", 0, False),
        ("0080ff", "3380ff", 0.2, True),
        ("0080ff", "3480ff", 0.2, False),
        ("0080ff", "0080ff0080ff", 0.2, False),
    ],
)
def test_colours(stored: str, new: str, share: float, passes: bool) -> None:
    assert (color_differences(stored, new, Tolerance(share)) == []) is passes


def test_a_panel_more_is_found() -> None:
    one, two = Figure(), Figure()
    one.subplots(1, 1).plot([1, 2])
    for ax in two.subplots(1, 2):
        ax.plot([1, 2])
    (message,) = figure_differences(figure_numbers(one), figure_numbers(two))
    assert message == "figure.axes: 1 stored, 2 new"


# --- through nbval ------------------------------------------------------------------------------------------

SETUP = """\
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from normtut import plots
plots.setup()"""
CURVE = "line = plt.plot(np.linspace(3, 1, 50))"
PHOTO = "im = plt.imshow(np.indices((24, 24, 3)).sum(0) / 50)"


def edit(old: str, new: str):
    def change(output) -> None:
        for place in (output, output.get("data", {})):
            for key in ("text", "text/plain"):
                if key in place:
                    assert old in place[key]
                    place[key] = place[key].replace(old, new)

    return change


def series(factor: float):
    def change(output) -> None:
        (line,) = output.data[FIGURE]["axes"][0]["lines"]
        line["y"] = " ".join(f"{factor * float(v):.4g}" for v in line["y"].split())

    return change


def negative(output) -> None:
    (image,) = output.data[FIGURE]["axes"][0]["images"]
    image["rgb"] = bytes(255 - v for v in bytes.fromhex(image["rgb"])).hex()


def lighter(output) -> None:
    (image,) = output.data[FIGURE]["axes"][0]["images"]
    image["rgb"] = bytes(v + 1 for v in bytes.fromhex(image["rgb"])).hex()


# What is run, its tags, what is changed in the stored output, and what the report must say; None: it passes.
CELLS = [
    (SETUP, [], None, None),
    ("print('loss 0.635, 12 steps')", [], None, None),
    ("print('loss 0.635')", [], edit("0.635", "0.634"), None),
    ("print('loss 0.635')", [], edit("0.635", "0.633"), "stored 0.633, new 0.635"),
    ("print('loss 0.635')", [], edit("0.635", "-0.635"), "stored -0.635, new 0.635"),
    ("print('loss 0.635')", [], edit("loss", "lost"), "stored: lost 0.635"),
    ("print('12 steps')", [], edit("12", "13"), "stored 13, new 12"),
    ("print('12 steps')", ["approx-20%"], edit("12", "13"), None),
    ("print('12 steps')", ["approx-20%"], edit("12", "18"), "stored 18, new 12"),
    ("print('12 steps')", ["approx-20"], edit("12", "18"), None),
    ("print('12 steps')", ["aprox-20%"], edit("12", "13"), "stored 13, new 12"),
    ("print('12 steps')", ["approx-20 %"], None, "approx-20% or approx-0.05"),
    ("np.array([1.5, -2.25])", [], edit("-2.25", " 2.25"), "stored 2.25, new -2.25"),
    ("np.array([1.5, -2.25])", [], edit("-2.25", "-2.26"), None),
    ("print('12 steps')", ["nbval-ignore-output"], edit("12", "13"), None),
    ("raise ValueError('got 3')", ["raises-exception"], None, None),
    (CURVE, [], None, None),
    (CURVE, [], series(1.001), None),
    (CURVE, [], series(1.05), "figure.axes 1.lines 1.y: "),
    (CURVE, [], series(-1), "figure.axes 1.lines 1.y: "),
    (CURVE, ["approx-20%"], series(1.05), None),
    (CURVE, ["approx-20%"], series(-1), "figure.axes 1.lines 1.y: "),
    (PHOTO, [], lighter, None),
    (PHOTO, [], negative, "figure.axes 1.images 1.rgb: off by up to"),
    (CURVE, [], lambda output: output.data.pop(FIGURE), "Unexpected output fields"),
    ("missing = 1", [], "figure", "Missing output fields"),
    (CURVE, [], "nothing", "Unexpected output fields"),
    (
        "for i in range(2): display(plt.figure()); plt.close()",
        [],
        "one of two",
        "dissimilar number of outputs",
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict[int, str]:
    """What nbval says of each cell, '' where it passes: every change above in one notebook, run once."""
    from refresh import execute

    folder = tmp_path_factory.mktemp("nbnumbers")
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags, _, _ in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    execute(notebook, folder, "small.ipynb")
    drawn = copy.deepcopy(next(c.outputs for c in cells if c.source == CURVE))
    for cell, (_, _, change, _) in zip(notebook.cells, CELLS, strict=True):
        if change == "figure":
            cell.outputs = drawn
        elif change == "nothing":
            cell.outputs = []
        elif change == "one of two":
            del cell.outputs[1:]
        elif change is not None:
            change(cell.outputs[0])
    nbformat.write(notebook, folder / "small.ipynb")
    options = ["-p", "nbnumbers", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env", "--color=no"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={folder}", "small.ipynb"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{TOOLS}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    failed = {int(n) for n in re.findall(r"^FAILED small\.ipynb::Cell (\d+)", done.stdout, re.MULTILINE)}
    parts = re.split(r"^_+ .*[Cc]ell (\d+) _+$", done.stdout, flags=re.MULTILINE)
    said = {int(n): text for n, text in zip(parts[1::2], parts[2::2], strict=True)}
    assert set(said) == failed, done.stdout
    return {i: said.get(i, "") for i in range(len(CELLS))}


@pytest.mark.parametrize("index", range(len(CELLS)))
def test_nbval_is_told(report: dict[int, str], index: int) -> None:
    expected = CELLS[index][3]
    if expected is None:
        assert report[index] == ""
    else:
        assert expected in report[index]


def test_the_page_s_copy_of_a_picture_is_not_compared() -> None:
    """It is a picture, as the PNG beside it; what it shows is in the numbers."""
    stored = {**curve(Y), "page": {"svg": "<svg/>"}}
    assert figure_differences(stored, {**curve(Y), "page": {"svg": "<svg> </svg>"}}) == []
    assert figure_differences(stored, curve(Y)) == []
    assert figure_differences(stored, {**curve(Y + 1), "page": {"svg": "<svg/>"}})
