"""A step's groups: prompts drawn until enough of their answers can teach something."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from open_r1.config import GRPOConfig
from open_r1.rl.advantages import combine_normalised, combine_rewards
from open_r1.rl.filters import has_signal
from open_r1.training.rollouts import Group, RolloutCollector, RolloutMeter
from open_r1.training.signals import StopSignal


@dataclass(frozen=True)
class Drawn:
    """What one rank has drawn for one step.

    Attributes:
        kept: the groups to train on.
        seen: all that were drawn.
        cursor: how many prompts this rank has drawn by then.
    """

    kept: list[Group]
    seen: list[Group]
    cursor: int
    meter: RolloutMeter = field(default_factory=RolloutMeter)


class GroupDraws:
    """Draws this rank's groups; speaks to no other rank, so that another thread may do it.

    Args:
        groups: of one step, on this rank.
        functions: reward functions.
    """

    def __init__(
        self,
        config: GRPOConfig,
        collector: RolloutCollector,
        *,
        groups: int,
        functions: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._collector, self._rank, self._world_size = collector, rank, world_size
        self.groups = groups
        self._rounds = 1 + (config.max_resample_rounds if config.drop_zero_signal_groups else 0)
        self._drops = config.drop_zero_signal_groups
        self._weights = config.reward_weights or [1.0] * functions
        self._normalises = config.multi_objective_aggregation == "normalize_then_sum"

    def draw(self, cursor: int, step: int, stop: StopSignal) -> Drawn:
        """The groups of ``step``, from prompt number ``cursor`` of this rank on.

        A group without signal teaches nothing: it is dropped and another prompt drawn in its place, for a few rounds
        (dynamic sampling: DAPO, https://arxiv.org/abs/2503.14476, section 3.2).

        Raises:
            Interrupted: by ``stop``; nothing is lost by that, the same call draws the same again.
        """
        meter = RolloutMeter()
        kept: list[Group] = []
        without: list[Group] = []
        for _ in range(self._rounds):
            missing = self.groups - len(kept)
            if not missing:
                break
            # Each rank draws from its own residue class, so ranks never draw the same prompt.
            numbers = range(cursor, cursor + missing)
            draws = [number * self._world_size + self._rank for number in numbers]
            cursor += missing
            for group in self._collector.collect(draws, step, stop, meter):
                signal = bool(has_signal(self.compared([group]))[0])
                (kept if signal or not self._drops else without).append(group)
        return Drawn(kept, kept + without, cursor, meter)

    def combined(self, groups: list[Group]) -> torch.Tensor:
        """The weighted reward of every completion, float64 [P, G]; NaN where there is none."""
        return combine_rewards(_values(groups), self._weights)

    def compared(self, groups: list[Group]) -> torch.Tensor:
        """What the completions of a group are compared by, float64 [P, G]: `combined`, or of normalised rewards."""
        return combine_normalised(_values(groups), self._weights) if self._normalises else self.combined(groups)


def _values(groups: list[Group]) -> torch.Tensor:
    """Rewards [F, P, G]."""
    return torch.from_numpy(np.stack([group.rewards for group in groups], axis=1))
