"""The cheapest change with which a run fits: levers tried together, the batch of a step kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.errors import UserError
from open_r1.model.layers import LEVELS
from open_r1.planning.duration import seconds_of_step
from open_r1.planning.levers import ACCUMULATION, ENGINE, LENGTH, Lever, axes
from open_r1.planning.memory import StepMemory, step_memory
from open_r1.planning.refusals import on_machine, refusal
from open_r1.planning.situation import Machine, Model

ALTERNATIVES = 2


@dataclass(frozen=True)
class Option:
    """Settings with which it fits.

    Attributes:
        changes: settings by name, those alone that differ.
        memory: then.
        slowdown: time of a step beside what was asked for, were there memory for it with nothing recomputed; 0.25 is a
            quarter longer.
        weight: how much more the time counts for what is changed: 1.0 for nothing.
        families: kinds of change that alter what is trained, or how it is launched.
        says: each change in a few words.
    """

    settings: SFTConfig | GRPOConfig
    machine: Machine
    changes: dict[str, Any]
    memory: StepMemory
    slowdown: float
    weight: float
    families: tuple[str, ...]
    says: tuple[str, ...]

    @property
    def cost(self) -> float:
        """By which options are ordered."""
        return (1 + self.slowdown) * self.weight

    @property
    def pace(self) -> str:
        """The time of a step, in words."""
        if self.slowdown < -0.05:
            return f"{1 / (1 + self.slowdown):.1f} × as fast"
        if self.slowdown >= 1:
            return f"{1 + self.slowdown:.1f} × as long"
        return f"{self.slowdown:.0%} slower" if self.slowdown >= 0.02 else "as fast"

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
        return " ".join(f"--{name} {spelt(value)}" for name, value in self.changes.items())


def options(
    settings: SFTConfig | GRPOConfig,
    model: Model,
    machine: Machine,
    *,
    same_result: bool = False,
    verdicts: Sequence[str] = ("fits",),
) -> list[Option]:
    """All changes with which a step fits, the cheapest first; after all others those of what draws, and of the data's
    length.

    Args:
        same_result: only those that leave the result the same.
        verdicts: of `StepMemory` that count as fitting.
    """
    best = seconds_of_step(settings, model, machine, _unhindered(settings, model, machine))
    found = []
    for levers in product(*axes(settings, model, machine, same_result=same_result)):
        if same_result and any(lever.family for lever in levers):
            continue
        option = _pull(settings, model, machine, levers, best)
        if option is not None and option.memory.verdict in verdicts:
            found.append(option)
    return sorted(
        found,
        key=lambda option: (LENGTH in option.families, ENGINE in option.families, option.cost, option.memory.peak),
    )


def choose(found: Sequence[Option]) -> list[Option]:
    """The cheapest option, and up to two that change something else than it, and change less or need less memory.

    Another engine, and then other lengths, are proposed only where nothing else fits.
    """
    chosen: list[Option] = []
    for option in found:
        kinds = set(option.families)
        if kinds & {ENGINE, LENGTH} and chosen:
            break
        more_of_the_same = any(kinds >= set(other.families) and other.families for other in chosen)
        smaller = all(option.memory.peak < other.memory.peak for other in chosen)
        milder = all(option.weight < other.weight for other in chosen)
        if not more_of_the_same and (smaller or milder):
            chosen.append(option)
        if len(chosen) > ALTERNATIVES:
            break
    return chosen


def _pull(
    settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, levers: Sequence[Lever], best: float
) -> Option | None:
    """The settings with these levers pulled; None where they do not go together."""
    changes: dict[str, Any] = {}
    for name, value in (pair for lever in levers for pair in lever.settings):
        if name == ACCUMULATION and name in changes:
            value = changes[name] * value // getattr(settings, name)
        changes[name] = value
    changes = {name: value for name, value in changes.items() if value != getattr(settings, name)}
    launcher = next((lever.launcher for lever in levers if lever.launcher), machine.launcher)
    machine = replace(machine, launcher=launcher)
    try:
        changed = replace(settings, **changes)
    except UserError:
        return None
    if refusal(changed, *on_machine(machine)):
        return None
    memory = step_memory(changed, model, machine)
    seconds = seconds_of_step(changed, model, machine, memory)
    slowdown = seconds / best * (1 + sum(lever.slower for lever in levers)) - 1
    left_to_run = isinstance(settings, SFTConfig) and settings.recompute is None
    if left_to_run and memory.recompute != LEVELS[0] and any(lever != Lever() for lever in levers):
        changes["gradient_checkpointing"] = memory.recompute
    return Option(
        changed,
        machine,
        changes,
        memory,
        slowdown,
        math.prod(1 + lever.penalty for lever in levers),
        tuple(lever.family for lever in levers if lever.family),
        tuple(lever.says for lever in levers if lever.says),
    )


def _unhindered(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine) -> StepMemory:
    """As the settings ask, on a GPU without a limit."""
    return step_memory(settings, model, replace(machine, memory=1e15 if machine.memory is not None else None))


def spelt(value: Any) -> str:
    """A setting's value, as a command line takes it."""
    if isinstance(value, bool | None):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
