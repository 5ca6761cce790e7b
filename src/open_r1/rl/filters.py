"""Which rollouts can teach anything.

Shape suffixes: P prompts, G completions of a prompt, N sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_signal(rewards_PG: Tensor) -> Tensor:
    """Groups whose rewards differ, bool [P]; the others have advantage 0 everywhere. NaN (no reward) is left out."""
    missing_PG = rewards_PG.isnan()
    highest_P = rewards_PG.masked_fill(missing_PG, -torch.inf).amax(1)
    lowest_P = rewards_PG.masked_fill(missing_PG, torch.inf).amin(1)
    return highest_P > lowest_P


def drop_truncated(lengths_N: Tensor, truncated_N: Tensor) -> Tensor:
    """Completion lengths with 0 for truncated ones: no target of theirs is trained on, and they still count as
    sequences (DAPO's overlong filtering, https://arxiv.org/abs/2503.14476, section 3.4).
    """
    return lengths_N.masked_fill(truncated_N, 0)
