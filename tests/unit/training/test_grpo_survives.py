"""Reinforcement where something is wrong: rewards that die or hang, completions and data at their limits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint
from torch import nn
from training_runs import Run, assert_different_weights, assert_same_weights, load_weights, train
from transformers import AutoModelForCausalLM

from open_r1.errors import UserError

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
    assert ":dies took its process down" in said


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
    broken = {"reward_funcs": [f"{rewards}:{name}"], "reward_timeout": 0.3, "prompts_per_step": 1}
    with pytest.raises(UserError) as caught:
        train("grpo", tmp_path / "run", **settings | broken)
    first = f"{rewards}:{name} {reason}"
    assert str(caught.value) == f"the rewards failed on every completion; the first error: {first}"


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
