"""SIGTERM and Ctrl-C wherever they arrive: while data is prepared, within a step, while the final model is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_runtime import FakeRuntime
from small_loop import run_small
from torch import Tensor, nn
from training_runs import Run, assert_same_weights, start, train

from open_r1.bench.packs import made_up_tokens
from open_r1.config import SFTConfig
from open_r1.data.pack import Pack
from open_r1.errors import StopRequested, UserError
from open_r1.training import held_out, setup
from open_r1.training.checkpoint import Checkpoints
from open_r1.training.held_out import PACKS_BETWEEN_LOOKS, HeldOutLoss
from open_r1.training.sft_source import sft_objective
from open_r1.training.signals import Interrupted, StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_within_a_long_step(
    number: signal.Signals, sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is given up, not waited for: the micro-batches that are left would take the time that is granted."""
    settings = sft_settings | {"max_steps": 4, "gradient_accumulation_steps": 8, "lr_scheduler_type": "constant"}
    undisturbed = train("sft", tmp_path / "undisturbed", **settings)
    seen: list[Pack] = []

    def objective(predicted: Any, pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(pack)
        if len(seen) == 2 * 8 + 3:
            os.kill(os.getpid(), number)
        return sft_objective(predicted, pack)

    monkeypatch.setattr("open_r1.sft.sft_objective", objective)
    with pytest.raises(StopRequested, match=r"after step 2 of 4; saved to .*checkpoint-2") as stop:
        train("sft", tmp_path / "run", **settings)
    assert stop.value.signal_number == number
    assert len(seen) == 2 * 8 + 3
    assert Run(tmp_path / "run").checkpoints == [2]
    resumed = train("sft", tmp_path / "run", **settings, resume_from_checkpoint="true")
    assert resumed.losses == undisturbed.losses
    assert_same_weights(resumed.weights, undisturbed.weights)


def test_within_an_evaluation(sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up; what is due after the same step is saved before it, and the step is recorded."""
    settings = sft_settings | {"max_steps": 4, "lr_scheduler_type": "constant", "dataset_test_split": "train"}
    settings |= {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    packs, before = HeldOutLoss._packs, []

    def stopping(self: HeldOutLoss) -> Any:
        before.extend(Run(tmp_path / "run").checkpoints)
        os.kill(os.getpid(), signal.SIGTERM)
        return packs(self)

    monkeypatch.setattr(HeldOutLoss, "_packs", stopping)
    with pytest.raises(StopRequested, match=r"after step 2 of 4; saved to .*checkpoint-2"):
        train("sft", tmp_path / "run", **settings)
    assert before == [2]
    assert [line["step"] for line in Run(tmp_path / "run").metrics] == [1, 2]
    assert not any("eval_loss" in line for line in Run(tmp_path / "run").metrics)


def test_a_step_is_recorded_before_it_is_saved(
    sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed after a checkpoint goes on from it, and would never write the line of its step."""
    write, recorded = Checkpoints._write, []

    def writing(self: Checkpoints, folder: Path, *rest: Any) -> None:
        recorded.append([line["step"] for line in Run(tmp_path).metrics])
        write(self, folder, *rest)

    monkeypatch.setattr(Checkpoints, "_write", writing)
    train("sft", tmp_path, **sft_settings | {"max_steps": 5, "save_strategy": "steps", "save_steps": 2})
    assert recorded == [[1, 2], [1, 2, 3, 4]]


def test_a_step_is_recorded_before_it_is_evaluated(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Where a checkpoint comes in between, after which the run may be killed; the whole line then replaces it."""
    lines = Run(tmp_path / "run")
    seen: list[list[dict[str, Any]]] = []

    def evaluate(_stop: StopSignal) -> dict[str, float]:
        seen.append(lines.metrics)
        return {"eval_loss": 0.5}

    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    run_small(tiny_checkpoint, lines.folder, evaluate=evaluate, **settings)
    assert [[line["step"] for line in each] for each in seen] == [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert seen[0][1] | {"eval_loss": 0.5} == lines.metrics[1]
    assert [line.get("eval_loss") for line in lines.metrics] == [None, 0.5] * 3


def test_an_evaluation_that_fails_costs_no_step(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As where the server that draws for it is lost."""

    def evaluate(_stop: StopSignal) -> dict[str, float]:
        raise UserError("the server is gone")

    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"the server is gone; stopped after step 3 of 5; saved to .*checkpoint-3$"):
        run_small(tiny_checkpoint, run.folder, evaluate=evaluate, eval_strategy="steps", eval_steps=3)
    assert (run.checkpoints, len(run.losses)) == ([3], 3)


def test_ranks_leave_an_evaluation_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them was told to stop; all look after as many packs."""
    runtime, looks, seen = FakeRuntime(world_size=2), iter([0, 0, signal.SIGTERM]), []
    runtime.max = lambda value: float(next(looks))
    config = SFTConfig(model_name_or_path="m", dataset_name="d", output_dir="o", max_length=32)
    module = nn.Module()
    monkeypatch.setattr(held_out, "sft_objective", lambda outputs, pack: (torch.zeros(()), {}))
    module.forward = lambda pack, **how: seen.append(pack)
    evaluate = HeldOutLoss(made_up_tokens(64, 32 * 200, 32, 20), config, runtime, module)
    with pytest.raises(Interrupted, match="SIGTERM"):
        evaluate(StopSignal())
    assert len(seen) == 2 * PACKS_BETWEEN_LOOKS
    assert module.training


def test_while_the_final_model_is_written(
    sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train("sft", tmp_path / "undisturbed", **sft_settings, max_steps=2)
    save = setup.save_model

    def save_and_stop(*arguments: Any, **how: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(*arguments, **how)

    monkeypatch.setattr(setup, "save_model", save_and_stop)
    with pytest.raises(StopRequested, match="stopped by SIGTERM after the last step; the model is in "):
        train("sft", tmp_path / "run", **sft_settings, max_steps=2)
    run = Run(tmp_path / "run")
    assert_same_weights(run.weights, undisturbed.weights)
    assert run.results["steps"] == 2


def eventually(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, f"ended by itself with status {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def living(session: int) -> list[str]:
    """The commands of processes of a session that have not ended."""
    listed = subprocess.run(["ps", "-s", str(session), "-o", "stat=,args="], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]


@pytest.mark.parametrize(("number", "word"), [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "interrupted")])
def test_while_data_is_prepared(
    number: signal.Signals, word: str, sft_settings: dict[str, Any], tmp_path: Path
) -> None:
    """It ends with a word and leaves no process; what was tokenised is used by the next start."""
    rows = tmp_path / "many.jsonl"
    text = json.dumps({"problem": "1+1? " * 40, "solution": "It is 2. " * 200}) + "\n"
    rows.write_text(text * 60_000)
    settings = sft_settings | {"dataset_name": rows, "dataset_num_proc": 2, "token_cache_dir": tmp_path / "tokens"}
    process = start(["-m", "open_r1", "sft"], tmp_path / "run", **settings, max_steps=2)
    eventually(process, lambda: any((tmp_path / "tokens").glob("*/*")))
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    said = (tmp_path / "run.log").read_text()
    assert said.splitlines()[-1] == word and "Traceback" not in said
    assert Run(tmp_path / "run").checkpoints == []
    deadline = time.monotonic() + 30
    while any("token_worker" in command for command in living(os.getsid(0))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [command for command in living(os.getsid(0)) if "token_worker" in command]
