"""Evaluation of GRPO on held-out prompts: what it measures, and that training does not notice it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from training_runs import Run, assert_same_weights, train

from open_r1.config import GRPOConfig
from open_r1.data.prompts import PromptSet
from open_r1.errors import StopRequested, UserError
from open_r1.generation.decode import Decoder
from open_r1.generation.engine import SamplingParams
from open_r1.training.held_out_prompts import choose, hold_out, overlap
from open_r1.training.held_out_rewards import eval_params

CLOCKS = ("seconds", "tokens_per_second")
EVERY = {"eval_strategy": "steps", "eval_steps": 2}


def prompts(*ids: int) -> PromptSet:
    messages = [[{"role": "user", "content": str(number)}] for number in ids]
    return PromptSet(messages, [(number,) for number in ids], [{"problem": str(number)} for number in ids])


@pytest.fixture
def split_sums(sums: Path, tmp_path: Path) -> Path:
    """The sums as a folder of two splits: 40 to train on, 7 to test."""
    folder = tmp_path / "sums"
    folder.mkdir()
    lines = sums.read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:40]))
    (folder / "test.jsonl").write_text("".join(lines[40:]))
    return folder


def evaluations(run: Run) -> dict[int, dict[str, float]]:
    lines = {line["step"]: {name: line[name] for name in line if name.startswith("eval/")} for line in run.metrics}
    return {step: line for step, line in lines.items() if line}


def trained(run: Run) -> list[dict[str, Any]]:
    """What training measured, without what depends on the time."""
    return [
        {name: value for name, value in line.items() if not name.startswith(("eval/", *CLOCKS))}
        for line in run.metrics
        if line["step"]
    ]


@pytest.mark.parametrize("async_steps", [0, 1])
def test_training_does_not_notice_it(
    async_steps: int, grpo_settings: dict[str, Any], split_sums: Path, tmp_path: Path
) -> None:
    """Bit for bit, with rollouts in hand at every other evaluation, and others under way."""
    how = {"num_iterations": 2, "async_steps": async_steps, "max_steps": 6}
    settings = grpo_settings | how | {"dataset_name": split_sums}
    plain = train("grpo", tmp_path / "plain", **settings)
    watched = train("grpo", tmp_path / "watched", **settings, eval_strategy="steps", eval_steps=1, eval_on_start=True)
    assert list(evaluations(watched)) == [0, 1, 2, 3, 4, 5, 6]
    assert evaluations(plain) == {}
    assert trained(watched) == trained(plain)
    assert_same_weights(watched.weights, plain.weights)


def test_every_evaluation_is_recorded(grpo_settings: dict[str, Any], split_sums: Path, tmp_path: Path) -> None:
    """Whatever steps are logged."""
    settings = grpo_settings | {"dataset_name": split_sums, "max_steps": 6, "logging_steps": 4}
    run = train("grpo", tmp_path, **settings, eval_strategy="steps", eval_steps=3, eval_on_start=True)
    assert list(evaluations(run)) == [0, 3, 6]
    assert [line["step"] for line in run.metrics] == [0, 3, 4, 6]


def test_told_to_stop_within_an_evaluation(
    grpo_settings: dict[str, Any], split_sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, not waited for; the step before it is recorded and saved."""
    settings = grpo_settings | {"dataset_name": split_sums, "max_steps": 4, "lr_scheduler_type": "constant"}
    settings |= {"eval_strategy": "steps", "eval_steps": 2}
    whole = train("grpo", tmp_path / "whole", **settings)
    prefill, drawn = Decoder._prefill, []

    def stopping(self: Decoder, prompts: Any) -> Any:
        if self.params.temperature == 0:  # held-out answers
            drawn.append(len(self.waiting))
            os.kill(os.getpid(), signal.SIGTERM)
        return prefill(self, prompts)

    with monkeypatch.context() as patch, pytest.raises(StopRequested, match=r"after step 2 of 4; saved to .*point-2"):
        patch.setattr(Decoder, "_prefill", stopping)
        train("grpo", tmp_path / "run", **settings)
    assert len(drawn) == 1
    stopped = Run(tmp_path / "run")
    assert [line["step"] for line in stopped.metrics] == [1, 2]
    assert evaluations(stopped) == {}
    resumed = train("grpo", tmp_path / "run", **settings, resume_from_checkpoint="true")
    assert list(evaluations(resumed)) == [4]
    assert_same_weights(resumed.weights, whole.weights)


