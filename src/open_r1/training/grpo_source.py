"""What feeds GRPO: rollouts of the current policy, their advantages, packs of them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.data.packing import best_fit
from open_r1.data.prompts import PromptSet
from open_r1.errors import UserError
from open_r1.generation.engine import TrainableEngine
from open_r1.parallel.runtime import Runtime
from open_r1.rl.advantages import combine_rewards, group_advantages
from open_r1.rl.filters import has_signal
from open_r1.rl.losses import target_weights
from open_r1.training.batches import StepBatch
from open_r1.training.completions import completion_sequence, trained_lengths
from open_r1.training.metrics import COMPLETIONS_FILE
from open_r1.training.rollouts import Group, RolloutCollector, RolloutMeter
from open_r1.training.signals import StopSignal

console = Console(stderr=True)
SMALLEST_PACK = 4096


@dataclass(frozen=True)
class Drawn:
    """One step's groups: those to train on, all that were drawn, and how many prompts this rank has drawn by then."""

    kept: list[Group]
    seen: list[Group]
    cursor: int


@dataclass(frozen=True)
class Held:
    """Rollouts in hand: good for ``num_iterations`` steps from ``first_step``."""

    first_step: int
    packs: list[Pack]
    metrics: dict[str, float]
    origin: str


class GRPOSource:
    """Draws prompts, completions and rewards for each step, and keeps them for ``num_iterations`` steps.

    Args:
        policy: the module whose weights the engine samples from.
        groups_a_step: prompts of one step over all ranks.
        reward_names: in the order of the reward functions.
        reference: log-probabilities [K] of a pack's targets under the frozen reference; None where beta is 0.
    """

    ahead = False  # rollouts need the weights of the step before

    def __init__(
        self,
        config: GRPOConfig,
        runtime: Runtime,
        policy: nn.Module,
        engine: TrainableEngine,
        collector: RolloutCollector,
        prompts: PromptSet,
        *,
        groups_a_step: int,
        reward_names: list[str],
        reference: Callable[[Pack], torch.Tensor] | None = None,
    ) -> None:
        if groups_a_step % runtime.world_size:
            raise UserError(f"{groups_a_step} prompts a step cannot be shared evenly by {runtime.world_size} processes")
        self._config, self._runtime, self._policy, self._engine = config, runtime, policy, engine
        self._collector, self._prompts, self._reference = collector, prompts, reference
        self._groups = groups_a_step // runtime.world_size
        self._names = reward_names
        self._cursor = 0  # prompts this rank has drawn
        self._held: Held | None = None
        self._warned: set[str] = set()
        self.steps_per_epoch = len(prompts) * config.num_iterations / groups_a_step
        self.fingerprint = self._fingerprint(groups_a_step)

    def steps(self, epochs: float) -> int:
        """Steps in which every prompt is drawn ``epochs`` times, if none is drawn in another's place."""
        return max(1, math.ceil(epochs * self.steps_per_epoch - 1e-6))

    def batch(self, step: int, stop: StopSignal) -> StepBatch:
        """The rollouts in hand where they are still good for ``step``, else new ones of the policy as it is now."""
        first_step = step - step % self._config.num_iterations
        if self._held is None or self._held.first_step != first_step:
            self._held = self._roll_out(first_step, stop)
        origin = self._held.origin
        return StepBatch(self._held.packs, 1.0, self._held.metrics, lambda _number: origin)

    def state_dict(self, step: int) -> dict[str, Any]:
        """How many prompts were drawn, and the rollouts in hand if step ``step`` (the next one) trains on them."""
        good = (
            self._held is not None
            and self._held.first_step <= step < self._held.first_step + self._config.num_iterations
        )
        return {"cursor": self._cursor, "held": self._held if good else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self._cursor, self._held = state["cursor"], state["held"]

    def adopt(self, states: list[dict[str, Any]]) -> str:
        """Draws on after the last prompt that any rank has drawn; rollouts in hand belonged to the ranks there were."""
        number = len(states)
        drawn = max((state["cursor"] - 1) * number + rank + 1 for rank, state in enumerate(states))
        self._cursor, self._held = math.ceil(max(0, drawn) / self._runtime.world_size), None
        return "the rollouts in hand are drawn again" if any(state["held"] for state in states) else ""

    def _roll_out(self, step: int, stop: StopSignal) -> Held:
        meter = RolloutMeter()
        start = time.perf_counter()
        self._engine.load_weights(self._policy)
        synced = time.perf_counter()
        drawn = self._draw_groups(step, stop, meter)
        prompts_drawn = drawn.cursor - self._cursor
        self._cursor = drawn.cursor  # only now: an interrupted collection leaves the state of the step before
        packs, metrics = self._to_packs(drawn.kept), self._metrics(drawn)
        packing_start = time.perf_counter()
        packs = self._level(self._with_reference(packs))
        self._report(meter)
        seconds = {
            "seconds_sync": synced - start,
            "seconds_generate": meter.generate_seconds,
            "seconds_reward_wait": meter.reward_wait_seconds,
            "seconds_reference": time.perf_counter() - packing_start,
        }
        counts = {
            "reward_timeouts": meter.timeouts,
            "reward_errors": len(meter.errors),
            "prompts_drawn": prompts_drawn,
        }
        totals = self._runtime.sum(torch.tensor([*seconds.values(), *counts.values()], dtype=torch.float64)).tolist()
        metrics |= dict(zip([*seconds, *counts], totals, strict=True))
        for name in seconds:  # the mean over ranks
            metrics[name] /= self._runtime.world_size
        prompts = sorted({group.prompt for group in drawn.kept})
        return Held(step, packs, metrics, f"prompts {', '.join(map(str, prompts))}")

    def _draw_groups(self, step: int, stop: StopSignal, meter: RolloutMeter) -> Drawn:
        """This rank's groups.

        A group without signal teaches nothing: it is dropped and another prompt drawn in its place, for a few rounds.
        """
        cursor, kept, without = self._cursor, [], []
        rounds = 1 + (self._config.max_resample_rounds if self._config.drop_zero_signal_groups else 0)
        for _ in range(rounds):
            missing = self._groups - len(kept)
            if not missing:
                break
            # Each rank draws from its own residue class, so ranks never draw the same prompt.
            numbers = range(cursor, cursor + missing)
            draws = [number * self._runtime.world_size + self._runtime.rank for number in numbers]
            cursor += missing
            for group in self._collector.collect(draws, step, stop, meter):
                signal = bool(has_signal(self._combined([group]))[0])
                (kept if signal or not self._config.drop_zero_signal_groups else without).append(group)
        return Drawn(kept, kept + without, cursor)

    def _combined(self, groups: list[Group]) -> torch.Tensor:
        weights = self._config.reward_weights or [1.0] * len(self._names)
        values = torch.from_numpy(np.stack([group.rewards for group in groups], axis=1))
        return combine_rewards(values, weights)

    def _to_packs(self, groups: list[Group]) -> list[Pack]:
        config, runtime = self._config, self._runtime
        rewards = self._combined(groups).tolist() if groups else []
        lengths = [trained_lengths(group, config.mask_truncated_completions) for group in groups]
        # Batch statistics and loss weights are over all ranks, so that cutting the batch changes nothing.
        everyone = runtime.gather([(runtime.rank, rewards, lengths)])
        all_rewards = [row for _, rows, _ in everyone for row in rows]
        all_lengths = [length for _, _, rows in everyone for row in rows for length in row]
        if not all_rewards:
            return []
        advantages = group_advantages(torch.tensor(all_rewards, dtype=torch.float64), config.scale_rewards)
        weights = target_weights(config.loss_type, torch.tensor(all_lengths), config.max_completion_length)
        before = sum(len(rows) for rank, rows, _ in everyone if rank < runtime.rank)
        sequences = []
        for place, group in enumerate(groups):
            for sample, completion in enumerate(group.completions):
                row = before + place
                if lengths[place][sample]:
                    weight = float(weights[row * config.num_generations + sample])
                    advantage = float(advantages[row, sample])
                    prompt_ids = self._prompts.token_ids[group.prompt]
                    sequences.append(completion_sequence(prompt_ids, completion, weight, advantage))
        return self._pack(sequences)

    def _pack(self, sequences: list[TrainingSequence]) -> list[Pack]:
        if not sequences:
            return []
        lengths = np.array([len(sequence.ids) for sequence in sequences])
        budget = max(self._config.pack_length or SMALLEST_PACK, int(lengths.max()))
        return [make_pack([sequences[index] for index in members]) for members in best_fit(lengths, budget)]

    def _with_reference(self, packs: list[Pack]) -> list[Pack]:
        if self._reference is None:
            return packs
        return [replace(pack, reference_logprob=self._reference(pack)) for pack in packs]

    def _level(self, packs: list[Pack]) -> list[Pack]:
        """Adds packs without targets, so that every rank has the same number (at least one)."""
        number = int(self._runtime.max(float(max(1, len(packs)))))
        zero = np.zeros(1, np.float32)
        empty = TrainingSequence(
            ids=np.zeros(1, np.int64),
            loss_weight=zero,
            advantage=zero,
            behaviour_logprob=zero,
            reference_logprob=zero if self._reference else None,
        )
        return packs + [make_pack([empty])] * (number - len(packs))

    def _metrics(self, drawn: Drawn) -> dict[str, float]:
        """Means over every completion that was drawn, those of dropped groups included."""
        config, seen = self._config, drawn.seen
        rewards = np.concatenate([group.rewards for group in seen], axis=1)
        combined = self._combined(seen)
        completions = [completion for group in seen for completion in group.completions]
        sums = {
            **{f"rewards/{name}": _sum_count(values) for name, values in zip(self._names, rewards, strict=True)},
            "reward": _sum_count(combined.numpy()),
            "reward_std": _sum_count(np.nan_to_num(np.nanstd(combined.numpy(), axis=1, ddof=1))),
            "completion_length": _sum_count([len(completion.token_ids) for completion in completions]),
            "truncated": _sum_count([completion.finish_reason == "length" for completion in completions]),
            "groups_with_signal": _sum_count(has_signal(combined).numpy()),
            "groups_trained": (float(len(drawn.kept)), float(self._groups)),
        }
        flat = torch.tensor(list(sums.values()), dtype=torch.float64)
        totals = self._runtime.sum(flat)
        means = {name: float(total / max(1.0, count)) for name, (total, count) in zip(sums, totals, strict=True)}
        if config.log_completions and self._runtime.is_main:
            self._log_completions(seen)
        return means

    def _log_completions(self, groups: list[Group]) -> None:
        limit = self._config.num_completions_to_print or self._config.num_generations
        with (Path(self._config.output_dir) / COMPLETIONS_FILE).open("a") as file:
            for group in groups[:1]:
                combined = self._combined([group])[0].tolist()
                for sample in range(min(limit, len(group.texts))):
                    entry = {
                        "draw": group.draw,
                        "prompt": self._prompts.messages[group.prompt],
                        "completion": group.texts[sample],
                        "reward": combined[sample],
                        "finish_reason": group.completions[sample].finish_reason,
                    }
                    file.write(json.dumps(entry) + "\n")

    def _report(self, meter: RolloutMeter) -> None:
        for error in meter.errors:
            if error not in self._warned:
                self._warned.add(error)
                console.print(f"[yellow]a reward function failed, its completions get no reward[/]: {error}")

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
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _sum_count(values: Any) -> tuple[float, float]:
    array = np.asarray(values, dtype=np.float64)
    return float(np.nansum(array)), float(np.count_nonzero(~np.isnan(array)))
