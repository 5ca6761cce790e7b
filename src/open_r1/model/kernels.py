"""The attention kernels for packs, and the rule that chooses one.

* ``fa4``: flash-attn-4, where it is installed and the chip is Hopper or newer.
* ``varlen``: torch's own `varlen_attn` (FlashAttention-2 kernels) on other CUDA chips, in bf16 or fp16.
* ``documents``: SDPA over sequences of similar length, everywhere else. It computes what a dense document mask
  computes, at the cost of the sequences instead of the cost of the square of the pack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from open_r1.data.shared_prompts import SharedPrompts
from open_r1.model.flash import has_flash_attention_4, varlen_parameters

# Sequences are computed together when padding them to the longest wastes at most this share.
PADDING_SHARE = 0.25


@dataclass(frozen=True)
class Documents:
    """Where the sequences of a pack lie.

    Attributes:
        cu_seqlens: int32 [S + 1] on the model's device.
        max_length: tokens of the longest sequence, or more.
        kernel: what computes them, by `choose_kernel`.
        groups: for the ``documents`` kernel; each group is an int64 [N, L] of token indices, N sequences of L tokens
            padded at the right by repeating the last index, and the boolean [N, L] of what is not padding (None: all).
            Of a shared prompt each of its sequences has the indices, and the first alone counts as valid.
        shared: where prompts are computed once; token indices are then those of the computed ones.
    """

    cu_seqlens: Tensor
    max_length: int
    kernel: str
    groups: tuple[tuple[Tensor, Tensor | None], ...] = ()
    shared: SharedPrompts | None = None


def group_sequences(
    lengths: tuple[int, ...], device: torch.device, shared: tuple[int, ...] | None = None
) -> tuple[tuple[Tensor, Tensor | None], ...]:
    """Groups the sequences of a pack by similar length; see `Documents.groups`, and `SharedPrompts.lengths`."""
    shared = shared or (0,) * len(lengths)
    starts, prompts, end = [], [], 0  # where the rest of a sequence stands once its prompt is left out; and its prompt
    for length, prompt in zip(lengths, shared, strict=True):
        starts.append(end - prompt)
        prompts.append(prompts[-1] if prompt else end)
        end += length - prompt
    order = sorted((s for s in range(len(lengths)) if lengths[s]), key=lambda s: -lengths[s])  # padding may be empty
    groups = []
    first = 0
    while first < len(order):
        longest, total, last = lengths[order[first]], 0, first
        while last < len(order):
            with_next = total + lengths[order[last]]
            if with_next < (1 - PADDING_SHARE) * longest * (last - first + 1):
                break
            total, last = with_next, last + 1
        members = order[first:last]
        offset = torch.arange(longest)
        length_n, shared_n, start_n, prompt_n = (
            torch.tensor([numbers[s] for s in members])[:, None] for numbers in (lengths, shared, starts, prompts)
        )
        index = torch.where(offset < shared_n, prompt_n, start_n) + torch.minimum(offset, length_n - 1)
        own = (offset >= shared_n) & (offset < length_n)
        groups.append((index.to(device), None if own.all() else own.to(device)))
        first = last
    return tuple(groups)


def choose_kernel(device: torch.device, dtype: torch.dtype) -> str:
    """The attention kernel for training on ``device`` in ``dtype``: "fa4", "varlen" or "documents"."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "documents"
    if has_flash_attention_4() and torch.cuda.get_device_capability(device)[0] >= 9:
        return "fa4"
    return "varlen" if varlen_parameters() else "documents"


def documents_attention(
    query_HTD: Tensor,
    key_HTD: Tensor,
    value_HTD: Tensor,
    groups: tuple[tuple[Tensor, Tensor | None], ...],
    scale: float,
    dropout: float,
    sliding_window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention within each sequence, by groups of similar length; [T, H, D].

    Padding stands at the right, where a causal query never looks, so it needs no mask.
    """
    heads, tokens, _ = query_HTD.shape
    repeats = heads // key_HTD.shape[0]
    output_THD = query_HTD.new_empty(tokens, heads, value_HTD.shape[-1])
    parts, places = [], []
    for index_NL, valid_NL in groups:
        count, length = index_NL.shape
        flat = index_NL.reshape(-1)
        q, k, v = (
            tensor.index_select(1, flat).view(tensor.shape[0], count, length, -1).transpose(0, 1)
            for tensor in (query_HTD, key_HTD, value_HTD)
        )
        if repeats > 1:
            k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
        if softcap is not None:
            band = causal_band(length, sliding_window or length, q.device)
            attended = _softcapped_attention(q, k, v, band, scale, dropout, softcap)
        elif sliding_window is not None and sliding_window < length:
            band = causal_band(length, sliding_window, q.device)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=band, dropout_p=dropout, scale=scale)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, scale=scale)
        attended = attended.transpose(1, 2).reshape(count * length, heads, -1)
        if valid_NL is not None:
            keep = valid_NL.reshape(-1)
            attended, flat = attended[keep], flat[keep]
        parts.append(attended)
        places.append(flat)
    return output_THD.index_copy(0, torch.cat(places), torch.cat(parts))


def causal_band(length: int, window: int, device: torch.device) -> Tensor:
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)


def _softcapped_attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scale: float, dropout: float, softcap: float
) -> Tensor:
    """Attention with scores softcap · tanh(score / softcap) (Gemma 2), which SDPA does not have."""
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scale / softcap)) * softcap
    weights = torch.softmax(scores.float().masked_fill(~allowed, torch.finfo(torch.float32).min), dim=-1)
    return F.dropout(weights.to(value.dtype), dropout) @ value


def one_token_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, softcap: float | None
) -> Tensor:
    """Attention of the newest token of each row to its row's cache, which is read where it lies.

    The query heads that share a key-value head are the rows of one product. Repeating the keys for them instead would
    copy the whole cache in every layer, into tensors that are larger at each token: all sizes that an allocator keeps.

    Args:
        query: [B, H, 1, D]; key and value: [B, H_kv, C, D]; autocast to one type.
        mask: [B, 1, 1, C], true where attention may look; None allows all.

    Returns:
        [B, 1, H, D].
    """
    rows, heads = query.shape[:2]
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], query.shape[-1])
    if softcap is None:
        attended = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    else:
        allowed = mask if mask is not None else torch.ones((), dtype=torch.bool, device=query.device)
        attended = _softcapped_attention(grouped, key, value, allowed, scale, dropout, softcap)
    return attended.reshape(rows, 1, heads, value.shape[-1])


def cached_softcapped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, softcap: float
) -> Tensor:
    """Softcapped attention in generation: ``mask`` is SDPA's boolean one, or None where plain causality will do."""
    queries, keys, repeats = query.shape[-2], key.shape[-2], query.shape[1] // key.shape[1]
    if mask is None:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    return _softcapped_attention(query, key, value, mask, scale, dropout, softcap).transpose(1, 2)
