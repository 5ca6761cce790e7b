"""Low-rank adapters added into the weights that they sit on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from open_r1.errors import UserError
from open_r1.model.load import load_model

if TYPE_CHECKING:  # it takes a second to import, which runs without adapters need not wait for
    from peft import PeftModel

_PREFIX = "base_model.model."
_PAIRS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}


@dataclass(frozen=True)
class Adapter:
    """Plain LoRA on a weight: scale · B A.

    Attributes:
        a, b: [rank, in] and [out, rank]; over several experts [experts · rank, in] and [out, rank · experts].
        transposed: the weight is [in, out], or [experts, in, out]; else what goes in comes last.
        experts: of a layer, whose weights are one tensor; 1 for any other weight.
    """

    a: Tensor
    b: Tensor
    scale: float
    transposed: bool
    experts: int = 1


def adapters_on(causal_lm: nn.Module, state: Mapping[str, Tensor]) -> dict[str, list[Adapter]]:
    """The adapters on each weight, by the name that the weight has without them.

    Args:
        causal_lm: the model under PEFT's wrapper, whose layers hold the adapters.
        state: its state dict, or as much of it as is adapters.

    Raises:
        UserError: one is no plain LoRA.
    """
    found: dict[str, list[Adapter]] = {}
    for name in (name for name in state if ".lora_" in name):
        path, kind, adapter = name.removesuffix(".weight").rsplit(".", 2)
        if kind not in (*_PAIRS, *_PAIRS.values()):
            raise UserError(f"{name} is no plain LoRA, which alone can be added into the weights")
        if kind in _PAIRS:
            layer = causal_lm.get_submodule(path)
            other = state[name.replace(f".{kind}.", f".{_PAIRS[kind]}.")]
            experts = getattr(layer, "num_experts", 1)
            if experts > 1:  # the sizes do not tell, where in and out are equal
                transposed = not getattr(layer, "_did_swap_in_out_features", False)
            else:
                transposed = layer.fan_in_fan_out or kind == "lora_embedding_A"
            pair = Adapter(state[name], other, layer.scaling[adapter], transposed, experts)
            # A parameter that is no layer's weight is wrapped by its own name.
            target = f"{path}.{getattr(layer, 'parameter_name', 'weight')}"
            found.setdefault(plain_name(target), []).append(pair)
    return found


def plain_name(name: str) -> str:
    """The name of a weight as it was before PEFT wrapped its layer, perhaps once for each of its weights."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


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
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    base = model.get_base_model()
    try:
        adapted = adapters_on(base, state)
    except UserError as error:
        raise UserError(f"merge_lora: {error}; leave merge_lora out to export the adapters alone") from error
    if getattr(base, "is_quantized", False):
        base = _stored_base(model)
        weights = base.state_dict()
    else:
        weights = {plain_name(name): tensor for name, tensor in state.items() if ".lora_" not in name}
    for name, adapters in adapted.items():
        for adapter in adapters:
            weights[name] = added(weights[name], adapter, adapter.a, adapter.b)
    return base, weights


def added(weight: Tensor, adapter: Adapter, a: Tensor, b: Tensor) -> Tensor:
    """The sum, in a tensor of its own.

    Args:
        weight: [out, in] or [experts, out, in], the last two exchanged where ``adapter`` says so.
        a, b: those of ``adapter``, whole.
    """
    b, a = b.to(weight.device, torch.float32), a.to(weight.device, torch.float32)
    if adapter.experts > 1:
        b = b.reshape(b.shape[0], -1, adapter.experts).permute(2, 0, 1)  # the experts of a rank lie side by side
        a = a.reshape(adapter.experts, -1, a.shape[-1])
    delta = (b @ a) * adapter.scale
    if adapter.transposed:
        delta = delta.mT
    return (weight.float() + delta).to(weight.dtype)


def _stored_base(model: PeftModel) -> PreTrainedModel:
    base = model.get_base_model()
    adapters = model.peft_config[model.active_adapter]
    name = adapters.base_model_name_or_path or base.name_or_path
    revision = adapters.revision or getattr(base.config, "_commit_hash", None)
    trusted = not type(base).__module__.startswith("transformers.")  # its code runs already
    return load_model(name, revision, trust_remote_code=trusted)
