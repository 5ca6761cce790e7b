"""What a step costs: tokens per second, share of the chip's peak, memory."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from open_r1.machine.cards import card_named

WARMUP_STEPS = 3
"""Steps of this process that are not counted as steady: kernels are compiled, memory is first allocated."""


class StepMeter:
    """Counts tokens and model FLOPs against the clock.

    Model FLOPs per sequence of L tokens are 6·N·L for N trained parameters that multiply (the input embedding looks up,
    it does not multiply), 4·N·L for frozen ones, which need no gradient of their own, plus 6·layers·heads·head_dim·L²
    for causal attention, forward and backward (Chowdhery et al. 2022, appendix B, halved for causality). Of a mixture's
    experts those that a token visits count. Recomputation and padding are not counted.

    ``since_mark`` and the steady rates leave out the time spent `apart` from training.
    """

    def __init__(self, model: PreTrainedModel, world_size: int) -> None:
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self._per_token = _flops_per_token(model)
        self._per_square = 6 * config.num_hidden_layers * heads * head_dim
        self._peak = _peak_flops() * world_size
        self.start = time.perf_counter()
        self.tokens = self.flops = self.sequences = 0.0
        self._steps = 0
        self._apart = 0.0
        self._mark = self._warm = (self.start, 0.0, 0.0)

    def flops_of(self, lengths: Iterable[int]) -> float:
        """Model FLOPs of training on sequences of these lengths."""
        return float(sum(self._per_token * length + self._per_square * length * length for length in lengths))

    def add(self, sequences: float, tokens: float, flops: float) -> None:
        """Counts one step's sequences, tokens and FLOPs, over all ranks, when it is over."""
        self.sequences += sequences
        self.tokens += tokens
        self.flops += flops
        self._steps += 1
        if self._steps == WARMUP_STEPS:
            self._warm = self._now()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Around what is no training: evaluation, saving."""
        start = time.perf_counter()
        yield
        self._apart += time.perf_counter() - start

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter() - self._apart, self.tokens, self.flops

    def since_mark(self) -> dict[str, float]:
        """Rates since the last call, and memory."""
        then, self._mark = self._mark, self._now()
        return self._rates(then, self._mark) | _memory()

    def overall(self, steps: int) -> dict[str, float]:
        """Run time in seconds, samples, steps and tokens a second since the meter was made, MFU, peak memory.

        The ``steady`` rates are those after the first `WARMUP_STEPS` steps.
        """
        now = self._now()
        steady = self._rates(self._warm, now) if self._steps > WARMUP_STEPS else {}
        seconds = time.perf_counter() - self.start
        rates = self._rates((0.0, 0.0, 0.0), (seconds, self.tokens, self.flops)) | _memory()
        return {
            "train_runtime": seconds,
            "train_samples": self.sequences,
            "train_samples_per_second": self.sequences / seconds,
            "train_steps_per_second": steps / seconds,
            "train_tokens": self.tokens,
            **{f"train_{name}": value for name, value in rates.items()},
            **{f"train_steady_{name}": value for name, value in steady.items()},
        }

    def _rates(self, then: tuple[float, float, float], now: tuple[float, float, float]) -> dict[str, float]:
        seconds, tokens, flops = (after - before for after, before in zip(now, then, strict=True))
        rates = {"tokens_per_second": tokens / max(seconds, 1e-9)}
        if self._peak:
            rates["mfu"] = flops / max(seconds, 1e-9) / self._peak
        return rates


def _memory() -> dict[str, float]:
    """The most that tensors took, and that was taken from the device to hold them."""
    if not torch.cuda.is_available():
        return {}
    return {
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
    }


def _flops_per_token(model: PreTrainedModel) -> float:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    lookup = set() if tied else {id(parameter) for parameter in embedding.parameters()}
    config = model.config.get_text_config()
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1
    visited = min(1.0, (getattr(config, "num_experts_per_tok", None) or experts) / experts)
    return float(
        sum(
            (6 if parameter.requires_grad else 4) * _size(parameter) * (visited if ".experts." in name else 1.0)
            for name, parameter in model.named_parameters()
            if id(parameter) not in lookup
        )
    )


def _size(parameter: nn.Parameter) -> int:
    """Elements of a parameter, of one in 4 bits (bitsandbytes packs two into a byte) or sharded (DeepSpeed) too."""
    if (state := getattr(parameter, "quant_state", None)) is not None:
        return math.prod(state.shape)
    return getattr(parameter, "ds_numel", None) or parameter.numel()


def _peak_flops() -> float:
    """FLOP/s of a card that is known, by its data sheet; 0 where MFU cannot be told."""
    card = card_named(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return 0.0 if card is None else card.bf16 or card.fp16
