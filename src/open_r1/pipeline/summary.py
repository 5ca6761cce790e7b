"""What a pipeline came to: ``summary.json`` and the table at the end, both from the stages' folders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from open_r1.files import read_json, write_json
from open_r1.pipeline.manifest import MANIFEST
from open_r1.pipeline.spec import Pipeline, Stage
from open_r1.report.tables import interval, numbers_table, percent

SUMMARY = "summary.json"
_SCORES = ("pass_at_1", "low", "high", "truncated", "mean_tokens")


def summarize(pipeline: Pipeline, stages: Iterable[Stage]) -> dict[str, Any]:
    """The summary of the stages that are done.

    Returns:
        ``stages`` holds the evaluations in order, with their scores as fractions of 1 (over several tasks, their plain
        mean, and each task under ``tasks``); ``all_stages`` name, kind and seconds of every stage.
    """
    records = []
    for stage in stages:
        folder = pipeline.folder(stage)
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            continue
        record = {"name": stage.name, "kind": stage.kind, "seconds": manifest["seconds"], "folder": folder.name}
        if stage.kind == "evaluate":
            record |= _scores(folder)
        records.append(record)
    return {
        "pipeline": pipeline.name,
        "seed": pipeline.seed,
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "stages": [record for record in records if record["kind"] == "evaluate"],
        "all_stages": [{key: record[key] for key in ("name", "kind", "seconds", "folder")} for record in records],
    }


def write_summary(pipeline: Pipeline, summary: Mapping[str, Any]) -> Path:
    """Writes ``summary.json`` into the pipeline's folder."""
    path = pipeline.output_dir / SUMMARY
    write_json(path, summary)
    return path


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Every stage in order; the evaluations with their scores, one row a task where there are several."""
    table = numbers_table(["stage"], ["pass@1", "95 % interval", "truncated", "mean tokens", "seconds"])
    scored = {record["name"]: record for record in summary["stages"]}
    for stage in summary["all_stages"]:
        record = scored.get(stage["name"])
        if record is None:
            table.add_row(escape(stage["name"]), "", "", "", "", _seconds(stage["seconds"]), style="dim")
            continue
        table.add_row(f"[bold]{escape(stage['name'])}[/bold]", *_cells(record), _seconds(stage["seconds"]))
        if len(record["tasks"]) > 1:
            for task in record["tasks"]:
                table.add_row(f"  {escape(task['task'])}", *_cells(task), "")
    table.add_section()
    table.add_row("all", "", "", "", "", _seconds(summary["seconds"]))
    return table


def mean_over_tasks(tasks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The plain mean of each score over tasks.

    The interval's half-widths add in quadrature, as for independent estimates, and are divided by the number of tasks.
    """
    mean = {name: math.fsum(task[name] for task in tasks) / len(tasks) for name in _SCORES}
    if len(tasks) > 1:
        for end in ("low", "high"):
            width = math.sqrt(math.fsum((task["pass_at_1"] - task[end]) ** 2 for task in tasks)) / len(tasks)
            mean[end] = mean["pass_at_1"] + (width if end == "high" else -width)
    return mean


def _scores(folder: Path) -> dict[str, Any]:
    tasks = (read_json(folder / "results.json") or {}).get("tasks") or []
    return {**(mean_over_tasks(tasks) if tasks else dict.fromkeys(_SCORES)), "tasks": tasks}


def _cells(scores: Mapping[str, Any]) -> list[str]:
    tokens = scores["mean_tokens"]
    return [
        f"[bold]{percent(scores['pass_at_1'])}[/bold]",
        interval(scores["low"], scores["high"]),
        percent(scores["truncated"]),
        "–" if tokens is None else f"{tokens:,.0f}",
    ]


def _seconds(value: float) -> str:
    return f"{value:,.1f}"
