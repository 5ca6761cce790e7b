"""GRPO's objective on a pack: the policy loss by name, the correction for the engine's own numbers, what to watch."""

from __future__ import annotations

from torch import Tensor

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack
from open_r1.model.head import TokenLogprobs
from open_r1.rl.importance import truncated_importance_weights
from open_r1.rl.losses import ClipRange, kl_k3, policy_loss

IMPORTANCE_CAP = 2.0


class GRPOObjective:
    """The weighted policy loss of a pack.

    With one step on each set of rollouts the policy is still the one that drew them: the ratio is 1 and no pass over
    the old policy is needed. With several (``num_iterations``) the engine's log-probabilities stand for the old policy.
    """

    def __init__(self, config: GRPOConfig) -> None:
        self._loss_type = config.loss_type
        self._beta = config.beta
        self._on_policy = config.num_iterations == 1
        high = config.epsilon if config.epsilon_high is None else config.epsilon_high
        self._clip = ClipRange(config.epsilon, high)

    def __call__(self, predicted: TokenLogprobs, pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, already divided by what ``loss_type`` divides by, and sums of metrics over the pack's targets."""
        logprobs, drawn = predicted.logprobs, pack.behaviour_logprob
        importance = truncated_importance_weights(logprobs, drawn, IMPORTANCE_CAP) if self._on_policy else None
        output = policy_loss(
            self._loss_type,
            logprobs,
            pack.advantage,
            pack.loss_weight,
            clip=self._clip,
            behaviour_logprob_K=None if self._on_policy else drawn,
            reference_logprob_K=pack.reference_logprob,
            beta=self._beta,
            importance_K=importance,
        )
        watched = {
            "entropy": predicted.entropy.sum(),
            "mismatch": (logprobs.detach() - drawn).abs().sum(),
            "mismatch_kl": kl_k3(drawn, logprobs.detach()).sum(),
        }
        return output.loss_sum, output.metrics | watched
