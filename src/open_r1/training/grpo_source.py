"""What feeds GRPO: rollouts of the current policy, or of the one a step ago, as packs."""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack
from open_r1.data.prompts import PromptSet
from open_r1.errors import UserError
from open_r1.generation.engine import TrainableEngine
from open_r1.parallel.runtime import Runtime
from open_r1.training.batches import StepBatch
from open_r1.training.continuity import data_fingerprint
from open_r1.training.draft import Draft
from open_r1.training.group_draws import Drawn, GroupDraws
from open_r1.training.pack_budget import SMALLEST_PACK
from open_r1.training.rollout_metrics import RolloutMetrics, of_further_step
from open_r1.training.rollout_packs import level_packs, pack_groups
from open_r1.training.rollouts import RolloutCollector
from open_r1.training.signals import StopSignal
from open_r1.training.together import together

GRACE = 15.0
"""Seconds for which a run that was told to stop waits for rollouts under way, to save them."""


@dataclass(frozen=True)
class Held:
    """Rollouts in hand: good for ``num_iterations`` steps from ``first_step``."""

    first_step: int
    packs: list[Pack]
    metrics: dict[str, float]
    origin: str


def steps_of(epochs: float, steps_per_epoch: float) -> int:
    """Steps in which every prompt is drawn ``epochs`` times, if none is drawn in another's place."""
    return max(1, math.ceil(epochs * steps_per_epoch - 1e-6))


