"""What a step measured, on its way from the GPU: read when it has arrived, while the next step runs."""

from __future__ import annotations

import time
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
        seconds: that the step took on the device, or on the host where that computes.
    """

    totals: dict[str, float]
    grad_norm: float
    taken: bool
    losses: list[float]
    seconds: float


class StepBegin:
    """When a step began: a mark in the GPU's queue, or the time."""

    def __init__(self, device: torch.device) -> None:
        self.time = time.perf_counter()
        self.mark: torch.cuda.Event | None = None
        if device.type == "cuda":
            self.mark = torch.cuda.Event(enable_timing=True)
            self.mark.record()


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
        begin: of the step.
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
        begin: StepBegin,
    ) -> None:
        self.step, self.batch, self.learning_rate, self.parts = step, batch, learning_rate, parts
        self._names, self._begin = names, begin
        self._end = time.perf_counter()
        values = torch.cat([totals, *(value.reshape(-1).to(totals) for value in (grad_norm, taken, losses))])
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event(enable_timing=True)
            self._arrived.record()
        else:
            self._values = values

    def read(self) -> StepNumbers:
        """Waits for the step to be over."""
        seconds = self._end - self._begin.time
        if self._arrived is not None:
            self._arrived.synchronize()
            seconds = self._begin.mark.elapsed_time(self._arrived) / 1e3
        values = self._values.tolist()
        count = len(self._names)
        totals = dict(zip(self._names, values[:count], strict=True))
        grad_norm, taken, *losses = values[count:]
        return StepNumbers(totals, grad_norm, bool(taken), losses, seconds)
