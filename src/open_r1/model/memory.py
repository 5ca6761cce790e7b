"""How much memory training takes, from a model's configuration alone, and how much recomputation fits it.

Nothing here needs weights or a GPU: parameters are counted on a model without memory, activations follow from the shape
of a decoder layer. In bytes; r is the width of an element of the residual stream, which is that of the weights where
they are whole, and w that of the compute dtype. What was measured beside it is in docs/planning.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedConfig

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.model.layers import LEVELS
from open_r1.model.logits import chunk_targets
from open_r1.model.lora import weights_dtype
from open_r1.model.shape import ModelShape, adapter_parameters

# Bytes of optimizer state for a parameter: large tensors, embeddings. A bf16 weight adds 2 where `keeps_low_bits`.
OPTIMIZER_BYTES = {
    "adamw_split": (8.0, 8.0),
    "adamw_8bit": (2 + 8 / 256, 8.0),
    "adamw_bnb_8bit": (2 + 8 / 256, 8.0),
    "paged_adamw_8bit": (0.0, 0.0),
    "paged_adamw_32bit": (0.0, 0.0),
}
# A weight of a linear layer under adapters, by its bits: NF4 has a byte for 64 weights, LLM.int8() four for an output.
QUANTISED_BYTES = {4: 0.5 + 1 / 64 + 4 / (64 * 256), 8: 1.0}
# What a layer keeps of a token for its backward pass: tensors of the hidden size at width r, at width w and in float32,
# tensors of the feed-forward size at width w, and whether attention keeps q, k, v, its output and a float32 a head.
# Counted on transformers' Qwen2 layer, eager and as AOTAutograd's partitioner cuts it when compiled.
KEPT = {
    (True, "none"): (2, 2, 0, 3, True),
    (True, "selective"): (2, 2, 0, 0, True),
    (True, "full"): (1, 0, 0, 0, False),
    (False, "none"): (2, 2, 2, 4, True),
    (False, "selective"): (2, 2, 2, 0, True),
    (False, "full"): (1, 0, 0, 0, False),
}
# Of weights that DeepSpeed's third stage has gathered, how many may be there at once (stage3_max_live_parameters).
LIVE_PARAMETERS = 1_000_000_000
# Of the memory that a device has, what the caching allocator can use before fragments get in the way.
USABLE = 0.95


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process at the peak of a step, by part.

    Attributes:
        weights: parameters in the dtypes they are held in, and copies that autocast keeps of them.
        gradients: of what trains, and DDP's copies of them.
        optimizer: its state on the device.
        activations: what the layers keep from forward to backward.
        layer: what the backward pass of one layer needs beside it.
        head: a chunk of logits, and the hidden states and gradients at both ends of the head.
        total: at the peak, with what is reserved for others; not the sum: gradients appear while activations go, and
            layers follow the head.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    layer: float
    head: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is done with the model, in one process.

    Attributes:
        tokens: in a micro-batch.
        adapters: parameters of LoRA adapters; None trains all weights.
        bits: of the linear weights under adapters: 4, 8, or None as ``weight_dtype``.
        accumulates: whether a step has several micro-batches, so that gradients and activations are there together.
        buckets: whether gradients are exchanged through a second copy of them (DDP).
        chunk: targets whose logits are held at a time; None as the head chooses.
        reserved: bytes that something else keeps on the device: a frozen reference, an engine.
        weight_shards, gradient_shards, optimizer_shards: over how many processes each is spread.
    """

    tokens: int
    optimizer: str = "adamw_torch"
    weight_dtype: torch.dtype = torch.float32
    compute_dtype: torch.dtype = torch.bfloat16
    adapters: int | None = None
    bits: int | None = None
    accumulates: bool = False
    compiled: bool = True
    buckets: bool = False
    chunk: int | None = None
    reserved: float = 0.0
    weight_shards: int = 1
    gradient_shards: int = 1
    optimizer_shards: int = 1

    @classmethod
    def of(
        cls,
        settings: SFTConfig | GRPOConfig,
        config: PreTrainedConfig,
        *,
        shape: ModelShape | None = None,
        **more: Any,
    ) -> Workload:
        """Of a run's settings and its model's configuration.

        Args:
            shape: of the model, where it is known; else it is read for adapters.
            more: further fields, ``tokens`` among them.
        """
        stored = getattr(config, "dtype", None) or torch.float32
        name = weights_dtype(settings)
        weights = stored if name == "auto" else getattr(torch, name)
        adapters = None
        if settings.use_peft:
            shape = shape or ModelShape.of(config, settings.trust_remote_code)
            adapters = adapter_parameters(shape, settings.lora_r, settings.lora_target_modules)
        return cls(
            optimizer=settings.optim,
            weight_dtype=weights,
            compute_dtype=torch.bfloat16 if settings.bf16 else torch.float16 if settings.fp16 else weights,
            adapters=adapters,
            bits=4 if settings.load_in_4bit else 8 if settings.load_in_8bit else None,
            # GRPO's packs are as many as its completions fill.
            accumulates=isinstance(settings, GRPOConfig) or settings.gradient_accumulation_steps > 1,
            **more,
        )

    @cached_property
    def widths(self) -> tuple[int, int]:
        """(r, w): bytes of an element of the residual stream, and of what is computed.

        FSDP and DeepSpeed hand the layers weights in the compute dtype, and so the sum that they add to is in it too.
        """
        w = self.compute_dtype.itemsize
        return (w if self.gradient_shards > 1 else self.weight_dtype.itemsize), w


