"""On two GPUs with vLLM: a server on the second draws what the trainer's weights on the first say, by NCCL."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import save_vllm_checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from open_r1.errors import UserError
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.served import Trainer, start_served
from open_r1.generation.served_engine import ServedEngine
from open_r1.generation.server_port import free_port
from open_r1.generation.server_protocol import sizes_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]

STOP = 255
PROMPTS = [tuple((7 * place + 3 * step) % 250 for step in range(5 + place)) for place in range(16)]
SETTINGS = {"max_model_len": 512, "gpu_memory_utilization": 0.3, "enforce_eager": True, "max_num_seqs": 64}
GREEDY = SamplingParams(32, temperature=0, stop_token_ids=(STOP,))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one shape: heads of 64, which every kernel of vLLM's has, and large weights."""
    place = tmp_path_factory.mktemp("served")
    return [save_vllm_checkpoint(place / f"model-{seed}", initializer_range=0.1, seed=seed) for seed in range(2)]


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to("cuda:0").eval()


def start(folder: Path, log: Path, devices: str = "1", **settings: object) -> ServedEngine:
    trainer = Trainer(torch.device("cuda:0"), sizes_of(load(folder).config))
    known = {"model": folder, "port": free_port(), **SETTINGS}
    return start_served(known | settings, trainer, log=log, devices=devices, start_timeout=400)


@pytest.fixture(scope="module")
def engine(checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedEngine]:
    engine = start(checkpoints[0], tmp_path_factory.mktemp("log") / "server.log")
    yield engine
    engine.close()


def draw(engine: ServedEngine, params: SamplingParams, seeds: Sequence[int] | None = None) -> list[Completion]:
    seeds = seeds or range(len(PROMPTS))
    requests = [Request(place, ids, seed) for place, (ids, seed) in enumerate(zip(PROMPTS, seeds, strict=True))]
    return sorted(engine.generate(requests, params), key=lambda completion: completion.request_id)


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of all tokens at the places of ``tokens`` [T, V]."""
    logits_TV = model(torch.tensor([[*prompt, *tokens]], device="cuda:0")).logits[0, len(prompt) - 1 : -1]
    return logits_TV.float().log_softmax(-1)


def assert_draws_with(engine: ServedEngine, model: PreTrainedModel) -> None:
    """Greedy completions are the model's likeliest, and log-probabilities its own, as near as bfloat16 can tell."""
    for prompt, answer in zip(PROMPTS, draw(engine, GREEDY), strict=True):
        all_TV = logprobs_of(model, prompt, answer.token_ids)
        chosen_T = all_TV.gather(1, torch.tensor(answer.token_ids, device="cuda:0")[:, None])[:, 0]
        assert (all_TV.amax(1) - chosen_T).max() < 0.2, answer.request_id
    sampled = draw(engine, SamplingParams(32, temperature=1.0, stop_token_ids=(STOP,)))
    differences = []
    for prompt, answer in zip(PROMPTS, sampled, strict=True):
        all_TV = logprobs_of(model, prompt, answer.token_ids)
        chosen_T = all_TV.gather(1, torch.tensor(answer.token_ids, device="cuda:0")[:, None])[:, 0]
        differences.append((torch.tensor(answer.logprobs, device="cuda:0") - chosen_T).abs())
    assert torch.cat(differences).mean() < 0.05


def test_weights_arrive_over_nccl_and_are_drawn_with(engine: ServedEngine, checkpoints: list[Path]) -> None:
    with pytest.raises(UserError, match="no whole weights"):
        draw(engine, GREEDY)
    for folder in (checkpoints[0], checkpoints[1], checkpoints[0]):
        model = load(folder)
        engine.load_weights(model.named_parameters())
        assert_draws_with(engine, model)


def test_two_gpus_with_tensor_parallel_weights(checkpoints: list[Path], tmp_path: Path) -> None:
    if torch.cuda.device_count() < 3:
        pytest.skip("needs three CUDA devices: one for the trainer, two for the server")
    engine = start(checkpoints[0], tmp_path / "server.log", devices="1,2", tensor_parallel_size=2)
    try:
        for folder in (checkpoints[1], checkpoints[0]):
            model = load(folder)
            engine.load_weights(model.named_parameters())
            assert_draws_with(engine, model)
    finally:
        engine.close()


def test_server_and_trainer_on_one_gpu_is_one_line(checkpoints: list[Path], tmp_path: Path) -> None:
    engine = start(checkpoints[0], tmp_path / "server.log", devices="0")
    try:
        with pytest.raises(UserError, match="GPU") as said:
            engine.load_weights(load(checkpoints[0]).named_parameters())
        assert "\n" not in str(said.value)
    finally:
        engine.close()


def test_a_server_that_dies_under_the_weights_is_one_line(checkpoints: list[Path], tmp_path: Path) -> None:
    engine = start(checkpoints[0], tmp_path / "server.log")
    model = load(checkpoints[0])
    engine.load_weights(model.named_parameters())

    def deadly() -> Iterator[tuple[str, torch.Tensor]]:
        for number, entry in enumerate(model.named_parameters()):
            if number == 5:
                os.kill(engine._process.pid, signal.SIGKILL)
            yield entry

    try:
        with pytest.raises(UserError, match="lost"):
            engine.load_weights(deadly())
    finally:
        engine.close()
