"""The weights of a model under training as a checkpoint of `transformers` holds them: their names, and what each is of.

Nothing is computed here: the tensors that a weight is made of may lie on several ranks, and are whole for a moment only
(`open_r1.parallel.weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_layers import GradientCheckpointingLayer

from open_r1.errors import UserError
from open_r1.model.merge import Adapter, adapters_on, added, plain_name

QUANTISED = ("Params4bit", "Int8Params")  # of bitsandbytes, which need not be installed


@dataclass(frozen=True)
class StoredWeight:
    """One weight under the name that the model's state dict gives it without adapters.

    Attributes:
        sources: what it is made of, as the module holds it, perhaps a part of it.
        make: the weight, of the whole ``sources``; None where it is the only one of them.
    """

    name: str
    sources: tuple[Tensor, ...]
    make: Callable[[Sequence[Tensor]], Tensor] | None = None


def causal_lm_of(model: nn.Module) -> PreTrainedModel:
    """The `transformers` model under PEFT's wrapper, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def stored_weights(model: nn.Module) -> Iterator[list[StoredWeight]]:
    """What a checkpoint holds of ``model``: decoder layer by decoder layer, and each weight outside of them by itself.

    Tied weights come once. Plain LoRA is to be added into the weights it sits on, those in 4 or 8 bits are to be
    widened.

    Raises:
        UserError: adapters that are no plain LoRA, or that sit on one of two tied weights, which have to stay equal.
    """
    causal_lm = causal_lm_of(model)
    held = causal_lm.state_dict(keep_vars=True)
    proper = {name for name, _ in causal_lm.named_parameters(remove_duplicate=False)}
    proper |= {name for name, _ in causal_lm.named_buffers(remove_duplicate=False)}
    adapted = adapters_on(causal_lm, held)
    weights: dict[str, StoredWeight] = {}
    for name, tensor in held.items():
        if name in proper and ".lora_" not in name:  # beside 4-bit weights lie their scales, under names of their own
            stored = plain_name(name)
            path = name.rpartition(".")[0]
            adapters = adapted.get(stored, [])
            if type(tensor).__name__ in QUANTISED:
                base = partial(_widened, causal_lm.get_submodule(path), tensor)
                weights[stored] = StoredWeight(stored, _sources(adapters), partial(_merge, base, adapters))
            elif adapters:
                weights[stored] = StoredWeight(stored, (tensor, *_sources(adapters)), partial(_merge, None, adapters))
            else:
                weights[stored] = StoredWeight(stored, (tensor,))
    _drop_tied(causal_lm, weights, set(adapted))
    layers = [name for name, module in causal_lm.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    layer_of = {name: layer for layer in layers for name in weights if name.startswith(f"{layer}.")}
    for _, group in groupby(weights.values(), key=lambda weight: layer_of.get(weight.name, weight.name)):
        yield list(group)


def as_stored(causal_lm: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A group of `stored_weights`, made, as the files hold it: experts apart that are one tensor in memory, say."""
    return revert_weight_conversion(causal_lm, weights)


def _sources(adapters: Sequence[Adapter]) -> tuple[Tensor, ...]:
    return tuple(tensor for adapter in adapters for tensor in (adapter.a, adapter.b))


def _merge(base: Callable[[], Tensor] | None, adapters: Sequence[Adapter], sources: Sequence[Tensor]) -> Tensor:
    """The weight with its adapters; ``sources`` are (A, B) of each, after the weight itself where ``base`` is None."""
    weight, pairs = (sources[0], sources[1:]) if base is None else (base(), sources)
    for adapter, a, b in zip(adapters, pairs[::2], pairs[1::2], strict=True):
        weight = added(weight, adapter, a, b)
    return weight


def _widened(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight that bitsandbytes holds in 4 or 8 bits, in the type that it is computed in."""
    from peft.utils.integrations import dequantize_bnb_weight

    return dequantize_bnb_weight(weight, state=getattr(layer, "state", None))


def _drop_tied(causal_lm: PreTrainedModel, weights: dict[str, StoredWeight], adapted: set[str]) -> None:
    """Takes out of ``weights`` what is the same tensor as one that checkpoints hold."""
    tied: dict[str, Any] = getattr(causal_lm, "all_tied_weights_keys", None) or {}
    for name, source in tied.items():
        if name in weights and source in weights and weights[name].sources[0] is weights[source].sources[0]:
            if pair := adapted & {name, source}:
                raise UserError(
                    f"lora_target_modules: {pair.pop()} is tied to another weight, and an engine has one for both; "
                    "leave it out, or set use_vllm false"
                )
            del weights[name]
