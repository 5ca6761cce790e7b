"""The loss on held-out traces."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from open_r1.config import SFTConfig
from open_r1.data.loader import sft_packs
from open_r1.data.pack import Pack
from open_r1.data.tokens import TokenStore
from open_r1.errors import UserError
from open_r1.parallel.runtime import Runtime
from open_r1.training.sft_source import SFT_FORWARD, empty_pack, make_plan, sft_objective
from open_r1.training.signals import Interrupted, StopSignal

PACKS_BETWEEN_LOOKS = 16
"""After which ranks ask each other whether one was told to stop."""


class HeldOutLoss:
    """Mean negative log-likelihood per target over a whole token store, all ranks together.

    Raises:
        UserError: nothing of it fits into a pack.
    """

    def __init__(self, store: TokenStore, config: SFTConfig, runtime: Runtime, module: nn.Module) -> None:
        self._store, self._runtime, self._module = store, runtime, module
        self._plan = make_plan(store, config, epoch=0)
        if not len(self._plan):
            raise UserError(
                f"no held-out sequence has a token to predict within max_length {config.max_length}; raise it, or set "
                "--eval_strategy no"
            )

    def __call__(self, stop: StopSignal) -> dict[str, float]:
        """``eval_loss`` in nats a token.

        Raises:
            Interrupted: by ``stop``, between two packs; by that of any rank on all of them.
        """
        was_training = self._module.training
        self._module.eval()
        losses, targets = [torch.zeros((), device=self._runtime.device)], 0.0
        try:
            with torch.no_grad():
                for number, pack in enumerate(self._packs()):
                    self._check(number, stop)
                    targets += float(pack.loss_weight.sum())
                    pack = pack.pin_memory() if self._runtime.device.type == "cuda" else pack
                    pack = pack.to(self._runtime.device)
                    loss, _ = sft_objective(self._module(pack, **SFT_FORWARD), pack)
                    losses.append(loss)
        finally:
            self._module.train(was_training)
        total = float(torch.stack(losses).cpu().double().sum())  # the one wait for the GPU
        total, targets = self._runtime.sum(torch.tensor([total, targets], dtype=torch.float64)).tolist()
        return {"eval_loss": total / max(targets, 1.0)}

    def _check(self, number: int, stop: StopSignal) -> None:
        """Before pack ``number`` of this rank: ranks have as many, and look together now and then."""
        if self._runtime.world_size == 1:
            stop.check()
        elif number % PACKS_BETWEEN_LOOKS == 0 and (signal := int(self._runtime.max(float(stop.number)))):
            raise Interrupted(signal)

    def _packs(self) -> Iterator[Pack]:
        """This rank's packs; every rank has the same number."""
        mine = range(self._runtime.rank, len(self._plan), self._runtime.world_size)
        missing = math.ceil(len(self._plan) / self._runtime.world_size) - len(mine)
        yield from sft_packs(self._store, self._plan, mine)
        yield from [empty_pack()] * missing
