"""What a group's completions are compared by, and what that keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from open_r1.config import GRPOConfig
from open_r1.rl.advantages import combine_normalised, combine_rewards
from open_r1.training.group_draws import GroupDraws
from open_r1.training.rollouts import Group

SAME_SUM = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
EQUAL = np.array([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]])


class Collector:
    """Gives one group whose rewards add up to the same, then groups that are equal in every reward."""

    def collect(self, draws: Any, step: int, stop: Any, meter: Any) -> list[Group]:
        return [Group(draw, draw, (), (), SAME_SUM if draw == 0 else EQUAL) for draw in draws]


def draws(**settings: Any) -> GroupDraws:
    config = GRPOConfig(model_name_or_path="m", dataset_name="d", output_dir="o", max_resample_rounds=1, **settings)
    return GroupDraws(config, Collector(), groups=2, functions=2, rank=0, world_size=1)


def test_equal_sums_have_no_signal():
    assert draws().draw(0, 0, None).kept == []


def test_equal_sums_of_normalised_rewards_have_one_where_the_rewards_differ():
    chosen = draws(multi_objective_aggregation="normalize_then_sum", reward_weights=[2.0, 1.0])
    drawn = chosen.draw(0, 0, None)
    assert [group.draw for group in drawn.kept] == [0]
    values = torch.from_numpy(SAME_SUM)[:, None]
    torch.testing.assert_close(chosen.compared(drawn.kept), combine_normalised(values, [2.0, 1.0]))
    torch.testing.assert_close(chosen.combined(drawn.kept), combine_rewards(values, [2.0, 1.0]))
