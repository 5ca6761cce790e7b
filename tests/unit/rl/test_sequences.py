from __future__ import annotations

import torch

from open_r1.rl.sequences import sequence_mean, sequence_sum

# The number of a sequence may be above the number of targets: those without targets have one too.
SEQUENCES = torch.tensor([0, 0, 3, 9, 9, 9])
VALUES = torch.tensor([1.0, 3.0, 5.0, 1.0, 2.0, 6.0])


def test_every_target_gets_what_its_sequence_has():
    assert sequence_sum(VALUES, SEQUENCES).tolist() == [4, 4, 5, 9, 9, 9]
    assert sequence_mean(VALUES, SEQUENCES).tolist() == [2, 2, 5, 3, 3, 3]


def test_gradients_in_double_precision():
    values = VALUES.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: sequence_sum(values, SEQUENCES).square(), values)
    assert torch.autograd.gradcheck(lambda values: sequence_mean(values, SEQUENCES).square(), values)


def test_no_target():
    nothing, index = torch.zeros(0, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    assert sequence_mean(nothing, index).shape == (0,)
    sequence_sum(nothing, index).sum().backward()


def test_a_long_sequence_keeps_its_precision():
    """Half a million tokens: float32 sums would be off by more than the clip of GSPO is wide."""
    values = torch.full((500_000,), 0.1)
    torch.testing.assert_close(sequence_mean(values, torch.zeros(500_000, dtype=torch.int64)), values)
