"""Axes and numbers of charts: round ticks, smoothing, short labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

Point = tuple[float, float]
Form = Callable[..., str]
"""Writes a value, in ``digits`` significant digits if that is given."""

_UNITS = ((1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T"))


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values that enclose [low, high], about ``count`` of them, steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def domain(values: Sequence[float]) -> tuple[float, float]:
    """The range that an axis shows: from zero, unless the values keep far away from it."""
    low, high = min(values), max(values)
    if 0 <= low < 0.6 * high:
        low = 0.0
    if 0.6 * low < high <= 0:
        high = 0.0
    return low, high


def short(value: float, digits: int = 3) -> str:
    """A number in few characters: ``0.0312``, ``1.5e-5``, ``1,234``, ``12.3k``, ``1.2M``, ``2.77B``."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    text = f"{value:.{digits}g}"
    if size < 1e3 and "e" not in text:  # as in 999.7, which is 1e+03
        return text
    if size < 1e4:
        return f"{value:,.0f}"
    for unit, letter in _UNITS:
        text = f"{value / unit:.{digits}g}{letter}"
        if size < 1000 * unit and "e" not in text:
            break
    return text


def share(value: float, digits: int = 3) -> str:
    """A fraction of 1 in per cent."""
    return f"{100 * value:.{digits}g} %"


def tick_labels(values: Sequence[float], form: Form) -> list[str]:
    """The ticks written with as many digits as it takes to tell them apart."""
    labels: list[str] = []
    for digits in range(3, 9):
        labels = [form(value, digits) for value in values]
        if len(set(labels)) == len(labels):
            break
    return labels


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """At most ``limit`` points, each the mean of its neighbours."""
    if len(points) <= limit:
        return list(points)
    edges = [len(points) * index // limit for index in range(limit + 1)]
    groups = [points[start:end] for start, end in pairwise(edges)]
    return [(_mean([x for x, _ in group]), _mean([y for _, y in group])) for group in groups]


def smooth(points: Sequence[Point], share: float = 0.08) -> list[Point]:
    """At each point the value of a straight line fitted to its neighbours, a window of twice ``share`` of the points.

    Unlike a moving mean it neither lags nor flattens the ends, where a loss falls fastest.
    """
    width = min(len(points), 2 * max(2, round(len(points) * share)) + 1)
    smoothed = []
    for index, (x, _) in enumerate(points):
        start = min(max(0, index - width // 2), len(points) - width)
        near = points[start : start + width]
        mean_x, mean_y = _mean([x for x, _ in near]), _mean([y for _, y in near])
        spread = math.fsum((x - mean_x) ** 2 for x, _ in near)
        slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in near) / spread if spread else 0.0
        low, high = min(y for _, y in near), max(y for _, y in near)
        # A line fitted beside a spike would leave the range of what was measured: a share below zero.
        smoothed.append((x, min(max(mean_y + slope * (x - mean_x), low), high)))
    return smoothed


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
