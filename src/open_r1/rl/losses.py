"""Policy losses as a plain weighted sum over the targets of a pack.

Each loss is a surrogate (what one token costs) and a weighting (what one token counts). Weights are computed once per
optimizer step over the whole global batch, so packs, accumulation and ranks only ever add: the gradient does not
depend on how the batch was cut.

Shape suffixes: K targets of a pack, N sequences of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from open_r1.rl.sequences import sequence_mean

LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"]
RatioLevel = Literal["token", "sequence"]


class ClipRange(NamedTuple):
    """The trust region of the ratio to the behaviour policy: ``[1 - low, 1 + high]``.

    ``ceiling``, if not None, is the largest ratio that a token of negative advantage counts with.
    """

    low: float
    high: float
    ceiling: float | None = None


def clipped_surrogate(ratio_K: Tensor, advantage_K: Tensor, logprob_K: Tensor, clip: ClipRange) -> Tensor:
    """``-min(ratio A, clip(ratio) A)``, [K]: PPO's clipped objective (https://arxiv.org/abs/1707.06347, equation 7).

    DAPO's ``high`` may differ from ``low`` (https://arxiv.org/abs/2503.14476, equation 8). Where the advantage is
    negative nothing bounds a ratio above 1: with a ceiling it is ``-min(min(ratio, ceiling) A, clip(ratio) A)``, the
    two-sided clipping of INTELLECT-2 (https://arxiv.org/abs/2505.07291).
    """
    clipped_K = ratio_K.clamp(1 - clip.low, 1 + clip.high)
    bounded_K = ratio_K if clip.ceiling is None else ratio_K.clamp(max=clip.ceiling)
    return -torch.minimum(bounded_K * advantage_K, clipped_K * advantage_K)


def cispo_surrogate(ratio_K: Tensor, advantage_K: Tensor, logprob_K: Tensor, clip: ClipRange) -> Tensor:
    """``-min(ratio, 1 + high) A log p`` with the ratio held constant, [K]: every token keeps a gradient.

    CISPO (https://arxiv.org/abs/2506.13585, equations 4 and 5), whose lower bound is off. TRL's bound is ``high``
    itself, and not 1 + ``high``.
    """
    return -ratio_K.clamp(max=1 + clip.high).detach() * advantage_K * logprob_K


def weight_by_sequence(lengths_N: Tensor, max_completion_length: int) -> Tensor:
    """The mean over sequences of each one's token mean: GRPO (https://arxiv.org/abs/2402.03300, equation 3)."""
    return 1 / (lengths_N.clamp(min=1) * len(lengths_N))


def weight_by_token(lengths_N: Tensor, max_completion_length: int) -> Tensor:
    """The mean over all tokens of the batch: DAPO (https://arxiv.org/abs/2503.14476, equation 8).

    TRL's ``bnpo`` is the mean over micro-batches of each one's token mean, so what a token counts depends on which
    others it was computed with. Here the batch is always the whole one, and ``bnpo`` is ``dapo``.
    """
    return torch.ones_like(lengths_N) / lengths_N.sum().clamp(min=1)


def weight_by_constant(lengths_N: Tensor, max_completion_length: int) -> Tensor:
    """A constant divisor, so that length carries no bias: Dr. GRPO (https://arxiv.org/abs/2503.20783, appendix A)."""
    return torch.ones_like(lengths_N) / (len(lengths_N) * max_completion_length)


Surrogate = Callable[[Tensor, Tensor, Tensor, ClipRange], Tensor]
Weighting = Callable[[Tensor, int], Tensor]

LOSSES: dict[LossType, tuple[Surrogate, Weighting]] = {
    "grpo": (clipped_surrogate, weight_by_sequence),
    "dr_grpo": (clipped_surrogate, weight_by_constant),
    "dapo": (clipped_surrogate, weight_by_token),
    "bnpo": (clipped_surrogate, weight_by_token),
    "gspo": (clipped_surrogate, weight_by_sequence),
    "cispo": (cispo_surrogate, weight_by_token),
}


def target_weights(loss_type: LossType, lengths_N: Tensor, max_completion_length: int) -> Tensor:
    """The weight of every target of each sequence, float32 [N]; the loss is ``sum_k weight_k * loss_k``.

    Args:
        loss_type: a key of ``LOSSES``.
        lengths_N: completion lengths in tokens of **all** sequences of the optimizer step, over all ranks; 0 for a
            completion that is masked, which still counts as a sequence.
        max_completion_length: the divisor of ``dr_grpo``, in tokens.
    """
    _, weighting = LOSSES[loss_type]
    return weighting(lengths_N.float(), max_completion_length)


def kl_k3(logprob_K: Tensor, reference_logprob_K: Tensor) -> Tensor:
    """``r - 1 - log r`` with ``r = reference / policy``, [K], nats: an unbiased and positive estimate of
    KL(policy || reference) on tokens drawn from the policy (http://joschu.net/blog/kl-approx.html).
    """
    log_ratio_K = reference_logprob_K - logprob_K
    return log_ratio_K.expm1() - log_ratio_K


def ratio_level(loss_type: LossType, chosen: RatioLevel | None = None) -> RatioLevel:
    """What a ratio is taken of: as chosen, else of a sequence for GSPO and of a token for all others."""
    return chosen or ("sequence" if loss_type == "gspo" else "token")


def importance_ratio(
    logprob_K: Tensor,
    behaviour_logprob_K: Tensor,
    level: RatioLevel = "token",
    sequence_index_K: Tensor | None = None,
) -> Tensor:
    """``policy / behaviour`` of each token; of a sequence, to each of its tokens, the geometric mean of theirs; [K].

    The latter is GSPO's ``s_i = exp(mean over t of log(policy / behaviour))`` (https://arxiv.org/abs/2507.18071,
    equation 7). Weighted by sequence, the clipped surrogate of it is that paper's equation 5.
    """
    log_ratio_K = logprob_K - behaviour_logprob_K
    if level == "sequence":
        log_ratio_K = sequence_mean(log_ratio_K, sequence_index_K)
    return log_ratio_K.exp()


@dataclass(frozen=True)
class PolicyLossOutput:
    """The loss of one pack, and what to watch.

    Attributes:
        loss_sum: scalar with gradient; add it over packs and ranks, divide by nothing.
        metrics: detached scalars, each a **sum** over the targets; add them over packs and ranks and divide by the
            number of targets: ``clip_low``, ``clip_high`` (shares of tokens whose ratio is beyond its bound, so that
            it, or for ``cispo`` more of it, has no part in the gradient), ``ratio``, ``kl_behaviour`` (k3, nats) and,
            with a reference, ``kl_reference`` (k3, nats).
    """

    loss_sum: Tensor
    metrics: dict[str, Tensor]


def policy_loss(
    loss_type: LossType,
    logprob_K: Tensor,
    advantage_K: Tensor,
    weight_K: Tensor,
    *,
    clip: ClipRange,
    level: RatioLevel | None = None,
    sequence_index_K: Tensor | None = None,
    behaviour_logprob_K: Tensor | None = None,
    reference_logprob_K: Tensor | None = None,
    beta: float = 0.0,
    unbiased_kl: bool = False,
    factor_K: Tensor | None = None,
) -> PolicyLossOutput:
    """The loss of a pack's targets: ``sum_k weight_k * (factor_k * surrogate_k + beta * kl_k)``.

    Args:
        loss_type: a key of ``LOSSES``.
        logprob_K: log-probabilities under the policy being trained, with gradient; nats, as all of them.
        advantage_K: the advantage of each target's sequence.
        weight_K: ``target_weights`` of each target's sequence.
        clip: how far the ratio may go from 1.
        level: what the ratio is taken of; None is `ratio_level`'s for the loss.
        sequence_index_K: int64, which sequence a target belongs to; needed by a ratio of sequences.
        behaviour_logprob_K: under the policy that the ratio is taken to; None where that is the policy itself, so
            the ratio is 1 and only its gradient matters.
        reference_logprob_K: under the frozen reference; needed where ``beta`` is not 0.
        beta: the coefficient of the KL to the reference.
        unbiased_kl: multiply the KL by the ratio, so that its gradient is in expectation that of
            KL(policy || reference) (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556), which GRPO's own is not.
        factor_K: constants on the surrogate, such as `importance_weights`, or 0 for a token left out of it.
    """
    surrogate, _ = LOSSES[loss_type]
    behaviour_K = logprob_K.detach() if behaviour_logprob_K is None else behaviour_logprob_K
    ratio_K = importance_ratio(logprob_K, behaviour_K, ratio_level(loss_type, level), sequence_index_K)
    loss_K = surrogate(ratio_K, advantage_K, logprob_K, clip)
    if factor_K is not None:
        loss_K = loss_K * factor_K
    metrics = _metrics(surrogate, ratio_K.detach(), advantage_K, clip)
    metrics["kl_behaviour"] = kl_k3(behaviour_K, logprob_K.detach()).sum()
    if reference_logprob_K is not None:
        kl_K = kl_k3(logprob_K, reference_logprob_K)
        metrics["kl_reference"] = kl_K.detach().sum()
        loss_K = loss_K + beta * (kl_K * ratio_K if unbiased_kl else kl_K)
    return PolicyLossOutput((weight_K * loss_K).sum(), metrics)


def _metrics(surrogate: Surrogate, ratio_K: Tensor, advantage_K: Tensor, clip: ClipRange) -> dict[str, Tensor]:
    high_K = (ratio_K > 1 + clip.high) & (advantage_K > 0)
    low_K = (ratio_K < 1 - clip.low) & (advantage_K < 0)
    if surrogate is cispo_surrogate:
        high_K, low_K = ratio_K > 1 + clip.high, torch.zeros_like(low_K)
    elif clip.ceiling is not None:
        high_K = high_K | ((ratio_K > clip.ceiling) & (advantage_K < 0))
    return {"clip_low": low_K.float().sum(), "clip_high": high_K.float().sum(), "ratio": ratio_K.sum()}
