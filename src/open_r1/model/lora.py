"""Low-rank adapters by PEFT, and the base weights under them: in the dtype of the computation, in 8 bits or in 4."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.errors import UserError


def weights_dtype(config: SFTConfig | GRPOConfig) -> str:
    """The dtype, by name, that `load_model` should load.

    Without ``torch_dtype`` weights that train are float32, and those frozen under adapters are in the dtype that they
    are computed in: half the memory, and no cast in each forward.
    """
    return config.torch_dtype or (_compute_dtype(config) if config.use_peft else "float32")


def _compute_dtype(config: SFTConfig | GRPOConfig) -> str:
    return "bfloat16" if config.bf16 else "float16" if config.fp16 else "float32"


def quantization_arguments(config: SFTConfig | GRPOConfig) -> dict[str, Any]:
    """Keyword arguments for `load_model` that quantise the base weights; {} when not asked.

    4 bits are NF4 with double quantisation (Dettmers et al. 2023), 8 bits LLM.int8() (Dettmers et al. 2022).
    Embeddings, norms and head stay as `weights_dtype` says.

    Raises:
        UserError: without bitsandbytes.
    """
    name = "load_in_4bit" if config.load_in_4bit else "load_in_8bit"
    if not getattr(config, name):
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{name} needs bitsandbytes, which is not installed; run: pip install 'open-r1[quant]'")
    from transformers import BitsAndBytesConfig

    if config.load_in_8bit:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, _compute_dtype(config)),
        )
    }


def add_adapters(model: PreTrainedModel, config: SFTConfig | GRPOConfig) -> nn.Module:
    """Freezes ``model`` and puts trainable low-rank adapters on its linear layers (Hu et al. 2021).

    Adapters are float32. Frozen weights keep their dtype, those of a quantised model too: what PEFT advises for these,
    float32 for all that is not quantised, costs 4.4 GB at Qwen2.5-7B for its embedding and head alone.
    """
    from peft import LoraConfig, get_peft_model  # a second that runs without adapters need not wait for

    adapters = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(model, adapters)
    except ValueError as error:
        raise UserError(f"lora_target_modules {config.lora_target_modules}: {' '.join(str(error).split())}") from error
    if config.bf16 or config.fp16:
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False  # autocast casts the adapter; PEFT would also copy its input
    return model