def test_the_curve_says_what_is_learnt(
    grpo_settings: dict[str, Any], split_sums: Path, even_reward: str, tmp_path: Path
) -> None:
    settings = grpo_settings | {"dataset_name": split_sums, "max_steps": 12, "per_device_train_batch_size": 16}
    run = train("grpo", tmp_path, **settings, eval_strategy="steps", eval_steps=6, eval_on_start=True)
    curve = evaluations(run)
    assert list(curve) == [0, 6, 12]
    names = {"eval/reward", f"eval/rewards/{even_reward}", "eval/completion_length", "eval/truncated"}
    assert all(set(line) == names for line in curve.values())
    assert all(line["eval/reward"] == line[f"eval/rewards/{even_reward}"] for line in curve.values())
    assert curve[12]["eval/reward"] > curve[0]["eval/reward"] + 0.1
    assert all(
        1 <= line["eval/completion_length"] <= 12 and 0 <= line["eval/truncated"] <= 1 for line in curve.values()
    )
    assert [line["seconds_evaluate"] > 0 for line in run.metrics if "seconds_evaluate" in line] == [True] * 3


def test_a_resumed_run_evaluates_as_the_one_that_went_on(
    grpo_settings: dict[str, Any], split_sums: Path, tmp_path: Path
) -> None:
    """Greedy answers, and drawn ones too: their seeds are the same each time."""
    how = {"num_generations_eval": 2, "eval_on_start": True, "save_strategy": "steps", "save_steps": 2}
    settings = grpo_settings | EVERY | how | {"dataset_name": split_sums, "max_steps": 4}
    whole = train("grpo", tmp_path / "run", **settings)
    before = evaluations(whole)
    (whole.folder / "train_results.json").unlink()
    resumed = train("grpo", tmp_path / "run", **settings, resume_from_checkpoint="true")
    assert evaluations(resumed) == before
    assert list(before) == [0, 2, 4]


def test_training_prompts_kept_apart(grpo_settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    how = {"eval_holdout": 7, "log_completions": True, "num_completions_to_print": 4, "max_steps": 20}
    run = train("grpo", tmp_path / "run", **grpo_settings, **EVERY, **how)
    assert "held out: 7 prompts kept apart from training" in capsys.readouterr().err
    asked = {
        json.loads(line)["prompt"][-1]["content"]
        for line in (run.folder / "completions.jsonl").read_text().splitlines()
    }
    rows = [json.loads(line)["problem"] for line in Path(grpo_settings["dataset_name"]).read_text().splitlines()]
    assert asked < set(rows)
    assert run.metrics[-1]["epoch"] == pytest.approx(20 * 2 / 40)


def test_without_a_test_split_there_is_one_clear_error(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'test': name one with --dataset_test_split, .*--eval_holdout 64"):
        train("grpo", tmp_path, **grpo_settings, **EVERY, max_steps=1)


def test_prompts_that_come_twice_are_on_one_side_only() -> None:
    everything = prompts(*range(20), *range(10))
    train_on, held_out = hold_out(everything, 8, seed=3)
    assert len(held_out) == len(set(held_out.token_ids)) == 8
    assert overlap(train_on, held_out) == 0
    assert set(train_on.token_ids) | set(held_out.token_ids) == set(everything.token_ids)
    assert [row["problem"] for row in held_out.rows] == [str(ids[0]) for ids in held_out.token_ids]
    assert hold_out(everything, 8, seed=3)[1].token_ids == held_out.token_ids
    assert hold_out(everything, 8, seed=4)[1].token_ids != held_out.token_ids
    with pytest.raises(UserError, match="eval_holdout 20 leaves none of 20 different prompts to train on"):
        hold_out(everything, 20, seed=3)


def test_at_most_so_many_prompts_the_same_each_time() -> None:
    some = choose(prompts(*range(100)), 10, seed=1)
    assert len(some) == 10
    assert some.token_ids == sorted(some.token_ids) == choose(prompts(*range(100)), 10, seed=1).token_ids
    assert some.token_ids != choose(prompts(*range(100)), 10, seed=2).token_ids
    assert choose(prompts(1, 2), 10, seed=1).token_ids == [(1,), (2,)]


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [({}, 0.0), ({"num_generations_eval": 4}, 0.7), ({"eval_temperature": 0.3}, 0.3)],
)
def test_answers_are_greedy_unless_several_are_asked_for(settings: dict[str, Any], temperature: float) -> None:
    config = GRPOConfig(model_name_or_path="m", dataset_name="d", output_dir="o", temperature=0.7, **settings)
    assert eval_params(config, SamplingParams(5, 0.7, top_k=3)) == SamplingParams(5, temperature, top_k=3)


def test_sft_too_may_be_evaluated_before_its_first_step(
    sft_settings: dict[str, Any], split_sums: Path, tmp_path: Path
) -> None:
    settings = sft_settings | {"dataset_name": split_sums, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    run = train("sft", tmp_path / "run", **settings, eval_on_start=True)
    losses = {line["step"]: line["eval_loss"] for line in run.metrics if "eval_loss" in line}
    assert list(losses) == [0, 2]
    assert losses[2] < losses[0]
