"""The summary and its table, from results on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from open_r1.pipeline.spec import Pipeline, Stage
from open_r1.pipeline.summary import mean_over_tasks, summarize, summary_table


def task(name: str, value: float, low: float, high: float) -> dict:
    return {"task": name, "pass_at_1": value, "low": low, "high": high, "truncated": 0.1, "mean_tokens": 1200.0}


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    stages = (
        Stage(1, "make", "script", {}),
        Stage(2, "base", "evaluate", {}),
        Stage(3, "later", "evaluate", {}),
        Stage(4, "undone", "evaluate", {}),
    )
    for stage in stages[:3]:
        folder = tmp_path / stage.folder_name
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"seconds": 1.5 * stage.number}))
    one = [task("problems", 0.25, 0.2, 0.3)]
    two = [task("gsm8k", 0.5, 0.44, 0.54), task("aime24", 0.1, 0.02, 0.13)]
    (tmp_path / "02-base" / "results.json").write_text(json.dumps({"tasks": one}))
    (tmp_path / "03-later" / "results.json").write_text(json.dumps({"tasks": two}))
    return Pipeline(Path("p.yaml"), "demo", 5, tmp_path, stages)


def test_the_summary_holds_the_evaluations_in_order(pipeline: Pipeline) -> None:
    summary = summarize(pipeline, pipeline.stages)
    assert (summary["pipeline"], summary["seed"], summary["seconds"]) == ("demo", 5, 9.0)
    assert [stage["name"] for stage in summary["stages"]] == ["base", "later"]
    assert [stage["name"] for stage in summary["all_stages"]] == ["make", "base", "later"]
    base = summary["stages"][0]
    assert {key: base[key] for key in ("kind", "seconds", "pass_at_1", "low", "high", "truncated", "mean_tokens")} == {
        "kind": "evaluate",
        "seconds": 3.0,
        "pass_at_1": 0.25,
        "low": 0.2,
        "high": 0.3,
        "truncated": 0.1,
        "mean_tokens": 1200.0,
    }


def test_several_tasks_are_averaged_with_their_intervals_in_quadrature() -> None:
    mean = mean_over_tasks([task("a", 0.5, 0.44, 0.54), task("b", 0.1, 0.02, 0.13)])
    assert mean["pass_at_1"] == pytest.approx(0.3)
    assert mean["low"] == pytest.approx(0.3 - 0.05)  # sqrt(0.06² + 0.08²) / 2
    assert mean["high"] == pytest.approx(0.3 + 0.025)  # sqrt(0.04² + 0.03²) / 2


def test_the_table_has_every_stage_and_each_task(pipeline: Pipeline) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(summarize(pipeline, pipeline.stages)))
    lines = [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert "make 1.5" in lines
    assert "base 25.0 % 20.0 – 30.0 % 10.0 % 1,200 3.0" in lines
    assert "later 30.0 % 25.0 – 32.5 % 10.0 % 1,200 4.5" in lines
    assert "aime24 10.0 % 2.0 – 13.0 % 10.0 % 1,200" in lines
    assert "all 9.0" in lines
