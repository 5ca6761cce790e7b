"""How a run trains, whatever its loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from open_r1.config.convert import show
from open_r1.config.no_effect import TRAINING_NO_EFFECT, TRAINING_NOT_OFFERED
from open_r1.config.output import HubConfig, OutputConfig
from open_r1.config.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PublishedSettings,
    Settings,
    ShareBelowOne,
    did_you_mean,
)
from open_r1.errors import UserError

TORCH_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
OPTIMIZERS = (
    *TORCH_OPTIMIZERS,
    "adamw_split",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
)
RECOMPUTE = ("full", "selective", "none")
SCHEDULE_KWARGS = {
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "constant": (),
    "constant_with_warmup": (),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
}
CHECKPOINTING_KWARGS = ("use_reentrant", "preserve_rng_state", "determinism_check", "early_stop", "debug")
"""Of ``torch.utils.checkpoint``, which published recipes hand over."""


@dataclass(kw_only=True)
class OptimizerConfig(Settings):
    """Batches and optimizer"""

    per_device_train_batch_size: PositiveInt = 1
    """Sequences of full length in one micro-batch of one process; for GRPO, completions."""

    per_device_eval_batch_size: PositiveInt = 1
    """Accepted for published recipes; evaluation takes one pack, or all held-out prompts, at a time."""

    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches added up in one optimizer step."""

    gradient_checkpointing: bool | Literal["full", "selective", "none"] | None = None
    """Recompute activations in the backward pass: full (least memory, a third more compute), selective (the
    feed-forward blocks), none; true is full, false is none. Unset takes the least that fits into memory."""

    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    """Accepted for published recipes: {use_reentrant: false}."""

    learning_rate: NonNegativeFloat = 1e-5
    """Peak learning rate."""

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""

    adam_beta1: ShareBelowOne = 0.9
    """Decay of AdamW's first moment."""

    adam_beta2: ShareBelowOne = 0.999
    """Decay of AdamW's second moment."""

    adam_epsilon: PositiveFloat = 1e-8
    """AdamW's epsilon."""

    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are clipped to this norm; 0 is off."""

    num_train_epochs: PositiveFloat = 1.0
    """Passes over the data."""

    max_steps: int = -1
    """Optimizer steps; overrides num_train_epochs where positive."""

    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_min_lr", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"
    ] = "cosine"
    """Course of the learning rate after warm-up."""

    lr_scheduler_kwargs: dict[str, Any] | None = None
    """Settings of the schedule, such as {min_lr_rate: 0.1} for cosine_with_min_lr."""

    warmup_ratio: ShareBelowOne = 0.0
    """Share of the steps over which the learning rate rises."""

    warmup_steps: PositiveInt | ShareBelowOne = 0
    """Steps over which the learning rate rises, or a share of all steps below 1; overrides warmup_ratio where
    positive."""

    optim: str = "adamw_torch"
    """Optimizer: adamw_torch, adamw_torch_fused (both fused on CUDA); adamw_8bit (moments in a byte each),
    paged_adamw_8bit, paged_adamw_32bit (the state in the host's memory), adamw_split (float32 moments). All but the
    first two keep what bfloat16 weights round away, so that torch_dtype bfloat16 trains as float32 does."""

    bf16: bool = False
    """Compute in bfloat16; the weights stay in float32 unless torch_dtype says otherwise."""

    fp16: bool = False
    """Compute in float16 with a loss scale; the weights stay in float32."""

    fp8: bool = False
    """Matrix products of the layers in 8-bit floating point (Hopper or newer; needs the quant extra)."""

    plan: Literal["auto", "warn", "off"] = "auto"
    """Look before anything is prepared whether a step fits the GPU: auto lowers the micro-batch and recomputes more
    where that is enough, and else stops with what would fit; warn only says so; off does not look."""

    torch_compile: bool | None = None
    """Compile the layers; unset compiles on CUDA where the model allows it."""

    max_nonfinite_steps: PositiveInt = 5
    """A step with a non-finite loss or gradient is skipped; the run stops after this many in a row."""

    cpu_threads: PositiveInt | None = None
    """Threads of one process on a CPU; unset shares the cores evenly."""

    seed: NonNegativeInt = 42
    """Seed of everything random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bf16 and self.fp16:
            raise UserError("bf16 and fp16 are both set: keep one (bf16 where the chip has it)")
        if self.max_steps != -1 and self.max_steps < 1:
            raise UserError(f"max_steps: {self.max_steps} is given, but it must be at least 1, or -1 for whole epochs")
        check_optimizer(self.optim)
        check_schedule(self.lr_scheduler_type, self.lr_scheduler_kwargs or {})
        for key in self.gradient_checkpointing_kwargs or ():
            if key not in CHECKPOINTING_KWARGS:
                near = did_you_mean(str(key), CHECKPOINTING_KWARGS)
                raise UserError(f"gradient_checkpointing_kwargs: {key!r} is unknown{near}")

    @property
    def recompute(self) -> str | None:
        """``gradient_checkpointing`` as one of `RECOMPUTE`; None where it is to be chosen from the memory there is."""
        if isinstance(self.gradient_checkpointing, bool):
            return "full" if self.gradient_checkpointing else "none"
        return self.gradient_checkpointing

    def notes(self) -> list[str]:
        lines = super().notes()
        if (self.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            lines.append("gradient_checkpointing_kwargs.use_reentrant is read as false: recomputation is non-reentrant")
        if self.per_device_eval_batch_size != 1:
            lines.append(
                "per_device_eval_batch_size changes nothing: evaluation takes one pack, or all held-out prompts, at a "
                "time"
            )
        return lines


@dataclass(kw_only=True)
class TrainingConfig(OptimizerConfig, OutputConfig, HubConfig, PublishedSettings):
    """Training"""

    NO_EFFECT: ClassVar[Mapping[str, str]] = TRAINING_NO_EFFECT
    NOT_OFFERED: ClassVar[Mapping[str, tuple[Any, ...]]] = TRAINING_NOT_OFFERED


def check_optimizer(name: str) -> None:
    """Raises UserError unless ``name`` is an optimizer that exists here."""
    if name in OPTIMIZERS:
        return
    supported = f"supported are {', '.join(OPTIMIZERS[:-1])} and {OPTIMIZERS[-1]}"
    raise UserError(f"optim: {name!r} is not offered, {supported}{did_you_mean(name, OPTIMIZERS)}")


def check_schedule(kind: str, kwargs: Mapping[str, Any]) -> None:
    """Raises UserError where ``lr_scheduler_kwargs`` does not fit ``lr_scheduler_type``."""
    known = SCHEDULE_KWARGS[kind]
    for key, value in kwargs.items():
        if key not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none"
            raise UserError(f"lr_scheduler_kwargs: {key!r} is unknown, {kind} {takes}{did_you_mean(str(key), known)}")
        highest = 1.0 if key == "min_lr_rate" else math.inf
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
            limits = "at least 0 and at most 1" if key == "min_lr_rate" else "at least 0"
            raise UserError(f"lr_scheduler_kwargs: {key} is {show(value)}, but it must be a number, {limits}")
    if kind == "cosine_with_min_lr" and ("min_lr" in kwargs) == ("min_lr_rate" in kwargs):
        raise UserError(f"lr_scheduler_type {kind} needs one of min_lr and min_lr_rate in lr_scheduler_kwargs")


def resolve_steps(value: float, total_steps: int) -> int:
    """A step interval as a count: values below 1 are a share of ``total_steps``, rounded up (as in transformers)."""
    return max(1, math.ceil(value * total_steps)) if value < 1 else int(value)
