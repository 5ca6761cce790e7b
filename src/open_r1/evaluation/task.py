"""What a benchmark is: where its problems lie, how one is asked, and what verifies an answer."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from open_r1.data.bad_rows import BadRow
from open_r1.errors import UserError
from open_r1.evaluation.answers import Verifiers
from open_r1.evaluation.fields import Need, column_of, names_of
from open_r1.evaluation.gold import Rejected, rejected, stated
from open_r1.evaluation.prompts import Messages
from open_r1.rewards.spec import RewardSpec

Row = Mapping[str, Any]

_LARGE_KEPT = 64
"""Problems whose large columns are kept once read: the answers to one that wait to be verified share them."""


@dataclass(frozen=True)
class Problem:
    """One problem of a task, ready to ask and to verify.

    Attributes:
        index: its place in the data set, which names it in the results and seeds its samples.
        messages: what the model is asked.
        gold: the right answer as text, for people to read (of a programming task: a hash of its tests).
        columns: what the verifier is given beside an answer.
        solution: a completion that the verifier must accept; None where the data has none.
        subject: what it is about, for a table by subject; None where the data does not say.
    """

    index: int
    messages: Messages
    gold: str
    columns: Mapping[str, Any]
    solution: str | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Task:
    """A benchmark.

    The functions of a row see the fields of ``needs`` and ``may_have`` under their first names, whatever the columns of
    the file are called, and everything else of the row as it is. They raise `BadRow` for what cannot be asked.

    Attributes:
        name: as typed after ``--tasks``.
        description: one line.
        prompt: row -> messages to ask.
        gold: row -> the right answer, as text.
        needs: the columns that a file must have; each a name, or the name followed by others that it may have.
        may_have: columns that are used where a file has them, written in the same way; None in a row without.
        columns: row -> what the verifier is given beside an answer; None gives it ``{"solution": gold}``.
        large: the columns are megabytes a problem: they stay in the file until an answer is verified.
        solution: row -> a completion that the verifier must accept, or None; without it, the stated gold answer.
        subject: row -> what it is about, or None; a number is taken as its text.
        extract: completion -> the answer that it states, as text in which equal answers are equal, for majority vote;
            None where votes make no sense.
        rows: reads the rows in the task's own way, from the path that the user gave or (None) from where they are
            published; None leaves both to `open_r1.data.sources`.
        source: where the problems come from, for people to read; None is ``hub_id``.
        hub_id, hub_config, split: the published data set; without ``hub_id`` and ``rows`` only a local file will do.
        num_samples: answers drawn for each problem unless the user says.
        reward: name or spec of the reward that verifies; right is 1.
    """

    name: str
    description: str
    prompt: Callable[[Row], Messages]
    gold: Callable[[Row], str]
    needs: tuple[Need, ...] = ()
    may_have: tuple[Need, ...] = ()
    columns: Callable[[Row], Mapping[str, Any]] | None = None
    large: bool = False
    solution: Callable[[Row], str | None] | None = None
    subject: Callable[[Row], str | None] | None = None
    extract: Callable[[str], str | None] | None = None
    rows: Callable[[str | None], Sequence[Row]] | None = None
    source: str | None = None
    hub_id: str | None = None
    hub_config: str | None = None
    split: str = "test"
    num_samples: int = 1
    reward: str | RewardSpec = "accuracy"

    @property
    def reward_name(self) -> str:
        """The name of the reward that verifies."""
        return self.reward if isinstance(self.reward, str) else self.reward.name

    @property
    def published(self) -> bool:
        """Whether the problems can be had without a file of the user's."""
        return self.hub_id is not None or self.rows is not None

    def problems(self, rows: Sequence[Row], column_names: Sequence[str], source: str) -> list[Problem]:
        """Reads every row.

        Raises:
            UserError: there is no row, a column is missing, or a row holds something that cannot be asked; names
                ``source`` and the row.
        """
        found = {names_of(need)[0]: column_of(need, column_names) for need in (*self.needs, *self.may_have)}
        missing = [need for need in map(names_of, self.needs) if found[need[0]] is None]
        if missing:
            raise UserError(
                f"task {self.name}: {source} has no column {' or '.join(map(repr, missing[0][:3]))} (it has: "
                f"{', '.join(column_names)}); a file of this task needs {', '.join(names_of(n)[0] for n in self.needs)}"
            )
        problems = [self._problem(index, _Named(row, found), source) for index, row in enumerate(rows)]
        if not problems:
            raise UserError(f"task {self.name}: {source} has no problems")
        if not self.large:
            return problems

        @lru_cache(maxsize=_LARGE_KEPT)
        def columns(index: int) -> Mapping[str, Any]:
            return self._columns(_Named(rows[index], found), problems[index].gold)

        return [replace(problem, columns=_LargeColumns(partial(columns, problem.index))) for problem in problems]

    def validate(self, problems: Sequence[Problem], verifiers: Verifiers) -> list[int]:
        """Gives the verifier each known solution as a completion.

        Returns:
            The indices of the problems whose own solution it does not accept: they can never count as right.
        """
        return [one.place for one in self.rejected(problems, verifiers)]

    def rejected(self, problems: Sequence[Problem], verifiers: Verifiers) -> list[Rejected]:
        """As `validate`, with reasons; ``place`` is the index of the problem."""
        known = [problem for problem in problems if problem.solution is not None]
        failed = rejected([(problem.solution, problem.columns) for problem in known], verifiers)
        return [Rejected(known[one.place].index, one.reward, one.why) for one in failed]

    def check(self, problems: Sequence[Problem], verifiers: Verifiers) -> list[Rejected]:
        """As `rejected`, and where no solution is known, an empty answer must be judged (as wrong).

        Returns:
            What failed, ``place`` being the index of the problem.
        """
        others = [problem for problem in problems if problem.solution is None]
        unjudged = rejected([("", problem.columns) for problem in others], verifiers, right=None)
        found = [Rejected(others[one.place].index, one.reward, one.why) for one in unjudged]
        return sorted([*self.rejected(problems, verifiers), *found], key=lambda one: one.place)

    def _problem(self, index: int, row: Row, source: str) -> Problem:
        for need in self.needs:
            name = names_of(need)[0]
            if row[name] is None or row[name] == [] or (isinstance(row[name], str) and not row[name].strip()):
                raise UserError(f"task {self.name}: row {index} of {source} has nothing in column {name!r}")
        try:
            gold, messages = self.gold(row), self.prompt(row)
            if not isinstance(gold, str):
                raise BadRow(f"its gold answer {str(gold)[:60]!r} is a {type(gold).__name__}, and has to be text")
            if isinstance(messages, str):
                raise BadRow("its prompt is text, and has to be messages: [{'role': 'user', 'content': …}]")
            return Problem(
                index=index,
                messages=messages,
                gold=gold,
                columns={} if self.large else self._columns(row, gold),
                solution=stated(gold) if self.solution is None else self.solution(row),
                subject=None if self.subject is None or (about := self.subject(row)) is None else str(about),
            )
        except BadRow as bad:
            raise UserError(f"task {self.name}: row {index} of {source}: {bad}") from bad
        except Exception as error:
            raise UserError(f"task {self.name}: row {index} of {source}: {where(error)}") from error

    def _columns(self, row: Row, gold: str) -> Mapping[str, Any]:
        return {"solution": gold} if self.columns is None else self.columns(row)


def where(error: Exception) -> str:
    """What a function of a row raised, and the place in the task's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) != Path(__file__)]
    frame = (own or frames)[-1]
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"{frame.filename}:{frame.lineno}: {reason}"


class _Named(Mapping[str, Any]):
    """A row whose columns are also found under the names that a task reads."""

    def __init__(self, row: Row, found: Mapping[str, str | None]) -> None:
        self._row, self._found = row, found

    def __getitem__(self, name: str) -> Any:
        if name in self._found:
            column = self._found[name]
            return None if column is None else self._row.get(column)
        return self._row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._found, *self._row]))

    def __len__(self) -> int:
        return len({*self._found, *self._row})


class _LargeColumns(Mapping[str, Any]):
    """Columns that are read from their row when they are asked for, so that all of them never lie in memory."""

    def __init__(self, read: Callable[[], Mapping[str, Any]]) -> None:
        self._read = read

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def items(self) -> Any:
        """The columns, in one reading."""
        return self._read().items()
