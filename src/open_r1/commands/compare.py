"""Pairs two evaluations problem by problem: ``open-r1 compare A B``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from open_r1.config import CompareConfig, parse
from open_r1.errors import UserError
from open_r1.evaluation.comparison import TaskComparison, compare
from open_r1.files import write_json
from open_r1.report.tables import compact_table, percent, points

_CHANGED_SHOWN = 5


def main(argv: Sequence[str]) -> None:
    """Compares the two evaluations that ``argv`` names, prints tables, and writes ``--output``.

    Raises:
        UserError: folders or files that cannot be compared, or an output that cannot be written.
    """
    config = parse(CompareConfig, list(argv), prog="open-r1 compare").config
    a, b = config.results
    comparisons = compare(a, b, config.tasks, seed=config.seed)
    console = Console(highlight=False)
    console.print(f"A  {a}\nB  {b}\n", markup=False, soft_wrap=True)
    console.print(*comparison_tables(comparisons), sep="\n")
    if config.output is not None:
        write_comparison(Path(config.output), a, b, comparisons, seed=config.seed)
        console.print(config.output, markup=False, soft_wrap=True)


def comparison_tables(comparisons: Sequence[TaskComparison]) -> Iterator[RenderableType]:
    """All that a person sees: the numbers, what they mean, and the problems that changed most."""
    table = compact_table(["task"], ["problems", "A", "B", "B − A", "95 % interval", "p"])
    for one in comparisons:
        scores = one.scores
        table.add_row(
            escape(one.task),
            f"{one.problems:,}",
            percent(scores.a),
            percent(scores.b),
            points(scores.difference.mean),
            f"{points(scores.difference.low)} to {points(scores.difference.high)}",
            f"{scores.p_value:.3f}" if scores.p_value >= 0.001 else "<0.001",
        )
    yield table
    yield Text("differences in percentage points; intervals over problems; p of a paired sign-flip test", style="dim")
    for one in comparisons:
        yield ""
        yield Text(verdict(one), style="bold" if one.differs else "")
        yield from (Text(f"{one.task}: {note}", style="yellow") for note in one.notes)
        if one.changed:
            yield _changed_table(one)


def verdict(one: TaskComparison) -> str:
    """What interval and test say, and how many problems went which way, in one line."""
    scores = one.scores
    moved = f"better on {scores.better:,} problems, worse on {scores.worse:,}, alike on {scores.alike:,}"
    if one.differs:
        side = "better" if scores.difference.mean > 0 else "worse"
        return f"{one.task}: B is {side} than A; {moved}"
    why = "the interval contains 0" if one.contains_0 else f"p is {scores.p_value:.3f}"
    return f"{one.task}: {why}, so neither is shown to be better; B is {moved}"


def _changed_table(one: TaskComparison) -> Table:
    shown = one.changed[:_CHANGED_SHOWN]
    table = compact_table([f"changed most ({len(shown)} of {len(one.changed):,})"], ["A", "B", "B − A"])
    for change in shown:
        table.add_row(f"problem {change.problem}", percent(change.a), percent(change.b), points(change.b - change.a))
    return table


def write_comparison(path: Path, a: str, b: str, comparisons: Sequence[TaskComparison], *, seed: int) -> None:
    """Writes ``{"a", "b", "seed", "tasks"}``; each task is flat, with ``changed`` and ``notes`` as lists.

    Raises:
        UserError: it cannot be written.
    """
    record = {"a": a, "b": b, "seed": seed, "tasks": [_record(one) for one in comparisons]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written ({error.strerror})") from None


def _record(one: TaskComparison) -> dict[str, Any]:
    scores = one.scores
    return {
        "task": one.task,
        "problems": one.problems,
        "answers_a": one.answers_a,
        "answers_b": one.answers_b,
        "a": scores.a,
        "b": scores.b,
        "difference": scores.difference.mean,
        "low": scores.difference.low,
        "high": scores.difference.high,
        "contains_0": one.contains_0,
        "p_value": scores.p_value,
        "better": scores.better,
        "worse": scores.worse,
        "alike": scores.alike,
        "notes": one.notes,
        "changed": [asdict(change) for change in one.changed],
    }
