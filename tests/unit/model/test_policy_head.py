"""The policy's loss in one pass is that over full logits, and that over log-probabilities from a pass of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.model.head import LogitTransform, policy_loss, target_logprobs
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.model.policy_head import PolicyTargets, TokenLogprobs

TARGETS, HIDDEN, VOCABULARY = 23, 8, 31
CHUNKS = (1, 4, 23, None)
TRANSFORMS = [LogitTransform(), LogitTransform(0.4), LogitTransform(2.0, softcap=1.5)]

Loss = tuple[Tensor, dict[str, Tensor]]


def clipped(predicted: TokenLogprobs, of: PolicyTargets | Pack) -> Loss:
    """With a ratio, a clip, a KL term: the log-probability alone."""
    ratio = (predicted.logprobs - of.behaviour_logprob).exp()
    surrogate = -torch.minimum(ratio * of.advantage, ratio.clamp(0.8, 1.2) * of.advantage)
    log_ratio = of.reference_logprob - predicted.logprobs
    loss = of.loss_weight * (surrogate + 0.1 * (log_ratio.expm1() - log_ratio))
    return loss.sum(), {
        "ratio": ratio.sum(),
        "entropy": predicted.entropy.sum(),
        "targets": ratio.new_ones(()) * len(ratio),
    }


def with_bonus(predicted: TokenLogprobs, of: PolicyTargets | Pack) -> Loss:
    loss, metrics = clipped(predicted, of)
    return loss - 0.3 * (of.loss_weight * predicted.entropy).sum(), metrics


def plain_sum(predicted: TokenLogprobs, of: PolicyTargets | Pack) -> Loss:
    """Whose derivatives are one number laid out as many."""
    return -predicted.logprobs.sum(), {}


def entropy_alone(predicted: TokenLogprobs, of: PolicyTargets | Pack) -> Loss:
    return predicted.entropy.sum(), {}


OBJECTIVES = [clipped, with_bonus, plain_sum, entropy_alone]


def inputs(bias: bool, targets: int = TARGETS) -> tuple[Tensor, nn.Linear, Tensor, PolicyTargets]:
    torch.manual_seed(1)
    layer = nn.Linear(HIDDEN, VOCABULARY, bias=bias)
    hidden = (torch.randn(targets, HIDDEN) * 2).requires_grad_()
    of_targets = PolicyTargets(
        loss_weight=torch.rand(targets),
        sequence_index=torch.zeros(targets, dtype=torch.int64),
        advantage=torch.randn(targets),
        behaviour_logprob=-3 + 0.2 * torch.randn(targets),
        reference_logprob=-3 + 0.2 * torch.randn(targets),
    )
    return hidden, layer, torch.randint(0, VOCABULARY, (targets,)), of_targets


def over_full_logits(
    hidden: Tensor, layer: nn.Linear, targets: Tensor, temperature: float, transform: LogitTransform
) -> TokenLogprobs:
    logits = layer(hidden).float() * transform.scale
    if transform.softcap is not None:
        logits = torch.tanh(logits / transform.softcap) * transform.softcap
    logprobs = (logits / temperature).log_softmax(-1)
    return TokenLogprobs(logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1))


def assert_same(found: Loss, expected: Loss, leaves: list[Tensor], tolerance: float) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert not found[1][name].requires_grad
        torch.testing.assert_close(found[1][name], value.detach(), rtol=tolerance, atol=tolerance)
    wanted = torch.autograd.grad(expected[0] / 7, leaves)
    for gradient, value in zip(torch.autograd.grad(found[0] / 7, leaves), wanted, strict=True):
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(gradient, value, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_it_is_the_loss_over_full_logits(
    objective: Callable, bias: bool, transform: LogitTransform, temperature: float
) -> None:
    hidden, layer, targets, of_targets = inputs(bias)
    options = {"temperature": temperature, "transform": transform}
    for chunk in CHUNKS:
        expected = objective(over_full_logits(hidden, layer, targets, **options), of_targets)
        found = policy_loss(hidden, layer, targets, objective, of_targets, chunk=chunk, **options)
        assert_same(found, expected, [hidden, *layer.parameters()], 2e-5)


@pytest.mark.parametrize("objective", [clipped, with_bonus])
def test_in_bf16_it_is_the_two_passes(objective: Callable) -> None:
    """Over float32 weights, as under autocast; both round the gradient of the logits to bf16."""
    hidden, layer, targets, of_targets = inputs(bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = objective(target_logprobs(hidden, layer, targets, entropy=True, chunk=5), of_targets)
        found = policy_loss(hidden, layer, targets, objective, of_targets, chunk=5)
    assert found[0].dtype == torch.float32
    assert_same(found, expected, [hidden, *layer.parameters()], 1e-2)


def test_float16_takes_two_passes() -> None:
    """Whose gradient carries the loss scale from the start: one of 1e-9 is there, times 2¹⁶."""
    hidden, layer, targets, of_targets = inputs(bias=False)
    hidden, layer = hidden.detach().half().requires_grad_(), layer.half()
    loss, _ = policy_loss(
        hidden, layer, targets, lambda predicted, of: (1e-9 * predicted.logprobs.sum(), {}), of_targets
    )
    (loss * 2**16).backward()
    assert hidden.grad.count_nonzero() > 0.9 * hidden.numel()


def test_no_targets() -> None:
    hidden, layer, targets, of_targets = inputs(bias=True, targets=0)
    loss, metrics = policy_loss(hidden, layer, targets, with_bonus, of_targets)
    assert loss.item() == 0 and {name: value.item() for name, value in metrics.items()} == {
        "ratio": 0,
        "entropy": 0,
        "targets": 0,
    }
    loss.backward()
    assert hidden.grad.shape == (0, HIDDEN)
    assert not layer.weight.grad.any() and not layer.bias.grad.any()


def test_a_frozen_head_passes_the_gradient_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With adapters, and then no product is spent on its weight."""
    hidden, layer, targets, of_targets = inputs(bias=True)
    layer.requires_grad_(False)
    (wanted,) = torch.autograd.grad(
        with_bonus(over_full_logits(hidden, layer, targets, 1.0, TRANSFORMS[0]), of_targets)[0], hidden
    )
    monkeypatch.setattr("open_r1.model.logit_chunk.accumulate_product", None)
    policy_loss(hidden, layer, targets, with_bonus, of_targets, chunk=5)[0].backward()
    torch.testing.assert_close(hidden.grad, wanted, atol=1e-5, rtol=1e-5)
    assert layer.weight.grad is None and layer.bias.grad is None


