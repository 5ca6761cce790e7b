"""Matrix products of the decoder layers in 8-bit floating point, by torchao.

Every linear layer of a decoder layer multiplies in e4m3 (gradients in e5m2), each tensor scaled by its own largest
magnitude at each use (Micikevicius et al. 2022); weights, gradients and the optimizer keep their types, the head and
the embedding are left alone.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from open_r1.errors import UserError
from open_r1.machine.cards import FP8_FROM

MULTIPLE = 16
"""Sizes that the chip's 8-bit products can take; tokens are padded to it."""


def chip_problem(capability: tuple[int, int]) -> str:
    """Why a chip of this compute capability, (0, 0) without CUDA, has no 8-bit matrix products; "" where it has."""
    if capability >= FP8_FROM:
        return ""
    this = f"this one's is {capability[0]}.{capability[1]}" if capability > (0, 0) else "and there is none here"
    return f"fp8 needs a GPU of the Ada or Hopper generation or newer (compute capability 8.9), {this}; leave --fp8 out"


def check_fp8(device: torch.device) -> None:
    """Raises UserError unless this chip and this environment have 8-bit matrix products."""
    if problem := chip_problem(torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)):
        raise UserError(problem)
    if importlib.util.find_spec("torchao") is None:
        raise UserError("fp8 needs torchao, which is not installed; run: pip install 'open-r1[quant]'")


def multiply_in_fp8(model: PreTrainedModel, *, emulate: bool = False) -> None:
    """Swaps the linear layers of the decoder layers, in place; parameters and their names stay.

    Args:
        emulate: rounds to 8 bits and multiplies in the original type, for tests on a CPU.

    Raises:
        UserError: no layer could be swapped.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    swapped = []

    def fits(module: nn.Module, name: str) -> bool:
        fitting = type(module) is nn.Linear and not any(size % MULTIPLE for size in module.weight.shape)
        swapped.append(fitting)
        return fitting

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            convert_to_float8_training(layer, config=Float8LinearConfig(emulate=emulate), module_filter_fn=fits)
    if not any(swapped):
        raise UserError(f"{type(model).__name__} has no linear layers that fp8 fits; leave --fp8 out")
