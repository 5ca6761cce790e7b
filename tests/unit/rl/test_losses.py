"""Each loss against its formula on padded [B, T] tensors, in value and in gradient."""

from __future__ import annotations

import pytest
import torch

from open_r1.rl.losses import (
    LOSSES,
    ClipRange,
    clipped_surrogate,
    importance_ratio,
    kl_k3,
    policy_loss,
    ratio_level,
    target_weights,
)

B, T = 5, 7
LOW, HIGH, BETA = 0.2, 0.28, 0.04
LENGTHS = torch.tensor([7, 1, 4, 0, 5])
CLIP = ClipRange(LOW, HIGH)


def padded_reference(loss_type, logprob, behaviour, reference, advantage, mask):
    ratio = torch.exp(logprob - behaviour)
    if loss_type == "gspo":
        mean = ((logprob - behaviour) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        ratio = mean.exp().expand_as(logprob)
    if loss_type == "cispo":
        per_token = -torch.clamp(ratio, max=1 + HIGH).detach() * advantage[:, None] * logprob
    else:
        clipped = torch.clamp(ratio, 1 - LOW, 1 + HIGH)
        per_token = -torch.min(ratio * advantage[:, None], clipped * advantage[:, None])
    per_token = per_token + BETA * (torch.exp(reference - logprob) - (reference - logprob) - 1)
    if loss_type in ("grpo", "gspo"):
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
    spread = torch.repeat_interleave
    flat = {"behaviour_logprob_K": behaviour[rows][chosen], "reference_logprob_K": reference[rows][chosen]}
    flat["sequence_index_K"] = spread(torch.arange(len(rows)), LENGTHS[rows])
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
        ("gspo", [1 / 12, 1 / 6, 1 / 3]),
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
    sequences = torch.arange(3)
    output = policy_loss(loss_type, logprob, advantage, weight, clip=CLIP, sequence_index_K=sequences)
    output.loss_sum.backward()
    torch.testing.assert_close(logprob.grad, -advantage * weight)
    assert output.metrics["ratio"] == 3
    assert output.metrics["kl_behaviour"] == 0
    assert "kl_reference" not in output.metrics


def test_factors_scale_the_surrogate_and_not_the_kl():
    logprob, weight = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 1.0])
    reference = torch.tensor([-1.5, -1.0])
    factor = torch.tensor([0.5, 2.0])
    output = policy_loss(
        "dapo", logprob, torch.tensor([1.0, 3.0]), weight, clip=CLIP, factor_K=factor,
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


def test_a_ceiling_bounds_what_a_bad_token_counts():
    """INTELLECT-2: of negative advantage a ratio counts up to delta; of positive advantage nothing changes."""
    ratio = torch.tensor([0.5, 1.1, 3.0, 9.0]).repeat(2).requires_grad_()
    advantage = torch.tensor([-1.0] * 4 + [1.0] * 4)
    clip = ClipRange(0.2, 0.28, ceiling=4.0)
    loss = clipped_surrogate(ratio, advantage, torch.zeros(8), clip)
    torch.testing.assert_close(loss.detach(), torch.tensor([0.8, 1.1, 3.0, 4.0, -0.5, -1.1, -1.28, -1.28]))
    loss.sum().backward()
    assert ratio.grad.tolist() == [0, 1, 1, 0, -1, -1, 0, 0]

    behaviour, logprob = torch.zeros(8), ratio.detach().log()
    metrics = policy_loss("dapo", logprob, advantage, torch.ones(8), clip=clip, behaviour_logprob_K=behaviour).metrics
    assert (metrics["clip_low"], metrics["clip_high"]) == (1, 3)


def test_the_ratio_of_a_sequence_is_the_geometric_mean_of_its_tokens():
    logprob = torch.tensor([2.0, 8.0, 0.5, 3.0]).log()
    ratio = importance_ratio(logprob, torch.zeros(4), "sequence", torch.tensor([0, 0, 2, 3]))
    torch.testing.assert_close(ratio, torch.tensor([4.0, 4.0, 0.5, 3.0]))
    torch.testing.assert_close(importance_ratio(logprob, torch.zeros(4)), logprob.exp())


def test_only_gspo_takes_the_ratio_of_sequences_by_itself():
    assert {loss_type for loss_type in LOSSES if ratio_level(loss_type) == "sequence"} == {"gspo"}
    assert ratio_level("dapo", "sequence") == "sequence"


@pytest.mark.parametrize("loss_type", [name for name in LOSSES if name != "cispo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_gradients_are_those_of_finite_differences(loss_type, level):
    """Not CISPO's, whose gradient is by design not that of its value."""
    generator = torch.Generator().manual_seed(5)
    sequences = torch.tensor([0, 0, 0, 1, 3, 3])
    behaviour = -torch.rand(6, generator=generator, dtype=torch.float64)
    start = behaviour + torch.randn(6, generator=generator, dtype=torch.float64)
    advantage = torch.tensor([1.5, 1.5, 1.5, -2.0, 0.7, 0.7], dtype=torch.float64)
    weight = torch.rand(6, generator=generator, dtype=torch.float64)

    def loss(logprob):
        return policy_loss(
            loss_type, logprob, advantage, weight, clip=ClipRange(0.2, 0.3, 2.5), level=level, beta=0.1,
            sequence_index_K=sequences, behaviour_logprob_K=behaviour, reference_logprob_K=behaviour - 0.1,
            unbiased_kl=True,
        ).loss_sum  # fmt: skip

    assert torch.autograd.gradcheck(loss, start.requires_grad_())


def test_the_unbiased_kl_has_the_gradient_of_the_kl_in_expectation():
    """Over all tokens of a small vocabulary, each drawn with its probability; GRPO's own has another gradient."""
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64).log()
    logprob = logits.log_softmax(0)
    exact = (logprob.exp() * (logprob - reference)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)

    def gradient(**options):
        loss = policy_loss(
            "dapo", logprob, torch.zeros(3), logprob.detach().exp(), clip=CLIP, beta=1.0,
            reference_logprob_K=reference, **options,
        ).loss_sum  # fmt: skip
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    torch.testing.assert_close(gradient(unbiased_kl=True), expected)
    assert not torch.allclose(gradient(), expected)
