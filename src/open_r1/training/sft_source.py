"""What feeds supervised fine-tuning: packs of tokenised traces in an order that is a pure function of the step."""

from __future__ import annotations

import bisect
import hashlib
import math
from typing import Any

import numpy as np
from torch import Tensor

from open_r1.config import SFTConfig
from open_r1.data.loader import sft_packs
from open_r1.data.pack import Pack, TrainingSequence, make_pack, merge_packs
from open_r1.data.packing import PackPlan, plan
from open_r1.data.tokens import TokenStore
from open_r1.errors import UserError
from open_r1.parallel.runtime import Runtime
from open_r1.training.batches import StepBatch
from open_r1.training.continuity import data_fingerprint
from open_r1.training.signals import StopSignal

SFT_FORWARD = {"nll": True}
"""Keyword arguments of `PackModel.forward` that `sft_objective` goes with."""
ROWS_SHOWN = 16


def sft_objective(nll: Tensor, _pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of the targets, weighted and summed, as the model returns it."""
    return nll, {}


class SFTSource:
    """The packs of all epochs as one stream, of which each step takes the next ones.

    A micro-batch is ``per_device_train_batch_size`` packs of ``max_length`` tokens laid end to end, so the tokens of a
    step are the same however batch size and accumulation share them out. Order needs no state: epoch e's plan depends
    on lengths, settings, seed and e alone.
    """

    ahead = True

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
        first, rank, ranks = step * self._packs_a_step, self._runtime.rank, self._runtime.world_size
        size = self._packs_a_batch
        numbers = [range(start, start + size) for start in range(first, first + self._packs_a_step, size)]
        mine = numbers[rank::ranks]
        packs = [self._micro_batch(each) for each in mine]
        total = sum(float(pack.loss_weight.sum()) for pack in packs)
        # The other ranks' targets are counted here: to sum them over ranks, the host would wait for the GPU.
        total += sum(self._targets(each) for batch, each in enumerate(numbers) if batch % ranks != rank)
        return StepBatch(packs, max(total, 1.0), origin=lambda number: self._rows(mine[number]))

    def _micro_batch(self, numbers: range) -> Pack:
        parts = [pack for plan, index in self._located(numbers) for pack in sft_packs(self._store, plan, [index])]
        return merge_packs(parts) if parts else empty_pack()

    def _targets(self, numbers: range) -> int:
        """How many targets the stream's packs ``numbers`` have; the first token of a segment is none."""
        return sum(
            int(np.count_nonzero(self._store[sequence][1][start + 1 : end]))
            for plan, index in self._located(numbers)
            for sequence, start, end in plan[index].tolist()
        )

    def _rows(self, numbers: range) -> str:
        """The rows of the data set that the stream's packs ``numbers`` were made of."""
        sequences = [plan[index][:, 0] for plan, index in self._located(numbers)]
        rows = np.unique(self._store.rows[np.concatenate(sequences)]).tolist() if sequences else []
        more = f" and {len(rows) - ROWS_SHOWN} more" if len(rows) > ROWS_SHOWN else ""
        return f"rows {', '.join(map(str, rows[:ROWS_SHOWN]))}{more}" if rows else ""

    def _located(self, numbers: range) -> list[tuple[PackPlan, int]]:
        """Plan and index of those of the stream's packs ``numbers`` that are not past the last epoch's end."""
        places = [self._locate(number) for number in numbers]
        return [(self._plans[epoch], index) for epoch, index in places if epoch < self._epochs]

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

    def adopt(self, states: list[dict[str, Any]]) -> str:
        """Nothing is lost: the order is computed."""
        return ""

    def _fingerprint(self) -> str:
        config = self._config
        order = (config.seed, config.max_length, config.packing, config.overlong, self._packs_a_step)
        digest = hashlib.blake2b(repr(order).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self._store.lengths).tobytes())
        return data_fingerprint(digest.hexdigest(), self._store.key)


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
