"""The chunked head is the full head."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from open_r1.errors import UserError
from open_r1.model import nll
from open_r1.model.head import LogitTransform, target_logprobs, weighted_nll

TARGETS, HIDDEN, VOCABULARY = 23, 8, 31
CHUNKS = (1, 4, 22, 23, 4096)


def head(bias: bool) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(HIDDEN, VOCABULARY, bias=bias)


def inputs(targets: int = TARGETS) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, targets, and what each log-probability weighs in the loss."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(targets, HIDDEN, generator=generator) * 2
    chosen = torch.randint(0, VOCABULARY, (targets,), generator=generator)
    return hidden.requires_grad_(), chosen, torch.randn(targets, generator=generator)


def full(hidden: Tensor, layer: nn.Linear, targets: Tensor, temperature: float, transform: LogitTransform):
    logits = layer(hidden) * transform.scale
    if transform.softcap is not None:
        logits = torch.tanh(logits / transform.softcap) * transform.softcap
    logprobs = (logits / temperature).log_softmax(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.4), LogitTransform(2.0, softcap=1.5)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_gradients_and_entropy(bias: bool, transform: LogitTransform, temperature: float) -> None:
    layer = head(bias)
    hidden, targets, weight = inputs()
    expected, entropy = full(hidden, layer, targets, temperature, transform)
    wanted = torch.autograd.grad((expected * weight + 0.7 * entropy * weight).sum(), [hidden, *layer.parameters()])
    for chunk in CHUNKS:
        output = target_logprobs(
            hidden, layer, targets, temperature=temperature, transform=transform, entropy=True, chunk=chunk
        )
        torch.testing.assert_close(output.logprobs, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(output.entropy, entropy, atol=1e-5, rtol=0)
        loss = (output.logprobs * weight).sum() + 0.7 * (output.entropy * weight).sum()
        gradients = torch.autograd.grad(loss, [hidden, *layer.parameters()])
        for gradient, value in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient, value, atol=1e-5, rtol=1e-5)


def test_uniform_logits_by_hand() -> None:
    layer = nn.Linear(1, 4, bias=False)
    nn.init.zeros_(layer.weight)
    output = target_logprobs(torch.ones(1, 1), layer, torch.tensor([2]), entropy=True)
    assert output.logprobs.item() == pytest.approx(-1.386294)  # log 1/4
    assert output.entropy.item() == pytest.approx(1.386294)


def test_no_targets() -> None:
    layer = head(bias=True)
    hidden, targets, _ = inputs(targets=0)
    output = target_logprobs(hidden, layer, targets, entropy=True)
    assert output.logprobs.shape == output.entropy.shape == (0,)
    output.logprobs.sum().backward()
    assert hidden.grad.shape == (0, HIDDEN)
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()


def test_a_frozen_head_passes_the_gradient_on() -> None:
    layer = head(bias=True).requires_grad_(False)
    hidden, targets, weight = inputs()
    expected, _ = full(hidden, layer, targets, 1.0, LogitTransform())
    (wanted,) = torch.autograd.grad((expected * weight).sum(), hidden)
    (target_logprobs(hidden, layer, targets, chunk=5).logprobs * weight).sum().backward()
    torch.testing.assert_close(hidden.grad, wanted, atol=1e-5, rtol=1e-5)
    assert layer.weight.grad is None


def test_no_more_than_a_chunk_of_logits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, *rest: sizes.append(len(x)) or linear(x, *rest))
    layer = head(bias=False)
    hidden, targets, _ = inputs()
    target_logprobs(hidden, layer, targets, chunk=10).logprobs.sum().backward()
    assert sizes == [10, 10, 3, 10, 10, 3]


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(UserError, match="Embedding, not a linear layer"):
        target_logprobs(torch.ones(1, 2), nn.Embedding(3, 2), torch.tensor([0]))


def test_a_chunk_is_gone_before_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks of logits of a large vocabulary would be a gigabyte more."""
    made: list[weakref.ref[Tensor]] = []
    plain = nll._chunk

    def watched(*arguments: Any) -> tuple[Tensor, Tensor | None]:
        assert all(earlier() is None for earlier in made)
        losses, grad = plain(*arguments)
        made.append(weakref.ref(grad))
        return losses, grad

    monkeypatch.setattr(nll, "_chunk", watched)
    hidden, targets, _ = inputs(10)
    weighted_nll(hidden, head(bias=False), targets, torch.ones(10), chunk=4).backward()
    assert len(made) == 3
