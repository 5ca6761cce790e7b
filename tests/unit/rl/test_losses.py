"""Each loss against its formula on padded [B, T] tensors, in value and in gradient."""

from __future__ import annotations

import pytest
import torch

from open_r1.rl.losses import LOSSES, ClipRange, kl_k3, policy_loss, target_weights

B, T = 5, 7
LOW, HIGH, BETA = 0.2, 0.28, 0.04
LENGTHS = torch.tensor([7, 1, 4, 0, 5])
CLIP = ClipRange(LOW, HIGH)


def padded_reference(loss_type, logprob, behaviour, reference, advantage, mask):
    ratio = torch.exp(logprob - behaviour)
    if loss_type == "cispo":
        per_token = -torch.clamp(ratio, max=1 + HIGH).detach() * advantage[:, None] * logprob
    else:
        clipped = torch.clamp(ratio, 1 - LOW, 1 + HIGH)
        per_token = -torch.min(ratio * advantage[:, None], clipped * advantage[:, None])
    per_token = per_token + BETA * (torch.exp(reference - logprob) - (reference - logprob) - 1)
    if loss_type == "grpo":
        return ((per_token * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    if loss_type == "dr_grpo":
        return (per_token * mask).sum() / (B * T)
    return (per_token * mask).sum() / mask.sum()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    behaviour = -torch.rand(B, T, generator=generator) * 3
    logprob = behaviour + 0.5 * torch.randn(B, T, generator=generator)
    reference = behaviour + 0.5 * torch.randn(B, T, generator=generator)
    mask = (torch.arange(T) < LENGTHS[:, None]).float()
    return logprob, behaviour, reference, torch.randn(B, generator=generator), mask


def pack_loss(loss_type, logprob, behaviour, reference, advantage, mask, rows, **options):
    """The sum of one pack that holds the sequences ``rows``."""
    weights = target_weights(loss_type, LENGTHS, T)
    chosen = mask[rows].bool()
    flat = {"behaviour_logprob_K": behaviour[rows][chosen], "reference_logprob_K": reference[rows][chosen]}
    spread = torch.repeat_interleave
    return policy_loss(
        loss_type,
        logprob[rows][chosen],
        spread(advantage[rows], LENGTHS[rows]),
        spread(weights[rows], LENGTHS[rows]),
        clip=CLIP,
        beta=BETA,
        **flat | options,
    )


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("packs", [[[0, 1, 2, 3, 4]], [[0, 3], [4, 1], [2]]])
def test_packs_add_up_to_the_padded_formula(batch, loss_type, packs):
    logprob, *others = batch
    expected_input = logprob.clone().requires_grad_()
    expected = padded_reference(loss_type, expected_input, *others)
    expected.backward()

    actual_input = logprob.clone().requires_grad_()
    total = 0.0
    for rows in packs:
        loss = pack_loss(loss_type, actual_input, *others, torch.tensor(rows)).loss_sum
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(actual_input.grad, expected_input.grad, atol=1e-7, rtol=1e-5)


def test_the_batch_reaches_both_sides_of_the_clip(batch):
    """Else the comparison above would not see a missing clip."""
    logprob, behaviour, _, advantage, mask = batch
    ratio = (logprob - behaviour).exp()
    active = mask.bool()
    assert (active & (ratio > 1 + HIGH) & (advantage[:, None] > 0)).any()
    assert (active & (ratio < 1 - LOW) & (advantage[:, None] < 0)).any()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", [1 / 12, 1 / 6, 1 / 3]),
        ("dr_grpo", [1 / 30] * 3),
        ("dapo", [1 / 7] * 3),
        ("bnpo", [1 / 7] * 3),
        ("cispo", [1 / 7] * 3),
    ],
)
def test_weights_by_hand(loss_type, expected):
    weights = target_weights(loss_type, torch.tensor([4, 2, 1]), 10)
    torch.testing.assert_close(weights, torch.tensor(expected))


@pytest.mark.parametrize("loss_type", LOSSES)
def test_weights_are_finite_when_every_completion_is_masked(loss_type):
    assert target_weights(loss_type, torch.tensor([0, 0]), 10).isfinite().all()


@pytest.mark.parametrize("loss_type", LOSSES)
def test_on_policy_gradient_is_the_policy_gradient(loss_type):
    """Without a behaviour policy the ratio is 1, and every loss has the gradient of ``-A log p``."""
    logprob = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantage, weight = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.1, 0.2, 0.3])
    output = policy_loss(loss_type, logprob, advantage, weight, clip=CLIP)
    output.loss_sum.backward()
    torch.testing.assert_close(logprob.grad, -advantage * weight)
    assert output.metrics["ratio"] == 3
    assert output.metrics["kl_behaviour"] == 0
    assert "kl_reference" not in output.metrics


def test_importance_weights_scale_the_surrogate_and_not_the_kl():
    logprob, weight = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 1.0])
    reference = torch.tensor([-1.5, -1.0])
    importance = torch.tensor([0.5, 2.0])
    output = policy_loss(
        "dapo", logprob, torch.tensor([1.0, 3.0]), weight, clip=CLIP, importance_K=importance,
        reference_logprob_K=reference, beta=0.1,
    )  # fmt: skip
    expected = -(0.5 * 1.0 + 2.0 * 3.0) + 0.1 * kl_k3(logprob, reference).sum()
    torch.testing.assert_close(output.loss_sum, expected)


def test_kl_by_hand_and_in_expectation():
    logprob, reference = torch.tensor([-1.0]), torch.tensor([-2.0])
    torch.testing.assert_close(kl_k3(logprob, reference), torch.tensor([-1.0]).exp() + 1 - 1)
    # Summed over the policy's own distribution, the estimate is the exact divergence.
    policy = torch.tensor([0.5, 0.3, 0.2])
    other = torch.tensor([0.2, 0.2, 0.6])
    exact = (policy * (policy / other).log()).sum()
    torch.testing.assert_close((policy * kl_k3(policy.log(), other.log())).sum(), exact)


def test_metrics_are_sums_over_targets():
    ratio = torch.tensor([0.5, 0.5, 1.0, 1.5, 1.5])
    advantage = torch.tensor([-1.0, 1.0, 1.0, 1.0, -1.0])
    behaviour = torch.full((5,), -1.0)
    options = {"clip": CLIP, "behaviour_logprob_K": behaviour}
    metrics = policy_loss("dapo", behaviour + ratio.log(), advantage, torch.ones(5), **options).metrics
    # Only where clipping stops the gradient: a small ratio of a bad token, a large ratio of a good one.
    assert (metrics["clip_low"], metrics["clip_high"]) == (1, 1)
    torch.testing.assert_close(metrics["ratio"], ratio.sum())
    torch.testing.assert_close(metrics["kl_behaviour"], (ratio - 1 - ratio.log()).sum())
    metrics = policy_loss("cispo", behaviour + ratio.log(), advantage, torch.ones(5), **options).metrics
    assert (metrics["clip_low"], metrics["clip_high"]) == (0, 2)
