"""Attention over packs: which kernel, and how a `transformers` model is led to it.

A model loaded with ``attn_implementation="open_r1"`` calls `attention_forward` in every layer. With a pack
(``documents`` among the keyword arguments) attention stays within each sequence; without one, as in generation with a
KV cache, it is SDPA with the usual mask of `transformers`.

The kernel is chosen at run time, by `open_r1.model.kernels.choose_kernel`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from open_r1.data.pack import Pack
from open_r1.data.shared_prompts import NOWHERE
from open_r1.errors import UserError
from open_r1.model.flash import flash_attention_4, varlen_attention
from open_r1.model.kernels import (
    Documents,
    cached_softcapped_attention,
    choose_kernel,
    documents_attention,
    group_sequences,
    one_token_attention,
)

NAME = "open_r1"
UNSUPPORTED = ("s_aux", "position_bias")
SEPARABLE_LAYERS = {"full_attention", "sliding_attention"}


def can_replace_attention(model: PreTrainedModel) -> bool:
    """Whether the kernels here compute what the model's own attention computes: all that SDPA can, and softcapping."""
    softcapping = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return type(model)._can_set_attn_implementation() and (model._supports_sdpa or softcapping)


def keeps_sequences_apart(model: PreTrainedModel) -> bool:
    """Whether a mask and position ids are enough to keep the sequences of a pack apart in this model.

    They are not where other layers carry something from token to token (convolutions, linear attention, state-space
    layers), or where the model's code does not take its attention from `transformers`' interface.
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return kinds <= SEPARABLE_LAYERS and not model._is_stateful and type(model)._can_set_attn_implementation()


def attention_arguments(
    config: PreTrainedConfig, pack: Pack, dtype: torch.dtype, *, constant_shape: bool = False, longest: int = 0
) -> dict[str, Any]:
    """The keyword arguments that keep a `transformers` decoder within the sequences of ``pack``.

    For this project's attention they are ``documents`` and an empty four-dimensional mask, which stops `transformers`
    from building one; for any other implementation a dense document mask, boolean for SDPA and additive for eager.

    Args:
        constant_shape: the same numbers for all packs of one size, as far as the kernel allows.
        longest: tokens that the longest sequence is then taken for at least.
    """
    device = pack.input_ids.device
    if config._attn_implementation == NAME:
        kernel, shared = choose_kernel(device, dtype), pack.shared
        groups = group_sequences(pack.lengths, device, shared and shared.lengths) if kernel == "documents" else ()
        longest = max(longest if constant_shape else 0, *pack.lengths)
        if constant_shape:  # compiled layers take the number for a constant; for "varlen" it is also work
            keys = len(pack) if shared is None else len(shared.key_index)
            longest = keys if kernel == "fa4" else min(keys, 1 << (longest - 1).bit_length())
        documents = Documents(pack.cu_seqlens, longest, kernel, groups, shared)
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
    """Boolean [1, 1, C, C]: True where query t may see key u: the same sequence or what it shares with one before it,
    u not later than t, and less than ``window`` before it.
    """
    device = pack.input_ids.device
    lengths = torch.tensor(pack.lengths, device=device)
    shared = torch.tensor(pack.shared.lengths, device=device) if pack.shared else torch.zeros_like(lengths)
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    position = pack.position_ids
    if pack.shared is not None:
        sequence, position = (tensor[pack.shared.computed_index] for tensor in (sequence, position))
    group = (shared == 0).cumsum(0)[sequence]
    same = sequence[:, None] == sequence[None, :]
    prompt = (group[:, None] == group[None, :]) & (position[None, :] < shared[sequence][:, None])
    distance = position[:, None] - position[None, :]
    return ((same | prompt) & (distance >= 0) & (distance < (window or len(pack))))[None, None]


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
        query: [1, H, C, D] for a pack; key and value: [1, H_kv, C, D].
        attention_mask: used only without ``documents``.

    Returns:
        [1, C, H, D] and None.

    Raises:
        UserError: for attention that these kernels cannot express (sinks, position bias).
    """
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise UserError(
                f"{type(module).__name__} uses {name}, which these kernels do not have; set --attn_implementation eager"
            )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings leave query and key in float32
        query, key, value = (tensor.to(torch.get_autocast_dtype(query.device.type)) for tensor in (query, key, value))
    if documents is None:
        if query.shape[-2] == 1 and (attention_mask is None or attention_mask.shape[1:3] == (1, 1)):
            return one_token_attention(query, key, value, attention_mask, scale, dropout, softcap), None
        if softcap is not None:
            return cached_softcapped_attention(query, key, value, attention_mask, scale, dropout, softcap), None
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scale, **kwargs
        )
    if softcap is not None or dropout > 0.0 or documents.kernel == "documents":
        groups = documents.groups or _groups(documents, query.device)
        output = documents_attention(query[0], key[0], value[0], groups, scale, dropout, sliding_window, softcap)
        return output[None], None

    query_THD, key_THD, value_THD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    run = flash_attention_4 if documents.kernel == "fa4" else varlen_attention
    cu_seqlens, cu_queries, longest = documents.cu_seqlens, None, documents.max_length
    if documents.shared is not None:
        cu_queries = documents.shared.cu_computed
        key_THD, value_THD = (_repeated(tensor, documents.shared.key_index) for tensor in (key_THD, value_THD))
    output = run(query_THD, key_THD, value_THD, cu_seqlens, longest, scale, sliding_window or None, cu_queries)
    return output[None], None


def _groups(documents: Documents, device: torch.device) -> tuple[tuple[Tensor, Tensor | None], ...]:
    lengths, shared = documents.cu_seqlens.diff(), None
    if documents.shared is not None:
        shared = tuple((lengths - documents.shared.cu_computed.diff()).tolist())
    return group_sequences(tuple(lengths.tolist()), device, shared)


def _repeated(computed_CHD: Tensor, key_index: Tensor) -> Tensor:
    """Keys or values of every sequence with its prompt, [T, H, D], and zeros where ``key_index`` says: none.

    Kernels leave the gradient of those undefined; it goes to the rows that are appended here, and no further.
    """
    nowhere = computed_CHD.new_zeros(NOWHERE, *computed_CHD.shape[1:])
    return torch.cat([computed_CHD, nowhere]).index_select(0, key_index)


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
