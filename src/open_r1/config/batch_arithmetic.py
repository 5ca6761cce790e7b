"""How many prompts and completions an optimizer step of GRPO has, and how processes share them.

Each process draws whole groups, so with D completions a micro-batch, A micro-batches, groups of G and W processes a
step of P prompts has D · A = P / W · G, all of them whole. What is unset is solved for; what cannot be is refused with
the nearest sizes that work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

from open_r1.config.settings import PositiveInt, Range, Settings
from open_r1.errors import UserError

USUAL = 8
"""Completions of a process, at least, and of a micro-batch, at most, where nothing says otherwise."""

BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


@dataclass(kw_only=True)
class BatchConfig(Settings):
    """Batch of a step"""

    prompts_per_step: PositiveInt | None = None
    """Prompts of one optimizer step over all processes; unset follows from the next three."""

    per_device_train_batch_size: PositiveInt | None = None
    """Completions of one micro-batch of one process; unset is what the other three leave, else 8."""

    gradient_accumulation_steps: PositiveInt | None = None
    """Micro-batches added up in one optimizer step; unset is what the other three leave, else whole groups need."""

    num_generations: Annotated[int, Range(2)] = 8
    """Completions of one prompt: the group that advantages are taken over."""


Config = TypeVar("Config", bound=BatchConfig)


def solve_batch(config: Config, world_size: int) -> Config:
    """The settings with all four of `BatchConfig` set, such that every process draws whole groups.

    Raises:
        UserError: what is given does not go together; names the nearest sizes that do.
    """
    group = config.num_generations
    batch, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    if config.prompts_per_step is None:
        batch, accumulation = _whole_groups(batch, accumulation, group)
    else:
        batch, accumulation = _share(config.prompts_per_step, batch, accumulation, group, world_size)
    return replace(
        config,
        prompts_per_step=batch * accumulation // group * world_size,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
    )


def batch_line(config: BatchConfig, world_size: int) -> str:
    """A solved batch in words."""
    prompts = "1 prompt" if config.prompts_per_step == 1 else f"{config.prompts_per_step:,} prompts"
    return (
        f"{prompts} × {config.num_generations} completions a step ({BATCH} "
        f"{config.per_device_train_batch_size} × {ACCUMULATION} {config.gradient_accumulation_steps} × processes "
        f"{world_size})"
    )


def _whole_groups(batch: int | None, accumulation: int | None, group: int) -> tuple[int, int]:
    """Batch and accumulation whose product is whole groups, the missing one as small as may be."""
    if batch is None and accumulation is None:
        return _split(math.ceil(USUAL / group) * group)
    if accumulation is None:
        return batch, group // math.gcd(batch, group)
    if batch is None:
        unit = group // math.gcd(accumulation, group)
        return math.ceil(USUAL / unit) * unit, accumulation
    share = batch * accumulation
    if share % group:
        unit = group // math.gcd(batch, group)
        advice = f"set {ACCUMULATION} to {_either(_around(accumulation, unit))}"
        if groups := _nearest_divisors(share, group, least=2):
            advice += f", or num_generations to {_either(groups)}"
        raise UserError(
            f"{share} completions of a process ({BATCH} {batch} × {ACCUMULATION} {accumulation}) are not whole groups "
            f"of num_generations {group}: {advice}"
        )
    return batch, accumulation


def _share(prompts: int, batch: int | None, accumulation: int | None, group: int, world_size: int) -> tuple[int, int]:
    """Batch and accumulation of a process's share of ``prompts``."""
    given = {name: value for name, value in ((BATCH, batch), (ACCUMULATION, accumulation)) if value is not None}
    product = math.prod(given.values())
    shared, share = prompts % world_size == 0, prompts // world_size * group
    if shared and not given:
        return _split(share)
    if shared and (share == product if len(given) == 2 else share % product == 0):
        return batch or share // product, accumulation or share // product

    advice = {name: _fitting(share, value, product, len(given)) if shared else [] for name, value in given.items()}
    advice["prompts_per_step"] = _prompts_that_fit(prompts, product, group, world_size, len(given))
    changes = ", or ".join(f"{name} to {_either(values)}" for name, values in advice.items() if values)
    if changes:
        changes = f"set {changes}"
    elif shared:
        changes = f"leave {BATCH} and {ACCUMULATION} out"
    else:
        changes = f"leave {BATCH} and {ACCUMULATION} out, and set prompts_per_step to "
        changes += _either(_around(prompts, world_size))
    if not shared:
        raise UserError(f"prompts_per_step {prompts} cannot be shared evenly by {world_size} processes: {changes}")
    raise UserError(
        f"prompts_per_step {prompts} × num_generations {group} over {world_size} processes is {share} completions of "
        f"each, which {' × '.join(f'{name} {value}' for name, value in given.items())} "
        f"{'is not' if len(given) == 2 else 'does not divide'}: {changes}"
    )


def _fitting(share: int, value: int, product: int, factors: int) -> list[int]:
    """What ``value``, one of one or two factors of ``product``, may be: it divides ``share``, or both make it."""
    if factors == 1:
        return _nearest_divisors(share, value)
    other = product // value
    return [share // other] if share % other == 0 else []


def _prompts_that_fit(prompts: int, product: int, group: int, world_size: int, factors: int) -> list[int]:
    """The nearest prompts of a step of which each process has ``product`` completions, or a multiple of them."""
    if factors == 2:
        return [product // group * world_size] if product % group == 0 else []
    return _around(prompts, product // math.gcd(product, group) * world_size)


def _split(share: int) -> tuple[int, int]:
    """Micro-batches of at most `USUAL` completions."""
    batch = max(size for size in range(1, min(share, USUAL) + 1) if share % size == 0)
    return batch, share // batch


def _around(value: int, unit: int) -> list[int]:
    """The multiples of ``unit`` below and above a value that is none."""
    below = value // unit * unit
    return [size for size in (below, below + unit) if size]


def _nearest_divisors(number: int, value: int, least: int = 1) -> list[int]:
    """The two divisors of ``number`` that are nearest to ``value``."""
    divisors = [size for size in range(least, number + 1) if number % size == 0]
    return sorted(sorted(divisors, key=lambda size: abs(size - value))[:2])


def _either(values: Iterable[int]) -> str:
    return " or ".join(map(str, values))
