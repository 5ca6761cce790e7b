"""What sft and grpo plan before they prepare anything: that a step fits, or what would."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from rich.console import Console

from open_r1.config import GRPOConfig, SFTConfig, solve_batch
from open_r1.errors import UserError
from open_r1.model.layers import LEVELS
from open_r1.model.memory import device_memory
from open_r1.parallel.runtime import Runtime
from open_r1.planning.levers import ACCUMULATION, BATCH
from open_r1.planning.memory import StepMemory, step_memory
from open_r1.planning.options import Option, spelt
from open_r1.planning.plan import changes
from open_r1.planning.reading import machine_of_run, read_model
from open_r1.planning.situation import Machine, Model
from open_r1.planning.storage import check_disks

Config = TypeVar("Config", SFTConfig, GRPOConfig)
GB = 1e9
console = Console(stderr=True, soft_wrap=True, highlight=False)


def plan_first(config: Config, runtime: Runtime) -> Config:
    """The settings, with smaller micro-batches and more recomputation where a step needs them to fit into this GPU.

    On a CPU, and with ``plan: off``, nothing is looked at.

    Raises:
        UserError: it does not fit, and what would has another result, or checkpoints will not fit on their disk
            (``plan: auto``); all ranks raise it.
    """
    memory = device_memory(runtime.device)
    if memory is None or config.plan == "off":
        return config
    memory = -runtime.max(-float(memory))
    model, machine = read_model(config), machine_of_run(runtime, memory)
    adjusted, lines = fitted(config, model, machine)
    # Of the rank that writes: the others' machines may have other disks, and all have to hear of it.
    found = disk_problem(config, model, machine) if runtime.is_main else ""
    if problem := runtime.gather([found])[0]:
        if config.plan == "auto":
            raise UserError(f"{problem}; or go on all the same with --plan warn")
        lines = [*lines, problem]
    if runtime.is_main:
        for line in lines:
            console.print(f"[yellow]{line}[/]")
    return adjusted


def disk_problem(config: SFTConfig | GRPOConfig, model: Model, machine: Machine, steps: int | None = None) -> str:
    """What the disks lack for a run of so many steps, and what to do; "" where its files fit."""
    try:
        check_disks(config, model, machine, steps)
    except UserError as error:
        return str(error)
    return ""


def fitted(config: Config, model: Model, machine: Machine) -> tuple[Config, list[str]]:
    """The settings as they are to run on ``machine``, and a line for each thing that is to be said.

    Raises:
        UserError: as `plan_first`.
    """
    solved = solve_batch(config, machine.gpus) if isinstance(config, GRPOConfig) else config
    memory = step_memory(solved, model, machine)
    found = changes(solved, model, machine, memory)
    if memory.verdict != "over" and not (found and found[0].same_result and found[0].differs):
        return config, []
    if not found or not found[0].same_result:
        line = over(memory, found)
        if config.plan == "auto":
            raise UserError(f"{line}; or go on all the same with --plan warn")
        return config, [line]
    if config.plan == "warn":
        return config, [f"plan: {says(memory, found[0])} (plan warn: nothing is changed)"]
    pulled = {name: value for name, value in found[0].changes.items() if name in _own(config, found[0])}
    return replace(config, **pulled), [f"plan: {says(memory, found[0])}"]


def over(memory: StepMemory, found: list[Option]) -> str:
    """That it does not fit, and the cheapest change that would."""
    why = memory.problem or f"{memory.peak / GB:.1f} GB are expected at its peak, {memory.limit / GB:.1f} GB are there"
    there = f"this run does not fit: {why}"
    if not found:
        return f"{there}; no other setting would make it fit: take a larger GPU, more of them, or a smaller model"
    said = f"{there}; the cheapest change is {proposal(found[0])}"
    # A person who trains all weights may rather wait than train adapters.
    milder = next((option for option in found[1:] if option.weight < found[0].weight), None)
    return said if milder is None else f"{said}; less is changed by {proposal(milder)}"


def proposal(option: Option) -> str:
    """What to set, what it takes, and what it means."""
    launch = f", launched with {option.machine.launcher}.yaml" if "launcher" in option.families else ""
    return f"{option.flags}{launch} ({option.memory.peak / GB:.1f} GB; {'; '.join(option.says)}; {option.pace})"


def says(memory: StepMemory, option: Option) -> str:
    """What is changed without another result, in one line."""
    changed, parts = dict(option.changes), []
    if changed.pop(BATCH, None):
        parts.append(
            f"micro-batches of {memory.tokens:,} tokens become {option.memory.tokens:,}, "
            f"{changed.pop(ACCUMULATION)} of them in a step, whose batch stays the same"
        )
    if LEVELS.index(option.memory.recompute) <= LEVELS.index(memory.recompute):
        changed.pop("gradient_checkpointing", None)
    parts += [f"{name} {spelt(value)}" for name, value in changed.items()]
    return f"{', and '.join(parts)}: {option.memory.peak / GB:.1f} GB at the peak instead of {memory.peak / GB:.1f}"


def _own(config: SFTConfig | GRPOConfig, option: Option) -> set[str]:
    """Of the changes, those that the run has to be told; recomputation that was left to it is chosen later, by what is
    free then.
    """
    return set(option.changes) - ({"gradient_checkpointing"} if config.recompute is None else set())
