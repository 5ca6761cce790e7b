"""Ticks, smoothing and short numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_r1.report.scale import domain, share, short, smooth, thin, tick_labels, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 3.6, [0, 1, 2, 3, 4]),
        (-0.03, 0.04, [-0.04, -0.02, 0, 0.02, 0.04]),
        (5, 5, [4.5, 4.75, 5, 5.25, 5.5]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
        (0, 3e-13, [0, 1e-13, 2e-13, 3e-13]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected, abs=1e-16)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_always_enclose_the_range(low: float, width: float) -> None:
    high = low + width
    found = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 7


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.2, 3], (0, 3)), ([90, 100], (90, 100)), ([-3, -1], (-3, 0)), ([-1, 1], (-1, 1)), ([0], (0, 0))],
)
def test_an_axis_starts_at_zero_unless_that_is_far(values: list[float], expected: tuple[float, float]) -> None:
    assert domain(values) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.03125, "0.0312"),
        (1.5e-5, "1.5e-5"),
        (1e-4, "1e-4"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (24881, "24.9k"),
        (1.234e6, "1.23M"),
        (2.77e9, "2.77B"),
        (-3.2e12, "-3.2T"),
        (999.7, "1,000"),
        (999_960, "1M"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_ticks_are_told_apart() -> None:
    assert tick_labels([6.272, 6.274, 6.276], short) == ["6.272", "6.274", "6.276"]
    assert tick_labels([0, 0.25, 0.5], short) == ["0", "0.25", "0.5"]
    assert tick_labels([0.925, 0.95, 1], share) == ["92.5 %", "95 %", "100 %"]


def test_smoothing_keeps_a_straight_line_to_its_ends() -> None:
    line = [(float(x), 3.0 - 0.5 * x) for x in range(50)]
    assert [y for _, y in smooth(line)] == pytest.approx([y for _, y in line])


def test_smoothing_evens_out_what_alternates() -> None:
    saw = [(float(x), float(x % 2)) for x in range(100)]
    assert all(0.35 < y < 0.65 for _, y in smooth(saw))


def test_thinning_averages_neighbours() -> None:
    points = [(float(x), float(x)) for x in range(10)]
    assert thin(points, 5) == [(0.5, 0.5), (2.5, 2.5), (4.5, 4.5), (6.5, 6.5), (8.5, 8.5)]
    assert thin(points, 10) == points


def test_smoothing_stays_within_what_was_measured() -> None:
    points = [(float(x), 1.0 if x == 34 else 0.0) for x in range(1, 41)]
    smoothed = smooth(points)
    assert min(y for _, y in smoothed) == 0.0
    assert max(y for _, y in smoothed) <= 1.0
