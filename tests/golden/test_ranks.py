"""Two processes are one; the command, the script and the launcher start the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_runs import SOURCE, Run, assert_close_weights, assert_same_weights, finish, start, train

ACCELERATE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--num_cpu_threads_per_process", "1"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]  # accelerate needs MPI on CPUs
GENTLE = {"adam_epsilon": 1e-4}  # as in test_batches


def test_the_same_run_by_every_door(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = sft_settings | {"max_steps": 3}
    inside = train("sft", tmp_path / "inside", **settings)
    script = str(SOURCE / "sft.py")
    doors = {"command": ["-m", "open_r1", "sft"], "script": [script], "launcher": [*ACCELERATE, script]}
    started = {name: start(words, tmp_path / name, **settings) for name, words in doors.items()}
    for name, process in started.items():
        run = finish(process, tmp_path / name)
        assert run.losses == inside.losses
        assert_same_weights(run.weights, inside.weights)


def assert_same_run(two: Run, one: Run) -> None:
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    for name in ("tokens", "learning_rate", "epoch"):
        assert [line[name] for line in two.metrics] == [line[name] for line in one.metrics]
    norms = [[line["grad_norm"] for line in run.metrics] for run in (two, one)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert_close_weights(two.weights, one.weights, 1e-5)


def test_two_ranks_are_one(sft_settings: dict[str, Any], grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    """SFT over a whole epoch, whose last step leaves one rank without packs; GRPO with advantages over the batch."""
    sft = sft_settings | GENTLE
    process = start([*TORCHRUN, str(SOURCE / "sft.py")], tmp_path / "sft2", **sft, gradient_accumulation_steps=3)
    one = train("sft", tmp_path / "sft1", **sft, per_device_train_batch_size=6)
    two = finish(process, tmp_path / "sft2")
    assert_same_run(two, one)

    grpo = grpo_settings | GENTLE | {"max_steps": 4, "num_iterations": 2, "scale_rewards": "batch", "beta": 0.1}
    grpo |= {"pack_length": 40, "mask_truncated_completions": True, "learning_rate": 3e-3}
    words = [*TORCHRUN, str(SOURCE / "grpo.py")]
    process = start(words, tmp_path / "grpo2", **grpo | {"per_device_train_batch_size": 16})
    one = train("grpo", tmp_path / "grpo1", **grpo | {"per_device_train_batch_size": 32})
    two = finish(process, tmp_path / "grpo2")
    assert_same_run(two, one)
    assert all(0 < line["truncated"] < 1 for line in one.metrics)
    for name in ("reward", "reward_std", "completion_length", "truncated", "prompts_drawn", "entropy", "kl_reference"):
        values = [[line[name] for line in run.metrics] for run in (two, one)]
        assert values[0] == pytest.approx(values[1], abs=1e-5), name
