"""The engine that samples and the trainer that learns never agree exactly: how much, and what corrects it.

Shape suffix: K targets.
"""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_importance_weights(trainer_logprob_K: Tensor, engine_logprob_K: Tensor, cap: float) -> Tensor:
    """``min(trainer / engine, cap)`` for each token, [K], without gradient.

    Truncated importance sampling (https://fengyao.notion.site/off-policy-rl): unbiased where the cap does not bite, and
    of bounded variance.

    Raises:
        ValueError: if the cap is not positive.
    """
    if cap <= 0:
        raise ValueError(f"cap is {cap}: it must be positive")
    return (trainer_logprob_K.detach() - engine_logprob_K).exp().clamp(max=cap)


def mismatch(trainer_logprob_K: Tensor, engine_logprob_K: Tensor) -> dict[str, Tensor]:
    """How far the two are apart on the tokens that the engine drew; nats.

    Returns:
        Detached scalars: ``mean`` and ``max`` of the absolute difference, and ``kl``, the k3 estimate of
        KL(engine || trainer). All are 0 where there is no token.
    """
    difference_K = (trainer_logprob_K.detach() - engine_logprob_K).float()
    if difference_K.numel() == 0:
        zero = torch.zeros((), device=difference_K.device)
        return {"mean": zero, "max": zero, "kl": zero}
    return {
        "mean": difference_K.abs().mean(),
        "max": difference_K.abs().max(),
        "kl": (difference_K.expm1() - difference_K).mean(),
    }
