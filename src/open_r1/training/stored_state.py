"""What a checkpoint holds beside the model folder, and how both are read back by name."""

from __future__ import annotations

import io
import pickle
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from open_r1.errors import UserError
from open_r1.training.integrity import FileRecord, seal
from open_r1.training.tensor_file import write_tensors

STATE_FOLDER = "training_state"
OPTIMIZER = f"{STATE_FOLDER}/optimizer.safetensors"
REST = f"{STATE_FOLDER}/rest.pt"
"""In a folder of their own: what opens the model folder takes every weights file in it for the model's."""


def write_state(
    folder: Path,
    source: list[dict[str, Any]],
    scaler: torch.amp.GradScaler | None,
    moments: dict[str, dict[str, Any]],
) -> dict[str, FileRecord]:
    """Writes the optimizer's state (tensors by "parameter.key") and the small rest, onto the disk."""
    (folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
    tensors, numbers = {}, {}
    for name, values in moments.items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{name}.{key}"] = value
    buffer = io.BytesIO()  # straight into a full disk, torch.save raises what cannot be told from a defect
    torch.save({"source": source, "scaler": scaler.state_dict() if scaler else None, "optimizer": numbers}, buffer)
    (folder / REST).write_bytes(buffer.getbuffer())
    return {OPTIMIZER: write_tensors(folder / OPTIMIZER, tensors), REST: seal(folder / REST)}


def read_rest(folder: Path) -> dict[str, Any]:
    """``source`` (one state a rank), ``scaler``, and the numbers of the optimizer's state by "parameter.key".

    A checkpoint may come from a hub: a pickle that holds anything else runs nothing here.

    Raises:
        UserError: it does.
    """
    from open_r1.data.pack import Pack
    from open_r1.data.shared_prompts import SharedPrompts
    from open_r1.generation.engine import Completion
    from open_r1.training.group_draws import Drawn
    from open_r1.training.grpo_source import Held
    from open_r1.training.rollouts import Group, RolloutMeter

    known = [Held, Pack, SharedPrompts, Drawn, Group, RolloutMeter, Completion]
    # Rewards and log-probabilities; the name of what makes an array differs from one numpy to another.
    arrays = [
        np.empty(0).__reduce__()[0],
        np.array,
        np.ndarray,
        np.dtype,
        np.dtypes.Float32DType,
        np.dtypes.Float64DType,
    ]
    try:
        with torch.serialization.safe_globals([*known, *arrays]):
            return torch.load(folder / REST, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{folder / REST} holds what no checkpoint of open-r1 does, and is not opened") from error


def read_moments(folder: Path, numbers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The optimizer's state: {parameter: {key: value}}."""
    moments: dict[str, dict[str, Any]] = {}
    for name, value in (load_file(folder / OPTIMIZER) | numbers).items():
        parameter, _, key = name.rpartition(".")
        moments.setdefault(parameter, {})[key] = value
    return moments


def read_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """The stored weights by the names of the model's state dict.

    What is not of this model is in it too, under a name or in a shape that the model does not have.
    """
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    if not has_adapters(model):
        return weights if weights.keys() <= model.state_dict().keys() else _as_held(weights, model)
    from peft import get_peft_model_state_dict

    # PEFT leaves the adapter's name out of its files: names given as values come back under the names in the file.
    names = {name: name for name in model.state_dict()}
    full_name = get_peft_model_state_dict(model, state_dict=names, save_embedding_layers=False)
    return {full_name.get(name, name): tensor for name, tensor in weights.items()}


def _as_held(weights: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights as the files of the hub name and cut them, as the model holds them: experts in one tensor, no prefix.

    Where a file of the model is written, `transformers` goes by the way in which it was loaded; so it reads it.
    """
    widest = reduce(torch.promote_types, {one.dtype for one in weights.values() if one.is_floating_point()})
    with torch.random.fork_rng(devices=[]):  # it draws what is loaded afterwards, here on one rank alone
        twin, report = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=weights,
            dtype=widest,  # holds the others exactly
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    held = twin.state_dict()
    for name in report["missing_keys"]:  # drawn at random
        held.pop(name, None)
    for name, shape, _ in report["mismatched_keys"]:
        held[name] = torch.empty(shape, device="meta")
    return held | {name: torch.empty(0, device="meta") for name in report["unexpected_keys"]}


def has_adapters(model: nn.Module) -> bool:
    """Whether only adapters train and are stored."""
    return hasattr(model, "get_base_model")
