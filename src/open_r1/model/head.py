"""The language-model head, evaluated in chunks: log-probabilities of targets without ever holding full logits.

For K targets, vocabulary V and chunks of C targets, memory is C × V instead of K × V. The backward pass computes each
chunk's logits again, so the cost is four matrix products where full logits need three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from open_r1.errors import UserError

CHUNK_TARGETS = 4096


@dataclass(frozen=True)
class TokenLogprobs:
    """What the head says of K targets.

    Attributes:
        logprobs: float32 [K], log-probability of each target in nats; differentiable.
        entropy: float32 [K], entropy of each target's distribution in nats, without gradient; None if not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None = None


@dataclass(frozen=True)
class LogitTransform:
    """How a model turns ``hidden @ weight`` into logits: softcap(scale · z) / temperature."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitTransform:
        """Read from a `transformers` configuration.

        Gemma has a softcap; Cohere, Falcon-H1 and HyperCLOVA X multiply, Granite divides by the same name.
        """
        scale = float(getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0)
        if scaling := getattr(config, "logits_scaling", None):
            scale *= scaling if config.model_type == "hyperclovax" else 1.0 / scaling
        return cls(scale, getattr(config, "final_logit_softcapping", None))


def target_logprobs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    transform: LogitTransform = LogitTransform(),
    entropy: bool = False,
    chunk: int = CHUNK_TARGETS,
) -> TokenLogprobs:
    """Log-probabilities of ``targets`` under softmax(logits / temperature).

    Args:
        hidden: [K, D], the hidden state that predicts each target.
        head: the output embedding, a linear layer with ``weight`` [V, D] and perhaps ``bias`` [V].
        targets: int64 [K].
    """
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"the model's head is a {type(head).__name__}, not a linear layer; "
            "leave lm_head out of --lora_target_modules"
        )
    device_type = hidden.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype
    logprobs, entropies = _TargetLogprobs.apply(
        hidden.to(dtype), head.weight, head.bias, targets, temperature, transform, entropy, chunk
    )
    return TokenLogprobs(logprobs, entropies if entropy else None)


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform, temperature: float
) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if transform.scale != 1.0:
        logits *= transform.scale
    if transform.softcap is not None:
        logits = torch.tanh(logits / transform.softcap) * transform.softcap
    if temperature != 1.0:
        logits /= temperature
    return logits


class _TargetLogprobs(torch.autograd.Function):
    """d logprob_k / d logits_kv = [v = target_k] − softmax(logits_k)_v, chunk by chunk."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, transform, entropy, chunk):
        compute_weight = weight.to(hidden.dtype)
        compute_bias = None if bias is None else bias.to(hidden.dtype)
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        normaliser = torch.empty_like(logprobs)
        entropies = torch.empty_like(logprobs) if entropy else logprobs.new_empty(0)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                logits = _logits(hidden[part], compute_weight, compute_bias, transform, temperature)
                normaliser[part] = torch.logsumexp(logits, dim=-1)
                logprobs[part] = logits.gather(-1, targets[part, None])[:, 0] - normaliser[part]
                if entropy:
                    probabilities = torch.exp(logits - normaliser[part, None])
                    entropies[part] = normaliser[part] - (probabilities * logits).sum(-1)
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
        grad_bias = torch.zeros_like(bias) if bias is not None and needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                logits = _logits(hidden[part], compute_weight, compute_bias, transform, temperature)
                grad = torch.exp(logits - normaliser[part, None]).neg_()
                grad.scatter_add_(-1, targets[part, None], torch.ones_like(grad[:, :1]))
                grad *= grad_logprobs[part, None] * (transform.scale / temperature)
                if transform.softcap is not None:  # d tanh
                    grad *= 1 - (logits * (temperature / transform.softcap)) ** 2
                grad = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = grad @ compute_weight
                if grad_weight is not None:
                    grad_weight += grad.T @ hidden[part]
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None
