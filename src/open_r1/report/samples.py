"""Which completions a report shows: the same problems at every evaluation, drawn evenly from each kind of outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from open_r1.files import folder_name
from open_r1.report.gather import StageRecord

Verdicts = Mapping[int, bool]
"""Whether the first answer to a problem was right, by the problem's index."""

OUTCOMES = {
    (False, True): "turned right",
    (True, False): "turned wrong",
    (False, False): "stayed wrong",
    (True, True): "stayed right",
}
"""By whether the first evaluation's answer was right, and the last one's."""

_SHOWN = (
    "turned right",
    "stayed wrong",
    "turned wrong",
    "turned right",
    "stayed wrong",
    "stayed right",
    "turned right",
)
"""Outcomes of the problems shown, in their order."""


@dataclass(frozen=True)
class Answer:
    """One completion, with the name of the stage that drew it."""

    stage: str
    text: str
    right: bool
    tokens: int
    truncated: bool
    reward: float | None


@dataclass(frozen=True)
class Problem:
    """A problem with the first answer of each evaluation."""

    index: int
    outcome: str
    prompt: str
    gold: str
    answers: list[Answer]


@dataclass(frozen=True)
class TaskSamples:
    """What a task's first answers came to, and the problems shown.

    Attributes:
        counts: how many problems had each outcome between the first and the last evaluation.
    """

    task: str
    counts: dict[str, int]
    problems: list[Problem]


def samples_of(task: str, evaluations: Sequence[StageRecord]) -> TaskSamples | None:
    """Samples of ``task`` from the evaluations that ran it; None where no generations are left on disk."""
    paths = {stage.name: path for stage in evaluations if (path := _generations(stage.folder, task))}
    if not paths:
        return None
    verdicts = {name: _verdicts(path) for name, path in paths.items()}
    common = sorted(set.intersection(*(set(known) for known in verdicts.values())))
    first, last = next(iter(verdicts.values())), list(verdicts.values())[-1]
    by_outcome: dict[str, list[int]] = {outcome: [] for outcome in OUTCOMES.values()}
    for index in common:
        by_outcome[OUTCOMES[first[index], last[index]]].append(index)
    drawn = {kind: iter(_evenly(found, _SHOWN.count(kind))) for kind, found in by_outcome.items()}
    chosen = [(index, kind) for kind in _SHOWN if (index := next(drawn[kind], None)) is not None]
    rows = {name: _rows(path, [index for index, _ in chosen]) for name, path in paths.items()}
    problems = [_problem(index, outcome, rows) for index, outcome in chosen]
    return TaskSamples(task, {outcome: len(found) for outcome, found in by_outcome.items()}, problems)


def training_samples(folder: Path, count: int = 3) -> list[dict[str, Any]]:
    """Completions of a GRPO run's ``completions.jsonl``, from its beginning, its middle and its end."""
    path = folder / "completions.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for line in (lines[index] for index in _evenly(range(len(lines)), count)):
        try:
            records.append(json.loads(line))
        except ValueError:
            continue  # the last line of a run that was killed
    return [record for record in records if isinstance(record, dict)]


def _generations(folder: Path, task: str) -> Path | None:
    path = folder / folder_name(task) / "generations.parquet"
    try:
        pq.read_schema(path)
    except (pa.ArrowException, OSError):  # it is gone, or cut short: a page without samples is better than none
        return None
    return path


def _verdicts(path: Path) -> Verdicts:
    table = pq.read_table(path, columns=["problem", "reward"], filters=[("sample", "=", 0)])
    return dict(zip(table["problem"].to_pylist(), (value == 1 for value in table["reward"].to_pylist()), strict=True))


def _rows(path: Path, problems: Sequence[int]) -> dict[int, dict[str, Any]]:
    if not problems:
        return {}
    table = pq.read_table(path, filters=[("sample", "=", 0), ("problem", "in", list(problems))])
    return {row["problem"]: row for row in table.to_pylist()}


def _problem(index: int, outcome: str, rows: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Problem:
    asked = next(iter(rows.values()))[index]
    answers = [
        Answer(
            stage=name,
            text=by_problem[index]["completion"],
            right=by_problem[index]["reward"] == 1,
            tokens=by_problem[index]["tokens"],
            truncated=by_problem[index]["finish_reason"] == "length",
            reward=by_problem[index]["reward"],
        )
        for name, by_problem in rows.items()
    ]
    return Problem(index, outcome, asked["prompt"], asked["gold"], answers)


def _evenly(items: Sequence[int], count: int) -> list[int]:
    """``count`` of the items, evenly spaced; all of them where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[len(items) * (2 * index + 1) // (2 * count)] for index in range(count)]
