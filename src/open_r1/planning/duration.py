"""How long a run takes: model FLOPs over what a card of this kind is known, or estimated, to do.

Rates are those that ``open-r1 bench`` has saved for the card. Without them the share of the peak that was measured on
an H200 (docs/performance.md, docs/memory.md, docs/grpo.md) is taken over to other cards, which is an estimate: expect a
third more or less, for drawing twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.machine.cards import find_card
from open_r1.machine.rates import SPEED, Rate, sft_mfu
from open_r1.model.memory import Workload
from open_r1.planning.drawing import drawing_seconds, is_served
from open_r1.planning.levers import PAGED_BYTES
from open_r1.planning.memory import StepMemory
from open_r1.planning.refusals import computes_in_bf16
from open_r1.planning.situation import Data, Machine, Model
from open_r1.training.pack_budget import longest_sequence

# Hidden size to the share of the bf16 peak: 0.5B, 1.5B and 7B at 16,384 tokens, nothing recomputed.
SHARE_OF_PEAK = ((896, 0.463), (1536, 0.544), (3584, 0.615))
ADAPTERS, QUANTISED = 0.79, 0.63
"""The same under adapters, and over quantised weights: lora-7b and qlora-7b of docs/memory.md beside full weights."""
FLOAT32 = 1 / 8
"""Of the bf16 peak (fp16 before Ampere) that products in float32 reach, and in bf16 where it is emulated, roughly."""
SCALING = {"none": 1.0, "ddp": 0.94, "fsdp": 0.78, "zero2": 0.90, "zero3": 0.70}
"""Of several GPUs, measured on two (docs/distributed.md); that of zero3 is a guess."""
HALF_SPEED = 700
"""Tokens of a micro-batch at which half the time is lost to starting kernels."""
ENOUGH = 16_384
"""Tokens of a micro-batch from which on more of them are no faster."""
HOST_LINK = 20e9
"""Bytes/s from and to the host's memory, for an optimizer that keeps its state there."""
POLICY = 0.95
"""GRPO's training beside SFT's: its loss has more parts (489k tokens in 3.3 s at 0.5B)."""
USUAL_CARD = "A100-80"
"""By which settings are compared on a card that nothing is known of."""
ESTIMATE = "an estimate by an H200's share of the peak; open-r1 bench measures this card"


@dataclass(frozen=True)
class Duration:
    """Seconds of an optimizer step, and where the rate comes from.

    Attributes:
        training, drawing: seconds.
        tokens: of a step, of all GPUs.
        source: in words.
        overlaps: whether other GPUs draw for the next step while these train.
    """

    training: float
    drawing: float
    tokens: float
    source: str
    overlaps: bool = False

    @property
    def step(self) -> float:
        return max(self.training, self.drawing) if self.overlaps else self.training + self.drawing

    @property
    def tokens_per_second(self) -> float:
        """As a run tells it: drawing counts."""
        return self.tokens / self.step


def flops_per_token(model: Model, work: Workload, attended: float) -> float:
    """Model FLOPs of training on one token, as `open_r1.training.meters.StepMeter` counts them.

    Args:
        attended: tokens of the sequence it stands in.
    """
    shape = model.shape
    layer = shape.hidden * (2 * shape.attention + 2 * shape.key_value + 3 * shape.intermediate)
    multiplied = shape.layers * layer + shape.vocabulary * shape.hidden  # of experts, those that a token visits
    trained = 6 * multiplied if work.adapters is None else 4 * multiplied + 6 * work.adapters
    return trained + 6 * shape.layers * shape.attention * attended


def relative_speed(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, memory: StepMemory) -> float:
    """The speed beside the same model trained on all its weights in bf16, in large micro-batches, on one GPU."""
    speed = SPEED[memory.recompute] * SCALING[machine.launcher if machine.gpus > 1 else "none"]
    if settings.use_peft:
        speed *= QUANTISED if settings.load_in_4bit or settings.load_in_8bit else ADAPTERS
    emulated = machine.card is not None and machine.card.bf16 is None and computes_in_bf16(settings)
    float32 = machine.memory is not None and machine.work(settings, model, 1).compute_dtype.itemsize == 4
    if emulated or float32:
        speed *= FLOAT32
    if machine.memory is None:  # a processor: small micro-batches are no slower
        return speed
    tokens = min(memory.tokens, ENOUGH)
    return speed * tokens / (tokens + HALF_SPEED)


