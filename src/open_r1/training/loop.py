"""The training loop that SFT and GRPO share.

They differ in what feeds it (`BatchSource`) and in one function (`Objective`). A step is: all micro-batches forward and
backward, one division by the global denominator, one look at whether loss and gradient are finite, one optimizer step.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer

from open_r1.config import TrainingConfig, resolve_steps
from open_r1.data.pack import Pack
from open_r1.errors import StopRequested, UserError
from open_r1.model.head import TokenLogprobs
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.report.progress import TrainingProgress
from open_r1.training.checkpoint import Checkpoints, TrainingState
from open_r1.training.guard import NonFiniteGuard
from open_r1.training.meters import StepMeter
from open_r1.training.metrics import MetricLog
from open_r1.training.schedule import Schedule
from open_r1.training.signals import Interrupted, StopSignal

console = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step is computed from.

    Attributes:
        packs: this rank's micro-batches; every rank has the same number.
        denominator: the step's loss is the sum over all ranks' targets divided by this; the same on every rank.
        metrics: what the source wants recorded with the step; the same on every rank.
    """

    packs: list[Pack]
    denominator: float
    metrics: dict[str, float] = field(default_factory=dict)


class BatchSource(Protocol):
    """Feeds the loop. ``batch(step)`` depends on the step, the settings and the state alone."""

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


Objective = Callable[[TokenLogprobs, Pack], tuple[Tensor, dict[str, Tensor]]]
"""The sum (not mean) of the weighted losses of a pack's targets, and sums of metrics over its targets."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: steps taken in all, and the metrics to print."""

    step: int
    metrics: dict[str, float]


