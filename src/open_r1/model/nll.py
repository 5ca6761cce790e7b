"""The weighted cross-entropy of a linear head, with its gradient made in the forward pass.

The gradient of this loss with respect to the logits is known as soon as they are: (softmax − onehot) · weight. So each
chunk of logits is computed once, turned into its gradient in place, and multiplied back at once; the backward pass only
scales what is there. Four matrix products become three, and no logits outlive their chunk.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_r1.model.logits import LogitTransform, chunk_targets, logits_of


@cache
def has_triton() -> bool:
    """Whether kernels in Triton can be compiled; some platforms have a torch without it."""
    return importlib.util.find_spec("triton") is not None


class WeightedNLL(torch.autograd.Function):
    """Σ_k loss_weight_k · −log softmax(logits_k)[target_k] as a float32 scalar.

    Not for float16: without a loss scale, small probabilities would be rounded to zero.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, loss_weight, temperature, transform, chunk):
        compute_weight = weight.to(hidden.dtype)
        compute_bias = None if bias is None else bias.to(hidden.dtype)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        any_grad = needs_hidden or needs_weight or needs_bias
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunk = chunk or chunk_targets(len(weight), hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                losses, grad = _chunk(
                    hidden[part],
                    compute_weight,
                    compute_bias,
                    targets[part],
                    loss_weight[part],
                    temperature,
                    transform,
                    any_grad,
                )
                total += losses.sum()
                if needs_hidden:
                    torch.mm(grad, compute_weight, out=grad_hidden[part])
                if needs_weight:
                    accumulate_product(grad_weight, grad, hidden[part], first=start == 0)
                if needs_bias:
                    grad_bias += grad.sum(0)
                del grad  # before the next chunk's logits are made: two of them would be a gigabyte more
        if needs_weight and not len(targets):
            grad_weight.zero_()
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total):
        grads, ctx.grads = ctx.grads, None
        for grad in grads:
            if grad is not None:  # vectorised, which mul_ by a tensor of another type is not
                torch._foreach_mul_([grad], grad_total)
        return *grads, None, None, None, None, None


def accumulate_product(grad_weight: Tensor, grad: Tensor, hidden: Tensor, *, first: bool) -> None:
    """Adds gradᵀ · hidden to ``grad_weight``, whose contents count for nothing where it is the ``first``."""
    if grad_weight.dtype != hidden.dtype:
        product = grad.T @ hidden
        grad_weight.copy_(product) if first else grad_weight.add_(product)
    elif first:
        torch.mm(grad.T, hidden, out=grad_weight)
    else:
        grad_weight.addmm_(grad.T, hidden)


def _chunk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    loss_weight: Tensor,
    temperature: float,
    transform: LogitTransform,
    needs_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Losses [C] and the gradient of their sum with respect to ``hidden @ weightᵀ + bias`` [C, V]."""
    if hidden.is_cuda and transform.softcap is None and transform.scale > 0 and has_triton():
        from open_r1.model.nll_kernel import weighted_nll_

        logits = torch.nn.functional.linear(hidden, weight, bias)
        losses = weighted_nll_(logits, targets, loss_weight, transform.scale / temperature, needs_grad)
        return losses, logits
    logits = logits_of(hidden, weight, bias, transform, temperature)
    normaliser = torch.logsumexp(logits, dim=-1)
    losses = (normaliser - logits.gather(-1, targets[:, None])[:, 0]) * loss_weight
    if not needs_grad:
        return losses, None
    slope = transform.slope(logits, temperature)
    grad = torch.exp(logits.sub_(normaliser[:, None]))
    grad.scatter_add_(-1, targets[:, None], grad.new_full((len(targets), 1), -1.0))
    grad *= loss_weight[:, None] * slope
    return losses, grad.to(hidden.dtype)
