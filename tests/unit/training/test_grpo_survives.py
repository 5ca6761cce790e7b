"""Reinforcement where something is wrong: rewards that die or hang, completions and data at their limits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint
from torch import nn
from training_runs import Run, assert_different_weights, assert_same_weights, load_weights, train
from transformers import AutoModelForCausalLM

from open_r1.errors import UserError
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.rewards.pool import RewardPool, Scores
from open_r1.training.rollouts import SILENT_AT_FIRST, SILENT_GROUPS

END, LETTER = 256, 65
"""Token ids of the tiny checkpoint: its end of turn, and a letter."""

REWARDS = """
import os, signal, time


def _odd(ids):
    return ids[0] % 2 == 1


def dies(completion_ids, **columns):
    if any(map(_odd, completion_ids)):
        os.kill(os.getpid(), signal.SIGKILL)
    return [len(ids) for ids in completion_ids]


def always_dies(completion_ids, **columns):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(completion_ids, **columns):
    if any(map(_odd, completion_ids)):
        time.sleep(600)
    return [len(ids) for ids in completion_ids]


def always_hangs(completion_ids, **columns):
    time.sleep(600)


def letters(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


def picky(completions, prompts, **columns):
    if "5+6" in prompts[0][-1]["content"]:
        raise ValueError("no such sum")
    return letters(completions)


def rarely(completions, prompts, **columns):
    return [1.0 if "5+6" in prompts[0][-1]["content"] else None] * len(completions)
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("survival") / "rewards.py"
    path.write_text(REWARDS)
    return str(path)


@pytest.fixture
def settings(grpo_settings: dict[str, Any], rewards: str) -> dict[str, Any]:
    """Two steps of four prompts; no prompt is drawn in another's place."""
    mine = {"prompts_per_step": 4, "max_steps": 2, "max_resample_rounds": 0, "reward_funcs": [f"{rewards}:letters"]}
    return {name: value for name, value in grpo_settings.items() if name != "per_device_train_batch_size"} | mine


def one_track_checkpoint(folder: Path, logits: dict[int, float]) -> Path:
    """A model that draws every token from softmax of ``logits`` (others are 0), whatever stands before."""
    save_tiny_checkpoint(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight))
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(1.0)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for token, logit in logits.items():  # the final norm leaves ones, of which there are 32
            model.lm_head.weight[token] = logit / model.config.hidden_size
    model.save_pretrained(folder)
    return folder


def few_prompts(path: Path, sums: Path, number: int) -> Path:
    path.write_text("".join(sums.read_text().splitlines(keepends=True)[:number]))
    return path


def assert_trained(run: Run, settings: dict[str, Any]) -> None:
    assert all(math.isfinite(loss) for loss in run.losses)
    assert_different_weights(run.weights, load_weights(settings["model_name_or_path"]))


