"""Which shapes are trained, by what a GPU has room for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from open_r1.config import SFTConfig
from open_r1.machine.cards import BF16_FROM
from open_r1.model.memory import USABLE, ModelShape, Workload, choose_recompute, estimate_memory
from open_r1.model.published import SHAPES

CONTEXT = 0.6e9
"""Bytes that CUDA's own context and cuBLAS take of what is free."""


@dataclass(frozen=True)
class SFTCase:
    """One rate of training.

    Attributes:
        shape: of `SHAPES`.
        length: tokens of a pack; ``batch`` of them make a micro-batch, ``accumulation`` of these a step.
        adapters: trains LoRA adapters instead of all weights.
        steps: that differ; they are gone through once before the clock runs, and again and again under it.
        mean: tokens of a sequence, before it is split.
        usual: seconds that it takes where nothing was compiled before.
    """

    shape: str
    length: int
    batch: int
    accumulation: int
    adapters: bool = False
    steps: int = 4
    mean: int = 5500
    usual: float = 30.0

    @property
    def title(self) -> str:
        return f"{self.shape}{' LoRA' if self.adapters else ''}, {self.length:,}"

    @property
    def tokens(self) -> int:
        """Of the steps that differ."""
        return self.steps * self.accumulation * self.batch * self.length


LARGE = SFTCase("1.5B", 16_384, 1, 2, steps=2, usual=30)
SMALL = SFTCase("0.5B", 16_384, 1, 2)
ADAPTERS = SFTCase("7B", 8192, 1, 2, adapters=True, steps=1, usual=55)
ON_CPU = SFTCase("demo", 256, 4, 2, steps=2, mean=85, usual=12)
SHORT = 2048
"""Tokens of a pack at which a model is measured too: nothing is compiled anew, it only takes `USUAL_AGAIN` more."""
USUAL_AGAIN = 5.0


def gpu_cases(free: float, capability: tuple[int, int]) -> list[list[SFTCase]]:
    """The cases for a GPU, those of a model together, the most telling first.

    Where long packs do not fit, shorter ones are taken, or nothing. The cases of a model differ in the length of packs
    alone, not in the tokens of a micro-batch: what was compiled for the first serves the others.

    Args:
        free: bytes on the device.
    """
    models = []
    for wanted in (LARGE, SMALL, ADAPTERS):
        tries = [replace(wanted, length=length) for length in (16_384, 8192, 4096, SHORT) if length <= wanted.length]
        found = next((case for case in tries if fits(case, free, capability)), None)
        if found is not None:
            models.append([found, *_shorter(found)])
    return models


def _shorter(case: SFTCase) -> list[SFTCase]:
    if case.adapters or case.length <= SHORT:
        return []
    return [replace(case, length=SHORT, batch=case.batch * case.length // SHORT, usual=USUAL_AGAIN)]


def fits(case: SFTCase, free: float, capability: tuple[int, int]) -> bool:
    """Whether a step fits into ``free`` bytes, with whatever recomputation."""
    config, model_config = settings_of(case, capability), SHAPES[case.shape].config()
    shape = ModelShape.of(model_config)
    work = Workload.of(config, model_config, shape=shape, tokens=case.length * case.batch)
    room = free - CONTEXT
    return estimate_memory(shape, work, choose_recompute(shape, work, room)).total <= USABLE * room


def settings_of(case: SFTCase, capability: tuple[int, int] | None) -> SFTConfig:
    """The settings of ``open-r1 sft`` that a case stands for: weights in bf16, or fp16 over float32 weights on a chip
    without; on a CPU (no capability) float32.
    """
    if capability is None:
        precision = {"torch_dtype": "float32"}
    elif capability < BF16_FROM:
        precision = {"fp16": True}
    else:
        precision = {"bf16": True} if case.adapters else {"torch_dtype": "bfloat16"}
    return SFTConfig(
        model_name_or_path=case.shape,
        dataset_name="made up",
        output_dir="unused",
        max_length=case.length,
        per_device_train_batch_size=case.batch,
        gradient_accumulation_steps=case.accumulation,
        use_peft=case.adapters,
        lr_scheduler_type="constant",
        **precision,
    )
