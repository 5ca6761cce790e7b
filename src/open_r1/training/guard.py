"""A loss or gradient that is not finite never reaches the weights."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from open_r1.data.pack import Pack
from open_r1.errors import UserError


class NonFiniteGuard:
    """Counts steps that were skipped because loss or gradient was not finite, and stops a run that only skips.

    Args:
        limit: the run stops after this many skipped steps in a row.
        folder: where the batch that stopped the run is saved.
    """

    def __init__(self, limit: int, folder: Path) -> None:
        self.limit = limit
        self.folder = folder
        self.skipped = 0
        self.in_a_row = 0

    def admits(self, step: int, loss: float, grad_norm: float, packs: list[Pack]) -> bool:
        """Whether the optimizer may take this step.

        Raises:
            UserError: at the ``limit``-th refusal in a row; the batch has been saved.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            path = self.folder / f"nonfinite-step-{step + 1}.pt"
            torch.save({"step": step + 1, "loss": loss, "grad_norm": grad_norm, "packs": packs}, path)
            raise UserError(
                f"step {step + 1}: loss {loss}, gradient norm {grad_norm}, not finite {self.in_a_row} times in a row; "
                f"the weights are those of step {step + 1 - self.in_a_row}, the batch is in {path}; "
                "lower --learning_rate, or train in bf16 instead of fp16"
            )
        return False
