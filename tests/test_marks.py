"""Marks: what is drawn equals the frame, the words say it, and the twin draws into axes that exist."""

import doctest
import importlib
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from clora_lab import methods
from clora_lab.lab import frames
from clora_lab.lab.figures import marks, style

CURVES = pd.DataFrame({"d": [1.0, 0.5, 0.25], "noise": [0.0, 0.8, np.nan]}, index=[0, 10, 20])
NETS = pd.DataFrame(
    {
        "method": ["dense", "wds", "wds", "noise_bias", "svd"],
        "rank": [0, 16, 32, 16, 16],
        "left": [100.0, 10.0, 20.0, 10.0, 10.0],
        "mean": [0.87, 0.83, 0.84, 0.86, 0.30],
        "sd": [0.01, 0.02, np.nan, 0.01, 0.01],
    }
)
TESTS = pd.DataFrame(
    {
        "group": ["start", "start", "noise"],
        "name": ["SVD", "random", "none"],
        "difference": [1.0, -0.4, -12.0],
        "low": [0.5, -1.0, -13.0],
        "high": [1.5, 0.2, -11.0],
        "verdict": ["better", "not told apart", "worse"],
        "note": ["87.00%", "85.60%", "74.00%"],
    }
)
CELLS = pd.DataFrame({"gate": [0, 0, 1, 1], "spread": [1, 2, 1, 2], "accuracy": [80.0, 81.0, 82.0, 83.5]})
ARRAYS = {"W": np.diag([1.0, -2.0]), "2 W": 2 * np.diag([1.0, -2.0])}
LINES = [{"cells": ["16", "82.10"], "bold": [1]}, {"cells": ["32", "83.20"]}]

FRAME = pd.DataFrame({"a": [0.1, 0.2, 0.4], "b": [0.3, np.nan, 0.25]}, index=[1, 2, 10])

FIGURES = {
    "lines": lambda: marks.lines(CURVES, "Decay", "Step", "d", "below", marks={"here": 15.0}),
    "bars": lambda: marks.bars(CURVES.dropna(), "Parts", "Share (%)", percent=True),
    "points": lambda: marks.points(NETS, "left", "Nets", "Left (%)", "Accuracy"),
    "differences": lambda: marks.differences(TESTS, "Tests", "Points"),
    "heat": lambda: marks.heat(
        {"a": CELLS, "b": CELLS}, "spread", "gate", "accuracy", "Map", "Spread", "Gate",
        framed={"a": {(1, 0): style.INK, (7, 7): style.INK}},
    ),
    "matrices": lambda: marks.matrices(ARRAYS, "Two"),
    "table": lambda: marks.table(["Rank", "Only\nWDS"], LINES, "A table", "below", left=1),
}  # fmt: skip


@pytest.fixture(scope="module")
def gallery():
    return {name: draw() for name, draw in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_large_enough_and_inside_the_figure(gallery, name):
    fig = gallery[name]
    fig.draw_without_rendering()
    width, height = fig.get_size_inches() * fig.dpi
    ticks = [label for ax in fig.axes for label in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in ticks:
            box = text.get_window_extent()
            assert text.get_fontsize() >= 9, text
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, text


@pytest.mark.parametrize("name", FIGURES)
def test_words_have_numbers_and_files_repeat(tmp_path, gallery, name):
    text = style.alt_text(gallery[name])
    assert text.endswith(".") and re.search(r"\d", text) and "nan" not in text
    again = [path.read_bytes() for path in style.save(FIGURES[name](), tmp_path / "again")]
    assert [path.read_bytes() for path in style.save(gallery[name], tmp_path / "first")] == again


def axes():
    return style.new_figure(3.0).subplots()


def test_lines_leave_out_what_is_empty():
    ax = axes()
    assert marks.draw_lines(ax, CURVES) == "d from 1 to 0.25; noise from 0 to 0.8"
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [0, 10])
    assert [line.get_label() for line in ax.lines] == ["d", "noise"]


def test_a_curve_with_a_spread_has_a_band():
    ax, look = axes(), style.of_method("wds")
    marks.draw_curve(ax, CURVES["d"], "d", look, sd=0.1 + 0 * CURVES["d"])
    edge = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert edge.max() == pytest.approx(1.1) and edge.min() == pytest.approx(0.15)
    marks.draw_curve(ax, CURVES["d"], "d", look, sd=np.nan * CURVES["d"])
    assert len(ax.collections) == 1 and len(ax.lines) == 2


@pytest.mark.parametrize("across", [False, True])
def test_bars_stand_side_by_side_or_stacked(across):
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["x", "y"])
    ax = axes()
    assert marks.draw_bars(ax, frame, across=across) == "x: a 1, b 3; y: a 2, b 4"
    long = [p.get_width() if across else p.get_height() for p in ax.patches]
    assert long == [1, 2, 3, 4]
    assert {text.get_text() for text in ax.texts} == {"1", "2", "3", "4"}
    ax = axes()
    marks.draw_bars(ax, frame, across=across, stacked=True)
    starts = [p.get_x() if across else p.get_y() for p in ax.patches]
    assert starts == [0, 0, 1, 2]


