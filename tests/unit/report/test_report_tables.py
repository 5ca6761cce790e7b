"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from open_r1.report.tables import clock, interval, percent


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1:00"), (247, "4:07"), (3599.6, "1:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_shares() -> None:
    assert percent(0.4567) == "45.7 %"
    assert percent(None) == "–"
    assert interval(0.4, 0.5149) == "40.0 – 51.5 %"
    assert interval(None, 0.5) == "–"
