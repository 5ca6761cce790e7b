"""Charts: points where they belong, labels that do not collide, tooltips with the values."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from open_r1.report.charts import Interval, Series, interval_track, line_chart, track_top
from open_r1.report.scale import share


def svg(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


def lines_of(tree: ElementTree.Element) -> list[list[tuple[float, float]]]:
    found = [node.attrib["points"].split() for node in tree.iter("polyline")]
    return [[tuple(map(float, point.split(","))) for point in points] for points in found]


def test_a_rising_line_rises_from_left_to_right() -> None:
    (points,) = lines_of(svg(line_chart([Series("loss", [(1, 0.0), (2, 0.5), (3, 1.0)])])))
    xs, ys = zip(*points, strict=True)
    assert xs == tuple(sorted(xs))
    assert ys == tuple(sorted(ys, reverse=True))  # y grows downwards in SVG
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11)


def test_many_points_are_drawn_faint_under_their_trend() -> None:
    tree = svg(line_chart([Series("loss", [(step, step % 2) for step in range(100)])]))
    assert [node.attrib["class"] for node in tree.iter("polyline")] == ["line raw s0", "line s0"]


def test_labels_of_lines_that_end_together_do_not_overlap() -> None:
    series = [Series(f"reward {index}", [(1, 0.0), (2, 1.0 + index / 1000)]) for index in range(6)]
    tree = svg(line_chart(series))
    heights = sorted(float(node.attrib["y"]) for node in tree.iter("text") if "end" in node.attrib["class"])
    assert len(heights) == 6
    assert all(below - above >= 11.9 for above, below in pairwise(heights))


def test_the_pointer_is_told_step_and_values() -> None:
    series = [Series("a", [(1, 0.5), (2, 0.25)]), Series("b", [(2, 4.0)])]
    titles = [node.text for node in svg(line_chart(series)).iter("title")]
    assert titles == ["step 1 · a 0.5", "step 2 · a 0.25 · b 4"]


@pytest.mark.parametrize("points", [[(5, 2.0)], [(1, 0.0), (2, 0.0)], [(1, -3.0), (9, -3.0)]])
def test_a_single_point_and_a_flat_line_can_be_drawn(points: list[tuple[float, float]]) -> None:
    assert "nan" not in line_chart([Series("x", points)])


def test_an_axis_of_shares_starts_at_zero() -> None:
    labels = [node.text for node in svg(line_chart([Series("x", [(1, 0.95), (2, 1.0)])], form=share)).iter("text")]
    assert labels[:5] == ["0 %", "25 %", "50 %", "75 %", "100 %"]


def test_an_interval_is_a_dot_on_a_whisker() -> None:
    tree = svg(interval_track(Interval("sft", 0.4, 0.3, 0.5), 1.0))
    (whisker,) = [node.attrib for node in tree.iter("line") if node.attrib["class"] == "whisker"]
    (dot,) = [node.attrib for node in tree.iter("circle")]
    assert (whisker["x1"], dot["cx"], whisker["x2"]) == ("30.00%", "40.00%", "50.00%")
    assert tree.find("title").text == "sft: 40.0 % (30.0 – 50.0 %)"


@pytest.mark.parametrize(("highest", "top"), [(0.03, 0.05), (0.2, 0.2), (0.21, 0.5), (0.7, 1.0)])
def test_low_scores_get_a_finer_scale(highest: float, top: float) -> None:
    assert track_top(highest) == top