def test_points_stand_side_by_side_and_the_untrained_cut_at_the_edge():
    ax = axes()
    said = marks.draw_points(ax, NETS, "left", scale=100)
    assert said == "the best is Scheduled noise & bias with 86.0 at 10.0"
    labels = [container.get_label() for container in ax.containers]
    assert labels == [methods.label(name) for name in ("wds", "noise_bias", "svd")]
    low, high = ax.get_ylim()
    assert (low, high) == marks.limits(NETS) and low > 0.3 and high > 0.88
    assert [text.get_text() for text in ax.texts] == ["30.0\n▼"]
    assert ax.lines[-1].get_label() == "Dense" and set(ax.lines[-1].get_ydata()) == {0.87}
    star = axes()
    marks.draw_points(star, NETS, "left", band=False)
    assert star.containers[-1].get_label() == "Dense"
    marks.rank_axis(ax, NETS["left"].iloc[1:], NETS["rank"].iloc[1:])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10.0\nrank 16", "20.0\nrank 32"]
    losses = axes()
    marks.draw_points(losses, NETS.assign(mean=1 - NETS["mean"]), "left")
    assert [text.get_text() for text in losses.texts] == ["▲\n0.70"] and losses.get_ylim()[1] < 0.7


def test_differences_far_off_stand_at_the_edge():
    ax = axes()
    said = marks.draw_differences(ax, TESTS)
    assert said.startswith("SVD +1.00 points (better); random −0.40 points (not told apart)")
    assert [text.get_text() for text in ax.texts] == ["87.00%", "85.60%", "◀ −12.0", "74.00%"]
    assert len(ax.containers) == 2
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == (0.5, 1.5)


def test_heat_frames_the_cells_that_are_there(gallery):
    left, right = gallery["heat"].axes
    assert len(left.patches) == 2 and not right.patches
    assert [text.get_text() for text in left.texts] == ["80.0", "81.0", "82.0", "83.5"]
    assert right.get_ylabel() == "" and left.get_ylabel() == "Gate"


def test_lines_draw_what_is_there():
    fig = marks.lines(FRAME, "Title", "x", "y (%)", percent=True, marks={"here": 3}, ylim=(0, 1))
    (ax,) = fig.axes
    first, second, mark = ax.lines
    np.testing.assert_array_equal(first.get_xydata(), [[1, 0.1], [2, 0.2], [10, 0.4]])
    np.testing.assert_array_equal(second.get_xydata(), [[1, 0.3], [10, 0.25]])
    assert mark.get_xdata()[0] == 3
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_ylim()) == ("x", "y (%)", (0, 1))
    assert (
        fig.alt_text == "Title: y (%) against x from 1 to 10; a from 10.0% to 40.0%; b from 30.0% to 25.0%."
    )


