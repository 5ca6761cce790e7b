"""vLLM in the training process, against a made-up vLLM: what it is given, when it sleeps, what goes wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from cuda_streams import Stream, Streams, make_up_streams

from open_r1.errors import UserError
from open_r1.generation import colocated_engine
from open_r1.generation.colocated_engine import ColocatedEngine, ColocatedOptions
from open_r1.generation.engine import Request, SamplingParams

PARAMS = SamplingParams(8, stop_token_ids=(0,))
WEIGHTS = [("model.norm.weight", torch.ones(2)), ("lm_head.weight", torch.zeros(2))]


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    return make_up_streams(monkeypatch)


@pytest.fixture(autouse=True)
def vllm(fake_vllm: type, monkeypatch: pytest.MonkeyPatch) -> type:
    """A GPU of 100 bytes, 60 of them free."""
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_HOST_IP"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (60, 100))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda *_: 1.0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return fake_vllm


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "out" / "vllm.log"


def engine(log: Path, **changes: Any) -> ColocatedEngine:
    return ColocatedEngine("m", ColocatedOptions(64, 16, 4096, **changes), log=log)


def requests(*prompts: tuple[int, ...]) -> list[Request]:
    return [Request(10 + number, prompt, seed=100 + number) for number, prompt in enumerate(prompts)]


def test_a_group_is_one_request_whose_first_seed_decides_all(log: Path) -> None:
    drawing = engine(log)
    answers = list(drawing.generate(requests((1,), (1,), (2, 3), (1,)), PARAMS))
    assert drawing.llm.llm_engine.asked == [((1,), 2, 100), ((2, 3), 1, 102), ((1,), 1, 103)]
    assert {answer.request_id: answer.token_ids for answer in answers} == {
        10: (1, 0),
        11: (1, 7, 0),
        12: (3, 2, 0),
        13: (1, 0),
    }
    drawing.close()
    drawing.close()


def test_greedy_answers_are_asked_for_one_by_one(log: Path) -> None:
    drawing = engine(log)
    list(drawing.generate(requests((1,), (1,)), SamplingParams(8, temperature=0, stop_token_ids=(0,))))
    assert [count for _, count, _ in drawing.llm.llm_engine.asked] == [1, 1]
    drawing.close()


@pytest.mark.parametrize("wanted", [False, True])
def test_a_runner_that_cannot_be_followed_is_asked_for_log_probabilities(log: Path, wanted: bool) -> None:
    drawing = engine(log, logprobs=wanted)
    (answer,) = drawing.generate(requests((3, 4)), PARAMS)
    assert tuple(answer.logprobs) == ((-4.0, -3.0, 0.0) if wanted else ())
    drawing.close()


def test_what_a_capped_process_may_not_have_is_not_asked_for(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda *_: 0.4)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 10)
    assert engine(log).llm.arguments["gpu_memory_utilization"] == pytest.approx(0.9 * (0.4 - 0.1))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 50)
    assert engine(log).llm.arguments["gpu_memory_utilization"] == 0


def test_no_more_is_asked_to_be_free_than_the_cache_takes(log: Path) -> None:
    """What was free a moment before need not be when vLLM looks."""
    options = ColocatedOptions(64, 16, cache_bytes=7)
    assert ColocatedEngine("m", options, log=log).llm.arguments["gpu_memory_utilization"] == pytest.approx(0.07)
    options = ColocatedOptions(64, 16, cache_bytes=None)
    assert ColocatedEngine("m", options, log=log).llm.arguments["gpu_memory_utilization"] == pytest.approx(0.54)


def test_the_settings_reach_vllm(log: Path) -> None:
    drawing = engine(log, processes=2, sleeps=True, revision="abc")
    assert drawing.llm.arguments == {
        "load_format": "dummy",
        "dtype": "bfloat16",
        "kv_cache_memory_bytes": 4096,
        "gpu_memory_utilization": pytest.approx(0.54),
        "max_model_len": 64,
        "max_num_seqs": 16,
        "enforce_eager": False,
        "enable_sleep_mode": True,
        "trust_remote_code": False,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "seed": 0,
        "revision": "abc",
        "distributed_executor_backend": "external_launcher",
    }
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert "distributed_executor_backend" not in engine(log).llm.arguments


def test_graphs_are_captured_for_as_many_completions_as_are_decoded_at_once(log: Path) -> None:
    def captured(most: int, **changes: Any) -> list[int] | None:
        llm = ColocatedEngine("m", ColocatedOptions(64, most, 4096, **changes), log=log).llm
        return llm.arguments.get("compilation_config", {}).get("cudagraph_capture_sizes")

    assert captured(512) is None  # vLLM's own sizes, which end there
    assert captured(1000)[-9:] == [512, 576, 640, 704, 768, 832, 896, 960, 1000]
    assert captured(1024)[-2:] == [960, 1024]
    assert captured(1024, enforce_eager=True) is None


def test_weights_go_in_and_prompts_of_the_old_ones_are_forgotten(log: Path) -> None:
    drawing = engine(log)
    drawing.load_weights(iter(WEIGHTS))
    assert drawing.llm.weights == dict(WEIGHTS)
    assert drawing.llm.calls == ["load", "forget prompts"]
    drawing.close()


def test_it_sleeps_between_generations(log: Path) -> None:
    drawing = engine(log, sleeps=True)
    for _ in range(2):
        drawing.load_weights(iter(WEIGHTS))
        list(drawing.generate(requests((1,)), PARAMS))
    once = ["wake weights", "load", "wake kv_cache", "forget prompts", "sleep 2"]
    assert drawing.llm.calls == ["sleep 2", *once, *once]
    drawing.close()


def test_no_room_to_wake_up_in_is_one_line(log: Path, monkeypatch: pytest.MonkeyPatch, vllm: type) -> None:
    drawing = engine(log, sleeps=True)
    monkeypatch.setattr(vllm, "wake_up", lambda self, tags: (_ for _ in ()).throw(RuntimeError("CUDA Error: no\nmore")))
    with pytest.raises(UserError, match=r"no memory for vLLM to wake up in \(CUDA Error: no\): lower --vllm_gpu"):
        drawing.load_weights(iter(WEIGHTS))
    drawing.close()


def test_running_out_of_memory_is_one_line(log: Path) -> None:
    drawing = engine(log)
    drawing.llm.llm_engine.step = lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried"))
    with pytest.raises(UserError, match="vLLM ran out of memory while it was drawing"):
        list(drawing.generate(requests((1,)), PARAMS))
    assert drawing.llm.llm_engine.aborted == ["0"]
    drawing.close()


def test_it_draws_in_another_thread_too(log: Path) -> None:
    drawing, found = engine(log), []
    thread = Thread(target=lambda: found.extend(drawing.generate(requests((1,), (2,)), PARAMS)))
    thread.start()
    thread.join()
    assert len(found) == 2
    assert np.asarray(found[0].logprobs).shape == (2,)
    drawing.close()


@pytest.mark.parametrize("own", [False, True])
def test_it_works_in_one_stream_whoever_calls(
    log: Path, vllm: type, streams: Streams, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """After each step vLLM makes the stream of its start the current one, and does the rest of the step there."""
    began, ended = [], []
    monkeypatch.setattr(vllm, "start", staticmethod(lambda: began.append(streams.current())))
    drawing = engine(log, own_stream=own)
    assert streams.current() is streams.default
    work = drawing.llm.llm_engine.step

    def step() -> list[Any]:
        began.append(streams.current())
        streams.set(began[0])
        ended.append(streams.current())
        return work()

    def draw() -> None:
        before = streams.current()
        list(drawing.generate(requests((1,), (2,)), PARAMS))
        assert streams.current() is before

    drawing.llm.llm_engine.step = step
    draw()
    thread = Thread(target=draw)
    thread.start()
    thread.join()
    assert len(ended) == 4 and set(began) == set(ended) and len(set(began)) == 1
    assert (began[0] is not streams.default) == own
    drawing.close()


def test_weights_wait_for_steps_and_steps_for_weights(log: Path, streams: Streams) -> None:
    drawing = engine(log, own_stream=True)
    seen: list[Stream] = []

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        seen.extend(streams.default.waits)
        assert not seen[0].waits
        yield from WEIGHTS

    drawing.load_weights(weights())
    assert len(seen) == 1 and seen[0].waits == [streams.default]
    drawing.close()


def test_after_a_cuda_error_the_engine_is_left_alone(
    log: Path, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colocated_engine, "_LOST", [])
    drawing = engine(log)
    llm, streams.default.broken = drawing.llm, True
    drawing.close()
    drawing.close()
    (lost,) = colocated_engine._LOST
    assert lost is llm and llm.llm_engine.engine_core.calls == 0


def test_a_start_that_fails_is_one_line_of_its_log(log: Path, vllm: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        print("ERROR ValueError: Free memory on device cuda:0 is less than desired")
        raise RuntimeError("Engine core initialization failed")

    monkeypatch.setattr(vllm, "start", staticmethod(start))
    with pytest.raises(UserError, match=r"vLLM could not start with m: ValueError: Free memory .* free the GPU"):
        engine(log)
