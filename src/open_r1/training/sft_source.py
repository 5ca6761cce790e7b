"""What feeds supervised fine-tuning: packs of tokenised traces in an order that is a pure function of the step."""

from __future__ import annotations

import bisect
import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open_r1.config import SFTConfig
from open_r1.data.loader import sft_packs
from open_r1.data.pack import Pack, TrainingSequence, make_pack, merge_packs
from open_r1.data.packing import PackPlan, plan
from open_r1.data.tokens import TokenStore
from open_r1.errors import UserError
from open_r1.model.head import TokenLogprobs
from open_r1.parallel.runtime import Runtime
from open_r1.training.loop import StepBatch
from open_r1.training.signals import StopSignal


def sft_objective(predicted: TokenLogprobs, pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of the targets, weighted and summed."""
    return -(predicted.logprobs * pack.loss_weight).sum(), {}


class SFTSource:
    """The packs of all epochs as one stream, of which each step takes the next ones.

    A micro-batch is ``per_device_train_batch_size`` packs of ``max_length`` tokens laid end to end, so the tokens of a
    step are the same however batch size and accumulation share them out. Order needs no state: epoch e's plan depends
    on lengths, settings, seed and e alone.
    """

    def __init__(self, store: TokenStore, config: SFTConfig, runtime: Runtime) -> None:
        self._store, self._config, self._runtime = store, config, runtime
        self._packs_a_batch = config.per_device_train_batch_size if config.packing else 1
        self._packs_a_step = self._packs_a_batch * config.gradient_accumulation_steps * runtime.world_size
        self._plans: list[PackPlan] = []
        self._first_pack = [0]
        if len(self.epoch_plan(0)) == 0:
            raise UserError(f"no sequence has a token to train on within max_length {config.max_length}; raise it")
        self._epochs = math.ceil(config.num_train_epochs) if config.max_steps <= 0 else math.inf
        self.steps_per_epoch = len(self.epoch_plan(0)) / self._packs_a_step
        self.fingerprint = self._fingerprint()

    def epoch_plan(self, epoch: int) -> PackPlan:
        """Which sequences go in which pack in an epoch (from 0)."""
        while len(self._plans) <= epoch:
            made = make_plan(self._store, self._config, epoch=len(self._plans))
            self._plans.append(made)
            self._first_pack.append(self._first_pack[-1] + len(made))
        return self._plans[epoch]

    def steps(self, epochs: float) -> int:
        """Steps that take every pack of ``epochs`` epochs once."""
        whole, share = divmod(epochs, 1)
        packs = sum(len(self.epoch_plan(epoch)) for epoch in range(int(whole)))
        if share:
            packs += math.ceil(share * len(self.epoch_plan(int(whole))))
        return math.ceil(packs / self._packs_a_step)

    def batch(self, step: int, _stop: StopSignal) -> StepBatch:
        """This rank's micro-batches of a step; those past the last epoch's end are without targets."""
        first = step * self._packs_a_step
        size = self._packs_a_batch * self._runtime.world_size
        packs = []
        for micro in range(self._config.gradient_accumulation_steps):
            start = first + micro * size + self._runtime.rank * self._packs_a_batch
            packs.append(self._micro_batch(range(start, start + self._packs_a_batch)))
        weight = sum(float(pack.loss_weight.sum()) for pack in packs)
        total = float(self._runtime.sum(torch.tensor(weight, dtype=torch.float64)))
        return StepBatch(packs, max(total, 1.0))

    def _micro_batch(self, numbers: range) -> Pack:
        parts: list[Pack] = []
        for number in numbers:
            epoch, index = self._locate(number)
            if epoch < self._epochs:
                parts.extend(sft_packs(self._store, self._plans[epoch], [index]))
        return merge_packs(parts) if parts else empty_pack()

    def _locate(self, number: int) -> tuple[int, int]:
        """The epoch and the pack within it of the stream's pack ``number``."""
        while self._first_pack[-1] <= number:
            self.epoch_plan(len(self._plans))
        epoch = bisect.bisect_right(self._first_pack, number) - 1
        return epoch, number - self._first_pack[epoch]

    def state_dict(self, step: int) -> dict[str, Any]:
        """Nothing: the order is computed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: the order is computed."""

    def _fingerprint(self) -> str:
        config = self._config
        order = (config.seed, config.max_length, config.packing, config.overlong, self._packs_a_step)
        digest = hashlib.blake2b(repr(order).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self._store.lengths).tobytes())
        return digest.hexdigest()


def make_plan(store: TokenStore, config: SFTConfig, epoch: int) -> PackPlan:
    """The plan of one epoch over a token store."""
    return plan(
        store.lengths,
        config.max_length,
        seed=config.seed,
        epoch=epoch,
        overlong=config.overlong,
        packing=config.packing,
        batch_size=config.per_device_train_batch_size,
        targets=store.targets,
    )


def empty_pack() -> Pack:
    """A pack of one token and no target: it keeps ranks in step where one has nothing left."""
    return make_pack([TrainingSequence(ids=np.zeros(1, np.int64), loss_weight=np.zeros(1, np.float32))])
