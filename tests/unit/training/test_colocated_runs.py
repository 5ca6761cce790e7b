"""Whole GRPO runs with vLLM in the process, against a made-up vLLM: what it is asked, given and told; how they end."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from cuda_streams import make_up_streams
from torch import Tensor
from training_runs import Run, assert_same_weights, flags, train

from open_r1 import grpo
from open_r1.cli import run_main
from open_r1.errors import StopRequested
from open_r1.generation import colocated_engine
from open_r1.training import grpo_source, rollout_engine
from open_r1.training.signals import StopSignal

Asked = tuple[tuple[int, ...], int, int]
"""What the engine was asked for: a prompt, how many answers to it, the seed of the first."""


@pytest.fixture(autouse=True)
def vllm(fake_vllm: type, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """vLLM on what it takes for a GPU of 16 GiB, while the policy trains on the CPU; it is told what is loaded."""
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_HOST_IP"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (rollout_engine, colocated_engine):
        monkeypatch.setattr(module, "check_machine", lambda asked: None)
    monkeypatch.setattr(rollout_engine, "device_memory", lambda device: 16 * 2**30)
    monkeypatch.setattr(colocated_engine, "free_memory", lambda: (2**30, 2**30))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    make_up_streams(monkeypatch)
    vllm = sys.modules["vllm"]
    step = vllm.LLMEngine.step
    monkeypatch.setattr(vllm.LLMEngine, "step", lambda engine: likely(step(engine)))
    return vllm


def likely(outputs: list[Any]) -> list[Any]:
    """Log-probabilities of the made-up vLLM, with which no policy agrees, become those of a uniform one."""
    for answer in (answer for output in outputs for answer in output.outputs):
        for place in answer.logprobs or ():
            for entry in place.values():
                entry.logprob = -math.log(258)
    return outputs


@pytest.fixture
def settings(grpo_settings: dict[str, Any]) -> dict[str, Any]:
    """Five steps of two prompts, each step saved; no prompt is drawn in another's place."""
    return grpo_settings | {
        "use_vllm": True,
        "max_steps": 5,
        "max_resample_rounds": 0,
        "max_completion_length": 128,
        "save_strategy": "steps",
        "save_steps": 1,
    }


def asked(vllm: ModuleType) -> list[Asked]:
    """Of the engine that was started last."""
    return vllm.LLM.made[-1].llm_engine.asked


def assert_closed(vllm: ModuleType) -> None:
    assert [llm.llm_engine.engine_core.calls for llm in vllm.LLM.made] == [1] * len(vllm.LLM.made)


def at_step(vllm: ModuleType, monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], bool]) -> None:
    """From the engine's ``number``-th step on (from 0; it finishes a prompt's answers in each), acts before it.

    Args:
        act: returns whether the engine goes on decoding, and nothing is finished.
    """
    step, count = vllm.LLMEngine.step, iter(range(10**9))

    def acting(engine: Any) -> list[Any]:
        if next(count) >= number and act():
            time.sleep(0.01)
            return []
        return step(engine)

    monkeypatch.setattr(vllm.LLMEngine, "step", acting)


def grpo_status(output_dir: Path, settings: dict[str, Any]) -> int:
    """The exit status of ``open-r1 grpo``."""
    try:
        return run_main(grpo.main, flags({"output_dir": output_dir, **settings}))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("sleeps", [False, True])
