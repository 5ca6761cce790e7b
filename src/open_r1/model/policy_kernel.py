"""What a policy's loss needs of rows of logits, and the gradient that it sends back to them, in three passes over
memory (Triton): one that reads, one that reads and writes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

SCORE_BLOCK, SCORE_WARPS = 8192, 16
GRADIENT_BLOCK, GRADIENT_WARPS = 4096, 8


@triton.jit
def _score(
    logits,
    row_stride,
    targets,
    logprobs,
    normalisers,
    entropies,
    vocabulary,
    scale,
    WITH_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    of_target = tl.load(logits + tl.load(targets + row)).to(tl.float32) * scale

    top = -1e30  # finite, so that nothing below is infinity times zero before the first block
    total = 0.0  # of exp(z - top)
    spread = (
        0.0  # of (z - top) exp(z - top): relative to the top, since the entropy is a small difference of large sums
    )
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(logits + column, mask=column < vocabulary, other=-float("inf")).to(tl.float32) * scale
        higher = tl.maximum(top, tl.max(z, 0))
        shrunk = tl.exp(top - higher)
        below = z - higher
        share = tl.exp(below)
        if WITH_ENTROPY:
            spread = (spread + (top - higher) * total) * shrunk + tl.sum(tl.where(share > 0, below * share, 0.0), 0)
        total = total * shrunk + tl.sum(share, 0)
        top = higher
    logarithm = tl.log(total)
    tl.store(normalisers + row, top + logarithm)
    tl.store(logprobs + row, of_target - (top + logarithm))
    if WITH_ENTROPY:
        tl.store(entropies + row, logarithm - spread / total)


@triton.jit
def _gradient(
    logits,
    row_stride,
    targets,
    normalisers,
    entropies,
    of_logprob,
    of_entropy,
    vocabulary,
    scale,
    WITH_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < vocabulary
    z = tl.load(logits + column, mask=inside, other=-float("inf")).to(tl.float32) * scale
    logprob = z - tl.load(normalisers + row)
    probability = tl.exp(logprob)
    weight = tl.load(of_logprob + row)
    grad = tl.where(column == tl.load(targets + row), weight, 0.0) - weight * probability
    if WITH_ENTROPY:
        slope = tl.load(of_entropy + row) * probability * (logprob + tl.load(entropies + row))
        grad -= tl.where(probability > 0, slope, 0.0)
    tl.store(logits + column, (grad * scale).to(logits.dtype.element_ty), mask=inside)


def score(logits: Tensor, targets: Tensor, scale: float, entropy: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of ``logits`` [C, V] times ``scale`` (above 0): log-probability of the targets, log Σ exp, and entropy; [C] each.

    Args:
        targets: int64 [C].
        entropy: whether it is asked for; else None is returned.
    """
    rows, vocabulary = logits.shape
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    normalisers = torch.empty_like(logprobs)
    entropies = torch.empty_like(logprobs) if entropy else None
    if rows:
        with _on(logits.device):
            _score[(rows,)](
                logits,
                logits.stride(0),
                targets,
                logprobs,
                normalisers,
                entropies if entropy else normalisers,
                vocabulary,
                scale,
                WITH_ENTROPY=entropy,
                BLOCK=SCORE_BLOCK,
                num_warps=SCORE_WARPS,
            )
    return logprobs, normalisers, entropies


def gradient_(
    logits: Tensor,
    targets: Tensor,
    normalisers: Tensor,
    entropies: Tensor | None,
    of_logprob: Tensor,
    of_entropy: Tensor | None,
    scale: float,
) -> None:
    """Puts the gradient with respect to ``logits`` [C, V] in their place, whatever was made of what `score` returned.

    Args:
        of_logprob: float32 [C], the derivative by each target's log-probability.
        of_entropy: the same by each entropy; None where nothing depends on it, and ``entropies`` may be None.
    """
    rows, vocabulary = logits.shape
    if not rows:
        return
    with _on(logits.device):
        _gradient[(rows, triton.cdiv(vocabulary, GRADIENT_BLOCK))](
            logits,
            logits.stride(0),
            targets,
            normalisers,
            normalisers if of_entropy is None else entropies,
            of_logprob,
            normalisers if of_entropy is None else of_entropy,
            vocabulary,
            scale,
            WITH_ENTROPY=of_entropy is not None,
            BLOCK=GRADIENT_BLOCK,
            num_warps=GRADIENT_WARPS,
        )


def _on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current GPU; its interpreter has none."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
