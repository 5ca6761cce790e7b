from __future__ import annotations

import pytest
import torch

from open_r1.rl.importance import importance_weights, mismatch

ENGINE = torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0])
TRAINER = ENGINE + torch.tensor([0.5, 4.0, 1.5, 1.0, 0.5]).log()
SEQUENCES = torch.tensor([0, 0, 1, 1, 4])  # ratios of the sequences: 2, 1.5, 0.5


@pytest.mark.parametrize(
    ("mode", "expected", "capped"),
    [
        ("token_truncate", [0.5, 1.8, 1.5, 1.0, 0.5], [1]),
        ("token_mask", [0.5, 0.0, 1.5, 1.0, 0.5], [1]),
        ("sequence_truncate", [1.8, 1.8, 1.5, 1.5, 0.5], [0, 1]),
        ("sequence_mask", [0.0, 0.0, 1.5, 1.5, 0.5], [0, 1]),
    ],
)
def test_weights_are_the_ratio_with_a_cap_and_without_gradient(mode, expected, capped):
    trainer = TRAINER.clone().requires_grad_()
    weights, above = importance_weights(trainer, ENGINE, 1.8, mode, SEQUENCES)
    torch.testing.assert_close(weights, torch.tensor(expected))
    assert above.nonzero().flatten().tolist() == capped
    assert not weights.requires_grad


def test_no_target_has_no_weight():
    weights, above = importance_weights(torch.zeros(0), torch.zeros(0), 2.0, "sequence_mask", torch.zeros(0).long())
    assert weights.shape == above.shape == (0,)


def test_cap_must_be_positive():
    with pytest.raises(ValueError, match="cap"):
        importance_weights(torch.zeros(1), torch.zeros(1), cap=0.0)


def test_mismatch_by_hand():
    apart = mismatch(torch.tensor([-1.0, -2.5]), torch.tensor([-1.5, -1.5]))
    assert apart["mismatch"] == 1.5
    expected = (torch.tensor([0.5, -1.0]).exp() - 1 - torch.tensor([0.5, -1.0])).sum()
    torch.testing.assert_close(apart["mismatch_kl"], expected)


def test_no_token_is_no_mismatch():
    assert mismatch(torch.zeros(0), torch.zeros(0)) == {"mismatch": 0, "mismatch_kl": 0}
