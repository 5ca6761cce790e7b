"""A stage's settings: recipe, overrides, what the pipeline adds, and the checks before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from open_r1.errors import UserError
from open_r1.pipeline.manifest import find_inputs
from open_r1.pipeline.settings import check_stages, written_settings
from open_r1.pipeline.spec import Pipeline, fill, read_pipeline


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pipeline_of(*stages: dict[str, Any]) -> Pipeline:
    Path("p.yaml").write_text(yaml.safe_dump({"output_dir": "runs", "seed": 3, "stages": list(stages)}))
    return read_pipeline("p.yaml")


def sft(**settings: Any) -> dict[str, Any]:
    return {"name": "sft", "kind": "sft", "settings": {"model_name_or_path": "m", "dataset_name": "d", **settings}}


def evaluate(**settings: Any) -> dict[str, Any]:
    return {"name": "evaluate", "kind": "evaluate", "settings": {"model": "m", **settings}}


def test_a_recipe_is_overridden_whatever_name_a_setting_goes_by() -> None:
    Path("recipe.yaml").write_text("max_seq_length: 100\nlearning_rate: 0.1\noutput_dir: data/x\nseed: 5\n")
    pipeline = pipeline_of({**sft(**{"max-length": 200}), "config": "recipe.yaml"})
    written = written_settings(pipeline, pipeline.stages[0])
    assert written["max_length"] == 200
    assert "max_seq_length" not in written
    assert written["learning_rate"] == 0.1
    assert (written["seed"], written["output_dir"]) == ("{seed}", "{stage_dir}")


def test_a_tilde_is_the_home_folder_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("rows.jsonl", "work.py", "ddp.yaml"):
        (tmp_path / "home" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "home" / name).touch()
    stages = [
        {"name": "a", "kind": "script", "run": "~/work.py", "args": {"output": "~/out"}},
        {"launcher": "~/ddp.yaml", **sft(dataset_name="~/rows.jsonl")},
    ]
    Path("p.yaml").write_text(yaml.safe_dump({"output_dir": "~/runs", "stages": stages}))
    pipeline = read_pipeline("p.yaml")
    check_stages(pipeline)
    script, training = pipeline.stages
    home = str(tmp_path / "home")
    assert str(pipeline.output_dir) == f"{home}/runs" and script.run == f"{home}/work.py"
    assert fill(script.settings, {}) == {"output": f"{home}/out"}
    assert training.launcher == {"config_file": f"{home}/ddp.yaml"}
    found = find_inputs(pipeline, training, written_settings(pipeline, training))
    assert found == [f"{home}/ddp.yaml", f"{home}/rows.jsonl"]
    assert str(read_pipeline("p.yaml", output_dir="~/else").output_dir) == f"{home}/else"


def test_a_stage_may_say_its_own_seed() -> None:
    pipeline = pipeline_of(sft(seed=9))
    assert written_settings(pipeline, pipeline.stages[0])["seed"] == 9


def test_generation_writes_into_its_folder_unless_told_where() -> None:
    pipeline = pipeline_of({"name": "g", "kind": "generate", "settings": {"model": "m", "dataset_name": "d"}})
    written = written_settings(pipeline, pipeline.stages[0])
    assert written["output"] == "{stage_dir}/generations.jsonl"
    assert written["dataset"] == "d"
    assert "output_dir" not in written


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (sft(learning_rat=1), "p.yaml: stage sft: learning_rat: unknown setting; did you mean learning_rate?"),
        (sft(learning_rate="fast"), "stage sft: learning_rate: 'fast'"),
        (sft(output_dir="x"), "output_dir is set by the pipeline"),
        (sft(max_length=1, max_seq_length=2), "max_seq_length is another name of max_length"),
        (sft(dataset_name="data/rows.jsonl"), "dataset_name: there is no data/rows.jsonl"),
        (sft(model_name_or_path="my/own/model"), "model_name_or_path: there is no my/own/model"),
        ({**sft(), "launcher": "none.yaml"}, "launcher: there is no file none.yaml"),
        ({**sft(), "config": "none.yaml"}, "none.yaml: cannot be read"),
        ({"name": "s", "kind": "script", "run": "none.py"}, "run: there is no file none.py"),
        (evaluate(tasks="gsm8k, problems=t.jsonl"), "there is no t.jsonl"),
    ],
)
def test_a_bad_setting_is_said_before_anything_runs(stage: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_stages(pipeline_of(stage))
    assert said in str(caught.value)


def test_what_an_earlier_stage_will_write_need_not_exist() -> None:
    Path("make.py").touch()
    check_stages(
        pipeline_of(
            {"name": "make", "kind": "script", "run": "make.py"},
            sft(dataset_name="{make}/rows.jsonl"),
            evaluate(model="{sft}", tasks=["problems={make}/test.jsonl"]),
        )
    )
