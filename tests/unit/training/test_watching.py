"""A run that is watched: what is said and when, and what a rule of ``stop_on`` leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import FakeRuntime
from small_loop import run_small
from training_runs import Run, assert_same_weights, train

from open_r1.cli import STOPPED_BY_RULE_STATUS, run_main
from open_r1.config import GRPOConfig
from open_r1.config.watch import METRICS
from open_r1.errors import StoppedByRule
from open_r1.training.loop import Trainer
from open_r1.training.watching import RunWatch

EMPTY = {"empty": 0.9}
FULL = {"empty": 0.0}


def watch(folder: Path, runtime: FakeRuntime | None = None, first_step: int = 0, **settings: Any) -> RunWatch:
    settings = {"alarm_steps": 3, "eval_strategy": "steps", "beta": 0.1} | settings
    config = GRPOConfig(model_name_or_path="m", dataset_name="d", output_dir=str(folder), **settings)
    made = RunWatch(config, runtime or FakeRuntime())
    made.resume(first_step)
    return made


def said(folder: Path) -> list[dict[str, Any]]:
    path = folder / "alarms.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_an_alarm_is_said_once_and_again_after_it_has_cleared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    watched = watch(tmp_path)
    course = [EMPTY] * 6 + [FULL] * 2 + [EMPTY] * 2 + [FULL] * 6 + [EMPTY] * 3
    seen = [watched.look(step, metrics) for step, metrics in enumerate(course, start=1)]
    on = [step for step, metrics in enumerate(seen, start=1) if metrics == {"alarm/empty": 1.0}]
    assert on == [*range(3, 15), 17, 18, 19]  # quiet for three steps before it is over: 15 and 16
    entries = said(tmp_path)
    assert [(entry["step"], entry["alarm"], entry["metric"]) for entry in entries] == [
        (3, "empty", "empty"),
        (17, "empty", "empty"),
    ]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["alarm empty at step 3", "alarm empty at step 17"]
    assert entries[0]["text"] in lines[0]


def fires_at(folder: Path, rule: str, course: list[dict[str, float]], **settings: Any) -> int | None:
    watched = watch(folder, stop_on=[rule], **settings)
    for step, metrics in enumerate(course, start=1):
        watched.look(step, metrics)
        if watched.fired:
            return step
    return None


@pytest.mark.parametrize(
    ("rule", "course", "step"),
    [
        ("kl_reference>1", [{"kl_reference": value} for value in (0.5, 1.0, 1.1)], 3),
        ("reward<0.2:2", [{"reward": value} for value in (0.1, 0.3, 0.1, 0.1)], 4),
        ("reward<0.2:2", [{"reward": value} for value in (0.1, math.nan, 0.1)], None),
        ("eval/reward<0.2:2", [{"eval/reward": 0.1}, {}, {"eval/reward": 0.3}, {"eval/reward": 0.1}, {}], None),
        ("eval/reward<0.2:2", [{"eval/reward": 0.1}, {}, {}, {"eval/reward": 0.1}], 4),
        ("empty", [EMPTY] * 4, 3),
        ("empty:2", [EMPTY] * 4, 4),
        ("any", [EMPTY] * 4, 3),
        ("kl", [EMPTY] * 9, None),
    ],
)
def test_when_a_rule_is_met(rule: str, course: list[dict[str, float]], step: int | None, tmp_path: Path) -> None:
    assert fires_at(tmp_path, rule, course) == step


def test_rules_work_without_alarms(tmp_path: Path) -> None:
    assert fires_at(tmp_path, "reward<0", [{"reward": -1.0, **EMPTY}] * 5, alarm_steps=0) == 1
    assert [list(entry) for entry in said(tmp_path)] == [["step", "rule", "metric", "text"]]


def test_what_was_known_before_a_resume_is_known_after_it(tmp_path: Path) -> None:
    rules = {"stop_on": ["reward<0.2:5", "eval/reward<0.5:2"]}
    whole, first = watch(tmp_path / "a", **rules), watch(tmp_path / "b", **rules)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    course = [{"reward": 0.1, **EMPTY} | ({"eval/reward": 0.4} if step == 3 else {}) for step in range(1, 9)]
    lines = []
    for step, metrics in enumerate(course[:6], start=1):
        seen = first.look(step, metrics)
        lines.append(json.dumps({"step": step, **metrics, **seen}) + "\n")
    (tmp_path / "b" / "metrics.jsonl").write_text("".join(lines))
    with (tmp_path / "b" / "alarms.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "alarm": "kl", "metric": "kl_reference", "text": "not again"}) + "\n")
    resumed = watch(tmp_path / "b", first_step=4, **rules)
    assert [entry["alarm"] for entry in said(tmp_path / "b")] == ["empty"]
    for step, metrics in enumerate(course, start=1):
        seen = whole.look(step, metrics)
        if step > 4:
            assert resumed.look(step, metrics) == seen
            assert bool(resumed.fired)
    assert "reward<0.2:5" in resumed.fired


def test_only_rank_zero_judges_and_all_stop(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Told(FakeRuntime):
        def max(self, value: float) -> float:
            assert value == 0.0
            return 1.0

    watched = watch(tmp_path, Told(rank=1, world_size=2), stop_on=["reward<0.2"])
    assert watched.look(1, {"reward": 0.0, **EMPTY}) == {}
    assert watched.fired
    assert capsys.readouterr().err == ""
    assert said(tmp_path) == []


def test_a_run_that_a_rule_ends(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    """It leaves a checkpoint and the model, and goes on from there as if it had not been stopped.

    What says something of completions counts once for all steps on them.
    """
    settings = grpo_settings | {"max_steps": 6, "num_iterations": 2, "lr_scheduler_type": "constant"}
    whole = train("grpo", tmp_path / "whole", **settings)
    folder = tmp_path / "run"
    with pytest.raises(StoppedByRule) as stop:
        train("grpo", folder, **settings, stop_on=["reward<2:2"])
    assert str(stop.value) == (
        f"stop_on 'reward<2:2' at step 3: reward is {whole.metrics[2]['reward']:.4g}, 2 times in a row; stopped after "
        f"step 3 of 6; saved to {folder}/checkpoint-3; the model is in {folder}"
    )
    stopped = Run(folder)
    assert stopped.checkpoints == [3]
    assert stopped.losses == whole.losses[:3]
    assert stopped.results["steps"] == 3
    assert stopped.weights.keys() == whole.weights.keys()
    assert [entry["rule"] for entry in said(folder)] == ["reward<2:2"]
    resumed = train("grpo", folder, **settings, resume_from_checkpoint="true")
    assert resumed.losses == whole.losses
    assert_same_weights(resumed.weights, whole.weights)


def test_a_rule_that_is_met_by_the_last_step_still_tells(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StoppedByRule, match="stopped after step 2 of 2; the model is in"):
        train("grpo", tmp_path, **grpo_settings, max_steps=2, stop_on=["reward<2:2"])
    assert Run(tmp_path).checkpoints == []
    assert Run(tmp_path).results["steps"] == 2


def test_the_command_says_one_line_and_exits_with_3(capsys: pytest.CaptureFixture) -> None:
    def stopped(_argv: list[str]) -> None:
        raise StoppedByRule("stop_on 'kl' at step 3: …; stopped after step 3 of 9")

    assert run_main(stopped, []) == STOPPED_BY_RULE_STATUS == 3
    assert capsys.readouterr().err == "stop_on 'kl' at step 3: …; stopped after step 3 of 9\n"


def test_rewards_that_are_never_given_are_said_in_a_real_run(
    grpo_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = grpo_settings | {"reward_funcs": ["accuracy"], "gold_check": False, "alarm_steps": 2, "max_steps": 4}
    run = train("grpo", tmp_path / "run", **settings)
    assert [line.get("alarm/reward_zero") for line in run.metrics] == [None, 1.0, 1.0, 1.0]
    assert capsys.readouterr().err.count("alarm reward_zero at step 2: the reward was 0 for every answer") == 1
    again = train("grpo", tmp_path / "run", **settings | {"max_steps": 1}, overwrite_output_dir=True)
    assert said(again.folder) == []


def test_the_settings_know_every_metric(grpo_settings: dict[str, Any], even_reward: str, tmp_path: Path) -> None:
    """Else a rule about one that is new would be refused."""
    how = {"beta": 0.1, "eval_strategy": "steps", "eval_steps": 1, "eval_holdout": 5, "num_iterations": 2}
    run = train("grpo", tmp_path, **grpo_settings, **how, max_steps=2)
    rewards = {f"rewards/{even_reward}", f"eval/rewards/{even_reward}"}
    assert set().union(*run.metrics) - rewards - {"step"} <= set(METRICS)


def test_the_step_that_is_under_way_is_finished(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As on a GPU, which is handed the next step before the last one is read."""
    rule = watch(tmp_path, stop_on=["loss>0:2"])

    def prepare(trainer: Trainer) -> None:
        trainer.steps_ahead, trainer.watch = 1, rule

    run = run_small(tiny_checkpoint, tmp_path / "run", prepare=prepare)
    assert rule.fired.startswith("stop_on 'loss>0:2' at step 2: loss is")
    assert len(run.losses) == 3
    assert run.result.step == 3
    assert run.result.stopped.startswith(f"{rule.fired}; stopped after step 3 of 5; saved to ")
    assert (tmp_path / "run" / "checkpoint-3").is_dir()
