"""Where the gold answer of a row stands for a reward, and the completion that would state it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_r1.errors import UserError
from open_r1.rewards.call import traits_of
from open_r1.rewards.extract import find_gold, last_boxes
from open_r1.rewards.spec import RewardSpec

GOLD_PARAMETERS = ("solution", "answer", "gold", "ground_truth", "target")
"""Parameters of a reward function that take the gold answer, and columns in which one is looked for."""

PROGRAM_REWARDS = ("code", "binary_code", "ioi_code", "cf_code")
PROGRAM_COLUMNS = ("gold_standard_solution", "canonical_solution", "sample_solution")
"""Columns of a program that passes its tests; rewards of programs name none of their own."""

_MADE_IN_TRAINING = {"completion_ids", "prompts"}


@dataclass(frozen=True)
class GoldSource:
    """What a reward is tried with.

    Attributes:
        column: the one that holds the gold answer.
        parameter: the parameter that takes it; None where the reward is given no gold answer.
        accepted: the least value that a right answer may get, which counts as accepted where it is above 0.
    """

    column: str
    parameter: str | None
    accepted: float = 0.0


def find_source(spec: RewardSpec, row: Mapping[str, Any], gold_column: str | None) -> GoldSource | str:
    """Returns where the gold answer for a reward stands in rows like ``row``, or why there is none to try, in words.

    Args:
        spec: the reward.
        row: any row of the data.
        gold_column: as the user named it; None is the column that the reward names, or the first there is of
            ``GOLD_PARAMETERS``.

    Raises:
        UserError: the reward needs a column that the data lacks.
    """
    function = spec.build()
    if spec.scope_of(function) == "group":
        return "its value depends on the other answers to a prompt"
    program = spec.name in PROGRAM_REWARDS
    parameter = next((name for name in inspect.signature(function).parameters if name in GOLD_PARAMETERS), None)
    if parameter is None and not program:
        return "it takes no gold answer"
    missing = traits_of(spec, function).required - row.keys() - {parameter} - _MADE_IN_TRAINING
    if missing:
        raise UserError(
            f"reward {spec.name!r} needs the column {', '.join(map(repr, sorted(missing)))} and the data has none; "
            f"its columns are {', '.join(row)}"
        )
    if program:
        column = next((name for name in (gold_column, *PROGRAM_COLUMNS) if name in row), None)
        return "the data has no gold answer to try" if column is None else GoldSource(column, None, accepted=0.99)
    for column in (gold_column,) if gold_column else (parameter, *GOLD_PARAMETERS):
        if column in row:
            return GoldSource(column, parameter)
    raise UserError(
        f"the rewards need a gold answer ({gold_column or parameter}) and the data has none; its columns are "
        f"{', '.join(row)}: name the right one with --answer_column"
    )


def as_completions(source: GoldSource, row: Mapping[str, Any]) -> list[str]:
    r"""What a model would write that knows the gold answer: in the tags of the ``format`` reward.

    A gold answer in prose (``March 5``), which as such stands outside a box, is also tried in one: the last of the two.
    """
    gold = str(row[source.column])
    if source.parameter is None:
        forms = [gold if "```" in gold else f"```{_language(row)}\n{gold}\n```"]
    else:
        stated = find_gold(gold) or gold
        boxed = rf"\boxed{{{stated.strip()}}}"
        forms = [stated] if last_boxes(stated) or last_boxes(boxed) != boxed else [stated, boxed]
    return [f"<think>\nThe answer is known.\n</think>\n<answer>\n{form}\n</answer>" for form in forms]


def _language(row: Mapping[str, Any]) -> str:
    info = row.get("verification_info")
    if isinstance(info, str):
        try:
            info = json.loads(info)
        except ValueError:
            info = None
    named = info.get("language") if isinstance(info, Mapping) else None
    return str(named or row.get("language") or ("cpp" if "subtask" in row else "python"))
