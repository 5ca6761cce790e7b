"""What a step costs: tokens per second, share of the chip's peak, memory."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

# Dense bf16 peak in TFLOP/s by a part of the device's name, from the vendors' data sheets.
PEAK_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "H20": 148,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "4090": 165,
    "3090": 71,
    "B200": 2250,
}


class StepMeter:
    """Counts tokens and model FLOPs against the clock.

    Model FLOPs per sequence of L tokens are 6·N·L for N parameters that multiply (the input embedding looks up, it does
    not multiply) plus 6·layers·heads·head_dim·L² for causal attention, forward and backward (Chowdhery et al. 2022,
    appendix B, halved for causality); recomputation is not counted.
    """

    def __init__(self, model: PreTrainedModel, world_size: int) -> None:
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self._per_token = 6 * _multiplying_parameters(model)
        self._per_square = 6 * config.num_hidden_layers * heads * head_dim
        self._peak = _peak_flops() * world_size
        self.start = time.perf_counter()
        self.tokens = self.flops = self.sequences = 0.0
        self._mark = (self.start, 0.0, 0.0)

    def flops_of(self, lengths: Iterable[int]) -> float:
        """Model FLOPs of training on sequences of these lengths."""
        return float(sum(self._per_token * length + self._per_square * length * length for length in lengths))

    def add(self, sequences: float, tokens: float, flops: float) -> None:
        """Counts one step's sequences, tokens and FLOPs, over all ranks."""
        self.sequences += sequences
        self.tokens += tokens
        self.flops += flops

    def since_mark(self) -> dict[str, float]:
        """Rates since the last call, and memory."""
        now = time.perf_counter()
        then, tokens, flops = self._mark
        self._mark = (now, self.tokens, self.flops)
        return self._rates(self.tokens - tokens, self.flops - flops, now - then)

    def overall(self, steps: int) -> dict[str, float]:
        """Run time in seconds, samples, steps and tokens a second since the meter was made, MFU, peak memory."""
        seconds = time.perf_counter() - self.start
        return {
            "train_runtime": seconds,
            "train_samples": self.sequences,
            "train_samples_per_second": self.sequences / seconds,
            "train_steps_per_second": steps / seconds,
            "train_tokens": self.tokens,
            **{f"train_{name}": value for name, value in self._rates(self.tokens, self.flops, seconds).items()},
        }

    def _rates(self, tokens: float, flops: float, seconds: float) -> dict[str, float]:
        rates = {"tokens_per_second": tokens / max(seconds, 1e-9)}
        if self._peak:
            rates["mfu"] = flops / max(seconds, 1e-9) / self._peak
        if torch.cuda.is_available():
            rates["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return rates


def _multiplying_parameters(model: PreTrainedModel) -> int:
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    total = sum(parameter.numel() for parameter in model.parameters())
    return total if tied else total - _size(embedding)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _peak_flops() -> float:
    if not torch.cuda.is_available():
        return 0.0
    name = torch.cuda.get_device_name()
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if part in name), 0.0)
