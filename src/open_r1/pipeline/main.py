"""``open-r1 run pipeline.yaml``: read, check every stage, run what has changed, say what came out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from open_r1.config import RunConfig, parse
from open_r1.errors import StopRequested, UserError
from open_r1.pipeline.decision import Action
from open_r1.pipeline.lock import folder_lock
from open_r1.pipeline.runner import chosen_stages, decisions, follow_renumbering, run_stages
from open_r1.pipeline.settings import check_stages
from open_r1.pipeline.spec import Pipeline, Stage, read_pipeline
from open_r1.pipeline.summary import summarize, summary_table, write_summary
from open_r1.report.html import write_report


def main(argv: Sequence[str]) -> None:
    """Runs the pipeline that ``argv`` (without the program's name) names.

    Raises:
        UserError: a bad pipeline file or setting, before anything runs; or a stage that failed.
        StopRequested: Ctrl-C or SIGTERM; the stage that was running has saved.
    """
    config = parse(RunConfig, list(argv), prog="open-r1 run").config
    pipeline = read_pipeline(config.pipeline, seed=config.seed, output_dir=config.output_dir)
    stages = chosen_stages(pipeline, config.from_stage, config.until)
    check_stages(pipeline)
    console = Console()
    if config.dry_run and not os.path.exists(pipeline.output_dir):
        console.print(decision_table(pipeline, stages))
        return
    with folder_lock(pipeline.output_dir) as lock:
        follow_renumbering(pipeline)
        if config.dry_run:
            console.print(decision_table(pipeline, stages))
            return
        try:
            run_stages(pipeline, stages, console, lock)
        except StopRequested as error:
            raise StopRequested(f"{error}; to go on from there: {_again(config)}", error.signal_number) from None
        except UserError as error:
            raise UserError(f"{error}; to go on from there: {_again(config)}") from error
        finish(pipeline, [stage for stage, _ in stages], console)


def finish(pipeline: Pipeline, stages: Sequence[Stage], console: Console) -> None:
    """Writes the summary and the report, and shows the table."""
    summary = summarize(pipeline, stages)
    written: list[Path] = [write_summary(pipeline, summary)]
    console.print(summary_table(summary))
    try:
        written.append(write_report(pipeline.output_dir))
    except Exception as error:  # a report that cannot be drawn must not fail a run whose results are on disk
        console.print(f"[yellow]no report[/]: {type(error).__name__}: {escape(str(error))}")
    for path in written:
        console.print(escape(str(path)), highlight=False, soft_wrap=True)


def decision_table(pipeline: Pipeline, stages: list[tuple[Stage, bool]]) -> Table:
    """What would be done with each stage, and why."""
    table = Table(
        "stage", "kind", "would", "because", title=f"{pipeline.name} in {pipeline.output_dir}", title_justify="left"
    )
    for decision in decisions(pipeline, stages):
        style = "dim" if decision.action is Action.SKIP else None
        stage = decision.stage
        table.add_row(escape(stage.name), stage.kind, decision.action.value, escape(decision.reason), style=style)
    return table


def _again(config: RunConfig) -> str:
    """The command that goes on with this run; without ``--from``, which would start that stage anew."""
    words = ["open-r1", "run", config.pipeline]
    for flag in ("seed", "output_dir", "until"):
        if getattr(config, flag) is not None:
            words += [f"--{flag}", str(getattr(config, flag))]
    return shlex.join(words)
