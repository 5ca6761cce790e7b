"""Attention over packs: which kernel, and how a `transformers` model is led to it.

A model loaded with ``attn_implementation="open_r1"`` calls `attention_forward` in every layer. With a pack
(``documents`` among the keyword arguments) attention stays within each sequence; without one, as in generation with a
KV cache, it is `transformers`' own SDPA with its usual mask.

The kernel is chosen at run time (`choose_kernel`):

* ``fa4``: flash-attn-4, where it is installed and the chip is Hopper or newer.
* ``varlen``: torch's own `varlen_attn` (FlashAttention-2 kernels) on other CUDA chips, in bf16 or fp16.
* ``documents``: SDPA over sequences of similar length, everywhere else. It computes what a dense document mask
  computes, at the cost of the sequences instead of the cost of the square of the pack.
"""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from open_r1.data.pack import Pack
from open_r1.errors import UserError

NAME = "open_r1"
# Sequences are computed together when padding them to the longest wastes at most this share.
PADDING_SHARE = 0.25
UNSUPPORTED = ("s_aux", "position_bias")


@dataclass(frozen=True)
class Documents:
    """Where the sequences of a pack lie.

    Attributes:
        cu_seqlens: int32 [S + 1] on the model's device.
        max_length: tokens of the longest sequence.
        groups: for the ``documents`` kernel; each group is an int64 [N, L] of token indices, N sequences of L tokens
            padded at the right by repeating the last index, and the boolean [N, L] of what is not padding (None: all).
    """

    cu_seqlens: Tensor
    max_length: int
    groups: tuple[tuple[Tensor, Tensor | None], ...] = ()


def group_sequences(lengths: tuple[int, ...], device: torch.device) -> tuple[tuple[Tensor, Tensor | None], ...]:
    """Groups the sequences of a pack by similar length; see `Documents.groups`."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    order = sorted(range(len(lengths)), key=lambda s: -lengths[s])
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
        length_n = torch.tensor([lengths[s] for s in members])[:, None]
        index = torch.tensor([starts[s] for s in members])[:, None] + torch.minimum(offset, length_n - 1)
        valid = None if total == longest * len(members) else (offset < length_n).to(device)
        groups.append((index.to(device), valid))
        first = last
    return tuple(groups)


@cache
def _varlen_causal_arguments() -> dict[str, Any] | None:
    """How this torch's `varlen_attn` is told to be causal (the argument has changed with time); None: absent."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters
    return {"window_size": (-1, 0)} if "window_size" in parameters else {"is_causal": True}


@cache
def has_flash_attention_4() -> bool:
    """Whether the flash-attn-4 wheel is there (its module is `flash_attn.cute`)."""
    try:
        return importlib.util.find_spec("flash_attn.cute") is not None
    except (ImportError, ValueError):
        return False