class GRPOSource:
    """Draws prompts, completions and rewards for each step, and keeps them for ``num_iterations`` steps.

    With ``async_steps`` the next rollouts are drawn by a thread while the policy trains: their weights are one set of
    rollouts old by then, which the importance ratio corrects.

    Args:
        weights: the policy's whole weights as they are now, for the engine; collective.
        groups_a_step: prompts of one step over all ranks.
        reward_names: in the order of the reward functions.
        reference: log-probabilities [K] of a pack's targets under the frozen reference; None where beta is 0.
        pack_tokens: of a pack, more where one sequence needs it; None takes ``pack_length``.
        share_prompts: compute a prompt once for all of its completions in a pack.
    """

    ahead = False  # rollouts need the weights of the step before

    def __init__(
        self,
        config: GRPOConfig,
        runtime: Runtime,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        engine: TrainableEngine,
        collector: RolloutCollector,
        prompts: PromptSet,
        *,
        groups_a_step: int,
        reward_names: list[str],
        reference: Callable[[Pack], Tensor] | None = None,
        pack_tokens: int | None = None,
        share_prompts: bool = False,
    ) -> None:
        if groups_a_step % runtime.world_size:
            raise UserError(f"{groups_a_step} prompts a step cannot be shared evenly by {runtime.world_size} processes")
        self._config, self._runtime, self._weights, self._engine = config, runtime, weights, engine
        self._prompts, self._reference, self._share = prompts, reference, share_prompts
        self._pack_tokens = pack_tokens or config.pack_length or SMALLEST_PACK
        groups = groups_a_step // runtime.world_size
        self._draws = GroupDraws(
            config,
            collector,
            groups=groups,
            functions=len(reward_names),
            rank=runtime.rank,
            world_size=runtime.world_size,
        )
        self._meter = RolloutMetrics(config, runtime, prompts, reward_names, groups, self._draws.combined)
        self._cursor = 0  # prompts this rank has drawn
        self._held: Held | None = None
        self._draft: Draft | None = None
        self._kept: tuple[int, Drawn] | None = None  # a draft that is done: by a checkpoint, or out of one
        self._stop = StopSignal()
        self.steps_per_epoch = len(prompts) * config.num_iterations / groups_a_step
        self._last_step = config.max_steps if config.max_steps > 0 else self.steps(config.num_train_epochs)
        self.fingerprint = self._fingerprint(groups_a_step)

    def steps(self, epochs: float) -> int:
        """As `steps_of`."""
        return steps_of(epochs, self.steps_per_epoch)

    def batch(self, step: int, stop: StopSignal) -> StepBatch:
        """The rollouts in hand where they are still good for ``step``, else new ones."""
        self._stop = stop
        first_step = step - step % self._config.num_iterations
        if self._held is None or self._held.first_step != first_step:
            self._held = self._roll_out(first_step, stop)
        origin, metrics = self._held.origin, self._held.metrics
        if step != first_step:
            metrics = of_further_step(metrics)
        return StepBatch(self._held.packs, 1.0, metrics, lambda _number: origin)

    def sync(self, stop: StopSignal) -> None:
        """Gives the engine the policy's weights as they are now, once it has drawn what is under way. Collective.

        Raises:
            Interrupted: by ``stop``, and by that of any rank on all of them.
            UserError: the engine is lost; of any rank on all of them.
        """
        self._await_draft(stop)
        self._load_weights()

    def close(self) -> None:
        """Gives up rollouts under way; the engine is free afterwards."""
        if self._draft is not None:
            self._draft.close()
            self._draft = None

    def state_dict(self, step: int) -> dict[str, Any]:
        """How many prompts were drawn, and the rollouts in hand: for ``step`` (the next one) and for later ones."""
        held = self._held
        good = held is not None and held.first_step <= step < held.first_step + self._config.num_iterations
        with suppress(Exception):  # raised again where they are needed; what was trained by then is saved
            self._settle_draft(GRACE if self._stop.number else None)
        return {"cursor": self._cursor, "held": held if good else None, "ahead": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self.close()
        self._cursor, self._held, self._kept = state["cursor"], state["held"], state.get("ahead")

    def adopt(self, states: list[dict[str, Any]]) -> str:
        """Draws on after the last prompt that any rank has drawn; rollouts in hand belonged to the ranks there were."""
        number = len(states)
        drawn = max((state["cursor"] - 1) * number + rank + 1 for rank, state in enumerate(states))
        self._cursor, self._held, self._kept = math.ceil(max(0, drawn) / self._runtime.world_size), None, None
        lost = any(state["held"] or state.get("ahead") for state in states)
        return "the rollouts in hand are drawn again" if lost else ""

    def _roll_out(self, step: int, stop: StopSignal) -> Held:
        self._now()  # else what is still being trained would count as what comes next
        drawn, seconds = self._take(step, stop)
        following = step + self._config.num_iterations
        if self._config.async_steps and following < self._last_step:
            syncing = time.perf_counter()
            self._kept = (step, drawn)  # to be saved, if the engine should be lost
            self._load_weights()
            self._kept = None
            seconds["sync"] = self._now() - syncing
            self._draft = Draft(self._draws, drawn.cursor, following)
        before, self._cursor = self._cursor, drawn.cursor  # only now: an interrupted collection leaves the state before
        packing = time.perf_counter()
        packs = self._packs(drawn)
        seconds["reference"] = self._now() - packing
        metrics = self._meter.of(drawn, step, before, {f"seconds_{name}": value for name, value in seconds.items()})
        prompts = sorted({group.prompt for group in drawn.kept})
        return Held(step, packs, metrics, f"prompts {', '.join(map(str, prompts))}")

    def _take(self, step: int, stop: StopSignal) -> tuple[Drawn, dict[str, float]]:
        """The groups of ``step``: those that were drawn ahead, else new ones; and seconds, by what they went for."""
        seconds = dict.fromkeys(("sync", "generate", "reward_wait", "idle"), 0.0)
        start = time.perf_counter()
        self._await_draft(stop)
        kept, self._kept = self._kept, None
        drawn = kept[1] if kept is not None and kept[0] == step else None
        missing = drawn is None
        if self._config.async_steps:
            # All ranks load weights or none does: one may have given up, for a checkpoint, what others had in time.
            missing = bool(self._runtime.max(float(missing)))
        if not missing:
            seconds["idle"] = time.perf_counter() - start
        else:
            self._load_weights()
            seconds["sync"] = self._now() - start
            with together(self._runtime):
                drawn = self._draws.draw(self._cursor, step, stop)
        meter = drawn.meter
        return drawn, seconds | {"generate": meter.generate_seconds, "reward_wait": meter.reward_wait_seconds}

    def _load_weights(self) -> None:
        self._runtime.barrier()  # one process sends, and no other may still draw from the weights before
        weights = iter(self._weights())
        with together(self._runtime):  # one process sends, and no other may ask before
            try:
                self._engine.load_weights(weights)
            except UserError:
                deque(weights, maxlen=0)  # the other ranks gather them with this one, to the last
                raise

    def _await_draft(self, stop: StopSignal) -> None:
        """Waits for rollouts under way, of all ranks. Collective."""
        if self._config.async_steps:
            with together(self._runtime):
                if self._draft is not None:
                    self._draft.wait(stop)
                self._settle_draft()

    def _settle_draft(self, seconds: float | None = None) -> None:
        """Waits for rollouts under way, so that the engine is free and they can be saved; raises what they did."""
        if self._draft is not None:
            drawn = self._draft.result(seconds)
            self._kept = None if drawn is None else (self._draft.first_step, drawn)
            self._draft = None

    def _packs(self, drawn: Drawn) -> list[Pack]:
        groups = drawn.kept
        rewards = self._draws.compared(groups).tolist() if groups else []
        packs = pack_groups(
            self._config,
            self._runtime,
            self._prompts,
            groups,
            rewards,
            self._pack_tokens,
            share_prompts=self._share,
        )
        known = all(len(completion.logprobs) for group in drawn.seen for completion in group.completions)
        packs = level_packs(self._runtime, packs, logprobs=known, share_prompts=self._share)
        if self._reference is None:
            return packs
        # Levelled before: where weights are gathered for it, every rank asks the reference as often.
        return [replace(pack, reference_logprob=self._reference(pack)) for pack in packs]

    def _now(self) -> float:
        """The time at which the device has done what it was given."""
        if self._runtime.device.type == "cuda":
            torch.cuda.synchronize(self._runtime.device)
        return time.perf_counter()

    def _fingerprint(self, groups_a_step: int) -> str:
        config = self._config
        order = (
            config.seed,
            groups_a_step,
            config.num_generations,
            config.num_iterations,
            config.max_completion_length,
        )
        sampling = (config.temperature, config.top_p, config.top_k, config.reward_funcs, config.reward_weights)
        text = repr((order, sampling, self._prompts.fingerprint()))
        order = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return data_fingerprint(order, self._prompts.content_key())
