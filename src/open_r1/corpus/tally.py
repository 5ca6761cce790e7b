"""What became of the answers that were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Tally:
    """Counts over all starts.

    Attributes:
        prompts: how many are asked.
        asked, answered: answers.
        truncated: answers that were cut off.
        right: answers equal to the gold answer.
        unverified: answers that could not be compared with one.
        kept: answers in the output.
        tokens: of all answers.
        seconds: spent drawing and verifying.
        others: answers in the output beyond those that are asked, left by earlier starts.
    """

    prompts: int
    asked: int
    answered: int = 0
    truncated: int = 0
    right: int = 0
    unverified: int = 0
    kept: int = 0
    tokens: int = 0
    seconds: float = 0.0
    others: int = 0

    def add(self, record: Mapping[str, Any], kept: bool) -> None:
        """Counts one answer."""
        self.answered += 1
        self.truncated += record["finish_reason"] == "length"
        self.right += record["reward"] == 1
        self.unverified += record["reward"] is None
        self.kept += kept
        self.tokens += record["tokens"]

    @property
    def right_share(self) -> float | None:
        """Share of the right ones among the answers that could be verified; None where there were none."""
        verified = self.answered - self.unverified
        return self.right / verified if verified else None

    @property
    def truncated_share(self) -> float | None:
        """Share of all answers; None where there were none."""
        return self.truncated / self.answered if self.answered else None

    @property
    def mean_tokens(self) -> float | None:
        """Of an answer; None where there were none."""
        return self.tokens / self.answered if self.answered else None
