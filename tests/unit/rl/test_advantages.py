from __future__ import annotations

import pytest
import torch

from open_r1.rl.advantages import combine_normalised, combine_rewards, group_advantages

NAN = float("nan")


def test_group_scale_by_hand():
    # Mean 2 and unbiased standard deviation 1; mean 0.5 and standard deviation sqrt(1/3).
    rewards = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.5, 1.0]])
    expected = torch.tensor([[-1 / 1.0001, 0, 1 / 1.0001], [-0.5 / 0.5001, 0, 0.5 / 0.5001]])
    torch.testing.assert_close(group_advantages(rewards, "group"), expected)


def test_no_scale_only_centres():
    rewards = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    torch.testing.assert_close(group_advantages(rewards, "none"), torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


def test_batch_scale_divides_by_the_deviation_of_all_rewards():
    rewards = torch.tensor([[0.0, 1.0], [3.0, 8.0]])
    expected = torch.tensor([[-0.5, 0.5], [-2.5, 2.5]]) / (rewards.std() + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, "batch"), expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("reward", [0.7, 1 / 3, 123.456])
def test_equal_rewards_give_nothing(scale, reward):
    assert group_advantages(torch.full((3, 7), reward), scale).abs().max() < 1e-9


@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_missing_reward_leaves_the_rest_of_its_group_as_if_it_were_not_there(scale):
    advantages = group_advantages(torch.tensor([[1.0, NAN, 4.0, 1.0], [0.0, 1.0, 0.0, 1.0]]), scale)
    without = group_advantages(torch.tensor([[1.0, 4.0, 1.0]]), scale)
    torch.testing.assert_close(advantages[0, [0, 2, 3]], without[0])
    assert advantages[0, 1] == 0
    torch.testing.assert_close(advantages[1], group_advantages(torch.tensor([[0.0, 1.0, 0.0, 1.0]]), scale)[0])


def test_batch_scale_leaves_missing_rewards_out_of_the_deviation():
    rewards = torch.tensor([[0.0, 1.0, NAN], [3.0, 8.0, 1.0]])
    advantages = group_advantages(rewards, "batch")
    deviation = rewards[~rewards.isnan()].std() + 1e-4
    torch.testing.assert_close(advantages[1], (rewards[1] - 4) / deviation)
    torch.testing.assert_close(advantages[0], torch.tensor([-0.5, 0.5, 0.0]) / deviation)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_with_fewer_than_two_rewards_gives_nothing(scale):
    advantages = group_advantages(torch.tensor([[NAN, 5.0], [NAN, NAN], [0.0, 1.0]]), scale)
    assert advantages[:2].tolist() == [[0, 0], [0, 0]]
    assert advantages[2, 0] < 0 < advantages[2, 1]


def test_groups_of_one_give_nothing():
    assert group_advantages(torch.tensor([[3.0], [1.0]]), "group").tolist() == [[0], [0]]


def test_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="'std'"):
        group_advantages(torch.zeros(1, 2), "std")


def test_rewards_combine_over_the_functions_that_gave_one():
    values = torch.tensor([[[1.0, NAN, NAN]], [[0.5, 0.5, NAN]]])
    combined = combine_rewards(values, [2.0, 1.0])
    torch.testing.assert_close(combined, torch.tensor([[2.5, 0.5, NAN]]), equal_nan=True)


def test_weights_must_match_the_functions():
    with pytest.raises(ValueError, match="1 reward weights for 2"):
        combine_rewards(torch.zeros(2, 1, 1), [1.0])


def test_normalised_rewards_by_hand():
    """GDPO: two functions of different spread count the same, and equal sums earned differently stay apart."""
    values = torch.tensor([[[0.0, 1.0], [10.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    half = 0.5**0.5  # (1 - 0.5) / std of (0, 1)
    expected = torch.tensor([[half, -half], [half, -half]], dtype=torch.float64)
    combined = combine_normalised(values, [1.0, 2.0])
    torch.testing.assert_close(combined, expected, atol=1e-3, rtol=0)
    assert combine_rewards(values, [1.0, 1.0])[0].tolist() == [1, 1], "the plain sum does not tell them apart"

    advantages = group_advantages(combined, "batch")
    torch.testing.assert_close(advantages, (combined - combined.mean()) / (combined.std() + 1e-4))


def test_normalised_rewards_leave_out_what_is_missing():
    values = torch.tensor([[[0.0, 1.0, NAN, NAN]], [[3.0, NAN, 3.0, NAN]]], dtype=torch.float64)
    combined = combine_normalised(values, [1.0, 1.0])
    half = 0.5**0.5
    expected = torch.tensor([[-half, half, 0.0, NAN]], dtype=torch.float64)
    torch.testing.assert_close(combined, expected, atol=1e-3, rtol=0, equal_nan=True)


def test_equal_rewards_are_equal_when_normalised():
    combined = combine_normalised(torch.full((2, 1, 8), 0.7, dtype=torch.float64), [1.0, 0.3])
    assert combined.max() == combined.min()
