"""Rows of a data set as prompts to answer, each with the name under which its answers are found again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from open_r1.config import GenerateConfig
from open_r1.data.bad_rows import BadRow, BadRows
from open_r1.data.columns import Columns, Message, find_columns, gold, to_prompt
from open_r1.errors import UserError

_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_INSTRUCTION = "instruction"


@dataclass(frozen=True)
class Prompt:
    """A prompt to answer.

    Attributes:
        row: its place in the data set.
        id: hash of its messages; the same prompt has the same id wherever it stands.
        problem: the text of the prompt column (of messages: of the last user turn), without the template.
        messages: what is asked.
        gold: the right answer; None where there is none.
    """

    row: int
    id: str
    problem: str
    messages: list[Message]
    gold: str | None

    @property
    def number(self) -> int:
        """The id as an integer, from which the seeds of its answers follow."""
        return int(self.id, 16)


def read_prompts(
    rows: Sequence[Mapping[str, Any]], column_names: Sequence[str], config: GenerateConfig
) -> tuple[list[Prompt], BadRows]:
    """The prompts of all rows, each once, and the rows that cannot be used: bad ones, and repetitions.

    With ``keep: verified`` a row without gold answer is bad, as none of its answers could be kept.

    Raises:
        UserError: no usable columns, a template that names a column that is not there, or no usable row.
    """
    need = "answer" if config.keep == "verified" else "prompt"
    columns = find_columns(column_names, prompt=config.prompt_column, answer=config.answer_column, need=need)
    _check_template(config.prompt_template, column_names)
    prompts: dict[str, Prompt] = {}
    bad_rows = BadRows()
    for index, row in enumerate(rows):
        try:
            prompt = _prompt(index, row, columns, config)
        except BadRow as bad:
            bad_rows.add(index, str(bad))
            continue
        if prompt.id in prompts:
            bad_rows.add(index, "the same prompt as an earlier row")
        else:
            prompts[prompt.id] = prompt
    bad_rows.raise_if_all(len(rows))
    return list(prompts.values()), bad_rows


def _prompt(index: int, row: Mapping[str, Any], columns: Columns, config: GenerateConfig) -> Prompt:
    messages = to_prompt(row, columns)
    problem = messages[-1]["content"]
    asked = _fill(config.prompt_template, row, problem)
    messages = [*messages[:-1], {**messages[-1], "content": asked}]
    return Prompt(index, _identity(messages), problem, messages, _gold(row, columns, config))


def _gold(row: Mapping[str, Any], columns: Columns, config: GenerateConfig) -> str | None:
    try:
        return gold(row, columns)
    except BadRow:
        if config.keep == "verified":
            raise
        return None


def _check_template(template: str, column_names: Sequence[str]) -> None:
    for name in _PLACE.findall(template):
        if name != _INSTRUCTION and name not in column_names:
            raise UserError(
                f"prompt_template: {{{{ {name} }}}} is neither {_INSTRUCTION} nor a column ({', '.join(column_names)})"
            )


def _fill(template: str, row: Mapping[str, Any], instruction: str) -> str:
    def value(match: re.Match[str]) -> str:
        return str(row[match[1]]) if match[1] in row and match[1] != _INSTRUCTION else instruction

    return _PLACE.sub(value, template)


def _identity(messages: list[Message]) -> str:
    text = json.dumps(messages, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode(), digest_size=12).hexdigest()
