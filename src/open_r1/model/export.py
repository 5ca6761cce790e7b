"""Writing a model folder that `transformers` opens: weights, tokenizer, generation settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
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
        state_dict = _cast(state_dict or model.state_dict(), dtype)
    model.save_pretrained(folder, state_dict=state_dict)
    _let_others_read(folder)
    generation.save_pretrained(folder)
    if dtype is not None:  # transformers has written the dtype of the weights in memory
        stored, base.config.dtype = base.config.dtype, dtype
        base.config.save_pretrained(folder)
        base.config.dtype = stored
    tokenizer.save_pretrained(folder)


def _cast(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights in ``dtype``. Tied ones stay one tensor, so that they are written once."""
    cast: dict[tuple[int, torch.Size], Tensor] = {}
    return {
        name: cast.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(dtype))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


def _let_others_read(folder: Path) -> None:
    """safetensors makes its files readable by their owner alone; a model folder is as readable as any other file."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)


def move_into(source: Path, target: Path) -> None:
    """Moves every file of ``source`` over ``target`` by rename, then removes ``source``; both on one file system."""
    target.mkdir(parents=True, exist_ok=True)
    for item in source.iterdir():
        place = target / item.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        os.replace(item, place)
    source.rmdir()
