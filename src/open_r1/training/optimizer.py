"""The optimizer: AdamW, fused on CUDA or with a small state, without decay on biases and gains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from open_r1.config import TrainingConfig
from open_r1.training.low_memory_adamw import LowMemoryAdamW

# By name: bits of a moment, and whether the state lies in the host's memory.
LOW_MEMORY = {
    "adamw_split": (32, False),
    "adamw_8bit": (8, False),
    "adamw_bnb_8bit": (8, False),
    "paged_adamw_8bit": (8, True),
    "paged_adamw_32bit": (32, True),
}


def build_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """AdamW over the parameters that train; biases and norm gains are not decayed.

    Moments of embeddings stay in 32 bits, as the 8-bit paper and `transformers` have it: rows of rare tokens get their
    gradient seldom, and then a large one.
    """
    groups = parameter_groups(model, config.weight_decay)
    rates = {"lr": config.learning_rate, "betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    if config.optim not in LOW_MEMORY:
        for group in groups:
            group.pop("moment_bits", None)
        return AdamW(groups, fused=torch.cuda.is_available(), **rates)
    moment_bits, offload = LOW_MEMORY[config.optim]
    compiled = torch.cuda.is_available() and config.torch_compile is not False
    return LowMemoryAdamW(groups, moment_bits=moment_bits, offload=offload, compiled=compiled, **rates)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, embeddings, vectors that train; groups without a parameter are left out.

    Biases of experts, which lie in one tensor, count as vectors.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = [p for name, p in trainable.items() if p.ndim >= 2 and not name.endswith("bias")]
    vectors = [p for name, p in trainable.items() if p.ndim < 2 or name.endswith("bias")]
    groups = [
        {"params": [p for p in matrices if id(p) not in embeddings], "weight_decay": weight_decay},
        {"params": [p for p in matrices if id(p) in embeddings], "weight_decay": weight_decay, "moment_bits": 32},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
