"""A training stage's ``metrics.jsonl`` as charts: which metrics belong together, what they are called, how written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from open_r1.report.charts import Series, trend
from open_r1.report.scale import Form, Point, share, short

Curves = Mapping[str, list[Point]]
"""(step, value) points in order of the step, by the metric's name."""


@dataclass(frozen=True)
class Group:
    """Metrics drawn in one chart.

    Attributes:
        pattern: full match of a metric's name; its group ``label``, if there is one, labels the line.
        form: writes a value.
        smoothed: whether the metric is noisy from step to step.
    """

    title: str
    pattern: str
    form: Form = short
    smoothed: bool = True


@dataclass(frozen=True)
class Chart:
    """A group with its lines, and the names of their metrics."""

    title: str
    series: list[Series]
    form: Form
    smoothed: bool
    names: list[str] = field(default_factory=list)

    @property
    def caption(self) -> str:
        """The title; with the line's own name where that would be said nowhere else."""
        only = self.series[0].label if len(self.series) == 1 else ""
        return self.title if only.lower() in self.title.lower() else f"{self.title} · {only}"

    @property
    def latest(self) -> str:
        """Where the line ends, if there is only one."""
        if len(self.series) > 1:
            return ""
        points = self.series[0].points
        return self.form((trend(points) if self.smoothed else points)[-1][1])


GROUPS = (
    Group("Reward", r"reward(_mean)?"),
    Group("Rewards by function", r"rewards?/(.*:)?(?P<label>.+?)(/mean)?"),
    Group("Spread of rewards in a group", r"reward_std"),
    Group("Completion length, tokens", r"completions?[/_](length[/_])?(?P<label>mean|min|max)?([/_]?(length|tokens))?"),
    Group("Truncated completions", r".*(truncated|clipped_ratio).*", share),
    Group("Empty or repeated completions", r"(?P<label>empty|repetition)", share),
    Group("Groups of prompts", r"groups_(?P<label>.+)", share),
    Group("Loss", r"(?P<label>eval_loss|loss)"),
    Group("Entropy, nats", r".*entropy.*"),
    Group("KL to the reference", r"kl(_reference|/.*)?"),
    Group("Clipped tokens", r"clip(_ratio)?[/_](?P<label>.+)", share),
    Group("Capped importance", r"importance_capped"),
    Group("Importance ratio", r"ratio|importance.*"),
    Group("Engine against trainer, nats", r"mismatch|logprob_diff.*"),
    Group("KL, engine to trainer", r"mismatch_(?P<label>kl)|kl_(?P<other>behaviour)"),
    Group("Learning rate", r"learning_rate", smoothed=False),
    Group("Gradient norm", r"grad_norm"),
    Group("Tokens per second", r"tokens_per_second"),
    Group("Share of the chip's peak", r"mfu", share),
    Group("Peak memory, GiB", r"peak_(memory|(?P<label>reserved))_gib", smoothed=False),
    Group("Seconds by phase", r"(seconds|time|timing)[/_](?P<label>.+)|(?P<other>.+)_seconds"),
)

_HELD_OUT = "eval/"
"""Begins the name of a metric of held-out prompts, which is drawn beside the one of training."""

_NOT_DRAWN = re.compile(r"epoch|tokens|sequences|alarm/.*")


def read_curves(path: Path) -> dict[str, list[Point]]:
    """Every numeric metric of a ``metrics.jsonl``; where a step was taken twice, the later line counts.

    A torn line, and a value that is not finite, are passed over.
    """
    by_step: dict[float, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            step = record.pop("step")
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        by_step.setdefault(step, {}).update({name: value for name, value in record.items() if _is_number(value)})
    curves: dict[str, list[Point]] = {}
    for step in sorted(by_step):
        for name, value in by_step[step].items():
            curves.setdefault(name, []).append((step, value))
    return curves


def charts_of(curves: Curves) -> list[Chart]:
    """Charts in reading order: what is learnt, then what it costs, then whatever else there is.

    What is always zero is left out; :func:`always_zero` names it.
    """
    left = [name for name, points in curves.items() if not _NOT_DRAWN.fullmatch(name) and _is_drawn(points)]
    left.sort(key=_is_held_out)  # the lines of training come first
    charts: dict[str, Chart] = {}
    for group in GROUPS:
        for name in list(left):
            match = re.fullmatch(group.pattern, name.removeprefix(_HELD_OUT))
            if match:
                left.remove(name)
                chart = charts.setdefault(group.title, Chart(group.title, [], group.form, group.smoothed))
                chart.series.append(Series(_label(group, match, name, curves), curves[name]))
                chart.names.append(name)
    others = [
        Chart(_words(name).capitalize(), [Series(_words(name), curves[name])], short, True, [name]) for name in left
    ]
    return [*charts.values(), *others]


def _label(group: Group, match: re.Match, name: str, curves: Curves) -> str:
    own = _words(next(filter(None, match.groupdict().values()), ""))
    if _is_held_out(name):
        return f"held out {own}".strip()
    return own or ("training" if _HELD_OUT + name in curves else group.title.split(",")[0].lower())


def _is_held_out(name: str) -> bool:
    return name.startswith(_HELD_OUT)


def always_zero(curves: Curves) -> list[str]:
    """Names of the metrics that were zero at every step."""
    return [_words(name) for name, points in curves.items() if not _is_drawn(points)]


def _is_drawn(points: Iterable[Point]) -> bool:
    return any(value for _, value in points)


def first_and_last(points: Iterable[Point]) -> tuple[float, float]:
    """Means over the first and the last tenth of the points, which single steps do not sway."""
    values = [value for _, value in points]
    count = max(1, round(len(values) / 10))
    return math.fsum(values[:count]) / count, math.fsum(values[-count:]) / count


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _words(name: str) -> str:
    return name.strip("_/").replace("_", " ").replace("/", " ")
