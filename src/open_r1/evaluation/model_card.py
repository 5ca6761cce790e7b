"""Results as Markdown, to be put into a model's card or to be one.

The head is the hub's ``model-index`` (``modelcard.md`` in huggingface/hub-docs), which wants the id of a data set on
the hub: it lists the tasks that were asked from there, wholly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from open_r1 import __version__
from open_r1.config import EvaluateConfig
from open_r1.evaluation.results import TaskResult, notes
from open_r1.evaluation.statistics import Interval
from open_r1.report.tables import interval, percent

_TASK_TYPE = {"type": "text-generation", "name": "Text Generation"}


def model_card(model: str, results: Sequence[TaskResult], config: EvaluateConfig) -> str:
    """The whole file.

    Args:
        model: hub id or local folder.
    """
    name = Path(model).name if Path(model).exists() else model
    return "\n".join([*_head(name, results), "## Evaluation", "", *_body(results, config)]) + "\n"


def model_index(name: str, results: Sequence[TaskResult]) -> list[dict[str, Any]]:
    """The hub's ``model-index``: pass@1 and majority vote, as fractions of 1; empty where no task came from the hub."""
    listed = [_index_entry(result) for result in results if result.dataset is not None]
    return [{"name": name, "results": listed}] if listed else []


def _index_entry(result: TaskResult) -> dict[str, Any]:
    dataset = {"type": result.dataset["id"], "name": result.task}
    dataset |= {key: result.dataset[key] for key in ("config", "split") if result.dataset.get(key)}
    metrics = [{"type": "pass@1", "value": round(result.pass_at_1, 6), "name": "pass@1"}]
    if result.majority is not None:
        name = f"maj@{result.samples}"
        metrics.append({"type": name, "value": round(result.majority.mean, 6), "name": name})
    return {"task": dict(_TASK_TYPE), "dataset": dataset, "metrics": metrics}


def _head(name: str, results: Sequence[TaskResult]) -> Iterator[str]:
    index = model_index(name, results)
    if index:
        yield "---\n" + yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True) + "---\n"


def _body(results: Sequence[TaskResult], config: EvaluateConfig) -> Iterator[str]:
    yield from _markdown(
        ["task", "problems × answers", "pass@1", "95 % interval", "cut off", "mean tokens"],
        [
            [
                result.task,
                f"{result.problems:,} × {result.samples}",
                percent(result.pass_at_1),
                interval(result.low, result.high),
                percent(result.truncated),
                f"{result.mean_tokens:,.0f}",
            ]
            for result in results
        ],
    )
    several = [result for result in results if result.samples > 1]
    if several:
        yield from _of_many_samples(several)
    for result in results:
        if result.subjects:
            yield from _markdown(
                [f"{result.task} by subject", "problems", "pass@1", "95 % interval"],
                [
                    [part.subject, f"{part.problems:,}", percent(part.pass_at_1), interval(part.low, part.high)]
                    for part in result.subjects
                ],
            )
    yield settings_line(config, results) + "."
    yield ""
    yield "Intervals are bootstrapped over problems. pass@1 is the mean over answers, then over problems."
    yield from ["", *(f"- {note}" for note in notes(results))]


def _of_many_samples(results: Sequence[TaskResult]) -> Iterator[str]:
    shown = sorted({int(k) for result in results for k in result.pass_at_k})
    rows = [
        [
            result.task,
            str(result.samples),
            _with_interval(result.majority),
            *(_with_interval(result.pass_at_k.get(str(k))) for k in shown),
        ]
        for result in results
    ]
    yield from _markdown(["task", "n", "maj@n", *(f"pass@{k}" for k in shown)], rows)


def _with_interval(value: Interval | None) -> str:
    return "–" if value is None else f"{percent(value.mean)} ({interval(value.low, value.high)})"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose first column is a name and whose others are numbers, and an empty line."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join([" --- ", *[" ---: "] * (len(header) - 1)]) + "|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


def settings_line(config: EvaluateConfig, results: Sequence[TaskResult] = ()) -> str:
    """How the answers were drawn, in one line.

    Args:
        results: of all that is shown, which may be of several commands with limits of their own.
    """
    limits = {result.limit for result in results} or {config.limit}
    if len(limits) == 1:
        limited = [f"the first {limit} problems of each task" for limit in limits if limit]
    else:
        limited = [f"the first {result.limit} problems of {result.task}" for result in results if result.limit]
    sampled = "greedy" if config.temperature == 0 else f"temperature {config.temperature:g}, top_p {config.top_p:g}"
    if config.temperature and config.top_k:
        sampled += f", top_k {config.top_k}"
    further = [f"{name.replace('_', ' ')} of its own" for name in _OF_ITS_OWN if getattr(config, name)]
    parts = [
        f"Zero-shot with the chat template, engine {config.engine}",
        sampled,
        f"at most {config.max_new_tokens:,} new tokens",
        *([f"dtype {config.torch_dtype}"] if config.engine != "openai" else []),  # a server says nothing of its own
        f"seed {config.seed}",
        *limited,
        *further,
        f"open-r1 {__version__}",
    ]
    return ", ".join(parts)


_OF_ITS_OWN = ("system_prompt", "chat_template")
