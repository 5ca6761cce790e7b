from __future__ import annotations

import pytest
import torch

from open_r1.rl.importance import mismatch, truncated_importance_weights


def test_weights_are_the_capped_ratio_without_gradient():
    trainer = torch.tensor([-1.0, -1.0, -3.0], requires_grad=True)
    engine = torch.tensor([-1.0, -3.0, -1.0])
    weights = truncated_importance_weights(trainer, engine, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, torch.tensor(-2.0).exp()]))
    assert not weights.requires_grad


def test_cap_must_be_positive():
    with pytest.raises(ValueError, match="cap"):
        truncated_importance_weights(torch.zeros(1), torch.zeros(1), cap=0.0)


def test_mismatch_by_hand():
    apart = mismatch(torch.tensor([-1.0, -2.5]), torch.tensor([-1.5, -1.5]))
    assert apart["mean"] == 0.75
    assert apart["max"] == 1.0
    expected = (torch.tensor([0.5, -1.0]).exp() - 1 - torch.tensor([0.5, -1.0])).mean()
    torch.testing.assert_close(apart["kl"], expected)


def test_no_token_is_no_mismatch():
    assert mismatch(torch.zeros(0), torch.zeros(0)) == {"mean": 0, "max": 0, "kl": 0}
