"""Writing a model folder that `transformers` opens: weights, tokenizer, generation settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: Sequence[int],
    state_dict: dict[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes weights (safetensors), configuration, tokenizer with its chat template, and generation_config.json.

    Args:
        model: a `transformers` or PEFT model; of the latter only the adapters are written.
        stop_token_ids: written as ``eos_token_id``, so that generation stops where training taught it to.
        state_dict: full weights gathered elsewhere, when the model itself is sharded.
        dtype: the weights are stored in this; None leaves them as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    generation = base.generation_config
    generation.eos_token_id = list(stop_token_ids) if len(stop_token_ids) > 1 else stop_token_ids[0]
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_token_ids[0]
    if not generation.do_sample:  # transformers refuses to save sampling values beside greedy decoding
        generation.temperature = generation.top_p = generation.top_k = None
    if dtype is not None:
        state_dict = {name: _cast(tensor, dtype) for name, tensor in (state_dict or model.state_dict()).items()}
    model.save_pretrained(folder, state_dict=state_dict)
    generation.save_pretrained(folder)
    if dtype is not None:  # transformers has written the dtype of the weights in memory
        stored, base.config.dtype = base.config.dtype, dtype
        base.config.save_pretrained(folder)
        base.config.dtype = stored
    tokenizer.save_pretrained(folder)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def move_into(source: Path, target: Path) -> None:
    """Moves every file of ``source`` over ``target`` by rename, then removes ``source``; both on one file system."""
    target.mkdir(parents=True, exist_ok=True)
    for item in source.iterdir():
        place = target / item.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        os.replace(item, place)
    source.rmdir()
