"""Rewards run on the data's own gold answers before anything else is spent: a right answer must be rewarded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from open_r1.errors import UserError
from open_r1.rewards.gold_answers import GoldSource, as_completions, find_source
from open_r1.rewards.job import Scores
from open_r1.rewards.pool import RewardPool
from open_r1.rewards.spec import RewardSpec

Kind = Literal["rejected", "no value", "failed", "timed out"]
"""How a gold answer fails: judged wrong; no reward can be given; the function raised; it took too long or died."""

_JUDGES_MATHEMATICS = ("open_r1.rewards.math:", "open_r1.rewards.length:")
_SHOWN_CHARS = 60
_IN_FLIGHT = 256
_EXPLAINED = 100


@dataclass(frozen=True)
class GoldFailure:
    """A gold answer that its own reward does not accept.

    Attributes:
        row: index of the row in the data.
        reward: name of the reward.
        gold: the gold answer.
        value: what the reward gave; None where it gave none.
        kind: of the failure.
        reason: in words.
    """

    row: int
    reward: str
    gold: str
    value: float | None
    kind: Kind
    reason: str


@dataclass
class GoldReport:
    """What the rewards made of the data's own gold answers.

    Attributes:
        rows: indices of the rows that were tried.
        checked: names of the rewards that were tried.
        skipped: names of those for which nothing can be said, and why.
        failures: every (row, reward) that was not rewarded.
    """

    rows: list[int]
    checked: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: list[GoldFailure] = field(default_factory=list)

    def counts(self, reward: str) -> Counter[Kind]:
        """How many gold answers fail ``reward``, and how."""
        return Counter(failure.kind for failure in self._failures_of(reward))

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
            console.print(self.failures_table(limit))

    def failures_table(self, limit: int) -> Table:
        """The first ``limit`` failures."""
        hidden = len(self.failures) - limit
        table = Table(
            title="Gold answers that are not rewarded",
            title_justify="left",
            caption=f"and {hidden:,} more" if hidden > 0 else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
        )
        table.add_column("row", justify="right", no_wrap=True)
        table.add_column("reward", overflow="fold", max_width=16)
        table.add_column("gold", overflow="fold")
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("why", overflow="fold")
        for failure in self.failures[:limit]:
            value = "None" if failure.value is None else f"{failure.value:g}"
            cells = (f"{failure.row}", failure.reward, _short(failure.gold), value, failure.reason)
            table.add_row(*map(escape, cells))
        return table

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


def check_gold(
    rows: Sequence[Mapping[str, Any]],
    reward_specs: Sequence[RewardSpec],
    *,
    gold_column: str | None = None,
    completion_column: str | None = None,
    sample: int | None = 64,
    seed: int = 0,
    pool: RewardPool | None = None,
    workers: int | None = 1,
    timeout: float = 10.0,
    progress: Callable[[int], None] = lambda tried: None,
) -> GoldReport:
    r"""Gives each gold answer to the rewards as if a model had written it.

    The completion holds the gold answer in ``\boxed{…}`` (or the worked solution as it is, or a program in a fenced
    block) inside the tags of the ``format`` reward; one in prose is tried with a box and without, and the worse value
    counts. A reward that takes no gold answer, or whose value is relative to
    other answers, is skipped.

    Args:
        rows: the data; every column is handed to the rewards, as in training.
        reward_specs: the rewards of the run.
        gold_column: where the gold answer stands; None is the column that the reward names, or the first there is of
            ``GOLD_PARAMETERS``.
        completion_column: texts to be tried instead of the gold answer, such as worked solutions.
        sample: rows tried, drawn by ``seed``; None tries all.
        seed: of the draw of rows.
        pool: one that runs ``reward_specs`` and has nothing in hand; None starts one for this.
        workers: processes of that pool; None is one a core.
        timeout: seconds an answer, for that pool.
        progress: called with the number of rows tried so far.

    Raises:
        UserError: a reward needs a column that the data lacks, or a user's function cannot be imported.
    """
    count = len(rows) if sample is None else min(sample, len(rows))
    report = GoldReport(sorted(random.Random(seed).sample(range(len(rows)), count)))
    sources: dict[int, GoldSource] = {}
    for place, spec in enumerate(reward_specs):
        found = find_source(spec, rows[0], gold_column) if len(rows) else "there are no rows"
        if isinstance(found, str):
            report.skipped[spec.name] = found
        else:
            sources[place] = found
            report.checked.append(spec.name)
    if completion_column is not None and len(rows) and completion_column not in rows[0]:
        raise UserError(f"the data has no column {completion_column!r}; its columns are {', '.join(rows[0])}")
    if not sources or not report.rows:
        return report
    trial = _Trial(rows, reward_specs, sources, completion_column)
    if pool is None:
        with RewardPool([reward_specs[place] for place in sources], workers=workers, timeout=timeout) as own:
            places = {place: position for position, place in enumerate(sources)}
            report.failures = trial.failures(own, report.rows, places, progress)
    else:
        report.failures = trial.failures(pool, report.rows, {place: place for place in sources}, progress)
    report.failures = _explained(report.failures, trial, timeout)
    return report


@dataclass
class _Trial:
    rows: Sequence[Mapping[str, Any]]
    specs: Sequence[RewardSpec]
    sources: Mapping[int, GoldSource]
    completion_column: str | None

    def completions(self, row: Mapping[str, Any], source: GoldSource) -> list[list[dict[str, str]]]:
        texts = as_completions(source, row) if self.completion_column is None else [str(row[self.completion_column])]
        return [[{"role": "assistant", "content": text}] for text in texts]

    def columns(self, row: Mapping[str, Any], completions: int) -> dict[str, list[Any]]:
        named = {source.parameter: row[source.column] for source in self.sources.values() if source.parameter}
        return {name: [value] * completions for name, value in {**row, **named}.items()}

    def failures(
        self, pool: RewardPool, chosen: Sequence[int], places: Mapping[int, int], progress: Callable[[int], None]
    ) -> list[GoldFailure]:
        """What fails, in order of rows; ``places`` says where each reward stands in the pool."""
        kinds = {(source.column, source.parameter is None) for source in self.sources.values()}
        found: dict[int, list[GoldFailure]] = {index: [] for index in chosen}
        jobs = ((index, kind) for index in chosen for kind in sorted(kinds))
        handed, heard = 0, 0
        for index, kind in jobs:
            row = self.rows[index]
            source = next(one for one in self.sources.values() if (one.column, one.parameter is None) == kind)
            completions = self.completions(row, source)
            pool.submit((index, kind), completions, self.columns(row, len(completions)))
            handed += 1
            while handed - heard >= _IN_FLIGHT:
                heard += self._note(pool, places, found)
                progress(heard // len(kinds))
        while heard < handed:
            heard += self._note(pool, places, found)
            progress(heard // len(kinds))
        return [failure for index in chosen for failure in found[index]]

    def _note(self, pool: RewardPool, places: Mapping[int, int], found: dict[int, list[GoldFailure]]) -> int:
        heard = 0
        for (index, kind), scores in pool.results(block=True):
            heard += 1
            for place, source in self.sources.items():
                if (source.column, source.parameter is None) == kind:
                    found[index].extend(
                        self._judged(index, place, source, _worst(scores.values[places[place]]), scores)
                    )
        return heard

    def _judged(
        self, index: int, place: int, source: GoldSource, value: float | None, scores: Scores
    ) -> Iterator[GoldFailure]:
        if value is not None and value > 0 and value >= source.accepted:
            return
        spec, gold = self.specs[place], self.rows[index][source.column]
        kind, reason = _verdict(spec, value, scores)
        if source.parameter is None and value is not None:
            reason = f"passes {max(value, 0.0):.0%} of its tests" if value >= 0 else "is no program that compiles"
        if gold is None or not str(gold).strip():
            kind, reason = "no value", "the row has no gold answer"
        yield GoldFailure(index, spec.name, str(gold), value, kind, reason)


def _worst(values: Sequence[float | None]) -> float | None:
    return None if None in values else min(values)


def _verdict(spec: RewardSpec, value: float | None, scores: Scores) -> tuple[Kind, str]:
    if value is not None:
        return "rejected", "judged wrong by its own reward"
    name = getattr(spec.build(), "__name__", spec.name)
    for error in scores.errors:
        if error.startswith(f"{spec.name} took "):
            return "timed out", error.removeprefix(f"{spec.name} ")
        if error.startswith((f"{name}:", f"{name} ")):
            return "failed", error
    mathematics = spec.target.startswith(_JUDGES_MATHEMATICS)
    return "no value", "cannot be parsed as mathematics" if mathematics else "its reward gives it no value"


def _explained(failures: list[GoldFailure], trial: _Trial, timeout: float) -> list[GoldFailure]:
    """Says of answers that were judged wrong how they are read, of the first ``_EXPLAINED``."""
    places = {spec.name: place for place, spec in enumerate(trial.specs) if spec.target.startswith(_JUDGES_MATHEMATICS)}
    wrong = [place for place, one in enumerate(failures) if one.kind == "rejected" and one.reward in places]
    if not wrong:
        return failures
    why = RewardSpec("why", "open_r1.rewards.explain:explain_mathematics", scope="answer")
    explained = list(failures)
    with RewardPool([why], workers=1, timeout=timeout) as pool:
        for place in wrong[:_EXPLAINED]:
            row, source = trial.rows[failures[place].row], trial.sources[places[failures[place].reward]]
            last = trial.completions(row, source)[-1:]  # prose outside a box is read as its gold answer is
            pool.submit(place, last, {"solution": [row[source.column]]})
        while answers := list(pool.results(block=True)):
            for place, scores in answers:
                if scores.failures:  # and not a time-out of the explanation itself
                    reason = scores.errors[0].removeprefix("explain_mathematics: ")
                    explained[place] = replace(failures[place], reason=reason)
    return explained


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else f"…{text[-_SHOWN_CHARS:]}"
