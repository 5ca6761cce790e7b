"""What the entropy of the policy's distributions decides: which tokens are trained on, and a bonus.

Shape suffix: K targets.
"""

from __future__ import annotations

import torch
from torch import Tensor


def entropy_bonus(entropy_K: Tensor, weight_K: Tensor, kept_K: Tensor | None = None) -> Tensor:
    """The mean entropy, weighted as the loss is: a scalar with the gradient of ``entropy``, to be taken off the loss.

    TRL takes the mean over tokens whatever the loss averages over; with the same weights the two terms of the loss
    keep their proportion, and packs only add. They agree for the losses that weigh every token the same.

    Args:
        kept_K: bool, the targets that the policy is trained on; None is all.
    """
    weighted_K = entropy_K * weight_K
    return (weighted_K if kept_K is None else weighted_K.where(kept_K, 0.0)).sum()


def most_uncertain(entropy_K: Tensor, share: float) -> Tensor:
    """The ``share`` of targets where the policy was least sure, bool [K]: the forks at which reasoning is decided
    (https://arxiv.org/abs/2506.01939).

    The threshold is the quantile of the targets at hand, a pack. TRL's is that of one micro-batch over all ranks.
    """
    if share >= 1 or not len(entropy_K):
        return torch.ones_like(entropy_K, dtype=torch.bool)
    entropy_K = entropy_K.detach()
    return entropy_K >= entropy_K.quantile(1 - share)
