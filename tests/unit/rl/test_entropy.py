from __future__ import annotations

import pytest
import torch

from open_r1.rl.entropy import entropy_bonus, most_uncertain

ENTROPY = torch.tensor([0.1, 2.0, 0.3, 1.5, 0.0])


def test_the_bonus_is_the_weighted_mean_and_its_gradient_the_weights():
    entropy, weight = ENTROPY.clone().requires_grad_(), torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2])
    bonus = entropy_bonus(entropy, weight)
    torch.testing.assert_close(bonus.detach(), (ENTROPY * weight).sum())
    bonus.backward()
    torch.testing.assert_close(entropy.grad, weight)


def test_the_bonus_acts_on_the_targets_that_are_trained_on():
    kept = torch.tensor([False, True, False, True, False])
    assert entropy_bonus(ENTROPY, torch.ones(5), kept) == 3.5


@pytest.mark.parametrize(("share", "kept"), [(0.2, [1]), (0.4, [1, 3]), (1.0, [0, 1, 2, 3, 4])])
def test_the_share_of_targets_with_the_highest_entropy(share, kept):
    assert most_uncertain(ENTROPY, share).nonzero().flatten().tolist() == kept


def test_there_is_always_one_and_none_of_none():
    assert most_uncertain(ENTROPY, 1e-6).sum() == 1
    assert most_uncertain(torch.zeros(0), 0.2).shape == (0,)
