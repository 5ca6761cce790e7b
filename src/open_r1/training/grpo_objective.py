"""GRPO's objective on a pack: the policy loss by name, the correction for the engine's own numbers, what to watch."""

from __future__ import annotations

from torch import Tensor

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack
from open_r1.errors import UserError
from open_r1.model.policy_head import PolicyTargets, TokenLogprobs
from open_r1.rl.entropy import entropy_bonus, most_uncertain
from open_r1.rl.importance import importance_weights, mismatch
from open_r1.rl.losses import ClipRange, policy_loss, ratio_level


class GRPOObjective:
    """The weighted policy loss of a pack.

    What the importance ratio means:

    - On policy (one step on each set of rollouts, which the current weights have drawn) the behaviour policy is the
      policy itself: the ratio is 1 and no pass over an old policy is needed. What the engine's numbers differ from the
      trainer's is corrected by `importance_weights`, constants on each token's loss.
    - Off policy (``num_iterations`` above 1, ``async_steps``) the behaviour policy is the engine as it was when it
      drew: the ratio is to the log-probabilities that came with the rollouts. It holds both what the policy has moved
      since and what the engine's numbers differ, so nothing else is corrected; the clip bounds it. TRL takes the ratio
      to a pass of the trainer over the old policy, and corrects that pass by importance weights.

    Attributes:
        pointwise: whether the loss of a target depends on that target alone (its log-probability, its entropy and what
            the pack says of it), so that the objective may be called with a part of a pack's targets and added up. It
            is not with ratios or importance weights of whole sequences, nor where a share of tokens is chosen.
    """

    def __init__(self, config: GRPOConfig) -> None:
        self._config = config
        self._level = ratio_level(config.loss_type, config.importance_sampling_level)
        high = config.epsilon if config.epsilon_high is None else config.epsilon_high
        self._clip = ClipRange(config.epsilon, high, config.delta)
        self._corrects = config.vllm_importance_sampling_correction and not config.off_policy
        whole = self._corrects and config.vllm_importance_sampling_mode.startswith("sequence")
        self.pointwise = self._level == "token" and not whole and config.top_entropy_quantile == 1

    def __call__(self, predicted: TokenLogprobs, pack: Pack | PolicyTargets) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, already divided by what ``loss_type`` divides by, and sums of metrics over the targets.

        Args:
            predicted: with entropies, which carry a gradient where ``entropy_coef`` is to have an effect.
            pack: of which only the fields of `PolicyTargets` are read.

        Raises:
            UserError: the ratio is to log-probabilities that the engine did not give.
        """
        config, logprobs, drawn = self._config, predicted.logprobs, pack.behaviour_logprob
        if drawn is None and config.off_policy:
            raise UserError(
                "num_iterations above 1 and async_steps need the log-probabilities with which completions were drawn, "
                "and the engine gives none: set num_iterations 1 and async_steps 0"
            )
        watched = {"entropy": predicted.entropy.detach().sum()}
        factor = kept = None
        if drawn is not None:
            watched |= mismatch(logprobs, drawn)
            if self._corrects:
                cap, mode = config.vllm_importance_sampling_cap, config.vllm_importance_sampling_mode
                factor, capped = importance_weights(logprobs, drawn, cap, mode, pack.sequence_index)
                watched["importance_capped"] = capped.float().sum()
        if config.top_entropy_quantile < 1:
            kept = most_uncertain(predicted.entropy, config.top_entropy_quantile)
            factor = kept.to(logprobs.dtype) if factor is None else factor * kept
        output = policy_loss(
            config.loss_type,
            logprobs,
            pack.advantage,
            pack.loss_weight,
            clip=self._clip,
            level=self._level,
            sequence_index_K=pack.sequence_index,
            behaviour_logprob_K=drawn if config.off_policy else None,
            reference_logprob_K=pack.reference_logprob,
            beta=config.beta,
            unbiased_kl=config.use_bias_correction_kl,
            factor_K=factor,
        )
        loss = output.loss_sum
        if config.entropy_coef:
            loss = loss - config.entropy_coef * entropy_bonus(predicted.entropy, pack.loss_weight, kept)
        return loss, output.metrics | watched
