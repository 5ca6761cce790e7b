"""The engine that samples and the trainer that learns never agree exactly: how much, and what corrects it.

Shape suffix: K targets.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from open_r1.rl.losses import kl_k3
from open_r1.rl.sequences import sequence_sum

ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def importance_weights(
    trainer_logprob_K: Tensor,
    engine_logprob_K: Tensor,
    cap: float,
    mode: ImportanceMode = "token_truncate",
    sequence_index_K: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights that turn an expectation over the engine's draws into one over the trainer's policy.

    The weight is ``trainer / engine``, of a token or of its whole sequence (the product over its tokens). Above the cap
    ``truncate`` gives the cap: truncated importance sampling (https://fengyao.notion.site/off-policy-rl), unbiased
    where the cap does not bite, and of bounded variance. ``mask`` gives 0 there: what the trainer holds to be far
    likelier than the engine did is left out.

    Args:
        sequence_index_K: int64, which sequence a target belongs to; needed by the sequence modes.

    Returns:
        The weights [K], without gradient, and bool [K], which of them were above the cap.

    Raises:
        ValueError: if the cap is not positive.
    """
    if cap <= 0:
        raise ValueError(f"cap is {cap}: it must be positive")
    level, _, beyond = mode.partition("_")
    log_ratio_K = trainer_logprob_K.detach() - engine_logprob_K
    if level == "sequence":
        log_ratio_K = sequence_sum(log_ratio_K, sequence_index_K)
    ratio_K = log_ratio_K.exp()
    capped_K = ratio_K > cap
    return ratio_K.clamp(max=cap) if beyond == "truncate" else ratio_K.masked_fill(capped_K, 0.0), capped_K


def mismatch(trainer_logprob_K: Tensor, engine_logprob_K: Tensor) -> dict[str, Tensor]:
    """How far the two are apart on the tokens that the engine drew, in nats: detached sums over targets.

    Returns:
        ``mismatch``, of the absolute difference, and ``mismatch_kl``, of the k3 estimate of KL(engine || trainer).
    """
    trainer_logprob_K = trainer_logprob_K.detach()
    return {
        "mismatch": (trainer_logprob_K - engine_logprob_K).abs().sum(),
        "mismatch_kl": kl_k3(engine_logprob_K, trainer_logprob_K).sum(),
    }
