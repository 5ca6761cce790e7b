"""The files that hold the results of an evaluation, each made by one rename.

``results.json`` is ``{"model", "fingerprint", "open_r1", "tasks", "settings"}``: each of ``tasks`` is a
`open_r1.evaluation.results.TaskResult` with its intervals as ``{"mean", "low", "high"}``; ``settings`` are those of the
last command, to which the tasks of earlier ones were drawn alike. ``results.parquet`` has a row a task, subject and
metric: `METRICS_SCHEMA`. ``model_card.md`` is for people.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from open_r1 import __version__
from open_r1.config import EvaluateConfig
from open_r1.evaluation.chat_model import ChatModel
from open_r1.evaluation.model_card import model_card
from open_r1.evaluation.results import SubjectResult, TaskResult
from open_r1.evaluation.statistics import Interval
from open_r1.evaluation.store import changed_settings
from open_r1.files import read_json, write_json, write_text
from open_r1.locks import held

METRICS_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("subject", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("problems", pa.int64()),
        ("samples", pa.int64()),
    ]
)
"""Of ``results.parquet``. ``subject`` is null for the whole task, ``low`` and ``high`` where there is no interval."""

_PLAIN = (
    "truncated",
    "mean_tokens",
    "median_tokens",
    "p95_tokens",
    "tokens",
    "tokens_per_second",
    "empty",
    "unverified",
    "seconds",
)
"""The metrics without an interval, by their names in `TaskResult`."""

_DRAWN_ALIKE = (
    "engine",
    "temperature",
    "top_p",
    "top_k",
    "max_new_tokens",
    "seed",
    "torch_dtype",
    "system_prompt",
    "chat_template",
)
"""Settings that the results in one file share."""


def write_results(folder: Path, model: ChatModel, results: Sequence[TaskResult], config: EvaluateConfig) -> str | None:
    """Writes ``results.json``, ``results.parquet`` and ``model_card.md``.

    The results of other tasks that an earlier command left there stay in all three, if they are of the same model and
    their answers were drawn alike.

    Returns:
        What to say of those that do not stay; None where all do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    with held(folder / ".results.lock"):  # an evaluation of another task may end at the same moment
        earlier = read_json(path) or {}
        new = {result.task: result for result in results}
        kept = {one.task: one for one in _results_in(earlier)}
        changed = _changed(earlier, model, config)
        left = sorted(kept.keys() - new.keys()) if changed else []
        shown = list((new if changed else kept | new).values())
        _write_metrics(folder / "results.parquet", shown)
        write_text(folder / "model_card.md", model_card(model.name, shown, config))
        record = {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "open_r1": __version__,
            "tasks": [asdict(result) for result in shown],
            "settings": _settings(config),
        }
        write_json(path, record)
    if not left:
        return None
    return f"{path}: {', '.join(left)} left it, as other answers than these ({changed}); the generations are kept"


def _changed(earlier: Mapping[str, Any], model: ChatModel, config: EvaluateConfig) -> str:
    """In what the results of an earlier command differ from those of this one, for all tasks; empty where nothing."""

    def compared(fingerprint: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": fingerprint, **{name: settings.get(name) for name in _DRAWN_ALIKE}}

    old = compared(earlier.get("fingerprint"), earlier.get("settings") or {})
    return changed_settings(old, compared(model.fingerprint, _settings(config)))


def _results_in(record: Mapping[str, Any]) -> Iterator[TaskResult]:
    """The results in a ``results.json``; what another version wrote and this one cannot read is left out."""
    limit = (record.get("settings") or {}).get("limit")  # an older version wrote none for each task
    for task in record.get("tasks") or []:
        try:
            nested = {
                "pass_at_k": {k: Interval(**value) for k, value in task["pass_at_k"].items()},
                "majority": task["majority"] and Interval(**task["majority"]),
                "subjects": [SubjectResult(**part) for part in task["subjects"]],
            }
            yield TaskResult(**{"limit": limit} | task | nested)
        except (AttributeError, KeyError, TypeError):
            continue


def _settings(config: EvaluateConfig) -> dict[str, Any]:
    # A key to a server is nobody's business; no_effect is what the person wrote in vain.
    return {key: value for key, value in asdict(config).items() if key != "no_effect" and not key.endswith("_key")}


def _write_metrics(path: Path, results: Sequence[TaskResult]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(list(_metrics(results)), schema=METRICS_SCHEMA), temporary)
    os.replace(temporary, path)


def _metrics(results: Sequence[TaskResult]) -> Iterator[dict[str, Any]]:
    for result in results:
        row = {"task": result.task, "problems": result.problems, "samples": result.samples}
        whole = {"pass@1": Interval(result.pass_at_1, result.low, result.high)}
        whole |= {f"pass@{k}": interval for k, interval in result.pass_at_k.items()}
        if result.majority is not None:
            whole[f"maj@{result.samples}"] = result.majority
        for metric, interval in whole.items():
            yield row | {"metric": metric, "value": interval.mean, "low": interval.low, "high": interval.high}
        for metric in _PLAIN:
            yield row | {"metric": metric, "value": getattr(result, metric)}
        yield row | {"metric": "rejected_gold", "value": len(result.rejected_gold)}
        for part in result.subjects:
            numbers = {"value": part.pass_at_1, "low": part.low, "high": part.high, "problems": part.problems}
            yield row | {"subject": part.subject, "metric": "pass@1"} | numbers
