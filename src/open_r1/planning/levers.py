"""What may be changed so that a run fits, one lever at a time.

A lever costs the time that a step then takes, which counts for more where it changes what is trained. Those that leave
the result the same, to rounding, are the ones that a run may pull by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.config.training import TORCH_OPTIMIZERS
from open_r1.model.layers import LEVELS
from open_r1.planning.situation import Machine, Model
from open_r1.training.rollout_engine import MOST_SEQUENCES

SMALLEST_MICRO_BATCH = 4096
"""Tokens; smaller ones only where nothing else fits."""
SHORTEST = 2048
"""Tokens of the shortest packs, and completions, that are proposed."""
ADAPTERS = 2.0
"""Penalty of training adapters: what trains all weights goes before, unless it takes two or three times as long."""
ENGINE, LENGTH = "engine", "length"
"""Families that are the last resort: what draws, and then the data."""
PAGED_BYTES = {"paged_adamw_8bit": 4, "paged_adamw_32bit": 10}
"""Of a parameter's state in the host's memory."""
DRAWN_AT_ONCE = (256, 64, 16, 4)
"""Completions that transformers draws side by side, as they are proposed."""
TURNS = 0.07
"""By which a step is longer whose completions are drawn before it, not while the one before trains (docs/grpo.md)."""
BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


@dataclass(frozen=True)
class Lever:
    """One way to set some settings, or the launcher.

    Attributes:
        penalty: share by which the time of a step counts for more, for what it changes beside speed: 2.0 is as if it
            took three times as long.
        family: of changes that a person decides about together; "" leaves the result the same.
        says: what it means, in a few words.
        slower: share of the time that it adds beside what `seconds_of_step` knows.
    """

    settings: tuple[tuple[str, Any], ...] = ()
    launcher: str | None = None
    penalty: float = 0.0
    family: str = ""
    says: str = ""
    slower: float = 0.0


def axes(
    settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, *, same_result: bool
) -> Iterator[list[Lever]]:
    """The levers that exclude each other, one list an axis; the first of each changes nothing."""
    yield list(_recompute(settings))
    yield list(_grpo(settings)) if isinstance(settings, GRPOConfig) else list(_micro_batch(settings))
    if same_result:
        return
    yield list(_weights(settings, model, machine))
    yield list(_launchers(settings, machine))
    yield list(_shorter(settings))


def _recompute(settings: SFTConfig | GRPOConfig) -> Iterator[Lever]:
    """Unset takes the least that fits; what the person has set is raised."""
    yield Lever()
    if settings.recompute is not None:
        for level in LEVELS[LEVELS.index(settings.recompute) + 1 :]:
            yield Lever((("gradient_checkpointing", level),), says=f"recompute {level}")


def _micro_batch(settings: SFTConfig) -> Iterator[Lever]:
    yield Lever()
    if not settings.packing:  # how many sequences stand together would change
        return
    batch, steps = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    for smaller in (size for size in range(batch - 1, 0, -1) if batch % size == 0):
        tokens = smaller * settings.max_length
        yield Lever(
            ((BATCH, smaller), (ACCUMULATION, steps * batch // smaller)),
            says=f"micro-batches of {tokens:,} tokens, the batch of a step stays",
            penalty=0.0 if tokens >= SMALLEST_MICRO_BATCH else 0.02,
        )


def _grpo(settings: GRPOConfig) -> Iterator[Lever]:
    yield Lever()
    if settings.pack_length:
        yield Lever((("pack_length", None),), says="packs of the size that fits")
    if settings.use_vllm and settings.vllm_mode == "server":
        return
    if not settings.async_steps:
        yield from _drawing(settings)
        return
    # An engine that draws while the policy trains can neither sleep nor share weights with it.
    says = "drawing and training take turns (async_steps 0)"
    in_turn = Lever((("async_steps", 0),), family="in turn", says=says, slower=TURNS)
    yield in_turn
    for lever in _drawing(replace(settings, async_steps=0)):
        yield replace(
            lever,
            settings=(*in_turn.settings, *lever.settings),
            family=lever.family or in_turn.family,
            says=f"{says}; {lever.says}",
            slower=lever.slower + TURNS,
        )


def _drawing(settings: GRPOConfig) -> Iterator[Lever]:
    """Fewer completions at once, an engine that sleeps, another engine; in turn with training."""
    completions = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    if not settings.use_vllm:
        for size in DRAWN_AT_ONCE:
            if size < min(completions, settings.generation_batch_size or completions):
                yield Lever((("generation_batch_size", size),), says=f"{size} completions at once")
        return
    sleeps = (("vllm_enable_sleep_mode", True),)
    for sequences in (256, 128, 64):
        if sequences < min(completions, settings.vllm_max_num_seqs or MOST_SEQUENCES):
            changes = (*sleeps, ("vllm_max_num_seqs", sequences))
            yield Lever(changes, says=f"{sequences} completions at once, vLLM asleep meanwhile", slower=0.02)
    if not settings.vllm_enable_sleep_mode:
        yield Lever(sleeps, says="vLLM sleeps while the policy trains", slower=0.02)
    says = "transformers draws instead of vLLM, more slowly than is reckoned here"
    engine = (("use_vllm", False),)  # the weights are then there once
    if completions <= DRAWN_AT_ONCE[0]:
        yield Lever(engine, family=ENGINE, says=says)
    for size in DRAWN_AT_ONCE:
        if size < completions:
            yield Lever((*engine, ("generation_batch_size", size)), family=ENGINE, says=says)


def _host_memory(optimizer: str, model: Model, machine: Machine) -> str:
    """What a paged optimizer may take on each host: PyTorch rounds page-locked tensors up to powers of two."""
    size = 2 * PAGED_BYTES[optimizer] * model.shape.parameters * machine.gpus // machine.nodes
    return f"in the host's memory (up to {size / 1e9:.0f} GB of it)"


def _weights(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine) -> Iterator[Lever]:
    """What trains, in which dtype, by which optimizer."""
    yield Lever()
    compute = () if settings.bf16 or settings.fp16 or settings.torch_dtype == "bfloat16" else (("bf16", True),)
    if machine.card is not None and machine.card.bf16 is None:
        compute = ()
    if compute:
        yield Lever(compute, penalty=0.01, family="compute", says="compute in bf16")
    bf16 = (machine.card is None or machine.card.bf16) and not settings.fp16
    if not settings.use_peft and machine.shards == (1, 1, 1) and bf16:
        for name, penalty, says in (
            ("adamw_split", 0.03, "bf16 weights, with the bits they leave out beside them"),
            ("adamw_8bit", 0.10, "bf16 weights, moments of the optimizer in a byte"),
            ("paged_adamw_8bit", 0.35, "bf16 weights, 8-bit moments"),
            ("paged_adamw_32bit", 0.40, "bf16 weights, the optimizer's state"),
        ):
            if settings.optim != name:
                says += f" {_host_memory(name, model, machine)}" if name in PAGED_BYTES else ""
                changes = (("torch_dtype", "bfloat16"), ("optim", name))
                yield Lever(changes, penalty=penalty, family="optimizer", says=says)
    plain = () if settings.optim in TORCH_OPTIMIZERS else (("optim", TORCH_OPTIMIZERS[0]),)
    rate = () if settings.learning_rate >= 1e-4 or isinstance(settings, GRPOConfig) else (("learning_rate", 1e-4),)
    frozen = (("torch_dtype", "bfloat16"),) if settings.torch_dtype == "float32" and bf16 else ()
    if settings.use_peft and frozen:
        yield Lever(frozen, penalty=0.01, family="frozen weights", says="frozen weights in bf16")
    if not settings.use_peft:
        lora = (("use_peft", True), *frozen, *compute, *plain, *rate)
        yield Lever(lora, penalty=ADAPTERS, family="adapters", says="adapters (LoRA) instead of all weights")
    if not settings.load_in_4bit and not settings.load_in_8bit and machine.shards == (1, 1, 1):
        qlora = (("use_peft", True), ("load_in_4bit", True), *frozen, *compute, *plain, *rate)
        yield Lever(
            qlora,
            penalty=1.15 * (1 + ADAPTERS) - 1,
            family="4-bit adapters",
            says="adapters over weights in 4 bits (QLoRA; needs open-r1[quant])",
        )


def _launchers(settings: SFTConfig | GRPOConfig, machine: Machine) -> Iterator[Lever]:
    yield Lever()
    if machine.gpus > 1:
        whole = isinstance(settings, GRPOConfig) and not settings.use_vllm  # transformers draws from whole weights
        for launcher in ("zero2",) if whole else ("zero2", "fsdp", "zero3"):
            if launcher != machine.launcher:
                yield Lever(launcher=launcher, penalty=0.02, family="launcher", says=f"{launcher}.yaml")


def _shorter(settings: SFTConfig | GRPOConfig) -> Iterator[Lever]:
    """Last, since it changes the data."""
    yield Lever()
    grpo = isinstance(settings, GRPOConfig)
    name = "max_completion_length" if grpo else "max_length"
    length, penalty = getattr(settings, name) // 2, 3.0
    while length >= SHORTEST:
        more = ()
        if not grpo:  # as many tokens a step
            factor = settings.max_length // length
            more = ((ACCUMULATION, settings.gradient_accumulation_steps * factor),)
        says = "shorter completions: other answers" if grpo else "shorter packs: longer texts are cut in pieces"
        yield Lever(((name, length), *more), penalty=penalty, family=LENGTH, says=says)
        length, penalty = length // 2, 4 * (1 + penalty) - 1  # half as many tokens never pay
