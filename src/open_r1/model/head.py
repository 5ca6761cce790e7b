"""The language-model head, evaluated in chunks: log-probabilities of targets without ever holding full logits.

For K targets, vocabulary V and chunks of C targets, memory is C × V instead of K × V. The backward pass of
`target_logprobs` computes each chunk's logits again, so the cost is four matrix products where full logits need three;
`weighted_nll`, whose gradient does not depend on what comes after, needs three.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from open_r1.errors import UserError
from open_r1.model.logits import PLAIN, LogitTransform, chunk_targets, logits_of
from open_r1.model.nll import WeightedNLL


@dataclass(frozen=True)
class TokenLogprobs:
    """What the head says of K targets.

    Attributes:
        logprobs: float32 [K], log-probability of each target in nats; differentiable.
        entropy: float32 [K], entropy of each target's distribution in nats, without gradient; None if not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None = None


def call_by_targets(head: nn.Module) -> None:
    """Lets ``head(hidden, targets=…)`` be `target_logprobs` or `weighted_nll`; ``head(hidden)`` gives logits as before.

    Called as a module, so that the hooks which gather sharded weights run.
    """
    head.forward = partial(_forward, head)


def _forward(
    head: nn.Module, hidden: Tensor, *, targets: Tensor | None = None, loss_weight: Tensor | None = None, **options
) -> Tensor | TokenLogprobs:
    if targets is None:
        return type(head).forward(head, hidden)
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
    return TokenLogprobs(logprobs, entropies if entropy else None)


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


def _in_compute_dtype(hidden: Tensor, head: nn.Module) -> Tensor:
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"the model's head is a {type(head).__name__}, not a linear layer; "
            "leave lm_head out of --lora_target_modules"
        )
    device_type = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else hidden


class _TargetLogprobs(torch.autograd.Function):
    """d logprob_k / d logits_kv = [v = target_k] − softmax(logits_k)_v, chunk by chunk."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, transform, entropy, chunk):
        compute_weight = weight.to(hidden.dtype)
        compute_bias = None if bias is None else bias.to(hidden.dtype)
        chunk = chunk or chunk_targets(len(weight), hidden)
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        normaliser = torch.empty_like(logprobs)
        entropies = torch.empty_like(logprobs) if entropy else logprobs.new_empty(0)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                logits = logits_of(hidden[part], compute_weight, compute_bias, transform, temperature)
                normaliser[part] = torch.logsumexp(logits, dim=-1)
                logprobs[part] = logits.gather(-1, targets[part, None])[:, 0] - normaliser[part]
                if entropy:
                    probabilities = (logits - normaliser[part, None]).exp_()
                    entropies[part] = normaliser[part] - probabilities.mul_(logits).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.settings = (temperature, transform, chunk)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx, grad_logprobs, _grad_entropies):
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        temperature, transform, chunk = ctx.settings
        compute_weight = weight.to(hidden.dtype)
        compute_bias = None if bias is None else bias.to(hidden.dtype)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                logits = logits_of(hidden[part], compute_weight, compute_bias, transform, temperature)
                slope = transform.slope(logits, temperature)
                grad = logits.sub_(normaliser[part, None]).exp_().neg_()
                grad.scatter_add_(-1, targets[part, None], torch.ones_like(grad[:, :1]))
                grad *= grad_logprobs[part, None] * slope
                grad = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = grad @ compute_weight
                if grad_weight is not None:
                    grad_weight += grad.T @ hidden[part]
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None
