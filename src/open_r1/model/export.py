"""Writing a model folder that `transformers` and vLLM open: weights, tokenizer, generation settings."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from open_r1.errors import UserError
from open_r1.files import read_json, write_json
from open_r1.model.merge import merged_weights

MAX_SHARD_SIZE = "5GB"
WEIGHTS = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_model*.safetensors",
    "adapter_config.json",
    "config.json",
)
"""Files by which an export says what a folder's weights are; others there are somebody's."""


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: Sequence[int],
    state_dict: dict[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    merge_lora: bool = False,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> None:
    """Writes weights (safetensors, in shards where large), configuration, tokenizer and generation_config.json.

    Nothing that only this project knows is left in the files, and the model in memory stays as it is.

    Args:
        model: a `transformers` or PEFT model; of the latter only the adapters are written, unless merged.
        stop_token_ids: written as ``eos_token_id``, so that generation stops where training taught it to; the first
            becomes the tokenizer's and the model's own end, as programs look there too.
        state_dict: full weights gathered elsewhere, when the model itself is sharded.
        dtype: the weights are stored in this; None leaves them as they are.
        merge_lora: write the whole model with its adapters added in (`open_r1.model.merge`).
        max_shard_size: a larger model is written as several files with an index.

    Raises:
        UserError: adapters that cannot be merged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_peft = hasattr(model, "get_base_model")
    base: PreTrainedModel = model.get_base_model() if is_peft else model
    if merge_lora and not is_peft:
        raise UserError("merge_lora: the model has no adapters; leave it out")
    adapters_alone = is_peft and not merge_lora
    with _generation_of(base, tokenizer, stop_token_ids) as generation:
        if adapters_alone:
            state_dict = _cast(state_dict or model.state_dict(), dtype) if dtype else state_dict
            # Embeddings are never resized here; asking whether they were would ask the hub.
            model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # an empty form
            _name_base_wholly(folder)
        else:
            written, weights = merged_weights(model, state_dict) if merge_lora else (base, state_dict)
            weights = dict(written.state_dict() if weights is None else weights)
            tied = _drop_tied(written, weights)
            weights = weights if dtype is None else _cast(weights, dtype)
            written.save_pretrained(folder, state_dict=weights, max_shard_size=max_shard_size)
            stored = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), base.dtype)
            _mend_config(folder, base, stored, tied, stop_token_ids[0])
        generation.to_json_file(folder / "generation_config.json")  # `save_pretrained` would refuse it
    _let_others_read(folder)
    _save_tokenizer(tokenizer, folder, stop_token_ids[0])


@contextmanager
def _generation_of(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_token_ids: Sequence[int]
) -> Iterator[GenerationConfig]:
    """The model's own generation settings with all tokens that stop it; inside, the model has nothing but those.

    Of what published files hold, such as min_p without do_sample, `transformers` warns when it reads it; to write it
    with a model it refuses.
    """
    kept = base.generation_config
    generation = copy.deepcopy(kept)
    generation.eos_token_id = list(stop_token_ids) if len(stop_token_ids) > 1 else stop_token_ids[0]
    if generation.pad_token_id is None or generation.pad_token_id < 0:  # -1 of older files, which is no token
        generation.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_token_ids[0]
    base.generation_config = GenerationConfig(eos_token_id=generation.eos_token_id)
    try:
        yield generation
    finally:
        base.generation_config = kept


def _drop_tied(base: PreTrainedModel, weights: dict[str, Tensor]) -> bool:
    """Takes out of ``weights`` what is equal to the weight it is tied to; whether all that is tied still is.

    Gathered weights are copies, which `transformers` would write twice. Adapters on one of two tied layers, once
    merged, untie them.
    """
    still = True
    for name, source in (getattr(base, "all_tied_weights_keys", None) or {}).items():
        if name in weights and source in weights:
            one, other = weights[name], weights[source]
            same = one.data_ptr() == other.data_ptr() or torch.equal(one, other)
            if same:
                del weights[name]
            still &= same
    return still


def _cast(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights in ``dtype``. Tied ones stay one tensor, so that they are written once."""
    cast: dict[tuple[int, torch.Size], Tensor] = {}
    return {
        name: cast.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(dtype))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


def _mend_config(folder: Path, base: PreTrainedModel, dtype: torch.dtype, tied: bool, end: int) -> None:
    """config.json as a reader needs it, where `transformers` wrote it as the model was held for training."""
    path = folder / "config.json"
    values = read_json(path) or {}
    values["dtype"] = str(dtype).removeprefix("torch.")
    values.pop("_attn_implementation", None)
    values.pop("quantization_config", None)
    if type(base).__module__.startswith("transformers."):
        values.pop("auto_map", None)  # of remote code that was not used
    if "use_cache" in values:
        values["use_cache"] = True
    if not tied:
        values["tie_word_embeddings"] = False
    if "eos_token_id" in values:
        values["eos_token_id"] = end
    write_json(path, values)


def _name_base_wholly(folder: Path) -> None:
    """Adapters on a model of this disk find it from whatever folder they are opened."""
    path = folder / "adapter_config.json"
    values = read_json(path) or {}
    name = values.get("base_model_name_or_path")
    if name and Path(name).is_dir():
        values["base_model_name_or_path"] = str(Path(name).resolve())
        write_json(path, values)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, end: int) -> None:
    """The tokenizer with its chat template; the token that ends a turn is its end of text."""
    kept = tokenizer.eos_token
    if end in tokenizer.added_tokens_decoder:  # an ordinary word must not become a special one
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.eos_token = kept


def _let_others_read(folder: Path) -> None:
    """safetensors makes its files readable by their owner alone; a model folder is as readable as any other file."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)


def move_into(source: Path, target: Path) -> None:
    """Moves every file of ``source`` over ``target`` by rename, then removes ``source``; both on one file system.

    Weights of an earlier export under other names go: adapters left beside a merged model, or another number of shards,
    are what a reader would open.
    """
    target.mkdir(parents=True, exist_ok=True)
    written = {item.name for item in source.iterdir()}
    earlier = {path for pattern in WEIGHTS for path in target.glob(pattern)}
    for item in source.iterdir():
        place = target / item.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        os.replace(item, place)
    for path in earlier:
        if path.name not in written:
            path.unlink()
    source.rmdir()
