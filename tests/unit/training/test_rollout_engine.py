"""The engine that a run's settings ask for, without a GPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_runs import assert_same_weights, train

from open_r1.errors import StopRequested, UserError
from open_r1.generation.server_client import ServerClient
from open_r1.generation.server_process import ServerProcess
from open_r1.training.rollout_engine import check_engine


@pytest.fixture
def settings(tiny_checkpoint: Path, even_reward: str, tmp_path: Path) -> dict[str, Any]:
    rows = [{"problem": f"{a}+{a}?", "answer": str(2 * a)} for a in range(8)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model_name_or_path": tiny_checkpoint,
        "dataset_name": tmp_path / "sums.jsonl",
        "reward_funcs": even_reward,
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "logging_steps": 1,
    }


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def rewards(run: Any) -> list[float]:
    return [line["reward"] for line in run.metrics]


@pytest.mark.parametrize("async_steps", [0, 1])
def test_a_server_that_the_run_starts_draws_what_the_process_itself_would(
    settings: dict[str, Any], tmp_path: Path, async_steps: int
) -> None:
    here = train("grpo", tmp_path / "here", **settings, async_steps=async_steps)
    served = {"use_vllm": True, "vllm_mode": "server", "vllm_server_devices": "0", "vllm_server_port": free_port()}
    there = train(
        "grpo", tmp_path / "there", **settings, **served, vllm_group_port=free_port(), async_steps=async_steps
    )
    assert rewards(there) == pytest.approx(rewards(here))
    assert there.losses == pytest.approx(here.losses, abs=1e-4)
    assert [line["mismatch"] for line in there.metrics] == pytest.approx(
        [line["mismatch"] for line in here.metrics], abs=1e-4
    )
    assert "serving" in (there.folder / "server.log").read_text()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("async_steps", [0, 1])
def test_told_to_stop_while_a_server_draws(
    settings: dict[str, Any], tmp_path: Path, async_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run saves and ends, and the server is gone with it; what goes on draws what was left."""
    settings |= {"async_steps": async_steps, "max_completion_length": 400, "per_device_train_batch_size": 32}
    here = train("grpo", tmp_path / "here", **settings)
    served = {"use_vllm": True, "vllm_mode": "server", "vllm_server_devices": "0", "vllm_server_port": free_port()}
    settings |= served | {"vllm_group_port": free_port()}
    servers, asked = [], []
    start, lines = ServerProcess.__init__, ServerClient.lines

    def note(process: ServerProcess, *arguments: Any, **how: Any) -> None:
        start(process, *arguments, **how)
        servers.append(process.pid)

    def stop_meanwhile(client: ServerClient, *arguments: Any) -> Iterator[dict[str, Any]]:
        asked.append(arguments)
        if len(asked) == 2:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return lines(client, *arguments)

    monkeypatch.setattr(ServerProcess, "__init__", note)
    monkeypatch.setattr(ServerClient, "lines", stop_meanwhile)
    with pytest.raises(StopRequested, match=r"stopped by SIGTERM after step [0-2] of 3; saved to .*checkpoint-[0-2]"):
        train("grpo", tmp_path / "there", **settings)
    assert len(servers) == 1
    assert not Path(f"/proc/{servers[0]}").exists()
    there = train("grpo", tmp_path / "there", **settings, resume_from_checkpoint=True)
    assert not Path(f"/proc/{servers[1]}").exists()
    assert rewards(there) == pytest.approx(rewards(here))


def test_a_run_a_step_behind_goes_on_where_it_was(settings: dict[str, Any], tmp_path: Path) -> None:
    """The rollouts that are drawn ahead go through the checkpoint's file, which opens nothing but what it knows."""
    settings |= {"async_steps": 1, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train("grpo", tmp_path / "whole", **settings)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    resumed = train("grpo", tmp_path / "resumed", **settings, resume_from_checkpoint=checkpoint)
    assert_same_weights(resumed.weights, whole.weights)
    assert resumed.metrics[-1]["loss"] == whole.metrics[-1]["loss"]


def test_a_server_that_is_not_there_is_one_line(settings: dict[str, Any], tmp_path: Path) -> None:
    served = {"use_vllm": True, "vllm_mode": "server", "vllm_server_port": free_port(), "vllm_server_timeout": 1}
    served["vllm_group_port"] = free_port()
    with pytest.raises(UserError, match=r"no server answers at http://0\.0\.0\.0:\d+ after 1 s .*open-r1 serve-vllm"):
        train("grpo", tmp_path / "run", **settings, **served)


def test_colocated_vllm_without_a_gpu_is_one_line(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"use_vllm(: vLLM is not installed| needs a GPU)"):
        train("grpo", tmp_path / "run", **settings, use_vllm=True)


def test_a_server_of_its_own_and_one_elsewhere_exclude_each_other(settings: dict[str, Any], tmp_path: Path) -> None:
    both = {"vllm_server_devices": "1", "vllm_server_base_url": "http://10.0.0.2:8000"}
    with pytest.raises(UserError, match="vllm_server_devices starts a server here"):
        train("grpo", tmp_path / "run", **settings, **both)


@pytest.mark.parametrize(
    ("numbers", "trained_on", "shared"), [("0", [0], "0"), ("2,3", [0, 1, 2, 3], "2, 3"), ("2, 3", [0, 1], None)]
)
def test_a_server_shares_no_gpu_with_training(numbers: str, trained_on: list[int], shared: str | None) -> None:
    """A launcher file trains on every GPU that is found: on those that are meant for the server too."""
    config = SimpleNamespace(use_vllm=True, vllm_mode="server", vllm_server_devices=numbers)
    runtime = SimpleNamespace(
        device=torch.device("cuda"),
        gather=lambda items: [(items[0][0], index) for index in trained_on] + [("another machine", 2)],
    )
    with pytest.raises(UserError, match=f"trains on GPU {shared} itself") if shared else nullcontext():
        check_engine(config, runtime)
