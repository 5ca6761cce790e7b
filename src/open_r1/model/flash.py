"""Flash attention over packs on CUDA, as operators that `torch.compile` leaves whole.

flash-attn-4's own function is opaque to the compiler and would break each layer in two; its two kernels are registered
here as operators with the shapes they return.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from open_r1.errors import UserError
from open_r1.files import cache_folder

NO_WINDOW = -1


@cache
def has_flash_attention_4() -> bool:
    """Whether the flash-attn-4 wheel is there (its module is `flash_attn.cute`)."""
    try:
        return importlib.util.find_spec("flash_attn.cute") is not None
    except (ImportError, ValueError):
        return False


@cache
def _interface() -> ModuleType:
    """The library, with its compiled kernels kept on disk: each takes seconds to compile."""
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", str(cache_folder("flash-attn-4")))
    warnings.filterwarnings("ignore", r"Argument \w+ \(position \d+\) cannot be converted to a JitArgument")
    return importlib.import_module("flash_attn.cute.interface")


@cache
def varlen_parameters() -> frozenset[str]:
    """The parameters of this torch's `varlen_attn`, which have changed with time; none where it is absent."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def flash_attention_4(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    scale: float,
    window: int | None,
    cu_queries: Tensor | None = None,
) -> Tensor:
    """Causal attention within sequences by flash-attn-4 (Hopper and newer).

    Args:
        query: [T, H, D]; key and value: [T, H_kv, D].
        cu_seqlens: int32 [S + 1].
        max_length: tokens of the longest sequence, or more.
        window: how many tokens each one sees, itself included; None: all before it.
        cu_queries: int32 [S + 1], where there are queries for the last tokens of each sequence only; ``cu_seqlens`` is
            then of keys and values.
    """
    left = NO_WINDOW if window is None else window - 1
    cu_queries = cu_seqlens if cu_queries is None else cu_queries
    return _fa4(query, key, value, cu_queries, cu_seqlens, max_length, scale, left)[0]


@torch.library.custom_op("open_r1::flash_attention_4", mutates_args=(), device_types="cuda")
def _fa4(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_queries: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    scale: float,
    left: int,
) -> tuple[Tensor, Tensor]:
    output, normaliser = _interface()._flash_attn_fwd(
        query, key, value, softmax_scale=scale, return_lse=True, **_varlen(cu_queries, cu_seqlens, max_length, left)
    )[:2]
    return output, normaliser


@_fa4.register_fake
def _(query, key, value, cu_queries, cu_seqlens, max_length, scale, left):
    tokens, heads, _ = query.shape
    return query.new_empty(tokens, heads, value.shape[-1]), query.new_empty(heads, tokens, dtype=torch.float32)


@torch.library.custom_op("open_r1::flash_attention_4_backward", mutates_args=(), device_types="cuda")
def _fa4_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    normaliser: Tensor,
    cu_queries: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    scale: float,
    left: int,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _interface()._flash_attn_bwd(
        query,
        key,
        value,
        output,
        grad.contiguous(),
        normaliser,
        softmax_scale=scale,
        dq=torch.empty(query.shape, dtype=query.dtype, device=query.device),
        dk=torch.empty(key.shape, dtype=key.dtype, device=key.device),
        dv=torch.empty(value.shape, dtype=value.dtype, device=value.device),
        **_varlen(cu_queries, cu_seqlens, max_length, left),
    )
    return grads[0], grads[1], grads[2]


@_fa4_backward.register_fake
def _(grad, query, key, value, output, normaliser, cu_queries, cu_seqlens, max_length, scale, left):
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _varlen(cu_queries: Tensor, cu_seqlens: Tensor, max_length: int, left: int) -> dict[str, Any]:
    return {
        "cu_seqlens_q": cu_queries,
        "cu_seqlens_k": cu_seqlens,
        "max_seqlen_q": max_length,
        "max_seqlen_k": max_length,
        "causal": True,
        "window_size_left": None if left == NO_WINDOW else left,
        "window_size_right": None if left == NO_WINDOW else 0,
    }


def _keep(ctx, inputs, output):
    query, key, value, cu_queries, cu_seqlens, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, *output, cu_queries, cu_seqlens)


def _differentiate(ctx, grad, _grad_normaliser):
    return *_fa4_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


_fa4.register_autograd(_differentiate, setup_context=_keep)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    scale: float,
    window: int | None,
    cu_queries: Tensor | None = None,
) -> Tensor:
    """The same by torch's own FlashAttention-2 kernels; arguments as of `flash_attention_4`."""
    from torch.nn.attention.varlen import varlen_attn

    known = varlen_parameters()
    options: dict[str, Any] = {"scale": scale}
    if "window_size" in known:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        options["is_causal"] = True
    else:
        raise UserError(
            f"torch {torch.__version__} has no sliding windows in varlen_attn; set --attn_implementation sdpa"
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in known:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    cu_queries = cu_seqlens if cu_queries is None else cu_queries
    return varlen_attn(query, key, value, cu_queries, cu_seqlens, max_length, max_length, **options)