def step_duration(
    settings: SFTConfig | GRPOConfig,
    model: Model,
    machine: Machine,
    memory: StepMemory,
    data: Data,
    rates: Sequence[Rate] = (),
) -> Duration | None:
    """Of one optimizer step; None where nothing is known of the machine: of a processor, where training in float32 was
    not measured on it, or this is not in float32.

    Args:
        rates: that were measured, on whatever card.
    """
    work = machine.work(settings, model, memory.tokens)
    if machine.card is None or (machine.memory is None and work.compute_dtype.itemsize != 4):
        return None
    grpo = isinstance(settings, GRPOConfig)
    longest = longest_sequence(settings) if grpo else settings.max_length
    share, source = _share_of_card(model, machine, longest, rates, adapters=settings.use_peft)
    if share is None:
        return None
    flops = flops_per_token(model, work, longest / 2 if grpo else data.attended(longest))
    peak = machine.card.bf16 or machine.card.fp16
    rate = share * peak * relative_speed(settings, model, machine, memory) * (POLICY if grpo else 1.0) / flops
    tokens = step_tokens(settings, machine)
    computed = tokens - repeated_prompts(settings) if grpo else tokens
    training = computed / machine.gpus / rate + _moving_state(settings, model, work)
    if not grpo:
        return Duration(training, 0.0, tokens, source)
    width = work.compute_dtype.itemsize
    drawing = drawing_seconds(settings, model.shape, machine.card, width, rates, machine.gpus)
    drawing /= settings.num_iterations  # steps that the same rollouts are good for
    return Duration(training, drawing, tokens, source, overlaps=is_served(settings) and bool(settings.async_steps))


def seconds_of_step(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, memory: StepMemory) -> float:
    """By which settings are compared on one GPU: as `step_duration`, by the share of the peak alone."""
    known = machine if machine.card is not None else replace(machine, card=find_card(USUAL_CARD))
    return step_duration(settings, model, known, memory, Data()).step


def step_tokens(settings: SFTConfig | GRPOConfig, machine: Machine) -> int:
    """Tokens of an optimizer step on all GPUs; of GRPO, with completions of full length."""
    if isinstance(settings, GRPOConfig):
        return settings.prompts_per_step * settings.num_generations * longest_sequence(settings)
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return batch * machine.gpus * settings.max_length


def repeated_prompts(settings: GRPOConfig) -> int:
    """Of `step_tokens`, those of prompts that are computed once for several completions, as if groups were whole."""
    if settings.share_prompts is False:
        return 0
    return settings.prompts_per_step * (settings.num_generations - 1) * (settings.max_prompt_length or 0)


def _share_of_card(
    model: Model, machine: Machine, length: int, rates: Sequence[Rate], *, adapters: bool
) -> tuple[float | None, str]:
    """The share of the peak that training all weights reaches, and where that is known from; (None, "") of a processor
    on which no training was measured.
    """
    share, source = sft_mfu(machine.card, model.shape.parameters, length, rates, adapters=adapters)
    if share is not None:
        return share / (ADAPTERS if adapters else 1.0), source
    if machine.memory is None:
        return sft_mfu(machine.card, model.shape.parameters, length, rates)
    return share_of_peak(model.shape.hidden), ESTIMATE


def share_of_peak(hidden: int) -> float:
    """Interpolated between the models that were measured, over the logarithm of the hidden size."""
    sizes, shares = zip(*SHARE_OF_PEAK, strict=True)
    return float(np.interp(math.log(hidden), np.log(sizes), shares))


def _moving_state(settings: SFTConfig | GRPOConfig, model: Model, work: Workload) -> float:
    """Seconds in which a paged optimizer's state goes to the device and back, in each step."""
    a_parameter = PAGED_BYTES.get(settings.optim, 0)
    trained = model.shape.parameters if work.adapters is None else work.adapters
    return 2 * a_parameter * trained / HOST_LINK
