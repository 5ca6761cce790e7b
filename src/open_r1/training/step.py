"""One optimizer step: micro-batches forward and backward, one division by the global denominator, one update.

Nothing in here waits for the GPU, unless the update does (`HostUpdate`) or memory runs out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from open_r1.config import TrainingConfig
from open_r1.data.pack import Pack, empty_like
from open_r1.model.head import TokenLogprobs
from open_r1.parallel.runtime import Runtime
from open_r1.training.batches import StepBatch
from open_r1.training.meters import StepMeter
from open_r1.training.out_of_memory import MicroBatches, empty_caches, is_out_of_memory, sharded_advice
from open_r1.training.reading import StepBegin, StepReading
from open_r1.training.signals import StopSignal
from open_r1.training.update import choose_update

Objective = Callable[[TokenLogprobs | Tensor, Pack], tuple[Tensor, dict[str, Tensor]]]
"""The sum (not mean) of the weighted losses of a pack's targets, and sums of metrics over its targets.

One whose attribute ``pointwise`` is true is called with some of a pack's targets at a time (`PolicyTargets`).
"""

COUNTS = ("sequences", "tokens", "flops", "targets")
CAREFUL_STEPS = 2
"""Steps after the start, or after a change of what is held in memory, that are expected to run out of it."""
OUT_OF_MEMORY = 1000.0
"""Above every signal's number: what ranks tell each other when a micro-batch did not fit."""


class TrainingStep:
    """Computes steps.

    Args:
        module: the wrapped `PackModel`; ``optimizer`` belongs to it.
        forward: keyword arguments of the module's forward beside the pack.

    Attributes:
        stop_number: the signal on which all ranks agreed in the last step, or 0; with one process, look at the signal.
    """

    def __init__(
        self,
        config: TrainingConfig,
        runtime: Runtime,
        module: nn.Module,
        optimizer: Optimizer,
        objective: Objective,
        forward: dict[str, Any],
        meter: StepMeter,
    ) -> None:
        self._config, self._runtime, self._module, self._optimizer = config, runtime, module, optimizer
        self._objective, self._forward, self._meter = objective, forward, meter
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._update = choose_update(runtime, optimizer, parameters, config.max_grad_norm)
        self._micro_batches = MicroBatches(runtime, runtime.unwrap(module))
        self._careful = CAREFUL_STEPS
        self._awaited = False  # whether other ranks are in a collective that this one must not leave
        self.stop_number = 0

    def __call__(self, step: int, batch: StepBatch, learning_rate: float, stop: StopSignal) -> StepReading:
        """Takes step ``step`` (from 0) with the weights as they are.

        Raises:
            Interrupted: in a run of one process, before the weights change.
            UserError: the step does not fit into memory, however small its micro-batches.
        """
        begin = StepBegin(self._runtime.device)
        if not self._module.training:
            self._module.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        while True:
            parts = self._micro_batches.of(batch.packs)
            sums, losses, failed = self._gradients(step, parts, batch.denominator, stop)
            if not self._anyone_failed(failed, stop):
                break
            sums.clear()
            losses.clear()
            self._runtime.zero_grad(self._optimizer)
            self._micro_batches.shrink(step, failed)
            self._careful = CAREFUL_STEPS
        self._careful = max(0, self._careful - 1)
        totals = self._totals(sums, batch)
        names = [*sums, *COUNTS]
        grad_norm = self._update.measure()
        taken = self._update.apply(step, totals[0].isfinite() & (totals[-1] > 0))
        self._runtime.zero_grad(self._optimizer)  # an engine may be about to wake up where they lay
        numbers = [number for number, _ in parts][: len(losses)]
        losses = torch.stack(losses)
        return StepReading(step, batch, learning_rate, numbers, names, totals, grad_norm, taken, losses, begin)

    def _gradients(
        self, step: int, parts: list[tuple[int, Pack]], denominator: float, stop: StopSignal
    ) -> tuple[dict[str, Tensor], list[Tensor], Pack | None]:
        """Sums of loss and metrics over this rank's micro-batches, the loss of each, and the one that did not fit."""
        torch.manual_seed(step_seed(self._config.seed, step, self._runtime.rank))
        self._runtime.zero_grad(self._optimizer)
        sums: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        failed: Pack | None = None
        packs = [pack for _, pack in parts]
        if self._careful and self._runtime.kind == "ddp":
            # Ranks exchange gradients in the last backward, from which none may drop out: let it be a small one.
            packs.append(empty_like(packs[-1]))
        for number, pack in enumerate(packs, start=1):
            last = number == len(packs)
            if failed is None:
                try:
                    loss, metrics = self._micro_batch(pack, denominator, last, stop)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    if self._awaited:
                        raise sharded_advice(step) from None
                    failed = pack
                else:
                    losses.append(loss)
                    for name, value in {"loss": loss, **metrics}.items():
                        sums[name] = sums[name] + value if name in sums else value
            if failed is not None and self._runtime.world_size == 1:
                break
            if failed is not None and last:  # the others wait for this rank's share of the gradients
                empty_caches()
                self._micro_batch(empty_like(pack), denominator, last, stop)
        return sums, losses[: len(parts)], failed

    def _micro_batch(
        self, pack: Pack, denominator: float, last: bool, stop: StopSignal
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of one pack: its share of the step's loss, and sums of metrics."""
        several = self._runtime.world_size > 1
        if not several:  # several ranks stop together, between steps
            stop.check()
        self._awaited = several and self._runtime.sharded
        with self._runtime.accumulate(self._module, last=last):
            pack = pack.to(self._runtime.device)
            total, metrics = loss_of(self._module, pack, self._objective, self._forward)
            loss = total / denominator
            self._awaited = several and (last or self._runtime.sharded)
            self._runtime.backward(loss)
        self._awaited = False
        return loss.detach(), metrics

    def _anyone_failed(self, failed: Pack | None, stop: StopSignal) -> bool:
        """Whether a micro-batch did not fit, on this or another rank; ranks also agree on having been told to stop."""
        if self._runtime.world_size == 1:
            return failed is not None
        highest = self._runtime.max(OUT_OF_MEMORY if failed is not None else float(stop.number))
        self.stop_number = 0 if highest == OUT_OF_MEMORY else int(highest)
        return highest == OUT_OF_MEMORY

    def _totals(self, sums: dict[str, Tensor], batch: StepBatch) -> Tensor:
        """Sums over ranks: loss, metrics, then `COUNTS` of what was trained, without what only keeps ranks in step."""
        lengths = [length for pack in batch.packs for length in pack.trained_lengths]
        targets = sum(len(pack.target_index) for pack in batch.packs)
        repeated = [length for pack in batch.packs if pack.shared for length in pack.shared.lengths]  # not computed
        flops = self._meter.flops_of(lengths) - self._meter.flops_of(repeated)
        counts = (len(lengths), sum(lengths), flops, targets)
        device = self._runtime.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        counted = torch.tensor(counts, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        return self._runtime.sum(torch.cat([torch.stack(list(sums.values())).to(dtype), counted]))


def loss_of(
    module: nn.Module, pack: Pack, objective: Objective, forward: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective's loss of a pack on its device, with gradient, and its metrics without.

    Args:
        module: the wrapped `PackModel`; ``forward``: keyword arguments of its forward beside the pack.
    """
    if getattr(objective, "pointwise", False):
        loss, metrics = module(pack, objective=objective, **forward)
    else:
        loss, metrics = objective(module(pack, **forward), pack)
    return loss, {name: value.detach() for name, value in metrics.items()}


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of torch's generator (dropout) in one step of one rank: 63 bits of BLAKE2b over the three numbers."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
