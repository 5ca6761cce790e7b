"""Rows that cannot be trained on: skipped, counted by reason, shown by index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from open_r1.errors import UserError

REMEMBERED = 100
"""How many indices are remembered for each reason."""


class BadRow(Exception):  # noqa: N818 (a verdict on a row, not an error of the program)
    """One row cannot be used; the message is the reason, the same words for every row with the same fault."""


class BadRows:
    """The count of bad rows by reason, with the first indices of each.

    Args:
        strict: a bad row stops the run.
        limit: indices shown for each reason.
    """

    def __init__(self, strict: bool = False, limit: int = 5) -> None:
        self.strict = strict
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self.first: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, index: int, reason: str) -> None:
        """Counts row ``index`` as bad.

        Raises:
            UserError: under ``strict``.
        """
        self.counts[reason] += 1
        remembered = self.first.setdefault(reason, [])
        if len(remembered) < REMEMBERED:
            remembered.append(index)
        self.raise_if_strict()

    def raise_if_strict(self) -> None:
        """Raises UserError that names the first bad row, if there is one and ``strict`` is set."""
        if self.strict and self.counts:
            index, reason = self._earliest()
            raise UserError(f"row {index} is bad: {reason}; mend it, or leave out --strict to skip such rows")

    def raise_if_all(self, rows: int) -> None:
        """Raises UserError if every one of ``rows`` rows is bad."""
        if rows and len(self) >= rows:
            index, reason = self._earliest()
            why = reason if len(self.counts) == 1 else f"{self.summary()}; row {index}: {reason}"
            raise UserError(f"all {rows:,} rows are bad: {why}")

    def summary(self) -> str:
        """For example ``12 no assistant turn, 3 the content is empty``; the most frequent reason first."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())

    def report(self, console: Console, rows: int) -> None:
        """Prints how many of ``rows`` rows are skipped, and for each reason the first indices."""
        if not self.counts:
            return
        console.print(f"[yellow]{len(self):,} of {rows:,} rows are bad and skipped:[/yellow]")
        for reason, count in self.counts.most_common():
            shown = ", ".join(map(str, self.first[reason][: self.limit]))
            more = ", …" if shown and count > self.limit else ""
            console.print(f"  {count:,} × {reason}" + (f" (row {shown}{more})" if shown else ""), markup=False)

    def to_json(self) -> dict[str, Any]:
        """Counts and first indices, as ``restore`` takes them."""
        return {"counts": dict(self.counts), "first": self.first}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Takes over what ``to_json`` gave.

        Raises:
            UserError: under ``strict``, if there are any.
        """
        self.counts = Counter(saved["counts"])
        self.first = {reason: list(indices) for reason, indices in saved["first"].items()}
        self.raise_if_strict()

    def _earliest(self) -> tuple[int, str]:
        return min((indices[0], reason) for reason, indices in self.first.items())
