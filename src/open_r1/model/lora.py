"""Low-rank adapters by PEFT, and the 4-bit base weights under them."""

from __future__ import annotations

import importlib.util
from typing import Any

from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import PreTrainedModel

from open_r1.config import ModelConfig
from open_r1.errors import UserError


def quantization_arguments(config: ModelConfig) -> dict[str, Any]:
    """Keyword arguments for `load_model` that load 4-bit base weights (NF4, double quantisation); {} when not asked."""
    if not config.load_in_4bit:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("load_in_4bit needs bitsandbytes, which is not installed; run: pip install 'open-r1[quant]'")
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    }


def add_adapters(model: PreTrainedModel, config: ModelConfig) -> nn.Module:
    """Freezes ``model`` and puts trainable low-rank adapters on its linear layers (Hu et al. 2021)."""
    if config.load_in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    adapters = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, adapters)
    except ValueError as error:
        raise UserError(f"lora_target_modules {config.lora_target_modules}: {' '.join(str(error).split())}") from error
