"""What a model reached on a task: as a record, as JSON, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich import box
from rich.table import Table

from open_r1.config import EvaluateConfig
from open_r1.evaluation.chat_model import ChatModel
from open_r1.evaluation.statistics import bootstrap
from open_r1.files import write_json
from open_r1.report.tables import clock, interval, numbers_table, percent


@dataclass(frozen=True)
class TaskResult:
    """What a model reached on a task. Shares are fractions of 1.

    Attributes:
        task: its label.
        pass_at_1, low, high: mean over samples and problems, and its 95 % bootstrap interval.
        problems, samples: how many problems, and how many answers to each.
        truncated: share of the answers that were cut off.
        mean_tokens: of an answer.
        unverified: answers that could not be verified (time-out, unparsable gold); they count as not right.
        seconds: spent drawing and verifying, over all starts.
        generations: path of the Parquet file of every answer.
    """

    task: str
    pass_at_1: float
    low: float
    high: float
    problems: int
    samples: int
    truncated: float
    mean_tokens: float
    unverified: int
    seconds: float
    generations: str


def summarize(task: str, rows: pa.Table, samples: int, seconds: float, generations: Path, *, seed: int) -> TaskResult:
    """The result of a task from its generations.

    Args:
        rows: sorted by (problem, sample), each problem with exactly ``samples`` rows.
        seed: of the bootstrap.
    """
    rewards = rows["reward"].to_numpy(zero_copy_only=False)  # NaN where there is none
    score = bootstrap((rewards == 1).reshape(-1, samples), seed=seed)
    return TaskResult(
        task=task,
        pass_at_1=score.mean,
        low=score.low,
        high=score.high,
        problems=rows.num_rows // samples,
        samples=samples,
        truncated=float(np.mean([reason == "length" for reason in rows["finish_reason"].to_pylist()])),
        mean_tokens=float(rows["tokens"].to_numpy().mean()),
        unverified=rows["reward"].null_count,
        seconds=round(seconds, 1),
        generations=str(generations),
    )


def write_results(path: Path, model: ChatModel, results: Sequence[TaskResult], config: EvaluateConfig) -> None:
    """Writes ``results.json``: the model, a record a task, the settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in asdict(config).items() if key != "no_effect"}
    tasks = [asdict(result) for result in results]
    write_json(path, {"model": model.name, "fingerprint": model.fingerprint, "tasks": tasks, "settings": settings})


def results_table(results: Sequence[TaskResult]) -> Table:
    """The results as a table that fits a terminal of 80 columns."""
    table = numbers_table(["task"], ["answers", "pass@1", "95 % interval", "truncated", "tokens", "time"])
    table.box, table.pad_edge, table.show_edge = box.SIMPLE_HEAD, False, False
    for result in results:
        table.add_row(
            result.task,
            f"{result.problems} × {result.samples}",
            percent(result.pass_at_1),
            interval(result.low, result.high),
            percent(result.truncated),
            f"{result.mean_tokens:,.0f}",
            clock(result.seconds),
        )
    unverified = [f"{result.task} {result.unverified}" for result in results if result.unverified]
    if unverified:
        table.caption = f"could not be verified and count as not right: {', '.join(unverified)}"
    return table
