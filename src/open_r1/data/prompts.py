"""Prompts of a data set as tokens, and the columns that rewards are given beside the completions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset

from open_r1.data.bad_rows import BadRow, BadRows
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import Columns, Message, gold, to_prompt


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the data's order.

    Attributes:
        messages: the chat messages of each prompt.
        token_ids: each prompt's tokens, the generation prompt included.
        rows: each prompt's row, with the text of its gold answer under ``solution`` where there is a gold column.
    """

    messages: list[list[Message]]
    token_ids: list[tuple[int, ...]]
    rows: list[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.token_ids))

    def subset(self, indices: Sequence[int]) -> PromptSet:
        """The prompts at these places, in this order."""
        parts = (self.messages, self.token_ids, self.rows)
        return PromptSet(*([part[index] for index in indices] for part in parts))

    def reward_columns(self, index: int, count: int) -> dict[str, list[Any]]:
        """The row's columns, each value repeated for ``count`` completions, as rewards take them."""
        columns = {name: [value] * count for name, value in self.rows[index].items()}
        return {**columns, "prompts": [self.messages[index]] * count}

    def draw(self, seed: int, number: int) -> int:
        """The index of the prompt drawn as ``number`` in an endless series of seeded passes over the set."""
        epoch, place = divmod(number, len(self))
        return int(_permutation(seed, epoch, len(self))[place])

    def fingerprint(self) -> str:
        """A hash of all prompts' tokens."""
        digest = hashlib.blake2b(digest_size=16)
        for ids in self.token_ids:
            digest.update(np.asarray(ids, np.int32).tobytes() + b"|")
        return digest.hexdigest()

    def content_key(self) -> str:
        """A hash of what rewards are given beside completions: gold answers, tests, all columns."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True, default=lambda value: type(value).__name__).encode())
        return digest.hexdigest()


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def read_prompts(
    rows: Dataset,
    chat: ChatFormat,
    columns: Columns,
    bad_rows: BadRows,
    max_prompt_length: int | None = None,
    template: str = "{{ instruction }}",
) -> PromptSet:
    """Encodes the prompts of a data set; rows that cannot be used are counted in ``bad_rows``.

    Args:
        template: what the last turn before the answer says, with ``{{ instruction }}`` for what the row says there.

    Raises:
        UserError: if no row is left, or at the first bad one under ``strict``.
    """
    messages, token_ids, kept = [], [], []
    for index, row in enumerate(rows):
        try:
            prompt = asked_by(template, to_prompt(row, columns, chat.system_prompt))
            ids = chat.encode_prompt(prompt)
            answer = {"solution": gold(row, columns)} if columns.answer else {}
            if max_prompt_length is not None and len(ids) > max_prompt_length:
                raise BadRow(f"the prompt is longer than max_prompt_length ({max_prompt_length} tokens)")
        except BadRow as error:
            bad_rows.add(index, str(error))
            continue
        messages.append(prompt)
        token_ids.append(tuple(ids))
        kept.append({name: value for name, value in row.items() if name not in ("prompt", "messages")} | answer)
    bad_rows.raise_if_all(len(rows))
    return PromptSet(messages, token_ids, kept)


def asked_by(template: str, prompt: list[Message]) -> list[Message]:
    """``prompt`` with its last turn put into ``template``, in which ``{{ instruction }}`` stands for it."""
    asked = re.sub(r"\{\{\s*instruction\s*\}\}", lambda _: prompt[-1]["content"], template)
    return [*prompt[:-1], {**prompt[-1], "content": asked}]