def choose_kernel(device: torch.device, dtype: torch.dtype) -> str:
    """The attention kernel for training on ``device`` in ``dtype``: "fa4", "varlen" or "documents"."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "documents"
    if has_flash_attention_4() and torch.cuda.get_device_capability(device)[0] >= 9:
        return "fa4"
    return "varlen" if _varlen_causal_arguments() is not None else "documents"


def attention_arguments(config: PreTrainedConfig, pack: Pack, dtype: torch.dtype) -> dict[str, Any]:
    """The keyword arguments that keep a `transformers` decoder within the sequences of ``pack``.

    For this project's attention they are ``documents`` and an empty four-dimensional mask, which stops `transformers`
    from building one; for any other implementation a dense document mask, boolean for SDPA and additive for eager.
    """
    device = pack.input_ids.device
    if config._attn_implementation == NAME:
        kernel = choose_kernel(device, dtype)
        groups = group_sequences(pack.lengths, device) if kernel == "documents" else ()
        documents = Documents(pack.cu_seqlens, max(pack.lengths), groups)
        return {"documents": documents, "attention_mask": torch.empty(1, 1, 0, 0, device=device)}

    def mask(window: int | None) -> Tensor:
        allowed = document_mask(pack, window)
        if config._attn_implementation == "sdpa":
            return allowed
        return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)

    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if "sliding_attention" in kinds and len(kinds) > 1:
        return {"attention_mask": {"full_attention": mask(None), "sliding_attention": mask(window)}}
    return {"attention_mask": mask(window if kinds != {"full_attention"} else None)}


def document_mask(pack: Pack, window: int | None = None) -> Tensor:
    """Boolean [1, 1, T, T]: True where query t may see key u: the same sequence, u <= t, and t - u < window."""
    device = pack.input_ids.device
    lengths = torch.tensor(pack.lengths, device=device)
    sequence_T = torch.repeat_interleave(torch.arange(len(pack.lengths), device=device), lengths)
    allowed_TT = sequence_T[:, None] == sequence_T[None, :]
    return (allowed_TT & _causal_band(len(pack), window or len(pack), device))[None, None]


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer, as `transformers` calls it.

    Args:
        query: [1, H, T, D] for a pack; key and value: [1, H_kv, T, D].
        attention_mask: used only without ``documents``.

    Returns:
        [1, T, H, D] and None.

    Raises:
        UserError: for attention that these kernels cannot express (sinks, position bias).
    """
    if documents is None and softcap is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise UserError(
                f"{type(module).__name__} uses {name}, not possible in packs; set --attn_implementation eager"
            )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if documents is None:
        return _cached_softcapped_attention(query, key, value, attention_mask, scale, dropout, softcap), None
    kernel = choose_kernel(query.device, query.dtype)
    if softcap is not None or dropout > 0.0 or kernel == "documents":
        groups = documents.groups or group_sequences(_lengths(documents), query.device)
        output = _documents_attention(query[0], key[0], value[0], groups, scale, dropout, sliding_window, softcap)
        return output[None], None

    query_THD, key_THD, value_THD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    window = (sliding_window - 1, 0) if sliding_window else None
    run = _flash_attention_4 if kernel == "fa4" else _varlen_attention
    return run(query_THD, key_THD, value_THD, documents, scale, window)[None], None


def _lengths(documents: Documents) -> tuple[int, ...]:
    return tuple(documents.cu_seqlens.diff().tolist())


def _flash_attention_4(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float, window: tuple[int, int] | None
) -> Tensor:
    from flash_attn.cute import flash_attn_varlen_func

    output = flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=documents.cu_seqlens,
        cu_seqlens_k=documents.cu_seqlens,
        max_seqlen_q=documents.max_length,
        max_seqlen_k=documents.max_length,
        softmax_scale=scale,
        causal=True,
        window_size=window or (None, None),
    )
    return output[0] if isinstance(output, tuple) else output


def _varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float, window: tuple[int, int] | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    causal = dict(_varlen_causal_arguments() or {})
    if window is not None:
        causal["window_size"] = window
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # `enable_gqa` came only after 2.11
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    cu_seqlens, longest = documents.cu_seqlens, documents.max_length
    return varlen_attn(query, key, value, cu_seqlens, cu_seqlens, longest, longest, scale=scale, **causal)


def _documents_attention(
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
            band = _causal_band(length, sliding_window or length, q.device)
            attended = _softcapped_attention(q, k, v, band, scale, dropout, softcap)
        elif sliding_window is not None and sliding_window < length:
            band = _causal_band(length, sliding_window, q.device)
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


def _causal_band(length: int, window: int, device: torch.device) -> Tensor:
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


def _cached_softcapped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, softcap: float
) -> Tensor:
    """Softcapped attention in generation: ``mask`` is SDPA's boolean one, or None where plain causality will do."""
    queries, keys, repeats = query.shape[-2], key.shape[-2], query.shape[1] // key.shape[1]
    if mask is None:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    return _softcapped_attention(query, key, value, mask, scale, dropout, softcap).transpose(1, 2)


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