def estimate_memory(shape: ModelShape, work: Workload, recompute: str) -> MemoryEstimate:
    """Memory at the peak of a step with ``recompute`` "none", "selective" or "full"."""
    r, w = work.widths
    held = work.weight_dtype.itemsize
    trained = shape.parameters if work.adapters is None else work.adapters
    gradients = trained * (held if work.adapters is None else 4) / work.gradient_shards
    buckets = gradients if work.buckets else 0.0
    weights = _weight_bytes(shape, work) / work.weight_shards
    optimizer = _optimizer_bytes(shape, work) / work.optimizer_shards

    kept = _kept_bytes(shape, work, recompute)
    again = _kept_bytes(shape, work, "none") - kept
    activations = work.tokens * kept * shape.layers
    # The eager pass keeps one tensor of the feed-forward block more, and frees it before the last gradient is made.
    fresh = 3 if work.compiled else 2
    layer = work.tokens * (again + fresh * w * shape.intermediate + 3 * r * shape.hidden)
    if work.bits:  # the layer's largest weight, back in the compute dtype
        layer += w * shape.hidden * shape.intermediate

    chunk = min(work.tokens, work.chunk or chunk_targets(shape.vocabulary, torch.empty(0, dtype=work.compute_dtype)))
    # Logits are turned into their gradient in place; the last norm keeps its input in float32 and what comes of it.
    head = chunk * shape.vocabulary * w + work.tokens * shape.hidden * (r + 3 * w + 4)
    if work.adapters is None:  # the gradient of the head's weight, and what is cast on the way
        head += shape.vocabulary * shape.hidden * (r + (0 if r == w else 2 * w))
    gathered = _gathered_bytes(shape, work)
    layer, head = layer + gathered, head + gathered
    within = gradients + activations if work.accumulates else max(gradients, activations)
    total = weights + optimizer + within + buckets + max(layer, head) + work.reserved
    return MemoryEstimate(weights, gradients + buckets, optimizer, activations, layer, head, total)


def choose_recompute(shape: ModelShape, work: Workload, memory: float) -> str:
    """The least recomputation with which a step fits: "none", "selective" or "full" (also where that does not fit).

    Args:
        memory: bytes of the device for all of training, weights that are there already among them.
    """
    for level in LEVELS:
        if estimate_memory(shape, work, level).total <= USABLE * memory:
            return level
    return LEVELS[-1]


def device_memory(device: torch.device) -> int | None:
    """Bytes that this process can have on a CUDA device, with what it holds already; None elsewhere."""
    if device.type != "cuda":
        return None
    # Of the functions below one wants a number, and "cuda" alone has none.
    number = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(number)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(number))
    return min(free + torch.cuda.memory_reserved(number), allowed)


def _kept_bytes(shape: ModelShape, work: Workload, level: str) -> int:
    """Bytes that a layer keeps for a token."""
    r, w = work.widths
    in_residual, in_compute, in_float32, feed_forward, attention = KEPT[work.compiled, level]
    kept = shape.hidden * (in_residual * r + in_compute * w + in_float32 * 4) + feed_forward * shape.intermediate * w
    # Values are a part of the one product that queries and keys come from too (`joint_projection`; not under adapters):
    # as long as they are kept it is, beside queries and keys that rotary embeddings have made new.
    joint = w * (shape.attention + shape.key_value) if work.compiled and work.adapters is None else 0
    return kept + attention * (2 * w * (shape.attention + shape.key_value) + joint + 4 * shape.heads)


def _weight_bytes(shape: ModelShape, work: Workload) -> float:
    r, w = work.weight_dtype.itemsize, work.compute_dtype.itemsize
    if work.adapters is None:
        if (
            r != w and work.gradient_shards > 1 and work.weight_shards == 1
        ):  # DeepSpeed's, beside the shards they are of
            return w * shape.parameters + r * shape.parameters / work.optimizer_shards
        copies = w * shape.parameters if work.weight_shards > 1 else w * shape.linear
        # Autocast's, until the forward pass ends; of shards, what ZeRO-3 gathers from.
        return r * shape.parameters + (copies if r != w and not work.compiled else 0)
    held = QUANTISED_BYTES[work.bits] if work.bits else r
    return r * (shape.parameters - shape.linear) + held * shape.linear + 4 * work.adapters


def _gathered_bytes(shape: ModelShape, work: Workload) -> float:
    """Whole weights that are there for a time where each process holds a part of them.

    FSDP gathers two layers, and for all of both passes what lies outside of them; ZeRO-3, whose layers are never
    compiled, what it expects to need next.
    """
    if work.weight_shards == 1:
        return 0.0
    w = work.compute_dtype.itemsize
    if not work.compiled:
        return w * min(shape.parameters, LIVE_PARAMETERS)
    of_layers = shape.parameters - shape.embedding - shape.head  # experts are in no linear module
    return w * ((shape.head or shape.embedding) + 2 * of_layers / shape.layers)


def _optimizer_bytes(shape: ModelShape, work: Workload) -> float:
    dtype = work.weight_dtype if work.adapters is None else torch.float32
    embedding = shape.embedding if work.adapters is None else 0
    rest = (shape.parameters if work.adapters is None else work.adapters) - embedding
    if work.optimizer not in OPTIMIZER_BYTES:  # torch's: two moments in the dtype of the weight
        return 2 * dtype.itemsize * (rest + embedding)
    of_rest, of_embedding = OPTIMIZER_BYTES[work.optimizer]
    low_bits = 2 if dtype is torch.bfloat16 and of_rest else 0
    return (of_rest + low_bits) * rest + (of_embedding + low_bits) * embedding
