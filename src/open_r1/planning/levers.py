"""The cheapest change with which a run fits: levers tried together, the batch of a step kept.

A lever costs what it slows down, and a penalty where it changes what is trained. Those that leave the result the same,
to rounding, are the ones that a run may pull by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.config.training import TORCH_OPTIMIZERS
from open_r1.errors import UserError
from open_r1.model.layers import LEVELS
from open_r1.planning.duration import relative_speed
from open_r1.planning.memory import StepMemory, step_memory
from open_r1.planning.situation import Machine, Model

SMALLEST_MICRO_BATCH = 4096
"""Tokens; smaller ones only where nothing else fits."""
SHORTEST = 2048
"""Tokens of the shortest packs, and completions, that are proposed."""
ALTERNATIVES = 2
BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


@dataclass(frozen=True)
class Lever:
    """One way to set some settings, or the launcher.

    Attributes:
        penalty: for what it changes beside speed.
        family: of changes that a person decides about together; "" leaves the result the same.
        says: what it means, in a few words.
        slower: share of the time that it adds beside what `relative_speed` knows.
    """

    settings: tuple[tuple[str, Any], ...] = ()
    launcher: str | None = None
    penalty: float = 0.0
    family: str = ""
    says: str = ""
    slower: float = 0.0


@dataclass(frozen=True)
class Option:
    """Settings with which it fits.

    Attributes:
        changes: settings by name, those alone that differ.
        memory: then.
        slowdown: time of a step beside what was asked for, were there memory for it with nothing recomputed; 0.25 is a
            quarter longer.
        cost: by which options are ordered.
        families: kinds of change that alter what is trained, or how it is launched.
        says: each change in a few words.
    """

    settings: SFTConfig | GRPOConfig
    machine: Machine
    changes: dict[str, Any]
    memory: StepMemory
    slowdown: float
    cost: float
    families: tuple[str, ...]
    says: tuple[str, ...]

    @property
    def same_result(self) -> bool:
        return not self.families

    @property
    def differs(self) -> bool:
        """Whether anything is changed at all."""
        return bool(self.changes or self.families)

    @property
    def flags(self) -> str:
        """What to add to the command line."""
        return " ".join(f"--{name} {_spelt(value)}" for name, value in self.changes.items())


def options(
    settings: SFTConfig | GRPOConfig,
    model: Model,
    machine: Machine,
    *,
    same_result: bool = False,
    verdicts: Sequence[str] = ("fits",),
) -> list[Option]:
    """All changes with which a step fits, the cheapest first.

    Args:
        same_result: only those that leave the result the same.
        verdicts: of `StepMemory` that count as fitting.
    """
    best = relative_speed(settings, model, machine, _unhindered(settings, model, machine))
    found = []
    for levers in product(*axes(settings, model, machine, same_result=same_result)):
        option = _pull(settings, model, machine, levers, best)
        if option is not None and option.memory.verdict in verdicts:
            found.append(option)
    return sorted(found, key=lambda option: (option.cost, option.memory.peak))


def choose(found: Sequence[Option]) -> list[Option]:
    """The cheapest option, and up to two that change something else than it, and less or for less memory.

    Other lengths are proposed only where nothing else fits.
    """
    chosen: list[Option] = []
    for option in found:
        kinds = set(option.families)
        if "length" in kinds and chosen:
            break
        more_of_the_same = any(kinds >= set(other.families) and other.families for other in chosen)
        if not more_of_the_same and all(option.memory.peak < other.memory.peak for other in chosen):
            chosen.append(option)
        if len(chosen) > ALTERNATIVES:
            break
    return chosen


def axes(
    settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, *, same_result: bool
) -> Iterator[list[Lever]]:
    """The levers that exclude each other, one list an axis; the first of each changes nothing."""
    yield list(_recompute(settings))
    yield list(_grpo(settings)) if isinstance(settings, GRPOConfig) else list(_micro_batch(settings))
    if same_result:
        return
    yield list(_weights(settings, machine))
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
    if settings.use_vllm and settings.vllm_mode == "colocate" and not settings.async_steps:
        sleeps = (("vllm_enable_sleep_mode", True),)
        for sequences in (256, 128, 64):
            if sequences < (settings.vllm_max_num_seqs or 1024):
                changes = (*sleeps, ("vllm_max_num_seqs", sequences))
                yield Lever(changes, says=f"{sequences} completions at once, vLLM asleep meanwhile", slower=0.1)
        if not settings.vllm_enable_sleep_mode:
            yield Lever(sleeps, says="vLLM sleeps while the policy trains", slower=0.02)
    elif not settings.use_vllm:
        completions = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        for size in (256, 64, 16):
            if size < min(completions, settings.generation_batch_size or completions):
                yield Lever((("generation_batch_size", size),), says=f"{size} completions at once", slower=0.3)


def _weights(settings: SFTConfig | GRPOConfig, machine: Machine) -> Iterator[Lever]:
    """What trains, in which dtype, by which optimizer."""
    yield Lever()
    compute = () if settings.bf16 or settings.fp16 or settings.torch_dtype == "bfloat16" else (("bf16", True),)
    if machine.card is not None and machine.card.bf16 is None:
        compute = ()
    if compute:
        yield Lever(compute, penalty=0.01, family="compute", says="compute in bf16")
    bf16 = (machine.card is None or machine.card.bf16) and not settings.fp16
    if not settings.use_peft and machine.shards == (1, 1, 1) and bf16:
        for name, penalty, slower, says in (
            ("adamw_split", 0.03, 0.0, "bf16 weights, with the bits they leave out beside them"),
            ("adamw_8bit", 0.10, 0.0, "bf16 weights, moments of the optimizer in a byte"),
            ("paged_adamw_8bit", 0.30, 0.05, "bf16 weights, 8-bit moments in the host's memory"),
            ("paged_adamw_32bit", 0.30, 0.10, "bf16 weights, the optimizer's state in the host's memory"),
        ):
            if settings.optim != name:
                changes = (("torch_dtype", "bfloat16"), ("optim", name))
                yield Lever(changes, penalty=penalty, slower=slower, family="optimizer", says=says)
    plain = () if settings.optim in TORCH_OPTIMIZERS else (("optim", TORCH_OPTIMIZERS[0]),)
    rate = () if settings.learning_rate >= 1e-4 or isinstance(settings, GRPOConfig) else (("learning_rate", 1e-4),)
    if not settings.use_peft:
        lora = (("use_peft", True), *compute, *plain, *rate)
        yield Lever(lora, penalty=1.0, family="adapters", says="adapters (LoRA) instead of all weights")
    if not settings.load_in_4bit and not settings.load_in_8bit and machine.shards == (1, 1, 1):
        qlora = (("use_peft", True), ("load_in_4bit", True), *compute, *plain, *rate)
        yield Lever(
            qlora,
            penalty=1.2,
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
    length = getattr(settings, name) // 2
    while length >= SHORTEST:
        more = ()
        if not grpo:  # as many tokens a step
            factor = settings.max_length // length
            more = ((ACCUMULATION, settings.gradient_accumulation_steps * factor),)
        says = "shorter completions: other answers" if grpo else "shorter packs: longer texts are cut in pieces"
        yield Lever(((name, length), *more), penalty=3.0 + 1 / length, family="length", says=says)
        length //= 2


def _pull(
    settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, levers: Sequence[Lever], best: float
) -> Option | None:
    """The settings with these levers pulled; None where they do not go together."""
    changes: dict[str, Any] = {}
    for name, value in (pair for lever in levers for pair in lever.settings):
        if name == ACCUMULATION and name in changes:
            value = changes[name] * value // getattr(settings, name)
        changes[name] = value
    launcher = next((lever.launcher for lever in levers if lever.launcher), machine.launcher)
    machine = replace(machine, launcher=launcher)
    try:
        changed = replace(settings, **changes)
    except UserError:
        return None
    if machine.shards != (1, 1, 1) and (changed.optim not in TORCH_OPTIMIZERS or changed.load_in_4bit):
        return None
    memory = step_memory(changed, model, machine)
    speed = relative_speed(changed, model, machine, memory)
    slowdown = best / speed * (1 + sum(lever.slower for lever in levers)) - 1
    if isinstance(settings, SFTConfig) and settings.recompute is None and memory.recompute != LEVELS[0]:
        changes["gradient_checkpointing"] = memory.recompute
    return Option(
        changed,
        machine,
        changes,
        memory,
        slowdown,
        slowdown + sum(lever.penalty for lever in levers),
        tuple(lever.family for lever in levers if lever.family),
        tuple(lever.says for lever in levers if lever.says),
    )


def _unhindered(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine) -> StepMemory:
    """As the settings ask, on a GPU without a limit."""
    return step_memory(settings, model, replace(machine, memory=1e15 if machine.memory is not None else None))


def _spelt(value: Any) -> str:
    if isinstance(value, bool | None):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
