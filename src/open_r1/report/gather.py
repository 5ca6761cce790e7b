"""Reads what a run left on disk into plain records; knows file names and formats, nothing of HTML."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_r1.files import read_json
from open_r1.report.curves import Curves, read_curves


@dataclass(frozen=True)
class StageRecord:
    """A stage's folder.

    Attributes:
        seconds: that it took; of a single evaluation, those of its tasks. None where nothing tells.
        manifest: as the pipeline wrote it; of a folder that no pipeline made its settings, where they are known.
        curves: of its ``metrics.jsonl``.
        tasks: of its ``results.json``, one record a task; shares are fractions of 1.
        alarms: of its ``alarms.jsonl``: ``step``, ``alarm`` or ``rule``, ``metric`` and ``text`` each.
    """

    name: str
    kind: str
    folder: Path
    seconds: float | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class RunRecord:
    """A pipeline's folder, or the folder of a single command."""

    name: str
    folder: Path
    seed: int | None
    seconds: float | None
    stages: list[StageRecord]

    @property
    def evaluations(self) -> list[StageRecord]:
        return [stage for stage in self.stages if stage.tasks]

    @property
    def versions(self) -> dict[str, str]:
        """Those of the last stage."""
        return next((stage.manifest["versions"] for stage in reversed(self.stages) if "versions" in stage.manifest), {})


def read_run(folder: Path) -> RunRecord:
    """The stages that ``summary.json`` lists; without one, the folder itself is the only stage."""
    summary = read_json(folder / "summary.json")
    if summary is None:
        only = _read_stage(folder, folder.resolve().name, _kind(folder))
        return RunRecord(only.name, folder, None, None, [only])
    stages = [
        _read_stage(folder / entry["folder"], entry["name"], entry["kind"], entry["seconds"])
        for entry in summary["all_stages"]
    ]
    return RunRecord(summary["pipeline"], folder, summary["seed"], summary["seconds"], stages)


def _read_stage(folder: Path, name: str, kind: str, seconds: float | None = None) -> StageRecord:
    results = read_json(folder / "results.json") or {}
    tasks = results.get("tasks") or []
    settings = read_json(folder / "settings.json") or results.get("settings")
    curves = read_curves(folder / "metrics.jsonl")
    if seconds is None and not curves:
        seconds = sum(task.get("seconds") or 0 for task in tasks) or None
    return StageRecord(
        name=name,
        kind=kind,
        folder=folder,
        seconds=seconds,
        manifest=read_json(folder / "manifest.json") or ({"settings": settings} if settings else {}),
        curves=curves,
        tasks=tasks,
        alarms=_read_alarms(folder / "alarms.jsonl"),
    )


def _kind(folder: Path) -> str:
    """What made a folder that no pipeline made."""
    if (folder / "results.json").is_file():
        return "evaluate"
    settings = read_json(folder / "settings.json")
    if settings is None:
        return "train"
    return "grpo" if "reward_funcs" in settings else "sft"


def _read_alarms(path: Path) -> list[dict[str, Any]]:
    """Lines that are whole."""
    alarms = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            alarms.append({"step": float(entry["step"]), **{name: str(entry[name]) for name in ("metric", "text")}})
            alarms[-1] |= {name: str(entry[name]) for name in ("alarm", "rule") if name in entry}
        except (ValueError, TypeError, KeyError):
            continue
    return alarms
