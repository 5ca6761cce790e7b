"""What the loop is fed with: the batch of a step, and who makes it, perhaps ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from open_r1.data.pack import Pack
from open_r1.training.signals import StopSignal

AHEAD = 2
"""Batches that are made while a step trains: one is waiting when the plan of a new epoch takes longer than a step."""


def no_name(_number: int) -> str:
    """For batches whose rows have no names."""
    return ""


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step is computed from.

    Attributes:
        packs: this rank's micro-batches; every rank has the same number.
        denominator: the step's loss is the sum over all ranks' targets divided by this; the same on every rank.
        metrics: what the source wants recorded with the step; the same on every rank.
        origin: what of the data set is in micro-batch ``i`` (from 0), as "rows 17, 93"; asked for only after a failure.
    """

    packs: list[Pack]
    denominator: float
    metrics: dict[str, float] = field(default_factory=dict)
    origin: Callable[[int], str] = no_name


class BatchSource(Protocol):
    """Feeds the loop. ``batch(step)`` depends on the step, the settings and the state alone.

    Attributes:
        ahead: whether ``batch`` depends on the step alone, not on weights or other ranks: then later batches are made
            by a thread while earlier ones train.
    """

    ahead: bool
    steps_per_epoch: float
    fingerprint: str

    def steps(self, epochs: float) -> int:
        """Optimizer steps of so many passes over the data."""

    def batch(self, step: int, stop: StopSignal) -> StepBatch:
        """The batch of optimizer step ``step`` (from 0); may raise `Interrupted` by ``stop.check()``."""

    def state_dict(self, step: int) -> dict[str, Any]:
        """What cannot be computed again after ``step`` whole steps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""

    def adopt(self, states: list[dict[str, Any]]) -> str:
        """Goes on from what another number of ranks, or a run on other data, has saved: one state a rank.

        Returns what is lost by that, in a few words; "" where nothing is.
        """


class Batches:
    """The batches of a source in the order of steps, made ahead where that is possible; a context manager.

    Args:
        last_step: no batch is made from this step on.
        device: where they are going; for CUDA they are laid in page-locked memory, so that copying waits for nothing.
    """

    def __init__(self, source: BatchSource, last_step: int, device: torch.device) -> None:
        self._source, self._last_step, self._device = source, last_step, device
        self._made: dict[int, Future[StepBatch]] = {}
        self._thread: ThreadPoolExecutor | None = None

    def __enter__(self) -> Batches:
        if self._source.ahead:
            self._thread = ThreadPoolExecutor(1, "batches", initializer=self._enter_thread)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int, stop: StopSignal) -> StepBatch:
        """The batch of ``step``; what its source raised, in whichever thread, is raised here."""
        if self._thread is None:
            return self._pinned(self._source.batch(step, stop))
        for number in range(step, min(step + 1 + AHEAD, self._last_step)):
            if number not in self._made:
                self._made[number] = self._thread.submit(self._make, number)
        return self._made.pop(step).result()

    def _enter_thread(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # else page-locking would open a context on the first GPU

    def _make(self, step: int) -> StepBatch:
        return self._pinned(self._source.batch(step, StopSignal()))

    def _pinned(self, batch: StepBatch) -> StepBatch:
        if self._device.type != "cuda":
            return batch
        return replace(batch, packs=[pack.pin_memory() for pack in batch.packs])