def test_a_reward_that_kills_its_worker(
    settings: dict[str, Any], rewards: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Those answers get no reward, the others train, and it is said once."""
    run = train("grpo", tmp_path / "run", **settings | {"reward_funcs": [f"{rewards}:dies"]})
    assert sum(line["reward_errors"] for line in run.metrics) > 0
    assert_trained(run, settings)
    said = capsys.readouterr().err
    assert said.count("a reward function failed, its completions get no reward") == 1
    assert ":dies took its process down" in said, said


def test_a_reward_that_hangs(settings: dict[str, Any], rewards: str, tmp_path: Path) -> None:
    hanging = {"reward_funcs": [f"{rewards}:hangs"], "reward_timeout": 0.3, "prompts_per_step": 2}
    run = train("grpo", tmp_path / "run", **settings | hanging)
    assert sum(line["reward_timeouts"] for line in run.metrics) > 0
    assert_trained(run, settings)


@pytest.mark.parametrize(
    ("name", "reason"), [("always_dies", "took its process down"), ("always_hangs", "took longer than 0.3 s")]
)
def test_rewards_of_which_none_ever_comes_stop_the_run(
    name: str, reason: str, settings: dict[str, Any], rewards: str, tmp_path: Path
) -> None:
    broken = {"reward_funcs": [f"{rewards}:{name}"], "reward_timeout": 0.3}
    with pytest.raises(UserError) as caught:
        train("grpo", tmp_path / "run", **settings | broken)
    last = f"{rewards}:{name} {reason}"
    silent = f"the rewards failed on every completion of {SILENT_AT_FIRST} prompts in a row"
    assert str(caught.value) == f"{silent}; the last error: {last}"


def test_a_row_that_no_verifier_can_judge_costs_its_group(
    settings: dict[str, Any], rewards: str, sums: Path, tmp_path: Path
) -> None:
    """Also where it is the only one of its step."""
    data = few_prompts(tmp_path / "sums.jsonl", sums, 5)
    assert "5+6" in data.read_text()
    mine = {"dataset_name": data, "reward_funcs": [f"{rewards}:picky"], "prompts_per_step": 1, "max_steps": 10}
    run = train("grpo", tmp_path / "run", **settings | mine)
    assert [line["reward_errors"] for line in run.metrics].count(1) == 2  # once in each epoch
    assert len(run.losses) == 10


def test_a_verifier_that_is_lost_later_ends_the_run(
    settings: dict[str, Any], rewards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what was trained by then on disk."""
    judge = RewardPool.results

    def judged(pool: RewardPool, block: bool = False) -> Iterator[tuple[Any, Scores]]:
        for key, scores in judge(pool, block):
            seen.append(key)
            lost = len(seen) > 4
            yield key, Scores([[None] * len(row) for row in scores.values], errors=["lost"]) if lost else scores

    seen: list[Any] = []
    monkeypatch.setattr(RewardPool, "results", judged)
    said = rf"of {SILENT_GROUPS} prompts in a row; the last error: lost; stopped after step 2 of 9; "
    with pytest.raises(UserError, match=said + "saved to .*checkpoint-2"):
        train("grpo", tmp_path / "run", **settings | {"max_steps": 9})
    assert Run(tmp_path / "run").checkpoints == [2]


def test_an_engine_that_is_lost_costs_no_step(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings |= {"max_steps": 5, "lr_scheduler_type": "constant"}
    whole = train("grpo", tmp_path / "whole", **settings)
    generate, calls = TransformersEngine.generate, []

    def lost(self: TransformersEngine, requests: Any, params: Any) -> Iterator[Any]:
        calls.append(requests)
        if len(calls) == 4:
            raise UserError("the server is gone")
        return generate(self, requests, params)

    monkeypatch.setattr(TransformersEngine, "generate", lost)
    with pytest.raises(UserError, match=r"the server is gone; stopped after step 3 of 5; saved to .*checkpoint-3$"):
        train("grpo", tmp_path / "run", **settings)
    run = train("grpo", tmp_path / "run", **settings, resume_from_checkpoint="true")
    assert run.losses == whole.losses
    assert_same_weights(run.weights, whole.weights)


def test_no_reward_is_not_a_reward_of_zero(settings: dict[str, Any], rewards: str, sums: Path, tmp_path: Path) -> None:
    data = few_prompts(tmp_path / "sums.jsonl", sums, 5)
    mine = {"dataset_name": data, "reward_funcs": [f"{rewards}:rarely"], "prompts_per_step": 1, "max_steps": 5}
    run = train("grpo", tmp_path / "run", **settings | mine, log_completions=True)
    for name in ("reward", f"rewards/{rewards}:rarely"):
        assert sorted(line[name] is None for line in run.metrics) == [False] + 4 * [True]
        assert [line[name] for line in run.metrics if line[name] is not None] == [1.0]
    assert "NaN" not in (run.folder / "completions.jsonl").read_text()  # which is not JSON


def test_completions_that_cannot_be_written(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As on a disk that is full; it is said once."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "completions.jsonl").symlink_to("/dev/full")
    run = train("grpo", tmp_path / "run", **settings, log_completions=True)
    assert_trained(run, settings)
    assert capsys.readouterr().err.count("completions.jsonl cannot be written") == 1


@pytest.mark.parametrize(("length", "context"), [(64, 64), (80, 64)])
def test_a_prompt_without_room_for_an_answer_is_found_before_training(
    length: int, context: int, settings: dict[str, Any], sums: Path, tmp_path: Path
) -> None:
    model = save_tiny_checkpoint(tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"max_position_embeddings": context}
    (model / "config.json").write_text(json.dumps(config))
    lines = sums.read_text().splitlines()[:6]
    data = tmp_path / "sums.jsonl"
    data.write_text("\n".join([*lines, json.dumps(json.loads(lines[0]) | {"problem": "7" * length})]))
    mine = {"model_name_or_path": model, "dataset_name": data}
    with pytest.raises(UserError, match=rf"leaves no room for an answer in the model's context \({context}\)"):
        train("grpo", tmp_path / "run", **settings | mine)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    train("grpo", tmp_path / "again", **settings | mine, max_prompt_length=52)


def test_completions_of_which_half_are_empty(settings: dict[str, Any], tmp_path: Path) -> None:
    """The end of the turn is as likely as all other tokens together."""
    model = one_track_checkpoint(tmp_path / "model", {END: math.log(258)})
    run = train("grpo", tmp_path / "run", **settings | {"model_name_or_path": model, "log_completions": True})
    texts = [json.loads(line)["completion"] for line in (run.folder / "completions.jsonl").read_text().splitlines()]
    assert "" in texts
    assert any(texts)
    assert_trained(run, settings | {"model_name_or_path": model})


@pytest.mark.parametrize(("token", "truncated"), [(END, 0.0), (LETTER, 1.0)])
def test_completions_that_are_all_alike(
    token: int, truncated: float, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """All empty, or all one letter to the very end: no answer is better than another, and nothing is trained."""
    model = one_track_checkpoint(tmp_path / "model", {token: 40.0})
    mine = {"model_name_or_path": model, "reward_funcs": [*settings["reward_funcs"], "repetition_penalty", "format"]}
    run = train("grpo", tmp_path / "run", **settings | mine | {"mask_truncated_completions": True})
    for line in run.metrics:
        assert (line["skipped"], line["groups_with_signal"], line["truncated"]) == (1, 0, truncated)
    assert_same_weights(run.weights, load_weights(model))
    assert capsys.readouterr().err.count("nothing was trained: in no step did the answers to a prompt") == 1


@pytest.mark.parametrize("rows", [1, 3])
def test_data_of_fewer_prompts_than_a_step(rows: int, settings: dict[str, Any], sums: Path, tmp_path: Path) -> None:
    """A prompt comes several times in a step, with other draws each time."""
    data = few_prompts(tmp_path / "few.jsonl", sums, rows)
    few = settings | {"dataset_name": data, "log_completions": True, "num_completions_to_print": 4}
    run = train("grpo", tmp_path / "run", **few)
    assert [line["prompts_drawn"] for line in run.metrics] == [4, 4]
    assert_trained(run, settings)
    entries = [json.loads(line) for line in (run.folder / "completions.jsonl").read_text().splitlines()]
    assert len({entry["completion"] for entry in entries}) > rows


def test_an_epoch_of_one_prompt_is_one_step(settings: dict[str, Any], sums: Path, tmp_path: Path) -> None:
    few = settings | {"dataset_name": few_prompts(tmp_path / "few.jsonl", sums, 1), "max_steps": -1}
    assert len(train("grpo", tmp_path / "run", **few).metrics) == 1
