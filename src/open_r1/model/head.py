"""The language-model head, evaluated in chunks: log-probabilities of targets without ever holding full logits.

For K targets, vocabulary V and chunks of C targets, memory is C × V instead of K × V. The backward pass of
`target_logprobs` computes each chunk's logits again, so the cost is four matrix products where full logits need three;
`weighted_nll` and `policy_loss`, which know a chunk's gradient before the next chunk, need three.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from open_r1.errors import UserError
from open_r1.model.logit_chunk import ChunkedHead, Scores
from open_r1.model.logits import PLAIN, LogitTransform, chunk_targets
from open_r1.model.nll import WeightedNLL
from open_r1.model.policy_head import PolicyObjective, PolicyTargets, TokenLogprobs, policy_loss_in_one_pass


def call_by_targets(head: nn.Module) -> None:
    """Lets ``head(hidden, targets=…)`` be `target_logprobs`; ``head(hidden)`` gives logits as before.

    With a ``loss_weight`` it is `weighted_nll`, with an ``objective`` `policy_loss`.

    Called as a module, so that the hooks which gather sharded weights run.
    """
    head.forward = partial(_forward, head)


def _forward(
    head: nn.Module,
    hidden: Tensor,
    *,
    targets: Tensor | None = None,
    loss_weight: Tensor | None = None,
    objective: PolicyObjective | None = None,
    **options: Any,
) -> Tensor | TokenLogprobs | tuple[Tensor, dict[str, Tensor]]:
    if targets is None:
        return type(head).forward(head, hidden)
    if objective is not None:
        return policy_loss(hidden, head, targets, objective, **options)
    if loss_weight is not None:
        return weighted_nll(hidden, head, targets, loss_weight, **options)
    return target_logprobs(hidden, head, targets, **options)


def target_logprobs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    transform: LogitTransform = PLAIN,
    entropy: bool = False,
    chunk: int | None = None,
) -> TokenLogprobs:
    """Log-probabilities of ``targets`` under softmax(logits / temperature).

    Args:
        hidden: [K, D], the hidden state that predicts each target.
        head: the output embedding, a linear layer with ``weight`` [V, D] and perhaps ``bias`` [V].
        targets: int64 [K].
        chunk: targets at a time; None chooses by `chunk_targets`.
    """
    hidden = _in_compute_dtype(hidden, head)
    logprobs, entropies = _TargetLogprobs.apply(
        hidden, head.weight, head.bias, targets, temperature, transform, entropy, chunk
    )
    return TokenLogprobs(logprobs, entropies)


def weighted_nll(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    loss_weight: Tensor,
    *,
    temperature: float = 1.0,
    transform: LogitTransform = PLAIN,
    chunk: int | None = None,
) -> Tensor:
    """Σ_k loss_weight_k · −log p(target_k) in nats, a float32 scalar; arguments as of `target_logprobs`.

    Args:
        loss_weight: float32 [K].
    """
    hidden = _in_compute_dtype(hidden, head)
    if hidden.dtype == torch.float16:
        options = {"temperature": temperature, "transform": transform, "chunk": chunk}
        return -(target_logprobs(hidden, head, targets, **options).logprobs * loss_weight).sum()
    return WeightedNLL.apply(hidden, head.weight, head.bias, targets, loss_weight, temperature, transform, chunk)


def policy_loss(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    objective: PolicyObjective,
    policy_targets: PolicyTargets,
    *,
    temperature: float = 1.0,
    transform: LogitTransform = PLAIN,
    chunk: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of an objective that is a sum over targets, a float32 scalar, and its metrics, without gradient.

    Arguments as of `target_logprobs`.

    Args:
        objective: may be called with some of the targets at a time, and is always given their entropy.
        policy_targets: what the objective is told of the K targets.
    """
    hidden = _in_compute_dtype(hidden, head)
    options = {"temperature": temperature, "transform": transform, "chunk": chunk}
    if hidden.dtype == torch.float16:
        predicted = target_logprobs(hidden, head, targets, entropy=True, **options)
        loss, metrics = objective(predicted, policy_targets)
        return loss, {name: value.detach() for name, value in metrics.items()}
    return policy_loss_in_one_pass(hidden, head.weight, head.bias, targets, objective, policy_targets, **options)


def _in_compute_dtype(hidden: Tensor, head: nn.Module) -> Tensor:
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"the model's head is a {type(head).__name__}, not a linear layer; "
            "leave lm_head out of --lora_target_modules"
        )
    device_type = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else hidden


class _TargetLogprobs(torch.autograd.Function):
    """Log-probabilities and entropies in chunks of logits, which the backward pass computes again."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, transform, entropy, chunk):
        head = ChunkedHead(hidden, weight, bias, wanted=(False, False, False))
        chunk = chunk or chunk_targets(len(weight), hidden)
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        normalisers = torch.empty_like(logprobs)
        entropies = torch.empty_like(logprobs) if entropy else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                scores = head.logits(part, targets[part], transform, temperature).score(entropy)
                logprobs[part], normalisers[part] = scores.logprobs, scores.normalisers
                if entropy:
                    entropies[part] = scores.entropies
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers, entropies)
        ctx.settings = (temperature, transform, chunk)
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx, of_logprobs, of_entropies):
        hidden, weight, bias, targets, normalisers, entropies = ctx.saved_tensors
        temperature, transform, chunk = ctx.settings
        if of_logprobs is None:
            of_logprobs = torch.zeros_like(normalisers)
        scores = Scores(of_logprobs, normalisers, entropies)  # the gradient does not look at the log-probabilities
        head = ChunkedHead(hidden, weight, bias, wanted=ctx.needs_input_grad[:3])
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                logits = head.logits(part, targets[part], transform, temperature)
                of_entropy = None if of_entropies is None else of_entropies[part].contiguous()
                head.add(part, logits.gradient(scores.part(part), of_logprobs[part].contiguous(), of_entropy))
        return *head.gradients(), None, None, None, None, None