def test_marks_stay_inside_the_axes():
    fig = marks.lines(FRAME, "T", "x", "y", marks={"a long name at the left": 1, "and at the right": 10})
    (ax,) = fig.axes
    box = ax.get_window_extent()
    for label in ax.texts:
        extent = label.get_window_extent()
        assert box.x0 - 10 <= extent.x0 and extent.x1 <= box.x1 + 10


@pytest.mark.parametrize(
    "names", [("a", "b"), ("a rather long name of a curve, the first", "and the second, too")]
)
def test_legend_fits_the_figure(names):
    fig = marks.lines(FRAME.set_axis(list(names), axis=1), "T", "x", "y")
    legend = fig.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= fig.bbox.x1
    assert [text.get_text() for text in fig.legends[0].get_texts()] == list(names)


def test_bars_draw_and_say_every_value():
    frame = FRAME[["a"]].assign(c=[0.5, 0.6, 0.7]).set_axis(["p", "q", "r"])
    fig = marks.bars(frame, "Title", "y (%)", percent=True)
    (ax,) = fig.axes
    assert [bar.get_height() for bar in ax.patches] == [0.1, 0.2, 0.4, 0.5, 0.6, 0.7]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["p", "q", "r"]
    assert "q: a 20.0%, c 60.0%" in fig.alt_text


def test_matrices_share_one_scale():
    fig = marks.matrices({"I": np.eye(4), "-2 I": -2 * np.eye(4)}, "Title")
    images = [ax.images[0] for ax in fig.axes[:2]]
    np.testing.assert_array_equal(images[1].get_array(), -2 * np.eye(4))
    assert images[0].get_clim() == images[1].get_clim()
    assert images[0].get_clim()[0] == -images[0].get_clim()[1]
    assert "I (4 × 4" in fig.alt_text


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: marks.lines(pd.DataFrame(np.ones((2, 8))), "t", "x", "y"), "one to seven columns"),
        (lambda: marks.lines(FRAME[[]], "t", "x", "y"), "`frame` must have rows"),
        (lambda: marks.bars(pd.DataFrame(), "t", "y"), "one to seven columns"),
        (lambda: marks.points(NETS, "right", "t", "x", "y"), r"columns \['right'\]"),
        (lambda: marks.differences(TESTS.iloc[:0], "t", "x"), "at least one row"),
        (lambda: marks.heat({}, "x", "y", "v", "t", "x", "y"), "at least one map"),
        (lambda: marks.matrices({"a": np.ones(3)}, "t"), r"one to four matrices.*\[\(3,\)\]"),
        (lambda: marks.matrices({}, "t"), "one to four matrices"),
        (lambda: marks.table(["a"], [], "t"), "at least one line"),
        (lambda: marks.table(["a", "b"], [{"cells": ["1", "2", "3"]}], "t"), "at most 2 cells"),
    ],
)
def test_frames_that_are_none(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_methods_differ_in_colour_marker_and_line():
    looks = [style.of_method(entry.name) for entry in methods.REGISTRY]
    for key in ("color", "marker"):
        assert len({look[key] for look in looks}) == len(looks)
    assert len({style.of_method(name)["linestyle"] for name in methods.names("slides")}) == 4
    assert len({look["color"] for look in style.LOOKS}) == len(style.LOOKS)
    looks[1]["color"] = "changed"
    assert style.of_method("wds")["color"] == style.BLUE


MODULES = ["frames", "figures.style", *(f"figures.marks.{name}" for name in
           ("columns", "curves", "images", "intervals", "nets", "typeset"))]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings(name):
    module = importlib.import_module(f"clora_lab.lab.{name}")
    assert doctest.testmod(module, extraglobs={"np": np, "pd": pd}).failed == 0


def test_the_remedy_names_the_study_of_the_rows():
    rows = pd.DataFrame({"study": ["bert"]})
    with pytest.raises(frames.MissingResults, match="reproduce bert"):
        frames.require(rows, "rows", ["seed"])
