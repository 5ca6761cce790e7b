"""What a model reached on a task: counted from its generations, and as tables in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from open_r1.errors import UserError
from open_r1.evaluation.majority import majority_scores
from open_r1.evaluation.statistics import Interval, bootstrap, bootstrap_means, ks, pass_at_k_scores
from open_r1.evaluation.task import where
from open_r1.report.tables import clock, compact_table, interval, percent

_EMPTY = ("", "<think>")
"""An answer without a word; the tag is the chat template's, not the model's."""

_LONGEST_EMPTY = 64


@dataclass(frozen=True)
class SubjectResult:
    """pass@1 on the problems of one subject, with its 95 % bootstrap interval."""

    subject: str
    problems: int
    pass_at_1: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskResult:
    """What a model reached on a task. Shares are fractions of 1, intervals are at 95 %, lengths are in tokens.

    Attributes:
        task: its label.
        pass_at_1, low, high: mean over samples and problems, and its bootstrap interval.
        problems, samples: how many problems, and how many answers to each.
        truncated: share of the answers that were cut off.
        mean_tokens, median_tokens, p95_tokens: length of an answer.
        unverified: answers that could not be verified (time-out, unparsable gold); they count as not right.
        seconds: spent drawing and verifying, over all starts.
        generations: path of the Parquet file of every answer.
        pass_at_k: for k = 2, 4, … and ``samples``, by k; empty for one sample.
        majority: of the vote of all samples of a problem; None for one sample, or where votes make no sense.
        tokens: of all answers together.
        tokens_per_second: None where too little time was spent to say.
        empty: answers without a word.
        rejected_gold: problems whose own gold answer the verifier does not accept as right.
        subjects: by subject, in alphabetical order; empty where the problems have none.
        dataset: the data set on the hub ({"id", "config", "split"}) where all of it was asked; else None.
        limit: only so many problems, the first ones, were to be asked; None is all.
    """

    task: str
    pass_at_1: float
    low: float
    high: float
    problems: int
    samples: int
    truncated: float
    mean_tokens: float
    unverified: int
    seconds: float
    generations: str
    pass_at_k: dict[str, Interval] = field(default_factory=dict)
    majority: Interval | None = None
    median_tokens: float = 0.0
    p95_tokens: float = 0.0
    tokens: int = 0
    tokens_per_second: float | None = None
    empty: int = 0
    rejected_gold: list[int] = field(default_factory=list)
    subjects: list[SubjectResult] = field(default_factory=list)
    dataset: dict[str, str | None] | None = None
    limit: int | None = None

    @property
    def answers(self) -> int:
        """How many there are."""
        return self.problems * self.samples


def summarize(
    task: str,
    rows: pa.Table,
    samples: int,
    seconds: float,
    generations: Path,
    *,
    seed: int,
    extract: Callable[[str], str | None] | None = None,
    subjects: Mapping[int, str | None] | None = None,
    rejected_gold: Sequence[int] = (),
    dataset: dict[str, str | None] | None = None,
    limit: int | None = None,
) -> TaskResult:
    """The result of a task from its generations.

    Args:
        rows: sorted by (problem, sample), each problem with exactly ``samples`` rows.
        seed: of the bootstrap.
        extract: the task's; it reads rows of an older version, which kept no stated answer. None takes no vote.
        subjects: problem -> what it is about.
    """
    # NaN where there is none, which equals nothing.
    correct = (rows["reward"].to_numpy(zero_copy_only=False) == 1).reshape(-1, samples)
    shown = ks(samples)
    scores = [pass_at_k_scores(correct, k) for k in shown]
    if extract is not None and samples > 1:
        scores.append(majority_scores(correct.ravel().tolist(), _all_stated(task, rows, extract), samples))
    intervals = bootstrap_means(np.stack(scores, axis=1), seed=seed)
    tokens = rows["tokens"].to_numpy()
    return TaskResult(
        task=task,
        pass_at_1=intervals[0].mean,
        low=intervals[0].low,
        high=intervals[0].high,
        problems=len(correct),
        samples=samples,
        truncated=pc.sum(pc.equal(rows["finish_reason"], "length")).as_py() / rows.num_rows,
        mean_tokens=float(tokens.mean()),
        unverified=rows["reward"].null_count,
        seconds=round(seconds, 1),
        generations=str(generations),
        pass_at_k={str(k): interval for k, interval in zip(shown[1:], intervals[1:], strict=False)},
        majority=intervals[len(shown)] if len(intervals) > len(shown) else None,
        median_tokens=float(np.median(tokens)),
        p95_tokens=float(np.quantile(tokens, 0.95)),
        tokens=int(tokens.sum()),
        tokens_per_second=round(float(tokens.sum()) / seconds, 1) if seconds >= 0.1 else None,
        empty=_count_empty(rows["completion"]),
        rejected_gold=list(rejected_gold),
        subjects=_by_subject(correct, rows["problem"].to_numpy()[::samples], subjects or {}, seed),
        dataset=dataset,
        limit=limit,
    )


def stated(extract: Callable[[str], str | None] | None, text: str) -> str | None:
    """The answer that a completion states, by a task's ``extract``; None where that fails, which `summarize` tells."""
    try:
        answer = None if extract is None else extract(text)
    except Exception:  # not now: the completion is not kept yet
        return None
    return None if answer is None else str(answer)


