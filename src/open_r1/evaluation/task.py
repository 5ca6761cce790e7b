"""What a benchmark is: where its problems lie, how one is asked, and what verifies an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_r1.data.bad_rows import BadRow
from open_r1.errors import UserError
from open_r1.evaluation.answers import Verifiers
from open_r1.evaluation.gold import rejected_golds

Row = Mapping[str, Any]
Messages = list[dict[str, str]]

MATH_INSTRUCTION = (
    "Solve the following math problem efficiently and clearly.  The last line of your response should be of the "
    "following format: 'Therefore, the final answer is: $\\boxed{ANSWER}$. I hope it is correct' (without quotes) "
    "where ANSWER is just the final number or expression that solves the problem. Think step by step before answering."
)
"""The published preamble of the mathematics tasks; the two spaces are part of it."""


def math_prompt(problem: str) -> Messages:
    """The user's turn of a mathematics task: the preamble, a blank line, the problem."""
    return [{"role": "user", "content": f"{MATH_INSTRUCTION}\n\n{problem}"}]


@dataclass(frozen=True)
class Problem:
    """One problem of a task, ready to ask and to verify.

    Attributes:
        index: its place in the data set, which names it in the results and seeds its samples.
        messages: what the model is asked.
        gold: the right answer, as text.
    """

    index: int
    messages: Messages
    gold: str


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: as typed after ``--tasks``.
        prompt: row -> messages to ask.
        gold: row -> the right answer.
        columns: the columns that both need; a file without them is refused.
        hub_id, hub_config, split: the published data set; ``hub_id`` None means only a local file will do.
        num_samples: answers drawn for each problem unless the user says.
        reward: name of the reward function that verifies an answer against the gold one (its ``solution``).
    """

    name: str
    prompt: Callable[[Row], Messages]
    gold: Callable[[Row], str]
    columns: tuple[str, ...] = ()
    hub_id: str | None = None
    hub_config: str | None = None
    split: str = "test"
    num_samples: int = 1
    reward: str = "accuracy"

    def problems(self, rows: Iterable[Row], column_names: Sequence[str], source: str) -> list[Problem]:
        """Reads every row.

        Raises:
            UserError: a column is missing, or a row holds something that cannot be asked; names ``source`` and the row.
        """
        missing = [name for name in self.columns if name not in column_names]
        if missing:
            raise UserError(
                f"task {self.name}: {source} has no column {missing[0]!r} (it has: {', '.join(column_names)}); "
                f"a file of this task needs {', '.join(self.columns)}"
            )
        return [self._problem(index, row, source) for index, row in enumerate(rows)]

    def validate(self, problems: Sequence[Problem], verifiers: Verifiers) -> list[int]:
        """Gives the verifier each gold answer as a completion.

        Returns:
            The indices of the problems whose own gold answer it does not accept: they can never count as right.
        """
        rejected = rejected_golds([problem.gold for problem in problems], verifiers)
        return [problems[place].index for place in rejected]

    def _problem(self, index: int, row: Row, source: str) -> Problem:
        for name in self.columns:
            if not isinstance(row[name], str | int | float) or not str(row[name]).strip():
                raise UserError(f"task {self.name}: row {index} of {source} has no text in column {name!r}")
        try:
            return Problem(index, self.prompt(row), self.gold(row))
        except BadRow as bad:
            raise UserError(f"task {self.name}: row {index} of {source}: {bad}") from bad