def test_the_weights_of_every_step_reach_the_engine(
    sleeps: bool, vllm: ModuleType, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[dict[str, Tensor]] = []
    load = vllm.LLM.load_weights

    def note(llm: Any, weights: Any) -> set[str]:
        loaded.append({name: tensor.detach().clone() for name, tensor in weights})
        return load(llm, loaded[-1].items())

    monkeypatch.setattr(vllm.LLM, "load_weights", note)
    run = train("grpo", tmp_path / "run", **settings, vllm_enable_sleep_mode=sleeps, save_total_limit=9)
    for step in range(1, settings["max_steps"]):
        saved = Run(run.folder / f"checkpoint-{step}").weights
        assert_same_weights({name: tensor for name, tensor in loaded[step].items() if name in saved}, saved)
    assert len(loaded) == len(run.losses) == settings["max_steps"]
    (llm,) = vllm.LLM.made
    asleep = ["wake weights", "load", "wake kv_cache", "forget prompts", "sleep 2"]
    once = asleep if sleeps else ["load", "forget prompts"]
    assert llm.calls == ["sleep 2"] * sleeps + once * settings["max_steps"]
    # A runner that cannot be followed was asked for log-probabilities: only with these is there a mismatch.
    assert all("mismatch" in line for line in run.metrics)
    assert_closed(vllm)


@pytest.mark.parametrize("async_steps", [0, 1])
def test_what_is_drawn_beside_training_has_a_stream_of_its_own(
    async_steps: int, vllm: ModuleType, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, step = set(), vllm.LLMEngine.step

    def note(engine: Any) -> list[Any]:
        used.add(torch.cuda.current_stream())
        return step(engine)

    monkeypatch.setattr(vllm.LLMEngine, "step", note)
    train("grpo", tmp_path / "run", **settings, async_steps=async_steps)
    (stream,) = used
    assert (stream is torch.cuda.current_stream()) == (not async_steps)


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [({}, 2), ({"async_steps": 1}, 3), ({"num_iterations": 2}, 2), ({"num_iterations": 2, "async_steps": 1}, 4)],
)
def test_a_run_that_goes_on_asks_for_what_is_left(
    changes: dict[str, int], drawn: int, vllm: ModuleType, settings: dict[str, Any], tmp_path: Path
) -> None:
    """The same prompts and seeds; of those that the checkpoint holds, after step 2, none is asked for again.

    Args:
        drawn: steps whose rollouts were made by then.
    """
    settings |= changes | {"save_steps": 2}
    whole = train("grpo", tmp_path / "whole", **settings)
    everything = asked(vllm)
    assert len(everything) == len({seed for _, _, seed in everything}) == 2 * -(-5 // changes.get("num_iterations", 1))
    resumed = train(
        "grpo", tmp_path / "resumed", **settings, resume_from_checkpoint=tmp_path / "whole" / "checkpoint-2"
    )
    assert len(vllm.LLM.made) == 2
    assert asked(vllm) == everything[2 * -(-drawn // changes.get("num_iterations", 1)) :]
    assert_same_weights(resumed.weights, whole.weights)  # as this engine heeds no weights
    assert_closed(vllm)


def out_of_memory() -> bool:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("async_steps", [0, 1])
def test_an_engine_that_runs_out_of_memory(
    async_steps: int,
    vllm: ModuleType,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """In step 3, in the middle: one line, the steps before are saved, and the run goes on from there."""
    settings |= {"async_steps": async_steps}
    everything = [*asked(vllm)] if train("grpo", tmp_path / "whole", **settings) else []
    capsys.readouterr()
    with monkeypatch.context() as patch:
        at_step(vllm, patch, 5, out_of_memory)
        assert grpo_status(tmp_path / "run", settings) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: vLLM ran out of memory while it was drawing (CUDA out of memory. Tried to allocate 2.00 GiB.): lower "
    )
    assert Run(tmp_path / "run").checkpoints[-1] == 2
    train("grpo", tmp_path / "run", **settings, resume_from_checkpoint=True)
    assert asked(vllm) == everything[4:]
    assert_closed(vllm)


@pytest.mark.timeout(60)
def test_an_engine_that_dies_while_the_policy_trains(
    vllm: ModuleType,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Drawing for step 2, which step 1 does not need: that one is saved all the same."""

    def die() -> bool:
        assert threading.current_thread() is not threading.main_thread()
        raise sys.modules["vllm.v1.engine.exceptions"].EngineDeadError

    at_step(vllm, monkeypatch, 2, die)
    assert grpo_status(tmp_path / "run", settings | {"async_steps": 1}) == 2
    said = capsys.readouterr().err
    assert "error: vLLM died while it was drawing: " in said
    assert "Traceback" not in said
    assert Run(tmp_path / "run").checkpoints == [1]
    assert_closed(vllm)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("async_steps", [0, 1])
@pytest.mark.parametrize("grace", [0.0, 60.0])
def test_told_to_stop_within_a_generation_that_does_not_end(
    async_steps: int,
    grace: float,
    vllm: ModuleType,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is given up, also where the policy is through with its step and waits for it; only what was drawn ahead and
    ends in the time of grace is saved.
    """
    settings |= {"async_steps": async_steps, "save_strategy": "no"}
    train("grpo", tmp_path / "whole", **settings)
    everything, told, waited_for = asked(vllm), threading.Event(), threading.Event()
    ends, wait = grace > 0, grpo_source.Draft.wait

    def note(draft: grpo_source.Draft, stop: StopSignal) -> None:
        if draft.first_step == 2:
            waited_for.set()
        wait(draft, stop)

    def stop() -> bool:
        if not told.is_set():
            told.set()
            assert not async_steps or waited_for.wait(30)
            os.kill(os.getpid(), signal.SIGTERM)
        return not ends

    monkeypatch.setattr(grpo_source, "GRACE", grace)
    monkeypatch.setattr(grpo_source.Draft, "wait", note)
    with monkeypatch.context() as patch:
        at_step(vllm, patch, 5, stop)
        with pytest.raises(StopRequested, match=r"after step 2 of 5; saved to .*checkpoint-2"):
            train("grpo", tmp_path / "run", **settings)
    assert not [thread for thread in threading.enumerate() if thread.name == "draw"]
    train("grpo", tmp_path / "run", **settings, resume_from_checkpoint=True)
    left = len(asked(vllm))
    assert asked(vllm) == everything[-left:]
    assert left <= 4 if async_steps and ends else left == 6
    assert_closed(vllm)
