"""What of a model's configuration decides its memory and its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from open_r1.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What of a causal language model decides its memory; sizes in elements.

    Attributes:
        intermediate: width of the feed-forward block that a token passes; with experts, of all it is sent to.
        attention, key_value: heads times head size.
        parameters: all, without counting tied ones twice.
        embedding: the input embedding, ``head``: the output embedding unless it is tied.
        linear: the weights of the layers' linear modules.
        edges: by the name of a linear module in a layer, the sum of inputs and outputs over all layers.
    """

    hidden: int
    intermediate: int
    heads: int
    attention: int
    key_value: int
    layers: int
    vocabulary: int
    parameters: int
    embedding: int
    head: int
    linear: int
    edges: dict[str, int]

    @classmethod
    def of(cls, config: PreTrainedConfig, trust_remote_code: bool = False) -> ModelShape:
        """Reads a `transformers` configuration; the model is built without memory to count its parameters.

        Raises:
            UserError: a model without attention, such as a state space model.
        """
        text = config.get_text_config()
        if not hasattr(text, "num_attention_heads"):
            name = getattr(config, "name_or_path", "") or "the model"
            raise UserError(
                f"{name}: a model of the type {config.model_type} has no attention heads: its memory cannot be planned"
            )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
        edges: dict[str, int] = {}
        linear = 0
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module is not head:
                key = name.rpartition(".")[2]
                edges[key] = edges.get(key, 0) + module.in_features + module.out_features
                linear += module.weight.numel()
        return cls(
            hidden=text.hidden_size,
            intermediate=_feed_forward_width(text),
            heads=text.num_attention_heads,
            attention=text.num_attention_heads * head_size,
            key_value=(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_size,
            layers=text.num_hidden_layers,
            vocabulary=len(head.weight),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            embedding=embedding.numel(),
            head=0 if head.weight is embedding else head.weight.numel(),
            linear=linear,
            edges=edges,
        )


def adapter_parameters(shape: ModelShape, rank: int, modules: list[str] | str | None = None) -> int:
    """Parameters of LoRA adapters of a rank on the named linear modules, by default on all."""
    names = shape.edges if modules in (None, "all-linear") else [modules] if isinstance(modules, str) else modules
    return rank * sum(shape.edges.get(name.rpartition(".")[2], 0) for name in names)


def _feed_forward_width(config: PreTrainedConfig) -> int:
    experts = getattr(config, "num_experts_per_tok", None)
    width = getattr(config, "moe_intermediate_size", None)
    if experts and width:
        return experts * width + (getattr(config, "shared_expert_intermediate_size", None) or 0)
    return (getattr(config, "intermediate_size", None) or 4 * config.hidden_size) * (experts or 1)
