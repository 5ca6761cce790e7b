"""The training loop that SFT and GRPO share.

They differ in what feeds it (`BatchSource`) and in one function (`Objective`). A step (`TrainingStep`) is handed to the
GPU without waiting for it; what it measured is read while the next one runs, and before anything is saved, evaluated
or ended.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from open_r1.config import TrainingConfig, resolve_steps
from open_r1.errors import StopRequested, UserError
from open_r1.parallel.runtime import Runtime
from open_r1.report.progress import TrainingProgress
from open_r1.training.batches import Batches, BatchSource
from open_r1.training.checkpoint import Checkpoints, TrainingState
from open_r1.training.guard import NonFiniteGuard
from open_r1.training.meters import StepMeter
from open_r1.training.metrics import MetricLog
from open_r1.training.reading import StepReading
from open_r1.training.resume import resume
from open_r1.training.schedule import Schedule
from open_r1.training.signals import Interrupted, StopSignal
from open_r1.training.step import COUNTS, Objective, TrainingStep
from open_r1.training.together import SharedError
from open_r1.training.update import is_scaled
from open_r1.training.watching import RunWatch

LAST_REWARDS = {"reward": "train_last_reward", "eval/reward": "train_last_held_out_reward"}
"""Of GRPO, whose loss says nothing of how far it came."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: steps taken in all.
        metrics: to print.
        stopped: which rule of ``stop_on`` ended it and what was seen, with the checkpoint; "" for a run to its end.
    """

    step: int
    metrics: dict[str, float]
    stopped: str = ""


class Trainer:
    """One run of the loop.

    Args:
        module: the wrapped `PackModel`; ``optimizer`` belongs to it.
        forward: keyword arguments of the module's forward beside the pack.
        evaluate: returns held-out metrics; called by ``eval_strategy`` with the signal that may interrupt it, all
            ranks or none.
        watch: looks at every step's metrics, and may end the run.
        on_save: told the folder and the step of each checkpoint that is on disk.
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
        evaluate: Callable[[StopSignal], dict[str, float]] | None = None,
        watch: RunWatch | None = None,
        on_save: Callable[[Path, int], None] | None = None,
        description: str = "train",
    ) -> None:
        self.config, self.runtime, self.module, self.optimizer = config, runtime, module, optimizer
        self.source, self.checkpoints = source, checkpoints
        self.evaluate, self.watch, self.on_save, self.description = evaluate, watch, on_save, description
        self.total_steps = config.max_steps if config.max_steps > 0 else source.steps(config.num_train_epochs)
        self.schedule = Schedule(config, self.total_steps)
        self.meter = StepMeter(runtime.unwrap(module).causal_lm, runtime.world_size)
        self.guard = NonFiniteGuard(
            config.max_nonfinite_steps, Path(config.output_dir), runtime, scaled=is_scaled(runtime)
        )
        self.take_step = TrainingStep(config, runtime, module, optimizer, objective, forward or {}, self.meter)
        # Where the next batch needs this step's weights there is nothing to hand to the GPU meanwhile.
        self.steps_ahead = int(source.ahead and runtime.device.type == "cuda")
        self._readings: deque[StepReading] = deque()
        self._losses: list[float] = []
        self._latest: dict[str, float] = {}
        self._saved: tuple[int, Path | None] = (-1, None)

    def train(self) -> TrainResult:
        """Runs to the last step, from the checkpoint that the settings name.

        Raises:
            StopRequested: after SIGTERM or Ctrl-C, once the state has been saved.
            UserError: no next batch, or no evaluation, can be had; once the state has been saved, where all ranks can.
        """
        first_step = resume(
            self.checkpoints,
            self.config,
            self.runtime,
            self.module,
            self.optimizer,
            self.source,
            self.total_steps,
        )
        with self.meter.apart():
            log = MetricLog(self.config, self.runtime, first_step)
        progress = TrainingProgress(self.total_steps, self.description, enabled=self.runtime.is_main, start=first_step)
        batches = Batches(self.source, self.total_steps, self.runtime.device)
        if self.watch:
            self.watch.resume(first_step)
        with StopSignal() as stop, progress, batches:
            step, stopped = first_step, ""
            try:
                if step == 0 and self.evaluate and self.config.eval_on_start:
                    self._evaluate_first(log, progress, stop)
                while step < self.total_steps:
                    try:
                        batch = batches.batch(step, stop)
                    except UserError as error:  # of an engine or a verifier: the weights are whole
                        if step == first_step or not self._is_shared(error):
                            raise
                        self._read(log, progress, stop, keep=0)
                        raise self._saved_before(error, step) from error
                    self._readings.append(self.take_step(step, batch, self.schedule(step), stop))
                    step += 1
                    self._read(log, progress, stop, keep=0 if self._pauses(step) else self.steps_ahead)
                    if self.watch and self.watch.fired:
                        self._read(log, progress, stop, keep=0)
                        stopped = self._stopped_by_rule(step)
                        break
                    if number := self.take_step.stop_number if self.runtime.world_size > 1 else stop.number:
                        raise Interrupted(number)
            except Interrupted as signal:
                stop.number = signal.signal_number  # where another rank has heard it, too
                self._read(log, progress, StopSignal(), keep=0)
                path = self._save(step)
                saved = f"saved to {path}" if path else f"not saved, {self.checkpoints.what_is_left}"
                raise StopRequested(
                    f"stopped by {signal} after step {step} of {self.total_steps}; {saved}; "
                    "the same command with --resume_from_checkpoint true continues",
                    signal.signal_number,
                ) from None
            finally:
                log.close()
        return TrainResult(step, self._summary(step - first_step), stopped)

    def _evaluate_first(self, log: MetricLog, progress: TrainingProgress, stop: StopSignal) -> None:
        """Where the curve of what is held out begins."""
        with self.meter.apart():
            metrics = self.evaluate(stop)
        log.write(0, metrics)
        progress.update(0, metrics)

    def _is_shared(self, error: UserError) -> bool:
        """Whether all ranks end by it, and so can save together."""
        return self.runtime.world_size == 1 or isinstance(error, SharedError)

    def _saved_before(self, error: UserError, step: int) -> UserError:
        """What to say of an error between two steps, once what was trained so far is on disk. Collective."""
        path = self._save(step)
        saved = f"; saved to {path}" if path else ""
        return UserError(f"{error}; stopped after step {step} of {self.total_steps}{saved}")

    def _stopped_by_rule(self, step: int) -> str:
        """Saves, unless that was the last step; what to say."""
        path = self._save(step) if step < self.total_steps else None
        saved = f"; saved to {path}" if path else ""
        return f"{self.watch.fired}; stopped after step {step} of {self.total_steps}{saved}"

    def _read(self, log: MetricLog, progress: TrainingProgress, stop: StopSignal, *, keep: int) -> None:
        """Reads the steps that are over, all but the last ``keep``: records them, saves and evaluates where it is due.

        Raises:
            Interrupted: by ``stop``, in an evaluation, once the step is recorded without it.
            UserError: of an evaluation, once the step is recorded without it, and saved.
        """
        while len(self._readings) > keep:
            reading = self._readings.popleft()
            step = reading.step + 1
            metrics = self._account(reading)
            evaluates, failure = self._evaluates(step), None
            logs = evaluates or self._logs(step)
            if logs:
                metrics |= self.meter.since_mark()
            if evaluates:
                if self._saves(step):  # not after what may take long, and be killed
                    log.write(step, metrics, for_now=True)
                    self._save(step)
                try:
                    with self.meter.apart():
                        metrics |= self.evaluate(stop)
                except (Interrupted, UserError) as error:
                    failure = error
            self._latest |= metrics
            if self.watch:
                metrics |= self.watch.look(step, metrics)
            if logs:
                log.write(step, metrics)
            progress.update(step, metrics)
            if self._saves(step):
                self._save(step)  # the step's line is on disk by then: a run that goes on from here does not write it
            if isinstance(failure, UserError) and self._is_shared(failure):
                raise self._saved_before(failure, step) from failure
            if failure:
                raise failure

    def _account(self, reading: StepReading) -> dict[str, float]:
        """The metrics of a step that is over, once meter and guard have seen it."""
        numbers = reading.read()
        sums = dict(numbers.totals)
        sequences, tokens, flops, targets = (sums.pop(name) for name in COUNTS)
        self.meter.add(sequences, tokens, flops)
        self.guard.look(reading, numbers)
        self._losses.append(sums["loss"])
        means = {name: value / max(1.0, targets) for name, value in sums.items()}
        return {
            **means,
            "loss": sums["loss"],
            **reading.batch.metrics,
            "grad_norm": numbers.grad_norm,
            "learning_rate": reading.learning_rate,
            "epoch": (reading.step + 1) / self.source.steps_per_epoch,
            "tokens": tokens,
            "sequences": sequences,
            **({} if self.source.ahead else {"seconds_train": numbers.seconds}),
            **({} if numbers.taken else {"skipped": 1.0}),
        }

    def _pauses(self, step: int) -> bool:
        """Whether everything up to ``step`` has to be known before the next step."""
        return step == self.total_steps or self._evaluates(step) or self._saves(step)

    def _evaluates(self, step: int) -> bool:
        return self.evaluate is not None and self._due(step, self.config.eval_strategy, self.config.eval_steps)

    def _saves(self, step: int) -> bool:
        return step < self.total_steps and self._due(step, self.config.save_strategy, self.config.save_steps)

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
            with self.meter.apart():
                path = self.write_checkpoint(step)
                if path and self.on_save:
                    self.on_save(path, step)
                self._saved = (step, path)
        return self._saved[1]

    def write_checkpoint(self, step: int) -> Path | None:
        """Writes the state after ``step`` steps, and tells nobody; None where the disk does not take it. Collective."""
        sources = self.runtime.gather([self.source.state_dict(step)])
        state = TrainingState(step, sources, self.source.fingerprint)
        return self.checkpoints.save(state, self.module, self.optimizer)

    def _summary(self, steps: int) -> dict[str, float]:
        finite = [loss for loss in self._losses if math.isfinite(loss)]
        return {
            **({"train_loss": sum(finite) / len(finite)} if finite else {}),
            "train_steps": float(steps),
            "skipped_steps": float(self.guard.skipped),
            **{
                label: self._latest[name]
                for name, label in LAST_REWARDS.items()
                if math.isfinite(self._latest.get(name, math.nan))
            },
            **self.meter.overall(steps),
        }
