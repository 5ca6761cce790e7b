"""Charts as SVG elements: lines over steps, and dots with intervals. Colours are classes of the page's style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from open_r1.report.markup import Markup, element
from open_r1.report.scale import Form, Point, domain, share, short, smooth, thin, tick_labels, ticks

_WIDTH, _HEIGHT = 320, 168
_LEFT, _TOP, _BOTTOM = 46, 10, 20
_DRAWN_POINTS, _HOVER_POINTS = 240, 60
_SMOOTHED_FROM = 40
_LABEL_HEIGHT, _LETTER = 12, 7.4


@dataclass(frozen=True)
class Series:
    """A line: its name and its (step, value) points in order of the step."""

    label: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Mark:
    """A moment: its step, the number under which it is told of, and what is told."""

    step: float
    number: int
    text: str


@dataclass(frozen=True)
class Interval:
    """A dot with its interval, as fractions of 1."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""


def line_chart(
    series: Sequence[Series], *, form: Form = short, smoothed: bool = True, marks: Sequence[Mark] = ()
) -> Markup:
    """Lines over steps, each labelled at its end; a noisy line is drawn faint under its trend.

    Args:
        form: writes a value; an axis of shares starts at zero.
        marks: drawn over the whole height.
    """
    many = len(series) > 1
    labels = [_clip(line.label) for line in series]
    right = max(40, 14 + _LETTER * max(map(len, labels))) if many else 14
    low, high = domain([y for line in series for _, y in line.points])
    y_ticks = ticks(min(low, 0.0) if form is share else low, high)
    x_low, x_high = min(line.points[0][0] for line in series), max(line.points[-1][0] for line in series)

    def at_x(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - right) * ((x - x_low) / (x_high - x_low) if x_high > x_low else 0.5)

    def at_y(y: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))

    parts = [_y_axis(y_ticks, at_y, _WIDTH - right, form), _x_axis(x_low, x_high, at_x)]
    ends = []
    for number, line in enumerate(series):
        shown = trend(line.points) if smoothed else thin(line.points, _DRAWN_POINTS)
        if smoothed and len(line.points) >= _SMOOTHED_FROM:
            parts.append(_path(thin(line.points, _DRAWN_POINTS), at_x, at_y, f"line raw s{number % 8}"))
        parts.append(_path(shown, at_x, at_y, f"line s{number % 8}"))
        ends.append(at_y(shown[-1][1]))
    if many:
        parts += [
            element("text", label, x=_r(_WIDTH - right + 6), y=f"{y + 3.5:.1f}", class_=f"end s{number % 8}")
            for number, (label, y) in enumerate(zip(labels, _spread(ends), strict=True))
        ]
    parts.append(_hover(series, at_x, form))
    parts += [_mark(mark, at_x(min(max(mark.step, x_low), x_high))) for mark in marks]
    summary = ", ".join(f"{line.label} ends at {form(line.points[-1][1])}" for line in series)
    box = f"0 0 {_WIDTH} {_HEIGHT}"
    return element("svg", parts, viewBox=box, class_="chart", role="img", aria_label=summary)


def trend(points: Sequence[Point]) -> list[Point]:
    """The points as the eye should follow them: thinned, and smoothed where there are many."""
    shown = thin(points, _DRAWN_POINTS)
    return smooth(shown) if len(points) >= _SMOOTHED_FROM else shown


def interval_track(item: Interval, top: float) -> Markup:
    """One row of a dot-and-interval chart over 0 … ``top``; as wide as its place, so it needs no viewBox."""

    def at(value: float) -> str:
        return f"{100 * min(max(value / top, 0), 1):.2f}%"

    said = f"{item.label}: {100 * item.value:.1f} % ({100 * item.low:.1f} – {100 * item.high:.1f} %){item.note}"
    grid = [element("line", x1=at(tick), x2=at(tick), y1=0, y2="100%", class_="grid") for tick in track_ticks(top)]
    return element(
        "svg",
        element("title", said),
        grid,
        element("line", x1=at(item.low), x2=at(item.high), y1="50%", y2="50%", class_="whisker"),
        element("circle", cx=at(item.value), cy="50%", r=6, class_="dot"),
        class_="track",
        role="img",
        aria_label=said,
    )


