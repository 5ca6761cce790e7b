"""What GRPO makes of completions and rewards: advantages and the policy loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from open_r1.config.settings import NonNegativeFloat, PositiveFloat, PositiveInt, PositiveShare, Settings, alias
from open_r1.errors import UserError

WIDE_FOR_SEQUENCES = 0.01


@dataclass(kw_only=True)
class PolicyLossConfig(Settings):
    """Policy loss"""

    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"] = "dapo"
    """Loss, by what it is averaged over and how it clips (docs/grpo-losses.md)."""

    epsilon: NonNegativeFloat = 0.2
    """Clipping of the importance ratio below, and above unless epsilon_high is set."""

    epsilon_high: NonNegativeFloat | None = None
    """Clipping of the importance ratio above 1; unset is epsilon."""

    delta: PositiveFloat | None = None
    """Largest importance ratio of a token of negative advantage, which nothing else bounds; unset is no bound."""

    importance_sampling_level: Literal["token", "sequence"] | None = None
    """Importance ratio of a token, or of a whole sequence; unset is sequence for gspo, token for other losses."""

    num_iterations: PositiveInt = 1
    """Optimizer steps on each set of completions."""

    beta: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the reference model; 0 loads none."""

    use_bias_correction_kl: bool = False
    """Multiply the KL divergence by the importance ratio, which makes its gradient unbiased."""

    entropy_coef: NonNegativeFloat = 0.0
    """Weight of the policy's entropy, which is taken off the loss."""

    top_entropy_quantile: PositiveShare = 1.0
    """Share of tokens that the policy is trained on, those of the highest entropy in a pack; 1 is all."""

    scale_rewards: bool | Literal["group", "batch", "none"] = "group"
    """Standard deviation that advantages are divided by; true is group, false is none."""

    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Advantages of the sum of the rewards, or the sum of each reward's own, scaled by the batch (GDPO)."""

    mask_truncated_completions: bool = False
    """Leave completions that reached max_completion_length out of the loss."""

    vllm_importance_sampling_correction: bool = True
    """Correct for what the log-probabilities of the engine, of either kind, differ from the trainer's."""

    vllm_importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "token_truncate"
    )
    """Importance weight of a token or of its whole sequence; above the cap it is the cap, or 0 (mask)."""

    vllm_importance_sampling_cap: PositiveFloat = field(
        default=2.0, metadata=alias("vllm_importance_sampling_clip_max")
    )
    """Cap of the importance weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.scale_rewards, bool):
            self.scale_rewards = "group" if self.scale_rewards else "none"
        if self.multi_objective_aggregation == "normalize_then_sum" and self.scale_rewards == "none":
            raise UserError(
                "multi_objective_aggregation normalize_then_sum divides by standard deviations, and scale_rewards none "
                "asks for none: leave one of them out"
            )
        if self.loss_type == "gspo" and self.importance_sampling_level == "token":
            raise UserError(
                "importance_sampling_level token is not GSPO, whose ratio is that of a sequence: leave it out, or set "
                "loss_type grpo"
            )
        self._check_clip()

    def _check_clip(self) -> None:
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.loss_type == "cispo":
            if self.delta is not None:
                raise UserError("delta belongs to clipped losses, and cispo clips none: leave delta out")
            return
        if high < self.epsilon:
            raise UserError(f"epsilon_high {high} is below epsilon {self.epsilon}: it is the upper clip")
        if self.delta is not None and self.delta <= 1 + high:
            raise UserError(
                f"delta {self.delta} must be greater than {1 + high:g}, where epsilon_high or epsilon clips the ratio"
            )

    @property
    def advantage_scale(self) -> Literal["group", "batch", "none"]:
        """What the advantages of combined rewards are divided by."""
        return "batch" if self.multi_objective_aggregation == "normalize_then_sum" else self.scale_rewards

    @property
    def off_policy(self) -> bool:
        """Whether a step may train on what another policy than its own has drawn."""
        return self.num_iterations > 1 or getattr(self, "async_steps", 0) > 0

    @property
    def indifferent_to_zero_advantage(self) -> bool:
        """Whether a completion of advantage 0 has neither loss nor gradient, nor any say in those of others."""
        return not self.beta and not self.entropy_coef and self.top_entropy_quantile == 1

    def notes(self) -> list[str]:
        lines = super().notes()
        if self.loss_type == "cispo" and self.epsilon_high is not None:
            lines.append(
                f"epsilon_high {self.epsilon_high:g} caps the weight of cispo at {1 + self.epsilon_high:g}, as in its "
                f"paper; where {self.epsilon_high:g} is the cap itself, as in TRL, give 1 less"
            )
        sequences = self.loss_type == "gspo" or self.importance_sampling_level == "sequence"
        if sequences and self.loss_type != "cispo" and self.off_policy and self.epsilon > WIDE_FOR_SEQUENCES:
            lines.append(
                f"epsilon {self.epsilon:g} hardly ever clips the ratio of a sequence, which stays near 1: GSPO's paper "
                "sets epsilon 3e-4 and epsilon_high 4e-4"
            )
        if self.off_policy and not self.vllm_importance_sampling_correction:
            lines.append(
                "vllm_importance_sampling_correction false changes nothing with num_iterations above 1 or async_steps: "
                "the importance ratio is to the engine's log-probabilities"
            )
        return lines
