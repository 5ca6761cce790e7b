"""What a plan is made from: the model's shape, the machine, the data. Plain facts, wherever they were read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedConfig

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.machine.cards import Card
from open_r1.model.memory import ModelShape, Workload
from open_r1.training.pack_budget import frozen_bytes

CONTEXT = 0.8e9
"""Bytes that CUDA and its libraries take beside what PyTorch allocates; measured (docs/memory.md)."""
LAUNCHERS = ("none", "ddp", "fsdp", "zero2", "zero3")
USUAL_SEQUENCE = 5500
"""Tokens of a reasoning trace, where nothing is known of the data (the mean of those that were measured)."""
COMPILED_FROM = (8, 0)
"""Compute capability from which on there is an attention kernel that layers are compiled around."""


@dataclass(frozen=True)
class Model:
    """A causal language model by its configuration alone.

    Attributes:
        stored: dtype of the checkpoint.
        local: whether its weights are on this machine already.
    """

    name: str
    config: PreTrainedConfig
    shape: ModelShape
    stored: torch.dtype
    local: bool = True

    @property
    def stored_bytes(self) -> int:
        return self.shape.parameters * self.stored.itemsize


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the run is planned for.

    Attributes:
        name: of a GPU.
        memory: bytes of one that PyTorch and vLLM can have together; None plans for a CPU.
        gpus: of all nodes together, one process each.
        launcher: one of `LAUNCHERS`.
    """

    name: str
    memory: float | None
    card: Card | None = None
    gpus: int = 1
    nodes: int = 1
    launcher: str = "none"

    @classmethod
    def of_card(cls, card: Card, *, gpus: int = 1, nodes: int = 1, launcher: str = "none") -> Machine:
        return cls(name=card.name, memory=card.memory - CONTEXT, card=card, gpus=gpus, nodes=nodes, launcher=launcher)

    @property
    def shards(self) -> tuple[int, int, int]:
        """Over how many processes weights, gradients and optimizer state are spread."""
        if self.gpus == 1 or self.launcher in ("none", "ddp"):
            return 1, 1, 1
        return (1 if self.launcher == "zero2" else self.gpus), self.gpus, self.gpus

    def compiles(self, settings: SFTConfig | GRPOConfig) -> bool:
        """As `open_r1.training.warm_up.compiles`, for a machine that need not be this one."""
        if self.launcher == "zero3" and self.gpus > 1:
            return False
        if settings.torch_compile is not None:
            return settings.torch_compile
        able = self.memory is not None and (self.card is None or self.card.capability >= COMPILED_FROM)
        return able and not (settings.load_in_4bit or settings.load_in_8bit)

    def work(self, settings: SFTConfig | GRPOConfig, model: Model, tokens: int) -> Workload:
        """One process's share of a step, in micro-batches of ``tokens`` tokens."""
        weights, gradients, optimizer = self.shards
        grpo = isinstance(settings, GRPOConfig)
        return Workload.of(
            settings,
            model.config,
            shape=model.shape,
            tokens=tokens,
            compiled=self.compiles(settings),
            buckets=self.gpus > 1 and self.launcher in ("none", "ddp"),
            reserved=frozen_bytes(settings, model.shape, model.stored) if grpo else 0.0,
            weight_shards=weights,
            gradient_shards=gradients,
            optimizer_shards=optimizer,
        )


def size_flag(settings: SFTConfig | GRPOConfig) -> str:
    """The flag that says how much data there is where it cannot be read."""
    return "--rows" if isinstance(settings, GRPOConfig) else "--plan_tokens"


@dataclass(frozen=True)
class Data:
    """What is known of the rows.

    Attributes:
        rows: of the split to train on.
        lengths: int [N], tokens of a sample of them.
        tokens: of all of them, where the person says so.
        source: where this was read, or what to give where nothing was.
    """

    rows: int | None = None
    lengths: np.ndarray | None = field(default=None, repr=False)
    tokens: int | None = None
    source: str = "unknown: give --plan_tokens, or --rows"

    @property
    def total(self) -> int | None:
        """Tokens of all rows; None where that is not known."""
        if self.tokens is not None:
            return self.tokens
        if self.rows is None or self.lengths is None or not len(self.lengths):
            return None
        return round(self.rows * float(self.lengths.mean()))

    def attended(self, longest: int) -> float:
        """Tokens of the sequence that an average token stands in, pieces of at most ``longest`` taken apart."""
        if self.lengths is None or not len(self.lengths):
            return float(min(longest, USUAL_SEQUENCE))
        lengths = np.minimum(self.lengths, longest).astype(np.float64)
        return float((lengths**2).sum() / max(lengths.sum(), 1.0))