def track_top(highest: float) -> float:
    """The right end of a dot-and-interval chart whose highest bound is ``highest``."""
    return next((top for top in (0.05, 0.1, 0.2, 0.5) if highest <= top), 1.0)


def track_ticks(top: float) -> list[float]:
    """Where a dot-and-interval chart has its grid."""
    return [top * quarter / 4 for quarter in range(5)]


def _y_axis(values: Sequence[float], at_y: Callable, end: float, form: Form) -> list[Markup]:
    lines = [element("line", x1=_LEFT, x2=end, y1=_r(at_y(y)), y2=_r(at_y(y)), class_="grid") for y in values]
    places = zip(tick_labels(values, form), values, strict=True)
    return lines + [element("text", said, x=_LEFT - 6, y=_r(at_y(y) + 3.5), class_="tick left") for said, y in places]


def _x_axis(low: float, high: float, at_x: Callable) -> list[Markup]:
    inner = [x for x in ticks(low, high, 4) if low <= x <= high and float(x).is_integer()] or [low]
    y = _HEIGHT - 5
    return [element("text", f"{x:,.0f}", x=_r(at_x(x)), y=y, class_="tick middle") for x in inner]


def _path(points: Sequence[Point], at_x: Callable, at_y: Callable, style: str) -> Markup:
    if len(points) == 1:
        (x, y) = points[0]
        return element("circle", cx=_r(at_x(x)), cy=_r(at_y(y)), r=2.5, class_=style.replace("line", "point"))
    return element("polyline", points=" ".join(f"{_r(at_x(x))},{_r(at_y(y))}" for x, y in points), class_=style)


def _mark(mark: Mark, x: float) -> Markup:
    bottom = _HEIGHT - _BOTTOM
    return element(
        "g",
        element("title", mark.text),
        element("line", x1=_r(x), x2=_r(x), y1=_TOP, y2=bottom, class_="mark"),
        element("text", mark.number, x=_r(x), y=_TOP - 1, class_="mark-number middle"),
        element("rect", x=_r(x - 4), y=0, width=8, height=bottom, class_="hit"),
    )


def _hover(series: Sequence[Series], at_x: Callable, form: Form) -> list[Markup]:
    """Bands over the whole height that name the values under the pointer."""
    lookup = [dict(line.points) for line in series]
    steps = sorted({x for line in series for x, _ in line.points})
    chosen = [steps[len(steps) * index // _HOVER_POINTS] for index in range(_HOVER_POINTS)]
    chosen = steps if len(steps) <= _HOVER_POINTS else chosen
    places = [at_x(x) for x in chosen]
    edges = [_LEFT, *((a + b) / 2 for a, b in pairwise(places)), max(places[-1], _LEFT + 1)]
    bands = []
    for index, step in enumerate(chosen):
        known = [(line.label, values[step]) for line, values in zip(series, lookup, strict=True) if step in values]
        said = f"step {step:,.0f} · " + " · ".join(f"{label} {form(value)}" for label, value in known)
        box = {"x": _r(edges[index]), "y": _TOP, "width": _r(edges[index + 1] - edges[index] + 0.01)}
        height = _HEIGHT - _TOP - _BOTTOM
        bands.append(element("rect", element("title", said), **box, height=height, class_="hit"))
    return bands


def _spread(places: Sequence[float]) -> list[float]:
    """Heights near ``places`` at which labels do not overlap, inside the chart."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    floor = _TOP - _LABEL_HEIGHT
    for index in order:
        floor = moved[index] = max(moved[index], floor + _LABEL_HEIGHT)
    ceiling = _HEIGHT - _BOTTOM + _LABEL_HEIGHT
    for index in reversed(order):
        ceiling = moved[index] = min(moved[index], ceiling - _LABEL_HEIGHT)
    return moved


def _clip(label: str, length: int = 18) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _r(value: float) -> str:
    return f"{value:.1f}"
