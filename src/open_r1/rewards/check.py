"""Rewards run on the data's own gold answers before anything else is spent: a right answer must be rewarded."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from open_r1.errors import UserError
from open_r1.rewards.extract import find_gold
from open_r1.rewards.job import Scores
from open_r1.rewards.pool import RewardPool
from open_r1.rewards.spec import RewardSpec

GOLD_PARAMETERS = ("solution", "answer", "gold", "ground_truth", "target")
"""Parameters of a reward function that take the gold answer, and columns in which one is looked for."""

_SHOWN_CHARS = 60


@dataclass(frozen=True)
class GoldFailure:
    """A gold answer that its own reward does not accept.

    Attributes:
        row: index of the row in the data.
        reward: name of the reward.
        gold: the gold answer.
        value: what the reward gave; None where it gave none.
        reason: in words.
    """

    row: int
    reward: str
    gold: str
    value: float | None
    reason: str


@dataclass
class GoldReport:
    """What the rewards made of the data's own gold answers.

    Attributes:
        rows: indices of the rows that were tried.
        checked: names of the rewards that take a gold answer.
        skipped: names of those that take none, for which nothing can be said.
        failures: every (row, reward) that was not rewarded.
    """

    rows: list[int]
    checked: list[str]
    skipped: list[str]
    failures: list[GoldFailure] = field(default_factory=list)

    def unparsable_share(self, reward: str) -> float:
        """The share of the tried gold answers to which ``reward`` gives no value."""
        return sum(failure.value is None for failure in self._failures_of(reward)) / max(1, len(self.rows))

    def print(self, console: Console, limit: int = 10) -> None:
        """Prints one line a reward, and a table of the first ``limit`` failures if there are any."""
        for reward in self.checked:
            failed = len(self._failures_of(reward))
            line = f"Reward {reward}: {len(self.rows) - failed} of {len(self.rows)} gold answers tried are rewarded"
            share = self.unparsable_share(reward)
            console.print(f"{line}, {share:.0%} give no reward." if share else f"{line}.", markup=False)
        if self.failures:
            console.print(self._table(limit))

    def raise_if_hopeless(self) -> None:
        """Stops a run that could learn nothing.

        Raises:
            UserError: one of the rewards accepts none of the gold answers.
        """
        for reward in self.checked:
            failures = self._failures_of(reward)
            if self.rows and len(failures) == len(self.rows):
                first = failures[0]
                outcome = "None" if all(failure.value is None for failure in failures) else "0"
                raise UserError(
                    f"reward {reward!r} rewards none of the {len(self.rows)} gold answers tried, so it would be "
                    f"{outcome} for every answer; row {first.row}: gold {_short(first.gold)!r}, {first.reason}. "
                    "Name the right column with --answer_column, or pass --gold_check false"
                )

    def _failures_of(self, reward: str) -> list[GoldFailure]:
        return [failure for failure in self.failures if failure.reward == reward]

    def _table(self, limit: int) -> Table:
        hidden = len(self.failures) - limit
        table = Table(
            title="Gold answers that are not rewarded",
            caption=f"and {hidden} more" if hidden > 0 else None,
        )
        for column in ("row", "reward", "gold", "value", "why"):
            table.add_column(column)
        for failure in self.failures[:limit]:
            value = "None" if failure.value is None else f"{failure.value:g}"
            cells = (str(failure.row), failure.reward, _short(failure.gold), value, failure.reason)
            table.add_row(*map(escape, cells))
        return table


def check_gold(
    rows: Sequence[Mapping[str, Any]],
    reward_specs: Sequence[RewardSpec],
    *,
    gold_column: str | None = None,
    sample: int = 64,
    seed: int = 0,
    pool: RewardPool | None = None,
    timeout: float = 10.0,
) -> GoldReport:
    r"""Gives each sampled gold answer to the rewards as if a model had written it.

    The completion holds the gold answer in ``\boxed{…}`` (or the worked solution as it is) inside the tags of the
    ``format`` reward. A reward that takes no gold answer, or whose value is relative to other answers, is skipped.

    Args:
        rows: the data; every column is handed to the rewards, as in training.
        reward_specs: the rewards of the run.
        gold_column: where the gold answer stands; None is the column that the reward names, or the first there is of
            ``GOLD_PARAMETERS``.
        sample: rows tried at most.
        seed: of the draw of rows.
        pool: one that runs ``reward_specs`` and has nothing in hand; None starts one of one process for this.
        timeout: seconds an answer, for that pool.

    Raises:
        UserError: a reward needs a gold answer and no column has one, or a user's function cannot be imported.
    """
    parameters = {place: parameter for place, spec in enumerate(reward_specs) if (parameter := _gold_parameter(spec))}
    report = GoldReport(
        rows=sorted(random.Random(seed).sample(range(len(rows)), min(sample, len(rows)))),
        checked=[spec.name for place, spec in enumerate(reward_specs) if place in parameters],
        skipped=[spec.name for place, spec in enumerate(reward_specs) if place not in parameters],
    )
    if not parameters or not report.rows:
        return report
    columns = {parameter: _gold_column(parameter, rows[0], gold_column) for parameter in parameters.values()}
    scores = _score([rows[index] for index in report.rows], reward_specs, columns, pool, timeout)
    for index, row_scores in zip(report.rows, scores, strict=True):
        for place, parameter in parameters.items():
            value = row_scores.values[place][0]
            if value is None or value <= 0:
                gold = str(rows[index][columns[parameter]])
                reason = _reason(value, row_scores)
                report.failures.append(GoldFailure(index, reward_specs[place].name, gold, value, reason))
    return report


def _gold_parameter(spec: RewardSpec) -> str | None:
    function = spec.build()
    if spec.scope_of(function) == "group":
        return None
    return next((name for name in inspect.signature(function).parameters if name in GOLD_PARAMETERS), None)


def _gold_column(parameter: str, row: Mapping[str, Any], gold_column: str | None) -> str:
    for column in (gold_column,) if gold_column else (parameter, *GOLD_PARAMETERS):
        if column in row:
            return column
    raise UserError(
        f"the rewards need a gold answer ({gold_column or parameter}) and the data has none; its columns are "
        f"{', '.join(row)}: name the right one with --answer_column"
    )


def _score(
    rows: Sequence[Mapping[str, Any]],
    specs: Sequence[RewardSpec],
    columns: Mapping[str, str],
    pool: RewardPool | None,
    timeout: float,
) -> list[Scores]:
    if pool is None:
        with RewardPool(specs, workers=1, timeout=timeout) as own:
            return _score(rows, specs, columns, own, timeout)
    gold = next(iter(columns.values()))
    for place, row in enumerate(rows):
        named = {parameter: [row[column]] for parameter, column in columns.items()}
        completion = [{"role": "assistant", "content": _as_completion(str(row[gold]))}]
        pool.submit(place, [completion], {**{name: [value] for name, value in row.items()}, **named})
    scores: dict[int, Scores] = {}
    while len(scores) < len(rows):
        scores.update(pool.results(block=True))
    return [scores[place] for place in range(len(rows))]


def _as_completion(gold: str) -> str:
    return f"<think>\nThe answer is known.\n</think>\n<answer>\n{find_gold(gold) or gold}\n</answer>"


def _reason(value: float | None, scores: Scores) -> str:
    if value is not None:
        return "judged wrong by its own reward"
    return scores.errors[0] if scores.errors else "cannot be parsed"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else f"…{text[-_SHOWN_CHARS:]}"
