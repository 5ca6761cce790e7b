"""Where the time of a step of TRL's GRPOTrainer goes, for `benchmarks/grpo_sides.py`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any
from unittest import mock

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Phases:
    """Seconds of each phase since they were last taken; a phase inside another is not counted in the outer one."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._open: list[list[Any]] = []  # name, start, seconds of phases inside
        self._optimizer = False

    def enter(self, name: str) -> None:
        """Begins a phase, once the GPU has done what belongs to the one before."""
        self._open.append([name, self._now(), 0.0])

    def leave(self) -> None:
        """Ends the innermost phase, once the GPU has done its work."""
        name, start, inside = self._open.pop()
        whole = self._now() - start
        self._seconds[name] += whole - inside
        if self._open:
            self._open[-1][2] += whole

    def take(self) -> dict[str, float]:
        """The seconds until now, which are then counted anew; ends the optimizer's phase."""
        if self._optimizer:
            self._optimizer = False
            self.leave()
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken

    def of_trl(self, stack: ExitStack) -> None:
        """Watches TRL's own methods, by name, until ``stack`` is closed."""
        from trl.generation.vllm_generation import VLLMGeneration
        from trl.trainer.grpo_trainer import GRPOTrainer

        def logprobs(name: str) -> str:
            return "train" if torch.is_grad_enabled() else name

        for owner, method, phase in (
            (VLLMGeneration, "sync_weights", "sync"),
            (GRPOTrainer, "_generate_single_turn", "generate"),
            (GRPOTrainer, "_calculate_rewards", "reward"),
            (GRPOTrainer, "_get_per_token_logps_and_entropies", "logprobs"),
            (GRPOTrainer, "_prepare_inputs", "rest"),
            (GRPOTrainer, "training_step", "train"),
        ):
            chosen = logprobs if phase == "logprobs" else str
            stack.enter_context(mock.patch.object(owner, method, self._watched(getattr(owner, method), phase, chosen)))
        handle = register_optimizer_step_pre_hook(lambda *_: self._begin_optimizer())
        stack.callback(handle.remove)

    def _begin_optimizer(self) -> None:
        self._optimizer = True
        self.enter("train")

    def _watched(self, function: Callable[..., Any], phase: str, chosen: Callable[[str], str]) -> Callable[..., Any]:
        @wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            self.enter(chosen(phase))
            try:
                return function(*arguments, **named)
            finally:
                self.leave()

        return watched

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
