"""GRPO's objective on packs against the papers' formulas on padded [B, T] tensors, in value and in gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from open_r1.config import GRPOConfig
from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.model.policy_head import PolicyTargets, TokenLogprobs
from open_r1.rl.losses import LOSSES, target_weights
from open_r1.training.grpo_objective import GRPOObjective

B, T, V = 5, 7, 6
LENGTHS = torch.tensor([7, 1, 4, 0, 5])
CUTS = [[[0, 1, 2, 3, 4]], [[4, 0], [2, 1], [3]], [[3, 2, 1, 0, 4]]]
OFF_POLICY = {"num_iterations": 2}


def make_config(**settings: Any) -> GRPOConfig:
    defaults = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "max_completion_length": T}
    return GRPOConfig(**defaults | {"epsilon_high": 0.28} | settings)


class Batch:
    """Completions padded to [B, T], as logits of a policy and log-probabilities of others."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.logits = normal(B, T, V)
        self.targets = torch.randint(V, (B, T), generator=generator)
        self.advantage = normal(B)
        self.mask = (torch.arange(T) < LENGTHS[:, None]).double()
        logprob, _ = self.score(self.logits)
        # As they are stored.
        self.drawn = (logprob + 0.5 * normal(B, T)).float().double()
        self.reference = (logprob + 0.5 * normal(B, T)).float().double()

    def score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [B, T]."""
        logprobs = logits.log_softmax(-1)
        return logprobs.gather(-1, self.targets[..., None])[..., 0], -(logprobs.exp() * logprobs).sum(-1)


def by_the_papers(config: GRPOConfig, batch: Batch, logits: Tensor) -> Tensor:
    """The loss of the whole batch, as written there."""
    mask, advantage = batch.mask, batch.advantage[:, None]
    tokens = mask.sum(1, keepdim=True).clamp(min=1)
    logprob, entropy = batch.score(logits)
    off_policy = config.num_iterations > 1
    log_ratio = logprob - (batch.drawn if off_policy else logprob.detach())
    if config.loss_type == "gspo" or config.importance_sampling_level == "sequence":
        log_ratio = ((log_ratio * mask).sum(1, keepdim=True) / tokens).expand(B, T)
    ratio = log_ratio.exp()
    low, high = 1 - config.epsilon, 1 + config.epsilon_high
    if config.loss_type == "cispo":
        loss = -ratio.detach().clamp(max=high) * advantage * logprob
    else:
        bounded = ratio if config.delta is None else ratio.clamp(max=config.delta)
        loss = -torch.min(bounded * advantage, ratio.clamp(low, high) * advantage)
    if config.vllm_importance_sampling_correction and not off_policy:
        level, beyond = config.vllm_importance_sampling_mode.split("_")
        log_weight = (logprob.detach() - batch.drawn) * mask
        if level == "sequence":
            log_weight = log_weight.sum(1, keepdim=True).expand(B, T)
        weight, cap = log_weight.exp(), config.vllm_importance_sampling_cap
        loss = loss * (weight.clamp(max=cap) if beyond == "truncate" else weight * (weight <= cap))
    log_reference = batch.reference - logprob
    kl = log_reference.exp() - log_reference - 1
    loss = loss + config.beta * kl * (ratio if config.use_bias_correction_kl else 1)
    loss = (loss - config.entropy_coef * entropy) * mask
    if config.loss_type in ("grpo", "gspo"):
        return (loss.sum(1) / tokens[:, 0]).mean()
    if config.loss_type == "dr_grpo":
        return loss.sum() / (B * T)
    return loss.sum() / mask.sum()


def by_packs(config: GRPOConfig, batch: Batch, logits: Tensor, cut: list[list[int]], chunk: int | None = None) -> float:
    """The same by packs of the rows in ``cut``; gradients are added to ``logits``; perhaps ``chunk`` targets a call."""
    objective = GRPOObjective(config)
    weights = target_weights(config.loss_type, LENGTHS, T)
    total = 0.0
    for rows in cut:
        pack = make_pack([sequence(batch, row, float(weights[row])) for row in rows])
        chosen = [batch.mask[row].bool() for row in rows]
        for start in range(0, len(pack.target_index) or 1, chunk or 1000):
            part = slice(start, start + (chunk or 1000))
            scores = batch.score(logits)
            logprob, entropy = (
                torch.cat([values[row][mask] for row, mask in zip(rows, chosen, strict=True)])[part]
                for values in scores
            )
            loss, metrics = objective(TokenLogprobs(logprob, entropy), PolicyTargets.of(pack).part(part))
            loss.backward()
            total += loss.item()
            assert not any(value.requires_grad for value in metrics.values())
    return total


def sequence(batch: Batch, row: int, weight: float) -> TrainingSequence:
    """One token of prompt, then the completion."""
    length = int(LENGTHS[row])

    def field(values: Tensor) -> Any:
        return torch.cat([torch.zeros(1), values[:length].float()]).numpy()

    return TrainingSequence(
        ids=torch.arange(1 + length).numpy(),
        loss_weight=field(torch.full((T,), weight)),
        advantage=field(batch.advantage[row].expand(T)),
        behaviour_logprob=field(batch.drawn[row]),
        reference_logprob=field(batch.reference[row]),
    )


def compare(config: GRPOConfig, cut: list[list[int]], chunk: int | None = None) -> None:
    batch = Batch()
    expected_logits, logits = (batch.logits.clone().requires_grad_() for _ in range(2))
    expected = by_the_papers(config, batch, expected_logits)
    expected.backward()
    assert by_packs(config, batch, logits, cut, chunk) == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(logits.grad, expected_logits.grad, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", [{}, OFF_POLICY], ids=["on", "off"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses(loss_type: str, policy: dict[str, Any], cut: list[list[int]]) -> None:
    compare(make_config(loss_type=loss_type, beta=0.04, entropy_coef=0.1, **policy), cut)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    "settings",
    [
        OFF_POLICY | {"delta": 1.5},
        OFF_POLICY | {"delta": 1.5, "loss_type": "gspo"},
        OFF_POLICY | {"importance_sampling_level": "sequence"},
        OFF_POLICY | {"importance_sampling_level": "sequence", "loss_type": "cispo"},
        OFF_POLICY | {"use_bias_correction_kl": True, "beta": 0.3},
        {"use_bias_correction_kl": True, "beta": 0.3},
        {"vllm_importance_sampling_correction": False},
        {"vllm_importance_sampling_cap": 1.1},
        {"vllm_importance_sampling_cap": 1.1, "vllm_importance_sampling_mode": "token_mask"},
        {"vllm_importance_sampling_cap": 1.1, "vllm_importance_sampling_mode": "sequence_truncate"},
        {"vllm_importance_sampling_cap": 1.1, "vllm_importance_sampling_mode": "sequence_mask"},
        {"vllm_importance_sampling_mode": "sequence_truncate", "loss_type": "gspo"},
        {"loss_type": "gspo", "vllm_importance_sampling_cap": 1.1},
    ],
)
def test_settings(settings: dict[str, Any], cut: list[list[int]]) -> None:
    compare(make_config(**settings), cut)


@pytest.mark.parametrize("policy", [{}, OFF_POLICY], ids=["on", "off"])
@pytest.mark.parametrize("loss_type", [name for name in LOSSES if name != "gspo"])
def test_a_pointwise_objective_may_be_called_by_chunks(loss_type: str, policy: dict[str, Any]) -> None:
    config = make_config(loss_type=loss_type, beta=0.04, entropy_coef=0.1, **policy)
    assert GRPOObjective(config).pointwise
    compare(config, CUTS[1], chunk=3)


def test_the_batch_reaches_every_bound() -> None:
    """Else the comparisons above would not see a missing one."""
    batch = Batch()
    logprob, _ = batch.score(batch.logits)
    ratio, bad = (logprob - batch.drawn).exp(), batch.advantage[:, None] < 0
    active = batch.mask.bool()
    assert (active & (ratio > 1.28) & ~bad).any()
    assert (active & (ratio < 0.8) & bad).any()
    assert (active & (ratio > 1.5) & bad).any()
    assert (active & (ratio > 2)).any()
    whole = ((logprob - batch.drawn) * batch.mask).sum(1)
    assert (whole.exp() > 1.1).any()
    assert ((whole < 0) & (LENGTHS > 0)).any()
    mean = (whole / LENGTHS.clamp(min=1)).exp()
    assert (mean > 1.28).any() or (mean < 0.8).any()
