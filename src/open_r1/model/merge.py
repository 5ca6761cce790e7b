"""Low-rank adapters added into the weights that they sit on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from open_r1.errors import UserError
from open_r1.model.load import load_model

_PREFIX = "base_model.model."
PAIRS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}


def merged_weights(
    model: PeftModel, state: Mapping[str, Tensor] | None = None
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model under the adapters, and its weights with W + scale · B A in place of W (Hu et al. 2021).

    The model keeps its own weights. Sums are taken in float32 and stored in W's dtype. A base that is held in 4 or 8
    bits is loaded again as it is stored: that one is returned, and the adapters are added to its weights.

    Args:
        state: the model's state dict where that was gathered from shards; under a quantised base the adapters' part
            of it will do.

    Raises:
        UserError: for adapters that are no plain LoRA, or a base that is not there any more.
    """
    state = model.state_dict() if state is None else state
    adapters = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    base = model.get_base_model()
    if getattr(base, "is_quantized", False):
        base = _stored_base(model)
        weights = base.state_dict()
    else:
        plain = {name: tensor for name, tensor in state.items() if name not in adapters}
        weights = {name.removeprefix(_PREFIX).replace(".base_layer.", "."): tensor for name, tensor in plain.items()}
    for name, tensor in adapters.items():
        path, kind, adapter = name.removesuffix(".weight").rsplit(".", 2)
        if kind not in (*PAIRS, *PAIRS.values()):
            raise UserError(f"merge_lora: {name} is no plain LoRA; leave merge_lora out to export the adapters alone")
        if kind in PAIRS:
            other = adapters[name.replace(f".{kind}.", f".{PAIRS[kind]}.")]
            layer = model.get_submodule(path)
            target = f"{path.removeprefix(_PREFIX)}.weight"
            weights[target] = added(weights[target], tensor, other, layer.scaling[adapter], kind, layer.fan_in_fan_out)
    return base, weights


def added(weight: Tensor, a: Tensor, b: Tensor, scale: float, kind: str, transposed: bool) -> Tensor:
    """The sum, in a tensor of its own, for a weight [out, in] ([in, out] where transposed; [words, dim] embedding)."""
    b, a = b.to(weight.device, torch.float32), a.to(weight.device, torch.float32)
    delta = (b @ a) * scale
    if transposed or kind == "lora_embedding_A":
        delta = delta.T
    return (weight.float() + delta).to(weight.dtype)


def _stored_base(model: PeftModel) -> PreTrainedModel:
    base = model.get_base_model()
    adapters = model.peft_config[model.active_adapter]
    name = adapters.base_model_name_or_path or base.name_or_path
    revision = adapters.revision or getattr(base.config, "_commit_hash", None)
    trusted = not type(base).__module__.startswith("transformers.")  # its code runs already
    return load_model(name, revision, trust_remote_code=trusted)