def _all_stated(task: str, rows: pa.Table, extract: Callable[[str], str | None]) -> list[str | None]:
    answers = rows["extracted"].to_pylist()
    silent = [place for place, answer in enumerate(answers) if answer is None]
    for place, text in zip(silent, rows["completion"].take(pa.array(silent, pa.int64())).to_pylist(), strict=True):
        try:
            answers[place] = extract(text)
        except Exception as error:
            raise UserError(
                f"task {task}: its extract fails on {text[-60:]!r}, at {where(error)}; have it give None there: the "
                "answers are kept, and the same command counts them"
            ) from error
    return answers


def _count_empty(completions: pa.ChunkedArray) -> int:
    short = completions.filter(pc.less_equal(pc.binary_length(completions), _LONGEST_EMPTY))
    return sum(text.strip() in _EMPTY for text in short.to_pylist())


def _by_subject(
    correct: np.ndarray, problems: np.ndarray, subjects: Mapping[int, str | None], seed: int
) -> list[SubjectResult]:
    named = np.array([subjects.get(problem) or "" for problem in problems.tolist()])
    results = []
    for name in sorted(set(named.tolist()) - {""}):
        own = correct[named == name]
        score = bootstrap(own, seed=seed)
        results.append(SubjectResult(name, len(own), score.mean, score.low, score.high))
    return results


def results_table(results: Sequence[TaskResult]) -> RenderableType:
    """The results as tables that fit a terminal of 80 columns, and under them what must be said of the numbers."""
    parts: list[RenderableType] = [_overview(results)]
    if any(result.samples > 1 for result in results):
        parts += ["", _of_many_samples([result for result in results if result.samples > 1])]
    for result in results:
        if result.subjects:
            parts += ["", _subjects_table(result)]
    said = [Text(note, style="yellow") for note in notes(results)]
    return Group(*parts, *([""] if said else []), *said)


def notes(results: Sequence[TaskResult]) -> list[str]:
    """What must be said of the numbers, a line each: answers not verified or empty, gold answers not accepted."""
    found = []
    unverified = [f"{result.task} {result.unverified}" for result in results if result.unverified]
    if unverified:
        found.append(f"answers that could not be verified, which count as not right: {', '.join(unverified)}")
    empty = [f"{result.task} {result.empty}" for result in results if result.empty]
    if empty:
        found.append(f"empty answers, which count as not right: {', '.join(empty)}")
    for result in results:
        if result.rejected_gold:
            rows = shortened(result.rejected_gold)
            found.append(
                f"{result.task}: the verifier does not accept the gold answers of {len(result.rejected_gold)} of "
                f"{result.problems} problems as right (rows {rows}); answers to them hardly count"
            )
    return found


def shortened(numbers: Sequence[int], most: int = 10) -> str:
    """The first of a list of problems."""
    return ", ".join(map(str, numbers[:most])) + (", …" if len(numbers) > most else "")


def _overview(results: Sequence[TaskResult]) -> Table:
    table = compact_table(["task"], ["answers", "pass@1", "95 % interval", "cut off", "tokens", "time"])
    for result in results:
        table.add_row(
            escape(result.task),
            f"{result.problems:,} × {result.samples}",
            percent(result.pass_at_1),
            interval(result.low, result.high),
            percent(result.truncated),
            f"{result.mean_tokens:,.0f}",
            clock(result.seconds),
        )
    return table


def _of_many_samples(results: Sequence[TaskResult]) -> Table:
    table = compact_table(["task"], ["n", "maj@n", "95 % interval", "pass@n", "95 % interval"])
    for result in results:
        vote, best = result.majority, result.pass_at_k[str(result.samples)]
        table.add_row(
            escape(result.task),
            str(result.samples),
            percent(vote and vote.mean),
            interval(vote and vote.low, vote and vote.high),
            percent(best.mean),
            interval(best.low, best.high),
        )
    return table


def _subjects_table(result: TaskResult) -> Table:
    table = compact_table([escape(f"{result.task} by subject")], ["problems", "pass@1", "95 % interval"])
    for part in result.subjects:
        table.add_row(
            escape(part.subject), f"{part.problems:,}", percent(part.pass_at_1), interval(part.low, part.high)
        )
    return table
