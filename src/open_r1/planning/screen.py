"""A plan as a person reads it, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from open_r1.config import GRPOConfig
from open_r1.generation.colocated_memory import ASLEEP
from open_r1.machine.disks import size_text
from open_r1.planning.duration import step_tokens
from open_r1.planning.memory import StepMemory
from open_r1.planning.options import Option
from open_r1.planning.plan import Plan
from open_r1.planning.situation import CONTEXT, size_flag
from open_r1.report.tables import number
from open_r1.training.pack_budget import longest_sequence

GB = 1e9
NAME = 16
"""Columns of the names at the left."""
SIZE = 9
FLAGS = 72
"""Columns of a line of flags."""


def rendered(plan: Plan) -> Iterator[RenderableType]:
    """All lines of a plan."""
    yield _head(plan)
    yield ""
    yield from (_line(name, text) for name, text in _facts(plan))
    yield ""
    yield from _memory(plan)
    yield ""
    yield from _outcome(plan)
    yield from (_line(name, text) for name, text in _cost(plan))


def _head(plan: Plan) -> Text:
    machine = plan.machine
    where = machine.name if machine.gpus == 1 else f"{machine.gpus} × {machine.name}, {machine.launcher}"
    if machine.memory is not None:
        where += f" ({(machine.memory + CONTEXT) / GB:.1f} GB{' each' if machine.gpus > 1 else ''})"
    return Text.assemble((f"plan: {plan.model.name}", "bold"), f" on {where}")


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    settings, work = plan.settings, plan.machine.work(plan.settings, plan.model, 1)
    weights, compute = (str(dtype).removeprefix("torch.") for dtype in (work.weight_dtype, work.compute_dtype))
    trained = "all of them trained" if work.adapters is None else f"{_short(work.adapters)} of adapters trained"
    held = f"{work.bits}-bit" if work.bits else weights
    yield "model", f"{_short(plan.model.shape.parameters)} parameters, {trained}; {held} weights, {compute} compute"
    if isinstance(settings, GRPOConfig):
        prompts = "1 prompt" if settings.prompts_per_step == 1 else f"{settings.prompts_per_step} prompts"
        each = f"{prompts} × {settings.num_generations} completions"
        yield "batch", f"{each}, each of up to {longest_sequence(settings):,} tokens with its prompt"
    else:
        batch, steps = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
        gpus = f" × {plan.machine.gpus} GPUs" if plan.machine.gpus > 1 else ""
        tokens = step_tokens(settings, plan.machine)
        yield (
            "batch",
            f"{batch} × {settings.max_length:,} tokens × accumulation {steps}{gpus} = {tokens:,} tokens a step",
        )
    yield "data", _data(plan)


def _data(plan: Plan) -> str:
    data = plan.data
    rows = f"{data.rows:,} rows" if data.rows is not None else ""
    tokens = f"{_short(data.total)} tokens" if data.total is not None else ""
    known = ", ".join(filter(None, (rows, tokens)))
    return f"{known} ({data.source})" if known else data.source


def _memory(plan: Plan) -> Iterator[Text]:
    """A table of parts; beside what was asked for, what would run instead."""
    option = next((option for option in plan.found if option.differs), None)
    columns = [("as asked", plan.memory)] + ([("changed", option.memory)] if option else [])
    yield Text(f"  {'memory, GB':<{NAME}}" + "".join(f"{name:>{SIZE + 2}}" for name, _ in columns), style="bold")
    for name, values in _parts([memory for _, memory in columns]):
        strong = "bold" if name.startswith("peak") else ""
        cells = "".join(f"{value:>{SIZE + 2}}" for value in values)
        yield Text(f"  {name:<{NAME}}{cells}", style=strong)


def _parts(memories: list[StepMemory]) -> Iterator[tuple[str, list[str]]]:
    for name in ("weights", "gradients", "optimizer", "activations"):
        yield name, [_gb(getattr(memory.parts, name)) for memory in memories]
    yield "layer or head", [_gb(max(memory.parts.layer, memory.parts.head)) for memory in memories]
    if any(memory.engine for memory in memories):
        yield "vLLM", [_gb(memory.engine.engine) if memory.engine else "–" for memory in memories]
        yield "  its cache", [_gb(memory.engine.cache) if memory.engine else "–" for memory in memories]
        asleep = [memory.engine is not None and memory.engine.sleeps for memory in memories]
        if any(asleep):
            yield "  asleep", [_gb(ASLEEP) if each else "–" for each in asleep]
    if any(memory.drawing for memory in memories):
        yield "while drawing", [_gb(memory.drawing) if memory.drawing else "–" for memory in memories]
    yield "peak", [_gb(memory.peak) for memory in memories]
    if memories[0].limit is not None:
        yield "  in nvidia-smi", [_gb(memory.shown) for memory in memories]
    yield "recompute", [memory.recompute for memory in memories]
    yield "tokens at once", [f"{memory.tokens:,}" for memory in memories]


def _outcome(plan: Plan) -> Iterator[RenderableType]:
    verdict, changed = plan.memory.verdict, [option for option in plan.found if option.differs]
    if plan.problem:
        yield _said("✗", "red", f"would be refused: {plan.problem}")
    elif plan.machine.memory is None:
        yield _said("•", "dim", "planned for a CPU: nothing is compared with its memory")
    elif verdict == "fits" and not plan.adjusted:
        yield _said("✓", "green", "fits" if plan.storage.fits else "fits into memory")
    elif verdict == "fits":
        yield _said("✓", "green", "fits; the run takes smaller micro-batches by itself, for less recomputation:")
    elif verdict == "tight":
        yield _said("!", "yellow", "fits without room for fragments; better:" if changed else "fits, barely")
    elif plan.adjusted:
        yield _said("!", "yellow", "does not fit as asked; the run changes this by itself, with the same result:")
    else:
        why = plan.memory.problem.partition(";")[0]
        yield _said("✗", "red", f"does not fit: {why}" if why else "does not fit")
        if not plan.found:
            yield Text("  No change of its settings makes it fit: take a larger GPU, more of them, or a smaller model.")
    for place, option in enumerate(changed):
        yield from _option(plan, option, place)
    if changed:
        yield ""
    if plan.slow:
        yield _said("!", "yellow", plan.slow)
    if not plan.storage.fits:
        yield _said("!", "yellow", "not enough room on the disk, see below")


def _option(plan: Plan, option: Option, place: int) -> Iterator[Text]:
    named = "or" if place else "changed to" if option.same_result else "the cheapest change"
    barely = ", barely" if option.memory.verdict == "tight" else ""
    yield Text(f"\n  {named}: {option.memory.peak / GB:.1f} GB{barely}, {option.pace}", style="bold")
    yield from (Text(f"    {says}", style="dim") for says in option.says)
    lines = _folded(option.flags) if option.flags else []
    if "launcher" in option.families:
        program = "grpo" if isinstance(plan.settings, GRPOConfig) else "sft"
        file = f"recipes/accelerate_configs/{option.machine.launcher}.yaml"
        lines = [f"accelerate launch --config_file {file}", f"src/open_r1/{program}.py …", *lines]
    yield Text("      " + " \\\n      ".join(lines), style="cyan")


def _folded(flags: str) -> list[str]:
    """Flags with their values on lines of at most `FLAGS` columns."""
    lines: list[str] = []
    for flag in flags.replace(" --", "\n--").splitlines():
        if lines and len(lines[-1]) + 1 + len(flag) <= FLAGS:
            lines[-1] += f" {flag}"
        else:
            lines.append(flag)
    return lines


def _cost(plan: Plan) -> Iterator[tuple[str, str]]:
    changed = ", changed" if plan.found and plan.found[0].differs else ""
    if plan.steps is None:
        yield f"steps{changed}", f"unknown: give {size_flag(plan.settings)}, or set --max_steps"
    else:
        most = "at most " if isinstance(plan.settings, GRPOConfig) else ""
        yield f"steps{changed}", f"{plan.steps:,}, {most}{_short(plan.tokens)} tokens"
    if plan.problem:
        yield "time", "none: it would not begin"
    elif plan.duration is None:
        yield "time", "unknown: no rate is known of this machine; where it is this one, open-r1 bench measures it"
    else:
        yield "time", _time(plan)
        yield "", plan.duration.source
    yield from _storage(plan)


def _time(plan: Plan) -> str:
    duration = plan.duration
    drawn = "s of drawing beside it" if duration.overlaps else "of it drawing"
    parts = f" ({duration.drawing:.1f} {drawn})" if duration.drawing else ""
    said = f"{duration.step:.1f} s a step{parts}, {number(duration.tokens_per_second)} tokens/s"
    if plan.hours is not None:
        said = f"about {_hours(plan.hours)}; {said}"
    return said if plan.cost is None else f"{said}; costs {plan.cost:,.2f}"


def _storage(plan: Plan) -> Iterator[tuple[str, str]]:
    storage = plan.storage
    kept = "number unknown, one is counted" if storage.kept is None else f"{storage.kept} kept"
    saved = f"{size_text(storage.checkpoint)} a checkpoint ({kept})" if storage.kept != 0 else "no checkpoints"
    yield "disk", f"{saved}, final model {size_text(storage.final)}"
    for space in storage.disks:
        yield "", f"{space!s}{'' if space.fits else '  NOT ENOUGH'}"
        if not space.fits:
            yield "", f"→ {storage.remedy}"
    if storage.download:
        yield "download", f"{size_text(storage.download)} of weights from the hub"


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data; bytes, seconds, tokens."""
    return {
        "model": plan.model.name,
        "parameters": plan.model.shape.parameters,
        "machine": {
            "gpu": plan.machine.name,
            "gpus": plan.machine.gpus,
            "nodes": plan.machine.nodes,
            "launcher": plan.machine.launcher,
        },
        "fits": plan.fits,
        "problem": plan.problem,
        "slow": plan.slow,
        "memory": _memory_json(plan.memory),
        "changes": [_option_json(option) for option in plan.found if option.differs],
        "rows": plan.data.rows,
        "steps": plan.steps,
        "tokens": plan.tokens,
        "seconds_a_step": plan.duration and plan.duration.step,
        "tokens_per_second": plan.duration and plan.duration.tokens_per_second,
        "rate_from": plan.duration and plan.duration.source,
        "hours": plan.hours,
        "cost": plan.cost,
        "disk": {
            "checkpoint": plan.storage.checkpoint,
            "checkpoints_kept": plan.storage.kept,
            "final_model": plan.storage.final,
            "token_cache": plan.storage.tokens,
            "download": plan.storage.download,
            "fits": plan.storage.fits,
            "remedy": plan.storage.remedy,
            "mounts": [
                {"mount": str(space.disk.mount), "need": space.need, "free": space.disk.free, "fits": space.fits}
                for space in plan.storage.disks
            ],
        },
    }


