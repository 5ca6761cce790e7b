"""The peak of a run on one GPU, as the run itself will choose packs, recomputation and the engine's share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.errors import UserError
from open_r1.generation.colocated_memory import ASLEEP, Share, cache_bytes_per_token
from open_r1.model.layers import LEVELS
from open_r1.model.memory import USABLE, MemoryEstimate, choose_recompute, estimate_memory
from open_r1.planning.situation import CONTEXT, Machine, Model
from open_r1.training.pack_budget import longest_sequence, pack_sizes
from open_r1.training.rollout_engine import MOST_SEQUENCES, share_beside
from open_r1.training.warm_up import micro_batch_tokens, packs_that_fit

FRAGMENTS = 2e9
"""Bytes that the allocator holds beside what tensors take: 0.8 to 3.8 GB were measured (docs/memory.md)."""

Verdict = Literal["fits", "tight", "over"]


@dataclass(frozen=True)
class StepMemory:
    """What one GPU holds at most.

    Attributes:
        tokens: of a full micro-batch or pack.
        recompute: one of `LEVELS`.
        parts: of a training step.
        engine: what colocated vLLM gets; None without one.
        drawing: bytes while completions are drawn; 0 for SFT, or where another machine draws.
        peak: bytes that tensors (and vLLM) take at most.
        limit: bytes that there are; None on a CPU.
        problem: why it cannot run at all, in the words of the run; "" where it can.
    """

    tokens: int
    recompute: str
    compiled: bool
    parts: MemoryEstimate
    engine: Share | None
    drawing: float
    peak: float
    limit: float | None
    problem: str = ""

    @property
    def verdict(self) -> Verdict:
        """``tight`` is within what there is, but not within what fragments leave of it."""
        if self.problem:
            return "over"
        if self.limit is None or self.peak <= USABLE * self.limit:
            return "fits"
        return "tight" if self.peak <= self.limit else "over"

    @property
    def shown(self) -> float:
        """What ``nvidia-smi`` will show: with what the allocator keeps, and CUDA itself."""
        kept = self.peak + FRAGMENTS
        return (kept if self.limit is None else max(self.peak, min(kept, self.limit))) + CONTEXT


def step_memory(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine) -> StepMemory:
    """What a step of these settings takes.

    Args:
        settings: of GRPO, with their batch solved (`solve_batch`).
    """
    if isinstance(settings, GRPOConfig):
        return _grpo_memory(settings, model, machine)
    tokens = micro_batch_tokens(settings)
    work = machine.work(settings, model, tokens)
    level = settings.recompute
    if level is None:
        level = LEVELS[0] if machine.memory is None else choose_recompute(model.shape, work, machine.memory)
    parts = estimate_memory(model.shape, work, level)
    return StepMemory(tokens, level, work.compiled, parts, None, 0.0, parts.total, machine.memory)


def _grpo_memory(settings: GRPOConfig, model: Model, machine: Machine) -> StepMemory:
    shape, memory = model.shape, machine.memory
    sizes = pack_sizes(settings, torch.device("cpu" if memory is None else "cuda"))
    work = machine.work(settings, model, sizes[0])
    tokens, level = sizes[0], settings.recompute or LEVELS[0]
    if memory is not None:
        tokens, level = packs_that_fit(settings, sizes, shape, work, memory)
    work = replace(work, tokens=tokens)
    training = estimate_memory(shape, work, level)
    resident = training.weights + training.optimizer + work.reserved + (training.gradients if work.buckets else 0.0)
    longest = settings.vllm_max_model_length or longest_sequence(settings)
    completions = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    width = work.compute_dtype.itemsize
    share, problem, drawing, peak = None, "", 0.0, training.total
    if settings.use_vllm and settings.vllm_mode == "colocate" and memory is not None:
        sequences = settings.vllm_max_num_seqs or min(completions, MOST_SEQUENCES)
        try:
            share = share_beside(
                settings,
                shape,
                work,
                training,
                memory=memory,
                longest=longest,
                sequences=sequences,
                width=width,
            )
        except UserError as error:
            problem = str(error)
        else:
            drawing = resident + share.engine
            peak = max(drawing, training.total + (ASLEEP if share.sleeps else share.engine))
    elif not settings.use_vllm:
        decoded = min(completions, settings.generation_batch_size or completions)
        cache = cache_bytes_per_token(shape.layers, shape.key_value, width) * decoded * longest
        # Logits of the newest token, which sampling turns into float32.
        drawing = resident + cache + decoded * shape.vocabulary * (width + 4)
        peak = max(drawing, training.total)
    return StepMemory(tokens, level, work.compiled, training, share, drawing, peak, memory, problem)
