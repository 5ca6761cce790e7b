"""Drawing tokens from logits with one uniform number per token.

Shape suffixes: B rows (completions being decoded), V vocabulary, N weights of a row.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from open_r1.generation.engine import SamplingParams

BLOCK = 128
"""Tokens summed at once before the cumulative sum: a scan is serial, a sum is not."""

NUCLEUS_CANDIDATES = 256
"""Most likely tokens tried as the nucleus before a whole row is sorted."""


def uniforms(seed: int, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1), float32, of the stream that belongs to ``seed``.

    The generator is counter-based (Philox) and keyed by the seed alone, so a completion's draws depend neither on the
    batch it is decoded in nor on ``count``: a longer stream begins with the shorter one.
    """
    return np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32)


def sample(logits_BV: Tensor, uniforms_B: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Draws one token a row by inverting the cumulative distribution at ``uniforms_B``.

    Args:
        logits_BV: logits of any floating type.
        uniforms_B: float32 in [0, 1); not read when greedy.
        params: temperature (0 is greedy), then top-k, then top-p; tokens tied with the last one kept are kept too.

    Returns:
        Token ids, int64 [B], and the log-probability of each under ``log_softmax(logits / temperature)`` before
        truncation (temperature 1 when greedy), float32 [B]. A token of probability zero is never drawn.
    """
    greedy = params.temperature == 0
    scaled_BV = logits_BV.float()
    if not greedy and params.temperature != 1:
        scaled_BV = scaled_BV / params.temperature
    probs_BV = scaled_BV.softmax(-1)
    # The most likely token's probability gives the normaliser without another pass of exponentials.
    log_normaliser_B = scaled_BV.amax(-1) - probs_BV.amax(-1).log()
    token_ids_B = scaled_BV.argmax(-1) if greedy else _invert_cdf(_truncate(probs_BV, params), uniforms_B)
    chosen_B = scaled_BV.gather(-1, token_ids_B[:, None])[:, 0]
    return token_ids_B, chosen_B - log_normaliser_B


def _truncate(probs_BV: Tensor, params: SamplingParams) -> Tensor:
    """Weights proportional to the distribution after top-k and top-p, zero outside."""
    vocabulary = probs_BV.shape[-1]
    if 0 < params.top_k < vocabulary:
        smallest_kept_B1 = probs_BV.topk(params.top_k).values[:, -1:]
        probs_BV = probs_BV.where(probs_BV >= smallest_kept_B1, 0.0)
    if params.top_p < 1:
        probs_BV = probs_BV.where(probs_BV >= _nucleus_threshold(probs_BV, params.top_p), 0.0)
    return probs_BV


def _nucleus_threshold(weights_BV: Tensor, top_p: float) -> Tensor:
    """The smallest weight in the nucleus, [B, 1]: the fewest largest weights that hold ``top_p`` of the total.

    Sorting a vocabulary is slow and the nucleus is nearly always small: only rows whose nucleus is not among their
    most likely candidates are sorted whole.
    """
    target_B1 = weights_BV.sum(-1, keepdim=True) * top_p
    largest_BN = weights_BV.topk(min(NUCLEUS_CANDIDATES, weights_BV.shape[-1])).values
    threshold_B1 = _smallest_within(largest_BN, target_B1)
    wide_B = largest_BN.sum(-1) < target_B1[:, 0]
    if wide_B.any():
        sorted_BV = weights_BV[wide_B].sort(-1, descending=True).values
        threshold_B1[wide_B] = _smallest_within(sorted_BV, target_B1[wide_B])
    return threshold_B1


def _smallest_within(descending_BN: Tensor, target_B1: Tensor) -> Tensor:
    """The last of the descending weights whose predecessors do not yet reach the target, [B, 1]."""
    before_BN = descending_BN.cumsum(-1) - descending_BN
    inside_BN = before_BN < target_B1
    return descending_BN.gather(-1, inside_BN.sum(-1, keepdim=True) - 1)


def _invert_cdf(weights_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The index at which the cumulative weight passes ``uniform * total``, int64 [B]; never one of weight zero.

    Two levels: first the block of ``BLOCK`` tokens, then the token inside it.
    """
    vocabulary = weights_BV.shape[-1]
    whole = vocabulary // BLOCK * BLOCK
    sums_BN = weights_BV[:, :whole].unflatten(-1, (whole // BLOCK, BLOCK)).sum(-1)
    if whole < vocabulary:
        sums_BN = torch.cat([sums_BN, weights_BV[:, whole:].sum(-1, keepdim=True)], -1)
    block_B, remainder_B = _first_above(sums_BN, uniforms_B * sums_BN.sum(-1))

    index_BN = block_B[:, None] * BLOCK + torch.arange(BLOCK, device=weights_BV.device)
    inside_BN = weights_BV.gather(-1, index_BN.clamp(max=vocabulary - 1)).where(index_BN < vocabulary, 0.0)
    offset_B, _ = _first_above(inside_BN, remainder_B)
    return block_B * BLOCK + offset_B


def _first_above(weights_BN: Tensor, threshold_B: Tensor) -> tuple[Tensor, Tensor]:
    """The first positive weight whose cumulative sum is above the threshold, and what the threshold leaves for it.

    A threshold that rounding has put at or past the total selects the last positive weight.
    """
    cdf_BN = weights_BN.cumsum(-1)
    reachable_BN = cdf_BN.where(weights_BN > 0, 0.0)
    total_B = reachable_BN.amax(-1)
    threshold_B = torch.minimum(threshold_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    index_B = (reachable_BN > threshold_B[:, None]).byte().argmax(-1)
    before_B = (cdf_BN - weights_BN).gather(-1, index_B[:, None])[:, 0]
    return index_B, (threshold_B - before_B).clamp_(min=0)
