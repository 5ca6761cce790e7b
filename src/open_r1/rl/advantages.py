"""Rewards to advantages. A reward that could not be given is NaN.

Shape suffixes: F reward functions, P prompts, G completions of a prompt (the group).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

RewardScale = Literal["group", "batch", "none"]


def combine_rewards(values_FPG: Tensor, weights: list[float]) -> Tensor:
    """The weighted sum over the functions that gave a reward, [P, G]; NaN where none did.

    Raises:
        ValueError: if the number of weights is not the number of functions.
    """
    if len(weights) != len(values_FPG):
        raise ValueError(f"{len(weights)} reward weights for {len(values_FPG)} reward functions")
    weights_F11 = values_FPG.new_tensor(weights)[:, None, None]
    total_PG = (values_FPG * weights_F11).nansum(0)
    return total_PG.masked_fill(values_FPG.isnan().all(0), torch.nan)


def group_advantages(rewards_PG: Tensor, scale: RewardScale = "group", eps: float = 1e-4) -> Tensor:
    """How much better each completion did than its group, [P, G].

    ``(reward - mean of the group) / (std + eps)`` with the unbiased standard deviation of the group, as in GRPO
    (https://arxiv.org/abs/2402.03300, section 4.1.2), or of the whole batch; ``"none"`` does not divide, as in Dr. GRPO
    (https://arxiv.org/abs/2503.20783). NaN rewards take part in no mean and no deviation and get advantage 0; so does
    a whole group of fewer than two rewards.
    """
    # In double, or the rounding of the mean of equal rewards, over eps, would be an advantage.
    dtype, rewards_PG = rewards_PG.dtype, rewards_PG.double()
    valid_PG = ~rewards_PG.isnan()
    centred_PG = rewards_PG - rewards_PG.nanmean(1, keepdim=True)
    if scale == "group":
        centred_PG = centred_PG / (_std(centred_PG, valid_PG, 1) + eps)
    elif scale == "batch":
        spread = rewards_PG - rewards_PG.nanmean()
        centred_PG = centred_PG / (_std(spread, valid_PG, (0, 1)) + eps)
    elif scale != "none":
        raise ValueError(f"scale is {scale!r}: it must be 'group', 'batch' or 'none'")
    usable_PG = valid_PG & (valid_PG.sum(1, keepdim=True) >= 2)
    return centred_PG.where(usable_PG, 0.0).to(dtype)


def combine_normalised(values_FPG: Tensor, weights: list[float]) -> Tensor:
    """The weighted sum of the functions' own group advantages, [P, G]; NaN where no function gave a reward.

    GDPO (https://arxiv.org/abs/2601.05242): functions of different spread count by their weights, and answers that earn
    the same sum in different ways stay apart. Its second normalisation is `group_advantages` of the result with scale
    ``"batch"``: every group's mean is 0 already.
    """
    advantages_FPG = group_advantages(values_FPG.flatten(0, 1)).view_as(values_FPG)
    return combine_rewards(advantages_FPG.where(~values_FPG.isnan(), torch.nan), weights)


def _std(centred_PG: Tensor, valid_PG: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """Unbiased standard deviation of valid values that are already centred, over ``dim``, which is kept."""
    degrees = (valid_PG.sum(dim, keepdim=True) - 1).clamp(min=1)
    return (centred_PG.square().nansum(dim, keepdim=True) / degrees).sqrt()
