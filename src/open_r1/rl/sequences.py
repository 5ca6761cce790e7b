"""Sums over the targets of each sequence of a pack, given back to each of them.

Shape suffix: K targets. The targets of a sequence lie next to each other, and all of them in one pack.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_sum(values_K: Tensor, sequence_index_K: Tensor) -> Tensor:
    """To each target the sum of ``values`` over its sequence, [K]; differentiable.

    Args:
        sequence_index_K: int64, which sequence a target belongs to.
    """
    return _sums(values_K, _runs(sequence_index_K)).to(values_K.dtype)


def sequence_mean(values_K: Tensor, sequence_index_K: Tensor) -> Tensor:
    """To each target the mean of ``values`` over the targets of its sequence, [K]; differentiable."""
    run_K = _runs(sequence_index_K)
    return (_sums(values_K, run_K) / _sums(torch.ones_like(values_K), run_K)).to(values_K.dtype)


def _runs(sequence_index_K: Tensor) -> Tensor:
    """Which run of equal numbers each one is in, from 0; below K, so that nothing is read back from the GPU."""
    starts_K = torch.zeros_like(sequence_index_K)
    starts_K[1:] = sequence_index_K[1:] != sequence_index_K[:-1]
    return starts_K.cumsum(0)


def _sums(values_K: Tensor, run_K: Tensor) -> Tensor:
    # In double, or the order in which a GPU adds would show.
    values_K = values_K if values_K.device.type == "mps" else values_K.double()
    return torch.zeros_like(values_K).index_add(0, run_K, values_K).index_select(0, run_K)
