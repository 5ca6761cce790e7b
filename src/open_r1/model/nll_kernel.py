"""The cross-entropy of rows of logits and its gradient, in two passes over memory (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192
WARPS = 16


@triton.jit
def _weighted_nll(
    logits, row_stride, targets, loss_weight, losses, vocabulary, scale, WRITE_GRAD: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    target = tl.load(targets + row)
    # Read before the reductions below: their barriers stand between this and the writes of other warps.
    of_target = tl.load(logits + target).to(tl.float32) * scale
    weight = tl.load(loss_weight + row)

    top = -float("inf")
    total = 0.0
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(logits + column, mask=column < vocabulary, other=-float("inf")).to(tl.float32) * scale
        higher = tl.maximum(top, tl.max(z, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(z - higher), 0)
        top = higher
    normaliser = top + tl.log(total)
    tl.store(losses + row, (normaliser - of_target) * weight)

    if WRITE_GRAD:
        for start in range(0, vocabulary, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < vocabulary
            z = tl.load(logits + column, mask=inside, other=-float("inf")).to(tl.float32) * scale
            grad = tl.exp(z - normaliser) - tl.where(column == target, 1.0, 0.0)
            tl.store(logits + column, (grad * (weight * scale)).to(logits.dtype.element_ty), mask=inside)


def weighted_nll_(logits: Tensor, targets: Tensor, loss_weight: Tensor, scale: float, write_grad: bool) -> Tensor:
    """Losses float32 [C] of ``logits`` [C, V] times ``scale`` (above 0); the gradient takes the logits' place.

    Args:
        targets: int64 [C].
        loss_weight: float32 [C].
    """
    rows, vocabulary = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    with torch.cuda.device(logits.device):
        _weighted_nll[(rows,)](
            logits,
            logits.stride(0),
            targets,
            loss_weight,
            losses,
            vocabulary,
            scale,
            WRITE_GRAD=write_grad,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    return losses
