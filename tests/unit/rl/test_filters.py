from __future__ import annotations

import torch

from open_r1.rl.advantages import group_advantages
from open_r1.rl.filters import drop_truncated, has_signal

NAN = float("nan")
REWARDS = torch.tensor(
    [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [NAN, 1.0, 0.0], [NAN, 1.0, 1.0], [NAN, NAN, 1.0], [NAN, NAN, NAN]]
)


def test_signal_is_a_difference_between_given_rewards():
    assert has_signal(REWARDS).tolist() == [True, False, True, False, False, False]


def test_signal_is_exactly_a_group_with_an_advantage():
    advantages = group_advantages(REWARDS, "group")
    assert torch.equal(has_signal(REWARDS), (advantages != 0).any(1))


def test_truncated_completions_have_no_targets():
    lengths = drop_truncated(torch.tensor([3, 5, 2]), torch.tensor([False, True, False]))
    assert lengths.tolist() == [3, 0, 2]
