"""What ``open-r1 serve-vllm`` makes of its settings, and how weights get into vLLM, against a made-up vLLM."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cuda_streams import make_up_streams

from open_r1.background import Background
from open_r1.config import ServeConfig
from open_r1.errors import UserError
from open_r1.generation.engine import Request, SamplingParams
from open_r1.generation.server_model import Meeting, open_model
from open_r1.generation.server_tensor_parallel import WeightWorker
from open_r1.parallel.weight_channel import WeightSender

CPU = torch.device("cpu")
WEIGHTS = [("model.norm.weight", torch.arange(4.0)), ("lm_head.weight", torch.ones(2, 3))]
REQUESTS = [Request(10 + number, (1, 2), seed=100 + number) for number in range(3)]
PARAMS = SamplingParams(8, stop_token_ids=(0,))


@pytest.fixture
def vllm(fake_vllm: type, monkeypatch: pytest.MonkeyPatch) -> type:
    """A machine with a GPU, 60 of whose 100 bytes are free."""
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_HOST_IP"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    for name, value in {
        "mem_get_info": lambda *_: (60, 100),
        "get_per_process_memory_fraction": lambda *_: 1.0,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "empty_cache": lambda: None,
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    make_up_streams(monkeypatch)
    return fake_vllm


def opened(checkpoint: Path, tmp_path: Path, **settings: Any) -> Any:
    return open_model(ServeConfig(model=str(checkpoint), **settings), tmp_path / "vllm.log")


def channel(meet: Any, processes: int = 1) -> WeightSender:
    """A trainer's end, met by ``meet(meeting)``."""
    sender = WeightSender(processes, dtype=torch.bfloat16, device=CPU, timeout=30, bucket_bytes=8)
    meeting = Background(meet, Meeting("127.0.0.1", sender.port, processes + 1, 30))
    sender.connect(meeting.check)
    meeting.result()
    return sender


def test_transformers_says_what_it_serves(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint, tmp_path, engine="transformers", max_num_seqs=5, dtype="bfloat16")
    facts = asdict(model.facts)
    assert (facts["dtype"], facts["context"], facts["workers"], facts["device"]) == ("bfloat16", 512, 1, "cpu")
    assert facts["sizes"] == {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2}
    assert model.engine.batch_size == 5 and not facts["waits_for_weights"]
    with pytest.raises(UserError, match="no trainer has opened a weight channel"):
        model.receive()


def test_vllm_on_one_gpu_is_in_this_process_and_empty_until_weights_come(
    vllm: type, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = opened(tiny_checkpoint, tmp_path, gpu_memory_utilization=0.4, max_model_len=128, enforce_eager=True)
    arguments = model.engine.llm.arguments
    known = {"load_format": "dummy", "gpu_memory_utilization": 0.4, "max_model_len": 128, "max_num_seqs": 1024}
    assert arguments.items() >= (known | {"dtype": "bfloat16", "enforce_eager": True}).items()
    assert "kv_cache_memory_bytes" not in arguments
    assert model.facts.waits_for_weights and model.facts.device == "cuda" and model.facts.context == 128

    model.facts = SimpleNamespace(dtype="bfloat16", device="cpu")  # for a channel without GPUs
    sender = channel(model.meet)
    update = Background(model.receive)
    sender.send(WEIGHTS, update.check)
    update.result()
    loaded = model.engine.llm.weights
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {name: t.tolist() for name, t in WEIGHTS}
    assert model.engine.llm.calls[-1] == "forget prompts"


def test_vllm_on_several_gpus_draws_with_logprobs_and_its_workers_take_the_weights(
    vllm: type, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, tuple]] = []
    monkeypatch.setattr(
        vllm, "collective_rpc", lambda self, method, args=(): called.append((method, args)), raising=False
    )
    model = opened(tiny_checkpoint, tmp_path, tensor_parallel_size=2)
    arguments = model.engine.llm.arguments
    extension = arguments["worker_extension_cls"]
    assert extension == "open_r1.generation.server_tensor_parallel.WeightWorker"
    assert arguments["tensor_parallel_size"] == 2 and arguments["logprobs_mode"] == "processed_logprobs"
    assert model.facts.workers == 2 and not model.facts.waits_for_weights

    answers = sorted(model.engine.generate(REQUESTS, PARAMS), key=lambda answer: answer.request_id)
    assert [answer.token_ids for answer in answers] == [(2, 1, 0)] * 3
    assert [answer.logprobs for answer in answers] == [(-2.0, -1.0, -0.0)] * 3
    assert [seed for _, _, seed in model.engine.llm.llm_engine.asked] == [100, 101, 102]

    model.meet(Meeting("10.0.0.1", 5000, 3, 60.0))
    model.receive()
    assert called == [("open_r1_meet", ("10.0.0.1", 5000, 3, "bfloat16", 60.0)), ("open_r1_receive", ())]
    assert model.engine.llm.calls == ["forget prompts"]

    def fail(self: Any, method: str, args: tuple = ()) -> None:
        raise RuntimeError("Worker failed with error\n 'out of memory'")

    monkeypatch.setattr(vllm, "collective_rpc", fail)
    with pytest.raises(UserError, match="the processes of vLLM could not take the weights: Worker failed with error"):
        model.receive()
    model.engine.close()


def test_workers_load_in_place_what_the_trainer_sends() -> None:
    class Model:
        def load_weights(self, weights: Any) -> None:
            self.loaded = {name: tensor.tolist() for name, tensor in weights}

    workers = []
    for rank in range(2):
        worker = WeightWorker()
        worker.rank, worker.device, worker.model_runner = rank, CPU, SimpleNamespace(model=Model())
        workers.append(worker)

    def meet(meeting: Meeting) -> None:
        arguments = (meeting.host, meeting.port, meeting.processes, "bfloat16", meeting.timeout)
        for attempt in [Background(worker.open_r1_meet, *arguments) for worker in workers]:
            attempt.result()

    sender = channel(meet, processes=2)
    for factor in (1.0, 2.0):
        updates = [Background(worker.open_r1_receive) for worker in workers]
        sender.send((name, tensor * factor) for name, tensor in WEIGHTS)
        for update, worker in zip(updates, workers, strict=True):
            update.result()
            assert worker.model_runner.model.loaded == {n: (t * factor).tolist() for n, t in WEIGHTS}


def test_a_machine_without_a_gpu_is_told_what_to_add(tiny_checkpoint: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="torch finds none: add --engine transformers"):
        opened(tiny_checkpoint, tmp_path)


def test_transformers_over_several_gpus_is_refused() -> None:
    with pytest.raises(UserError, match="tensor_parallel_size is vLLM's"):
        ServeConfig(model="m", engine="transformers", tensor_parallel_size=2)
