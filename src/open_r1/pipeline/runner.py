"""Runs a pipeline's stages in order, each in a process and a folder of its own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from open_r1.errors import StopRequested, UserError
from open_r1.files import read_json, write_json, write_text
from open_r1.pipeline.decision import Action, Decision, decide
from open_r1.pipeline.manifest import CONFIG, MANIFEST, STARTED, outputs_of, versions
from open_r1.pipeline.process import describe, run_process
from open_r1.pipeline.settings import written_settings
from open_r1.pipeline.spec import Pipeline, Stage, fill
from open_r1.report.tables import clock

REPLACED = ".replaced"


def chosen_stages(pipeline: Pipeline, from_stage: str | None, until: str | None) -> list[tuple[Stage, bool]]:
    """The stages of this run, each with whether it is to be done anew whatever its folder holds.

    Raises:
        UserError: a name that the pipeline does not have, or ``until`` lies before ``from_stage``.
    """
    first = pipeline.position(from_stage, "--from") if from_stage else len(pipeline.stages)
    last = pipeline.position(until, "--until") if until else len(pipeline.stages) - 1
    if from_stage and last < first:
        raise UserError(f"--until {until} comes before --from {from_stage}: nothing would run")
    return [(stage, position >= first) for position, stage in enumerate(pipeline.stages[: last + 1])]


def decisions(pipeline: Pipeline, stages: list[tuple[Stage, bool]]) -> Iterator[Decision]:
    """What is to be done with each stage; the caller may do it before it asks for the next one."""
    redone: set[str] = set()
    for stage, force in stages:
        decision = decide(pipeline, stage, redone, force=force)
        if decision.action is not Action.SKIP:
            redone.add(stage.name)
        yield decision


def run_stages(pipeline: Pipeline, stages: list[tuple[Stage, bool]], console: Console, lock: int) -> None:
    """Runs or skips each stage.

    Args:
        lock: file descriptor of the folder's lock, which the stages' processes keep.

    Raises:
        StopRequested: Ctrl-C or SIGTERM; the stage has saved.
        UserError: a stage failed.
    """
    for decision in decisions(pipeline, stages):
        stage = decision.stage
        label = f"[bold]{stage.number}/{len(pipeline.stages)} {escape(stage.name)}[/bold] ({stage.kind})"
        if decision.action is Action.SKIP:
            console.print(f"{label}: unchanged, {escape(decision.reason)}", highlight=False)
            continue
        console.rule(f"{label}: {decision.action.value}, {escape(decision.reason)}", align="left")
        seconds = _run_stage(pipeline, decision, console, lock)
        console.print(f"{label}: {clock(seconds)}", highlight=False)


def _run_stage(pipeline: Pipeline, decision: Decision, console: Console, lock: int) -> float:
    """Runs one stage to its manifest; returns the seconds that it took, earlier attempts that ended included."""
    stage, folder = decision.stage, pipeline.folder(decision.stage)
    _make_room(pipeline, decision, console)
    settings = fill(written_settings(pipeline, stage), pipeline.references(stage))
    command = _command(stage, folder, settings)
    record: dict[str, Any] = {
        "stage": stage.name,
        "kind": stage.kind,
        "identity": asdict(decision.identity),
        "inputs": {name: asdict(seen) for name, seen in decision.seen.items()},
        "settings": settings,
        "versions": versions(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": (read_json(folder / STARTED) or {}).get("seconds", 0.0),
        "command": command,
    }
    write_json(folder / STARTED, record)
    (folder / MANIFEST).unlink(missing_ok=True)  # of a stage that goes on from fewer answers
    start = time.monotonic()
    ended = run_process(command, inherit=(lock,))
    record["seconds"] = round(record["seconds"] + time.monotonic() - start, 3)
    if ended.stopped_by or ended.status:
        write_json(folder / STARTED, record)
    if ended.stopped_by:
        raise StopRequested(f"stopped in stage {stage.name}", ended.stopped_by)
    if ended.status:
        raise UserError(f"stage {stage.name} failed ({describe(ended.status)}); what it said is above")
    write_json(folder / MANIFEST, record | {"outputs": outputs_of(folder)})
    return record["seconds"]


def _make_room(pipeline: Pipeline, decision: Decision, console: Console) -> None:
    """Leaves a folder that is empty, or holds what this very stage had begun; anything else is moved away."""
    folder = pipeline.folder(decision.stage)
    trains_from_the_start = decision.stage.kind in ("sft", "grpo") and not any(folder.glob("checkpoint-*"))
    if decision.replaces:
        aside = _free_name(pipeline.output_dir / REPLACED / folder.name)
        aside.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(aside)
        console.print(f"what was in {escape(str(folder))} is now in {escape(str(aside))}", highlight=False)
    elif folder.exists() and (decision.action is Action.RUN or trains_from_the_start):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate


def _command(stage: Stage, folder: Path, settings: dict[str, Any]) -> list[str]:
    """The command of a stage, whose settings are written into its folder first."""
    if stage.run is not None:
        return [sys.executable, stage.run, *_flags(settings)]
    if stage.kind in ("sft", "grpo") and any(folder.glob("checkpoint-*")):
        settings = settings | {"resume_from_checkpoint": True}
    write_text(folder / CONFIG, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    module = ["-m", "open_r1", stage.kind, "--config", str(folder / CONFIG)]
    if stage.launcher is None:
        return [sys.executable, *module]
    return [sys.executable, "-m", "accelerate.commands.launch", *_flags(stage.launcher), *module]


def _flags(settings: dict[str, Any]) -> list[str]:
    """``{train: 2000, names: [a, b], fast: true, slow: false}`` as ``--train 2000 --names a b --fast``."""
    flags = []
    for key, value in settings.items():
        if value is False or value is None:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        flags += [f"--{key}", *map(str, values)]
    return flags


def follow_renumbering(pipeline: Pipeline) -> None:
    """Where stages were inserted or taken out, the folders of the others get their new numbers."""
    moves = []
    for stage in pipeline.stages:
        folder = pipeline.folder(stage)
        others = [path for path in pipeline.output_dir.glob(f"[0-9][0-9]-{stage.name}") if path != folder]
        if len(others) == 1 and not folder.exists():
            moves.append((others[0], folder))
    for old, new in moves:
        old.rename(new)
