"""What a step's rollouts say of the policy, and a sample of them in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from open_r1.config import GRPOConfig
from open_r1.data.prompts import PromptSet
from open_r1.parallel.runtime import Runtime
from open_r1.rl.filters import has_signal
from open_r1.training.group_draws import Drawn
from open_r1.training.metrics import COMPLETIONS_FILE, keep_lines
from open_r1.training.repetition import in_a_loop
from open_r1.training.rollouts import Group

console = Console(stderr=True, soft_wrap=True, highlight=False)
COUNTS = ("reward_timeouts", "reward_errors", "prompts_drawn")
MEANS = (
    "reward", "reward_std", "completion_length", "completion_length_max", "truncated", "empty", "repetition",
    "groups_with_signal", "groups_trained",
)  # fmt: skip
Combine = Callable[[list[Group]], torch.Tensor]


class RolloutMetrics:
    """Means over every completion that was drawn, those of dropped groups included, on all ranks.

    Args:
        names: of the reward functions, in their order.
        groups: of one step on this rank.
        combine: the weighted rewards [P, G] of groups.
    """

    def __init__(
        self, config: GRPOConfig, runtime: Runtime, prompts: PromptSet, names: list[str], groups: int, combine: Combine
    ) -> None:
        self._config, self._runtime, self._prompts = config, runtime, prompts
        self._names, self._groups, self._combine = names, groups, combine
        self._warned: set[str] = set()
        self._continued = False  # whether the file of completions is rid of those that are drawn again

    def of(self, drawn: Drawn, step: int, before: int, seconds: dict[str, float]) -> dict[str, float]:
        """The metrics of a step, of whose completions a sample is written where that is asked for. Collective.

        Args:
            step: the first step (from 0) that trains on them.
            before: how many prompts this rank had drawn before it.
            seconds: where the time went; the mean over ranks is taken.
        """
        means = self._means(drawn)
        if self._config.log_completions and self._runtime.is_main:
            try:
                self._log_completions(drawn.seen, step, before)
            except OSError as error:  # a disk that is full loses a sample, not the run
                self._say([f"{COMPLETIONS_FILE} cannot be written ({error})"], "")
        meter = drawn.meter
        of_meter = (meter.timeouts, len(meter.errors), drawn.cursor - before)
        counts = dict(zip(COUNTS, map(float, of_meter), strict=True))
        flat = torch.tensor([*seconds.values(), *counts.values()], dtype=torch.float64)
        totals = dict(zip([*seconds, *counts], self._runtime.sum(flat).tolist(), strict=True))
        for name in seconds:
            totals[name] /= self._runtime.world_size
        self._say(meter.errors, "a reward function failed, its completions get no reward: ")
        return means | totals

    def _means(self, drawn: Drawn) -> dict[str, float]:
        seen = drawn.seen
        rewards = np.concatenate([group.rewards for group in seen], axis=1)
        combined = self._combine(seen)
        completions = [completion for group in seen for completion in group.completions]
        lengths = [len(completion.token_ids) for completion in completions]
        sums = {
            **{f"rewards/{name}": sum_count(values) for name, values in zip(self._names, rewards, strict=True)},
            "reward": sum_count(combined.numpy()),
            "reward_std": sum_count(_spread(combined.numpy())),
            "completion_length": sum_count(lengths),
            "truncated": sum_count([completion.finish_reason == "length" for completion in completions]),
            "empty": sum_count([not text.strip() for group in seen for text in group.texts]),
            "repetition": sum_count([in_a_loop(text) for group in seen for text in group.texts]),
            "groups_with_signal": sum_count(has_signal(combined).numpy()),
            "groups_trained": (float(len(drawn.kept)), float(self._groups)),
        }
        longest = self._runtime.max(float(max(lengths)))
        flat = torch.tensor(list(sums.values()), dtype=torch.float64)
        totals = self._runtime.sum(flat)
        means = {name: mean_of(total, count) for name, (total, count) in zip(sums, totals.tolist(), strict=True)}
        return means | {"completion_length_max": longest}

    def _log_completions(self, groups: list[Group], step: int, before: int) -> None:
        limit = self._config.num_completions_to_print
        limit = self._config.num_generations if limit is None else limit
        path = Path(self._config.output_dir) / COMPLETIONS_FILE
        if not self._continued:
            _forget_from(path, before * self._runtime.world_size)
            self._continued = True
        answers = [(group, sample) for group in groups for sample in range(len(group.texts))]
        rewards = self._combine(groups).flatten().tolist()
        with path.open("a") as file:
            for (group, sample), reward in list(zip(answers, rewards, strict=True))[:limit]:
                entry = {
                    "step": step + 1,
                    "draw": group.draw,
                    "prompt": self._prompts.messages[group.prompt],
                    "completion": group.texts[sample],
                    "reward": None if math.isnan(reward) else reward,
                    "finish_reason": group.completions[sample].finish_reason,
                }
                file.write(json.dumps(entry) + "\n")

    def _say(self, errors: list[str], what: str) -> None:
        for error in errors:
            if error not in self._warned:
                self._warned.add(error)
                console.print(f"[yellow]{what}[/]{escape(error)}")


def _forget_from(path: Path, draw: int) -> None:
    """Drops what a run that this one continues has written of the prompts that are drawn again, from this number on."""
    if path.is_file():
        keep_lines(path, lambda entry: entry.get("draw", -1) < draw)


def is_of_rollouts(name: str) -> bool:
    """Whether a metric says something of completions, and so nothing new of a further step on the same ones."""
    return name in MEANS or name in COUNTS or name.startswith("rewards/")


def of_further_step(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of a further step on the same rollouts: their means stand, what they took was counted before."""
    return {name: 0.0 if name in COUNTS or name.startswith("seconds_") else value for name, value in metrics.items()}


def _spread(rewards_PG: np.ndarray) -> np.ndarray:
    """The unbiased standard deviation of each group [P]; 0 where fewer than two completions have a reward."""
    enough_P = np.count_nonzero(~np.isnan(rewards_PG), axis=1) >= 2
    spread_P = np.zeros(len(rewards_PG))
    if enough_P.any():
        spread_P[enough_P] = np.nanstd(rewards_PG[enough_P], axis=1, ddof=1)
    return spread_P


def mean_of(total: float, count: float) -> float:
    """NaN of nothing: a reward that nobody was given is not a reward of 0."""
    return total / count if count else math.nan


def sum_count(values: Any) -> tuple[float, float]:
    """The sum of the values that there are (not NaN), and how many these are."""
    array = np.asarray(values, dtype=np.float64)
    return float(np.nansum(array)), float(np.count_nonzero(~np.isnan(array)))