def test_without_gradient() -> None:
    hidden, layer, targets, of_targets = inputs(bias=False)
    expected, _ = policy_loss(hidden, layer, targets, clipped, of_targets, chunk=5)
    with torch.no_grad():
        loss, metrics = policy_loss(hidden, layer, targets, clipped, of_targets, chunk=5)
    assert torch.equal(loss, expected.detach()) and not loss.requires_grad
    assert metrics["targets"] == TARGETS


def test_each_chunk_of_logits_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, *rest: sizes.append(len(x)) or linear(x, *rest))
    hidden, layer, targets, of_targets = inputs(bias=False)
    policy_loss(hidden, layer, targets, clipped, of_targets, chunk=10)[0].backward()
    assert sizes == [10, 10, 3]


def rl_pack() -> Pack:
    chance = np.random.default_rng(0)
    return make_pack(
        [
            TrainingSequence(
                chance.integers(0, 200, length),
                (np.arange(length) >= 5) / length,
                **{
                    name: chance.normal(-2, 1, length)
                    for name in ("advantage", "behaviour_logprob", "reference_logprob")
                },
            )
            for length in (31, 17, 12)
        ]
    )


def test_a_model_takes_an_objective(tiny_checkpoint: Path) -> None:
    module, pack = PackModel(load_model(str(tiny_checkpoint))).train(), rl_pack()
    expected = with_bonus(module(pack, temperature=0.7, entropy=True), pack)
    found = module(pack, temperature=0.7, objective=with_bonus)
    assert_same(found, expected, list(module.parameters()), 1e-4)
