"""What the objective corrects, leaves out and measures; its losses are held to the papers in tests/golden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from open_r1.config import GRPOConfig
from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.errors import UserError
from open_r1.model.policy_head import PolicyTargets, TokenLogprobs
from open_r1.training.grpo_objective import GRPOObjective

WEIGHT = torch.tensor([0.1, 0.1, 0.2, 0.2, 0.2])
ADVANTAGE = torch.tensor([1.0, 1.0, -2.0, -2.0, -2.0])
DRAWN = torch.tensor([-1.0, -2.0, -1.5, -0.5, -1.0])
RATIO = torch.tensor([3.0, 1.0, 0.5, 1.5, 1.0])
ENTROPY = torch.tensor([0.5, 1.5, 0.1, 1.0, 0.2])
TARGETS = PolicyTargets(
    loss_weight=WEIGHT, sequence_index=torch.tensor([0, 0, 1, 1, 1]), advantage=ADVANTAGE, behaviour_logprob=DRAWN
)


def objective(**settings: Any) -> GRPOObjective:
    return GRPOObjective(GRPOConfig(model_name_or_path="m", dataset_name="d", output_dir="o", **settings))


def run(targets: PolicyTargets = TARGETS, **settings: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The gradients by the log-probabilities and by the entropies, and the metrics."""
    logprobs = (DRAWN + RATIO.log()).requires_grad_()
    entropy = ENTROPY.clone().requires_grad_()
    loss, metrics = objective(**settings)(TokenLogprobs(logprobs, entropy), targets)
    of_logprobs, of_entropy = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True)
    return of_logprobs, of_entropy, {name: value.item() for name, value in metrics.items()}


def test_on_policy_the_engine_is_corrected_for_up_to_the_cap():
    gradient, of_entropy, metrics = run()
    torch.testing.assert_close(gradient, -WEIGHT * ADVANTAGE * RATIO.clamp(max=2))
    assert of_entropy is None
    assert metrics["importance_capped"] == 1
    assert metrics["ratio"] == 5
    assert metrics["clip_low"] == metrics["clip_high"] == metrics["kl_behaviour"] == 0
    assert metrics["mismatch"] == pytest.approx(RATIO.log().abs().sum().item())
    assert metrics["mismatch_kl"] == pytest.approx((RATIO - 1 - RATIO.log()).sum().item())
    assert metrics["entropy"] == pytest.approx(ENTROPY.sum().item())


def test_without_correction_the_mismatch_is_still_measured():
    gradient, _, metrics = run(vllm_importance_sampling_correction=False)
    torch.testing.assert_close(gradient, -WEIGHT * ADVANTAGE)
    assert metrics["mismatch"] > 0
    assert "importance_capped" not in metrics


@pytest.mark.parametrize("settings", [{"num_iterations": 2}, {"async_steps": 1}])
def test_off_policy_the_ratio_is_to_what_the_engine_drew_with(settings):
    gradient, _, metrics = run(**settings)
    # A good token beyond the clip and a bad one below it have no part.
    torch.testing.assert_close(gradient, -WEIGHT * ADVANTAGE * RATIO * torch.tensor([0, 1, 0, 1, 1]))
    assert metrics["ratio"] == RATIO.sum()
    assert (metrics["clip_low"], metrics["clip_high"]) == (1, 1)
    assert metrics["kl_behaviour"] == pytest.approx(metrics["mismatch_kl"])
    assert "importance_capped" not in metrics


def test_an_engine_without_logprobs_is_taken_at_its_word_on_policy():
    gradient, _, metrics = run(replace(TARGETS, behaviour_logprob=None))
    torch.testing.assert_close(gradient, -WEIGHT * ADVANTAGE)
    assert not {"mismatch", "mismatch_kl", "importance_capped"} & metrics.keys()
    assert metrics["ratio"] == 5


@pytest.mark.parametrize("settings", [{"num_iterations": 2}, {"async_steps": 1}])
def test_an_engine_without_logprobs_is_of_no_use_off_policy(settings):
    with pytest.raises(UserError, match="set num_iterations 1 and async_steps 0"):
        run(replace(TARGETS, behaviour_logprob=None), **settings)


def test_the_entropy_bonus_has_the_weights_of_the_loss():
    gradient, of_entropy, _ = run(entropy_coef=0.5)
    torch.testing.assert_close(of_entropy, -0.5 * WEIGHT)
    torch.testing.assert_close(gradient, run()[0])


def test_only_the_most_uncertain_tokens_are_trained_on():
    gradient, of_entropy, metrics = run(top_entropy_quantile=0.4, entropy_coef=0.5)
    kept = torch.tensor([0, 1, 0, 1, 0])
    torch.testing.assert_close(gradient, -WEIGHT * ADVANTAGE * RATIO * kept)
    torch.testing.assert_close(of_entropy, -0.5 * WEIGHT * kept)
    assert metrics["entropy"] == pytest.approx(ENTROPY.sum().item()), "of all tokens"


@pytest.mark.parametrize(
    ("settings", "pointwise"),
    [
        ({}, True),
        ({"loss_type": "cispo", "num_iterations": 2, "delta": None}, True),
        ({"entropy_coef": 0.1, "beta": 0.1, "async_steps": 1}, True),
        ({"loss_type": "gspo"}, False),
        ({"importance_sampling_level": "sequence"}, False),
        ({"vllm_importance_sampling_mode": "sequence_mask"}, False),
        ({"vllm_importance_sampling_mode": "sequence_mask", "vllm_importance_sampling_correction": False}, True),
        ({"vllm_importance_sampling_mode": "sequence_mask", "num_iterations": 2}, True),
        ({"top_entropy_quantile": 0.2}, False),
    ],
)
def test_what_may_be_called_with_some_of_the_targets(settings, pointwise):
    """Said, and true: losses and metrics of parts add up to those of the whole, or do not."""
    chosen = objective(**settings)
    assert chosen.pointwise is pointwise
    logprobs, parts = DRAWN + RATIO.log(), (slice(0, 1), slice(1, 3), slice(3, 5))
    targets = replace(TARGETS, reference_logprob=DRAWN - 0.3)
    if settings.get("loss_type") == "gspo" or "importance_sampling_level" in settings:
        chosen = objective(**settings, num_iterations=2)  # where a ratio differs from 1
    whole, metrics = chosen(TokenLogprobs(logprobs, ENTROPY), targets)
    by_parts = [chosen(TokenLogprobs(logprobs[part], ENTROPY[part]), targets.part(part)) for part in parts]
    added = sum(loss for loss, _ in by_parts)
    assert torch.isclose(added, whole, atol=1e-6).item() is pointwise
    if pointwise:
        for name, value in metrics.items():
            torch.testing.assert_close(sum(sums[name] for _, sums in by_parts), value)


@pytest.mark.parametrize("settings", [{}, {"loss_type": "gspo"}, {"top_entropy_quantile": 0.2}, {"num_iterations": 2}])
def test_a_pack_without_targets_has_a_loss_of_nothing(settings):
    """Such a pack keeps ranks in step, so it has the same metrics and can be differentiated."""
    zero = torch.zeros(1).numpy()
    empty = TrainingSequence(ids=zero.astype("int64"), loss_weight=zero, advantage=zero, behaviour_logprob=zero)
    logprobs, entropy = (torch.zeros(0, requires_grad=True) for _ in range(2))
    loss, metrics = objective(**settings)(TokenLogprobs(logprobs, entropy), make_pack([empty]))
    loss.backward()
    assert loss == 0
    assert list(metrics) == list(run(**settings)[2])
    assert all(value == 0 for value in metrics.values())
