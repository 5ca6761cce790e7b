"""What `transformers` takes from the flash-attn package, made of torch's own build of the same kernels.

The flash-attn package is compiled on the user's machine for hours or not at all; a rival must not be slower for its
absence. `install` lays this file out as the package ``flash_attn`` 2.8.3, so that
``attn_implementation="flash_attention_2"`` finds it. Training without dropout only; forward and backward are torch's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

VERSION = "2.8.3"
flash_attn_with_kvcache = None  # decoding: not offered


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Attention within sequences laid end to end; q [T, H, D], k and v [T, H_kv, D]."""
    return torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        int(max_seqlen_q),
        int(max_seqlen_k),
        dropout_p,
        causal,
        False,
        scale=softmax_scale,
    )[0]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Attention over a batch; q [B, T, H, D], k and v [B, T, H_kv, D]."""
    length, keys = q.shape[1], k.shape[1]
    return torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, length, keys, dropout_p, causal, False, scale=softmax_scale
    )[0]


def install(site: Path) -> None:
    """Makes ``site`` a folder for PYTHONPATH that holds this file as the package flash_attn."""
    package, information = site / "flash_attn", site / f"flash_attn-{VERSION}.dist-info"
    package.mkdir(parents=True)
    information.mkdir()
    shutil.copy(__file__, package / "__init__.py")
    padding = "from transformers.modeling_flash_attention_utils import _pad_input as pad_input\n"
    padding += "from transformers.modeling_flash_attention_utils import _unpad_input as unpad_input\n"
    (package / "bert_padding.py").write_text(padding)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {VERSION}\n")
    (information / "top_level.txt").write_text("flash_attn\n")
