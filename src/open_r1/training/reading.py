"""What a step measured, on its way from the GPU: read when it has arrived, while the next step runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from open_r1.training.batches import StepBatch


@dataclass(frozen=True)
class StepNumbers:
    """What a step measured.

    Attributes:
        totals: sums over all ranks, by name.
        grad_norm: before clipping.
        taken: whether the optimizer stepped.
        losses: of this rank's micro-batches.
    """

    totals: dict[str, float]
    grad_norm: float
    taken: bool
    losses: list[float]


class StepReading:
    """A step that has been handed to the GPU.

    Attributes:
        step: its number, from 0.
        parts: which of the batch's packs each micro-batch was made of.

    Args:
        names: of ``totals``.
        totals: float [len(names)], sums over ranks.
        grad_norm: scalar.
        taken: boolean scalar.
        losses: [micro-batches].
    """

    def __init__(
        self,
        step: int,
        batch: StepBatch,
        learning_rate: float,
        parts: list[int],
        names: list[str],
        totals: Tensor,
        grad_norm: Tensor,
        taken: Tensor,
        losses: Tensor,
    ) -> None:
        self.step, self.batch, self.learning_rate, self.parts = step, batch, learning_rate, parts
        self._names = names
        values = torch.cat([totals, *(value.reshape(-1).to(totals) for value in (grad_norm, taken, losses))])
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._values = values

    def read(self) -> StepNumbers:
        """Waits for the step to be over."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values = self._values.tolist()
        count = len(self._names)
        totals = dict(zip(self._names, values[:count], strict=True))
        grad_norm, taken, *losses = values[count:]
        return StepNumbers(totals, grad_norm, bool(taken), losses)