def _memory_json(memory: StepMemory) -> dict[str, Any]:
    return {
        "verdict": memory.verdict,
        "problem": memory.problem,
        "peak": round(memory.peak),
        "nvidia_smi": round(memory.shown),
        "limit": memory.limit,
        "recompute": memory.recompute,
        "compiled": memory.compiled,
        "micro_batch_tokens": memory.tokens,
        "parts": {name: round(value) for name, value in asdict(memory.parts).items()},
        "engine": memory.engine and asdict(memory.engine),
        "drawing": round(memory.drawing),
    }


def _option_json(option: Option) -> dict[str, Any]:
    return {
        "settings": option.changes,
        "flags": option.flags,
        "launcher": option.machine.launcher,
        "same_result": option.same_result,
        "slowdown": round(option.slowdown, 3),
        "says": list(option.says),
        "memory": _memory_json(option.memory),
    }


def _said(mark: str, style: str, text: str) -> Text:
    return Text.assemble((mark, style), f" {text}")


def _line(name: str, text: str) -> Text:
    return Text(f"  {name:<{NAME}}  {text}")


def _gb(size: float) -> str:
    return f"{size / GB:,.1f}"


def _short(count: float) -> str:
    for unit, power in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= power:
            return f"{count / power:.2f} {unit}" if power == 1e9 else f"{count / power:.1f} {unit}"
    return f"{count:,.0f}"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