class Trainer:
    """One run of the loop.

    Args:
        module: the wrapped `PackModel`; ``optimizer`` belongs to it.
        forward: keyword arguments of the module's forward beside the pack.
        evaluate: returns held-out metrics; called by ``eval_strategy``.
    """

    def __init__(
        self,
        config: TrainingConfig,
        runtime: Runtime,
        module: nn.Module,
        optimizer: Optimizer,
        source: BatchSource,
        objective: Objective,
        checkpoints: Checkpoints,
        *,
        forward: dict[str, Any] | None = None,
        evaluate: Callable[[], dict[str, float]] | None = None,
        description: str = "train",
    ) -> None:
        self.config, self.runtime, self.module, self.optimizer = config, runtime, module, optimizer
        self.source, self.objective, self.checkpoints = source, objective, checkpoints
        self.forward, self.evaluate, self.description = forward or {}, evaluate, description
        self.pack_model: PackModel = runtime.unwrap(module)
        self.total_steps = config.max_steps if config.max_steps > 0 else source.steps(config.num_train_epochs)
        self.schedule = Schedule(config, self.total_steps)
        self.meter = StepMeter(self.pack_model.causal_lm, runtime.world_size)
        self.guard = NonFiniteGuard(config.max_nonfinite_steps, Path(config.output_dir))
        self._saved: tuple[int, Path | None] = (-1, None)

    def train(self) -> TrainResult:
        """Runs to the last step, from the checkpoint that the settings name.

        Raises:
            StopRequested: after SIGTERM or Ctrl-C, once the state has been saved.
        """
        first_step = self._resume()
        log = MetricLog(Path(self.config.output_dir), self.runtime, first_step)
        losses = []
        progress = TrainingProgress(self.total_steps, self.description, enabled=self.runtime.is_main, start=first_step)
        with StopSignal() as stop, progress:
            step = first_step
            try:
                while step < self.total_steps:
                    metrics = self._step(step, stop)
                    step += 1
                    losses.append(metrics["loss"])
                    if self._due(step, self.config.eval_strategy, self.config.eval_steps) and self.evaluate:
                        metrics |= self.evaluate()
                    if self._logs(step):
                        metrics |= self.meter.since_mark()
                        log.write(step, metrics)
                    progress.update(step, metrics)
                    if self._due(step, self.config.save_strategy, self.config.save_steps) and step < self.total_steps:
                        self._save(step)
                    if number := int(self.runtime.max(stop.number)):
                        raise Interrupted(number)
            except Interrupted as signal:
                path = self._save(step)
                saved = f"saved to {path}" if path else "not saved, an earlier checkpoint stays"
                raise StopRequested(
                    f"stopped by {signal} after step {step} of {self.total_steps}; {saved}; "
                    "the same command with --resume_from_checkpoint true continues",
                    signal.signal_number,
                ) from None
            finally:
                log.close()
        return TrainResult(step, self._summary(losses, step - first_step))

    def _resume(self) -> int:
        path = self.checkpoints.find(self.config.resume_from_checkpoint)
        if path is None:
            return 0
        state = self.checkpoints.load(path, self.pack_model.model, self.optimizer)
        if state.fingerprint != self.source.fingerprint:
            raise UserError(
                f"{path} was made with other data, batch sizes or seed, so the order of batches would not continue; "
                "use the same settings, or start a new --output_dir with --model_name_or_path set to that folder"
            )
        if len(state.source) != self.runtime.world_size:
            raise UserError(f"{path} was made by {len(state.source)} processes; continue it with as many")
        self.source.load_state_dict(state.source[self.runtime.rank])
        if self.runtime.is_main:
            console.print(f"continuing from {path} (step {state.step} of {self.total_steps})")
        return state.step

    def _step(self, step: int, stop: StopSignal) -> dict[str, float]:
        """One optimizer step; returns its metrics. Raises `Interrupted` only before the weights change."""
        if self.runtime.world_size > 1:
            stop = StopSignal()  # ranks stop together, between steps; within one, this never says stop
        batch = self.source.batch(step, stop)
        torch.manual_seed(step_seed(self.config.seed, step, self.runtime.rank))
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for number, pack in enumerate(batch.packs, start=1):
            stop.check()
            with self.runtime.accumulate(self.module, last=number == len(batch.packs)):
                loss, metrics = self._micro_batch(pack, batch.denominator)
                self.runtime.backward(loss)
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + value
        grad_norm = self.runtime.clip_gradients(self.module.parameters(), self.config.max_grad_norm)

        # Packs without targets only keep ranks in step.
        lengths = [length for pack in batch.packs if len(pack.target_index) for length in pack.lengths]
        counted = [
            len(lengths),
            sum(lengths),
            self.meter.flops_of(lengths),
            sum(len(p.target_index) for p in batch.packs),
        ]
        local = torch.cat([torch.stack(list(sums.values())).double().cpu(), torch.tensor(counted, dtype=torch.float64)])
        *reduced, sequences, tokens, flops, targets = self.runtime.sum(local).tolist()
        results = {name: value / max(1.0, targets) for name, value in zip(sums, reduced, strict=True)}
        results["loss"] = reduced[0]
        self.meter.add(sequences, tokens, flops)

        rate = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        taken = targets > 0 and self._optimizer_step(step, results["loss"], float(grad_norm), batch.packs)
        return {
            **results,
            **batch.metrics,
            "grad_norm": float(grad_norm),
            "learning_rate": rate,
            "epoch": (step + 1) / self.source.steps_per_epoch,
            "tokens": tokens,
            "sequences": sequences,
            **({} if taken else {"skipped": 1.0}),
        }

    def _micro_batch(self, pack: Pack, denominator: float) -> tuple[Tensor, dict[str, Tensor]]:
        pack = pack.to(self.runtime.device)
        total, metrics = self.objective(self.module(pack, **self.forward), pack)
        return total / denominator, metrics

    def _optimizer_step(self, step: int, loss: float, grad_norm: float, packs: list[Pack]) -> bool:
        """Steps unless loss or gradient is not finite; whether it stepped.

        In fp16 a gradient that overflowed only makes the scaler lower its scale, so there the loss alone is looked at.
        """
        scaled = self.runtime.loss_scaler is not None
        if not self.guard.admits(step, loss, 0.0 if scaled else grad_norm, packs):
            console.print(f"[yellow]step {step + 1} skipped[/]: loss {loss}, gradient norm {grad_norm}, not finite")
            if scaled:  # the scaler takes no other step before this one is ended
                self.runtime.loss_scaler.update()
            return False
        self.optimizer.step()
        return math.isfinite(grad_norm)

    def _logs(self, step: int) -> bool:
        if step == self.total_steps or (step == 1 and self.config.logging_first_step):
            return True
        return self._due(step, self.config.logging_strategy, self.config.logging_steps)

    def _due(self, step: int, strategy: str, every: float | None) -> bool:
        if strategy == "no":
            return False
        if strategy == "epoch":
            per_epoch = self.source.steps_per_epoch
            return int(step / per_epoch) > int((step - 1) / per_epoch) or step == self.total_steps
        return step % resolve_steps(every or 1, self.total_steps) == 0

    def _save(self, step: int) -> Path | None:
        """Saves the state after ``step`` steps, unless that was the last one saved."""
        if self._saved[0] != step:
            sources = self.runtime.gather([self.source.state_dict(step)])
            state = TrainingState(step, sources, self.source.fingerprint)
            self._saved = (step, self.checkpoints.save(state, self.pack_model.model, self.optimizer))
        return self._saved[1]

    def _summary(self, losses: list[float], steps: int) -> dict[str, float]:
        finite = [loss for loss in losses if math.isfinite(loss)]
        return {
            "train_loss": sum(finite) / len(finite) if finite else float("nan"),
            "train_steps": float(steps),
            "skipped_steps": float(self.guard.skipped),
            **self.meter.overall(steps),
        }


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of torch's generator (dropout) in one step of one rank: 63 bits of BLAKE2b over the three numbers."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
