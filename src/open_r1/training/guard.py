"""A loss or gradient that is not finite never reaches the weights; here it is counted, named and kept."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from rich.console import Console

from open_r1.errors import UserError
from open_r1.files import replacing
from open_r1.parallel.runtime import Runtime
from open_r1.training.reading import StepNumbers, StepReading

FILES = 5
"""Poisoned batches that a run saves."""
OVERFLOWS = 40
"""Gradients that overflow in a row, each of which halves the loss scale: from 2^16 to nothing. Then it is no scale's
fault."""
console = Console(stderr=True, soft_wrap=True)


class NonFiniteGuard:
    """Counts steps that were skipped because loss or gradient was not finite, and stops a run that only skips.

    Args:
        limit: the run stops after this many skipped steps in a row.
        folder: where their batches are saved.
        scaled: the loss is scaled (fp16): a gradient that overflowed is the scale's fault, not the batch's.
    """

    def __init__(self, limit: int, folder: Path, runtime: Runtime, *, scaled: bool = False) -> None:
        self.limit, self.folder, self.scaled = limit, folder, scaled
        self.skipped = 0
        self.in_a_row = 0
        self._overflows = 0
        self._runtime = runtime
        self._saved = 0

    def look(self, reading: StepReading, numbers: StepNumbers) -> None:
        """Looks at a step that is over; says what a poisoned one was made of, and saves it.

        Raises:
            UserError: at the ``limit``-th poisoned step in a row, or the `OVERFLOWS`-th gradient that no scale helps.
        """
        loss, norm, step = numbers.totals["loss"], numbers.grad_norm, reading.step + 1
        if math.isfinite(loss) and (self.scaled or math.isfinite(norm)):
            self.in_a_row = 0
            self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
            if self._overflows >= OVERFLOWS:
                raise UserError(
                    f"step {step}: the gradient overflowed {OVERFLOWS} times in a row, however small the loss scale; "
                    "train in bf16 instead of fp16, or lower --learning_rate"
                )
            return
        self.skipped += 1
        self.in_a_row += 1
        guilty = {part for part, value in zip(reading.parts, numbers.losses, strict=True) if not math.isfinite(value)}
        if guilty or (math.isfinite(loss) and self._runtime.is_main):  # a gradient alone accuses the whole batch
            self._report(reading, numbers, sorted(guilty or set(reading.parts)))
        if self.in_a_row >= self.limit:
            raise UserError(
                f"step {step}: loss {loss}, gradient norm {norm}, not finite {self.in_a_row} times in a row; "
                f"the last step that was taken is {step - self.in_a_row}, the batches are in {self.folder}; "
                "lower --learning_rate, or train in bf16 instead of fp16"
            )

    def _report(self, reading: StepReading, numbers: StepNumbers, packs: list[int]) -> None:
        step = reading.step + 1
        origins = [origin for number in packs if (origin := reading.batch.origin(number))]
        rank = f"-rank-{self._runtime.rank}" if self._runtime.world_size > 1 else ""
        path = self.folder / f"nonfinite-step-{step}{rank}.pt"
        content = {
            "step": step,
            "loss": numbers.totals["loss"],
            "grad_norm": numbers.grad_norm,
            "packs": [reading.batch.packs[number] for number in packs],
            "origins": origins,
        }
        parts = [f"loss {content['loss']}, gradient norm {content['grad_norm']}, not finite", *origins]
        if self._saved < FILES and _save(content, path):
            self._saved += 1
            parts.append(f"the batch is in {path}")
        console.print(f"[yellow]step {step} skipped[/]: {'; '.join(parts)}", highlight=False)


def _save(content: dict[str, object], path: Path) -> bool:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with replacing(path, partial) as file:
            torch.save(content, file)
    except (OSError, RuntimeError):  # a full disk; torch's writer raises the latter
        return False
    return True
