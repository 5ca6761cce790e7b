"""The plan of a run: a pure function of its settings, its model's shape, the machine and what is known of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from open_r1.config import GRPOConfig, SFTConfig, solve_batch
from open_r1.data.packing import plan as plan_packs
from open_r1.machine.rates import Rate
from open_r1.planning.duration import Duration, step_duration, step_tokens
from open_r1.planning.memory import StepMemory, step_memory
from open_r1.planning.options import Option, choose, options
from open_r1.planning.refusals import on_machine, refusal, slow_type
from open_r1.planning.situation import Data, Machine, Model
from open_r1.planning.storage import Storage, storage
from open_r1.training.grpo_source import steps_of

FILL = 0.99
"""Of packs, by best fit (docs/data.md: 99.5 % at 16,384)."""


@dataclass(frozen=True)
class Plan:
    """All that is known before a run.

    Attributes:
        settings: as asked for, GRPO's batch solved.
        memory: as asked for.
        found: where that does not fit, or fits with recomputation that smaller micro-batches save: what to change, the
            cheapest first; each of the others changes something else than it.
        steps: optimizer steps; None where the data's size is not known.
        tokens: that are trained on; of GRPO, at most.
        duration: of a step; None where nothing is known of the machine, or the run would be refused.
        storage: on disks.
        price: of all GPUs for an hour.
    """

    settings: SFTConfig | GRPOConfig
    model: Model
    machine: Machine
    data: Data
    memory: StepMemory
    found: tuple[Option, ...]
    steps: int | None
    tokens: int | None
    duration: Duration | None
    storage: Storage
    price: float | None = None

    @property
    def fits(self) -> bool:
        """Whether a run would begin, and find the memory it needs; its disks are in ``storage``."""
        return self.memory.verdict == "fits" and not self.problem

    @property
    def problem(self) -> str:
        """Why a run would be refused, whatever memory there is; "" where it would not."""
        return refusal(self.settings, *on_machine(self.machine))

    @property
    def slow(self) -> str:
        """That the chip emulates the type that is computed in; "" where it does not."""
        return slow_type(self.settings, on_machine(self.machine)[1])

    @property
    def adjusted(self) -> Option | None:
        """What the run itself would change, the result staying the same; None where there is nothing, or no way."""
        return self.found[0] if self.found and self.found[0].same_result and self.found[0].differs else None

    @property
    def hours(self) -> float | None:
        """Of all steps; evaluation and checkpoints are not in it."""
        return None if self.duration is None or self.steps is None else self.duration.step * self.steps / 3600

    @property
    def cost(self) -> float | None:
        return None if self.hours is None or self.price is None else self.hours * self.price


def plan_run(
    settings: SFTConfig | GRPOConfig,
    model: Model,
    machine: Machine,
    data: Data,
    price: float | None = None,
    rates: Sequence[Rate] = (),
) -> Plan:
    """Plans a run.

    Args:
        price: of one GPU for an hour.
        rates: that ``open-r1 bench`` has measured.

    Raises:
        UserError: GRPO's sizes do not go together.
    """
    if isinstance(settings, GRPOConfig):
        settings = solve_batch(settings, machine.gpus)
    memory = step_memory(settings, model, machine)
    refused = refusal(settings, *on_machine(machine))
    found = () if refused else tuple(changes(settings, model, machine, memory))
    # How long it takes is told of what would run.
    option = found[0] if found and found[0].differs else None
    ran, how, held = (option.settings, option.machine, option.memory) if option else (settings, machine, memory)
    steps, tokens = _length(ran, how, data)
    return Plan(
        settings,
        model,
        machine,
        data,
        memory,
        found,
        steps,
        tokens,
        None if refused else step_duration(ran, model, how, held, data, rates),
        storage(ran, model, how, data, steps),
        None if price is None else price * machine.gpus,
    )


def changes(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, memory: StepMemory) -> list[Option]:
    """What to change, the cheapest first: nothing where all is well; what leaves the result the same goes before."""
    chosen = memory.recompute == "none" or settings.recompute is not None or isinstance(settings, GRPOConfig)
    if memory.verdict == "fits" and chosen:
        return []
    if same := options(settings, model, machine, same_result=True):
        saves = memory.verdict != "fits" or same[0].memory.recompute != memory.recompute
        return same[:1] if saves and same[0].differs else []
    others = choose(options(settings, model, machine))
    tight = options(settings, model, machine, same_result=True, verdicts=("tight",))
    return [*tight[:1], *others] if tight else others


def _length(settings: SFTConfig | GRPOConfig, machine: Machine, data: Data) -> tuple[int | None, int | None]:
    """Steps, and tokens that are trained on."""
    a_step = step_tokens(settings, machine)
    if isinstance(settings, GRPOConfig):
        steps = settings.max_steps if settings.max_steps > 0 else None
        if steps is None and data.rows is not None:
            apart = settings.eval_holdout if settings.eval_strategy != "no" else 0
            epoch = max(0, data.rows - apart) * settings.num_iterations / settings.prompts_per_step
            steps = steps_of(settings.num_train_epochs, epoch)
        return steps, None if steps is None else steps * a_step
    packs_a_step = a_step // settings.max_length
    if settings.max_steps > 0:
        return settings.max_steps, round(settings.max_steps * a_step * FILL)
    packs, tokens = _epoch(settings, data)
    if packs is None:
        return None, None
    return math.ceil(packs * settings.num_train_epochs / packs_a_step), round(tokens * settings.num_train_epochs)


def _epoch(settings: SFTConfig, data: Data) -> tuple[float, float] | tuple[None, None]:
    """Packs of an epoch, and the tokens in them."""
    if data.tokens is not None or data.lengths is None or not len(data.lengths):
        return (None, None) if data.total is None else (data.total / (settings.max_length * FILL), data.total)
    if data.rows is None:
        return None, None
    made = plan_packs(
        data.lengths,
        settings.max_length,
        seed=0,
        epoch=0,
        overlong=settings.overlong,
        packing=settings.packing,
        batch_size=settings.per_device_train_batch_size,
    )
    scale = data.rows / len(data.lengths)
    tokens = made.tokens * scale
    if not settings.packing:
        return len(made) * scale * settings.per_device_train_batch_size, tokens
    return tokens / (settings.max_length * (FILL if scale > 1 else made.fill or 1)), tokens
