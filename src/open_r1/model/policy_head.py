"""A policy's loss over a linear head, with its gradient made in the forward pass.

A loss that is a sum over targets, each of which asks only for its own log-probability and entropy, is known chunk by
chunk. So each chunk of logits is computed once, the objective is asked for the derivatives of its share of the loss,
and the logits are turned into their gradient in place. Three matrix products, where a pass for the log-probabilities
and another for their gradient (`target_logprobs`) make four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_r1.data.pack import Pack
from open_r1.model.logit_chunk import ChunkedHead, Gradients, Scores
from open_r1.model.logits import LogitTransform, chunk_targets


class TokenLogprobs(NamedTuple):
    """What the head says of K targets.

    A tuple: FSDP2 and ZeRO-3 look for a module's output tensors in what they know. Without them, weights are not
    gathered for the backward pass.

    Attributes:
        logprobs: float32 [K], log-probability of each target in nats; differentiable.
        entropy: float32 [K], entropy of each target's distribution in nats; differentiable; None if not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None = None


@dataclass(frozen=True)
class PolicyTargets:
    """What an objective may ask of K targets beside what the head says: the per-target fields of a `Pack`, [K] each."""

    loss_weight: Tensor
    sequence_index: Tensor
    advantage: Tensor | None = None
    behaviour_logprob: Tensor | None = None
    reference_logprob: Tensor | None = None

    @classmethod
    def of(cls, pack: Pack) -> PolicyTargets:
        """Those of all targets of a pack."""
        return cls(**{field.name: getattr(pack, field.name) for field in fields(cls)})

    def part(self, part: slice) -> PolicyTargets:
        """Some of the targets."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return PolicyTargets(**{name: None if value is None else value[part] for name, value in values.items()})


PolicyObjective = Callable[[TokenLogprobs, PolicyTargets | Pack], tuple[Tensor, dict[str, Tensor]]]
"""The sum of the weighted losses of targets, and sums of metrics over them."""


class _Derivatives(NamedTuple):
    """By the log-probabilities and by the entropies of C targets, float32 [C]; None where entropy has no part."""

    of_logprob: Tensor
    of_entropy: Tensor | None


def policy_loss_in_one_pass(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    objective: PolicyObjective,
    policy_targets: PolicyTargets,
    *,
    temperature: float,
    transform: LogitTransform,
    chunk: int | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective's loss over all targets, a float32 scalar with gradient, and its metrics without.

    Not for float16: without a loss scale, small probabilities would be rounded to zero.

    Args:
        hidden: [K, D] in the compute dtype; ``weight`` [V, D], ``bias`` [V].
        targets: int64 [K].
        objective: called with one chunk of targets after another, whose losses and metrics are added up.
        chunk: targets at a time; None chooses by `chunk_targets`.
    """
    tensors = (hidden, weight, bias)
    wanted = [torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in tensors]
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    metrics: dict[str, Tensor] = {}
    chunk = chunk or chunk_targets(len(weight), hidden)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        head = ChunkedHead(hidden, weight, bias, wanted)
        for start in range(0, max(1, len(targets)), chunk):  # once even without targets, for the names of the metrics
            part = slice(start, start + chunk)
            logits = head.logits(part, targets[part], transform, temperature)
            scores = logits.score(entropy=True)
            loss, sums, derivatives = _ask(objective, scores, policy_targets.part(part), any(wanted))
            total += loss
            for name, value in sums.items():
                metrics[name] = metrics[name] + value if name in metrics else value
            if derivatives is not None:
                head.add(part, logits.gradient(scores, *derivatives))
    if not any(wanted):
        return total, metrics
    return _WithGradients.apply(hidden, weight, bias, total, head.gradients()), metrics


def _ask(
    objective: PolicyObjective, scores: Scores, targets: PolicyTargets, differentiate: bool
) -> tuple[Tensor, dict[str, Tensor], _Derivatives | None]:
    """Loss and metrics of a chunk of targets, without gradient, and the loss's derivatives where asked."""
    if not differentiate:
        return *objective(TokenLogprobs(scores.logprobs, scores.entropies), targets), None
    logprobs, entropy = (tensor.detach().requires_grad_() for tensor in (scores.logprobs, scores.entropies))
    with torch.enable_grad():
        loss, metrics = objective(TokenLogprobs(logprobs, entropy), targets)
    of_logprob, of_entropy = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True)
    derivatives = _Derivatives(
        # Of a plain sum the derivative is one number laid out as many, which a kernel cannot read.
        torch.zeros_like(logprobs) if of_logprob is None else of_logprob.contiguous(),
        None if of_entropy is None else of_entropy.contiguous(),
    )
    return loss.detach(), {name: value.detach() for name, value in metrics.items()}, derivatives


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are known; the backward pass only scales them."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, loss: Tensor, grads: Gradients) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor):
        grads, ctx.grads = ctx.grads, None
        for grad in grads:
            if grad is not None:  # vectorised, which mul_ by a tensor of another type is not
                torch._foreach_mul_([grad], grad_loss)
        return *grads, None, None
