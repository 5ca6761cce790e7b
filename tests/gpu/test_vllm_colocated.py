"""On a GPU with vLLM: in the training process it draws with the weights it was given, and says how likely each token
was; a whole run of `open-r1 grpo` with it, on time and a step behind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoint import save_vllm_checkpoint
from torch import Tensor
from training_runs import SOURCE, flags
from transformers import AutoModelForCausalLM, PreTrainedModel

from open_r1.background import Background
from open_r1.generation.colocated_engine import ColocatedEngine, ColocatedOptions
from open_r1.generation.engine import Completion, Request, SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]

PROMPTS = [tuple((7 * place + 3 * step) % 250 for step in range(5 + place)) for place in range(24)]
STOP = 255


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights large enough that tokens depend on each other."""
    return save_vllm_checkpoint(tmp_path_factory.mktemp("vllm") / "model", initializer_range=0.1)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).cuda().eval()


@pytest.fixture(scope="module")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ColocatedEngine]:
    """It sleeps between generations; its cache holds about a third of what the tests draw at once."""
    options = ColocatedOptions(128, 256, cache_bytes=2**20 * 6, sleeps=True, enforce_eager=True, own_stream=True)
    engine = ColocatedEngine(str(checkpoint), options, log=tmp_path_factory.mktemp("log") / "vllm.log")
    yield engine
    engine.close()


def weights(model: PreTrainedModel) -> list[tuple[str, Tensor]]:
    return [(name, weight.detach()) for name, weight in model.named_parameters()]


def draw(engine: ColocatedEngine, model: PreTrainedModel, params: SamplingParams, copies: int = 8) -> list[Completion]:
    engine.load_weights(iter(weights(model)))
    return drawn(engine, params, copies)


def drawn(engine: ColocatedEngine, params: SamplingParams, copies: int) -> list[Completion]:
    requests = [
        Request(place * copies + sample, ids, seed=2**62 + 1000 * place + sample)
        for place, ids in enumerate(PROMPTS)
        for sample in range(copies)
    ]
    return sorted(engine.generate(requests, params), key=lambda completion: completion.request_id)


@torch.no_grad()
def logprobs(model: PreTrainedModel, prompt: tuple[int, ...], answer: tuple[int, ...], temperature: float) -> Tensor:
    ids = torch.tensor([[*prompt, *answer]], device="cuda")
    logits = model(ids).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_weights_it_was_given(
    engine: ColocatedEngine, model: PreTrainedModel, temperature: float
) -> None:
    answers = draw(engine, model, SamplingParams(64, temperature=temperature, stop_token_ids=(STOP,)))
    assert engine._logprobs is not None  # followed, not asked for
    assert len({answer.token_ids for answer in answers}) > 0.9 * len(answers)
    apart = [
        np.asarray(answer.logprobs) - logprobs(model, PROMPTS[place // 8], answer.token_ids, temperature).numpy()
        for place, answer in enumerate(answers)
    ]
    assert all(len(one) == len(answer.token_ids) for one, answer in zip(apart, answers, strict=True))
    apart = np.concatenate(apart)
    assert np.abs(apart).mean() < 0.03 and np.abs(apart).max() < 0.5  # as near as bfloat16 comes


def test_the_same_seeds_draw_the_same(engine: ColocatedEngine, model: PreTrainedModel) -> None:
    params = SamplingParams(32, stop_token_ids=(STOP,))
    one, other = draw(engine, model, params, 2), draw(engine, model, params, 2)
    same = sum(a.token_ids == b.token_ids for a, b in zip(one, other, strict=True))
    assert same > 0.9 * len(one)  # batches may be cut otherwise, and round otherwise


def test_new_weights_draw_something_else(engine: ColocatedEngine, model: PreTrainedModel, checkpoint: Path) -> None:
    params = SamplingParams(16, temperature=0, stop_token_ids=(STOP,))
    before = draw(engine, model, params, 1)
    other = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).cuda().eval()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(torch.where(torch.rand_like(weight) < 0.5, 1.0, -1.0) if weight.dim() > 1 else 1.0)
    after = draw(engine, other, params, 1)
    assert sum(a.token_ids == b.token_ids for a, b in zip(before, after, strict=True)) < 3
    near = [logprobs(other, PROMPTS[place], answer.token_ids, 1.0) for place, answer in enumerate(after)]
    engine_says = np.concatenate([np.asarray(answer.logprobs) for answer in after])
    assert np.abs(engine_says - torch.cat(near).numpy()).mean() < 0.03
    again = draw(engine, model, params, 1)
    assert sum(a.token_ids == b.token_ids for a, b in zip(before, again, strict=True)) > 20


def test_another_thread_draws_the_same_while_the_gpu_is_busy(engine: ColocatedEngine, model: PreTrainedModel) -> None:
    params = SamplingParams(64, stop_token_ids=(STOP,))
    alone = draw(engine, model, params, 4)
    engine.load_weights(iter(weights(model)))
    work, rounds = torch.randn(8192, 8192, device="cuda"), 0
    drawing = Background(drawn, engine, params, 4)
    while drawing.running:
        for _ in range(20):  # some hundred milliseconds, many steps of decoding
            work = torch.nn.functional.normalize(work @ work)
        torch.cuda.current_stream().synchronize()
        rounds += 1
    beside = drawing.result()
    assert rounds > 1
    same = [(a, b) for a, b in zip(alone, beside, strict=True) if a.token_ids == b.token_ids]
    assert len(same) > 0.9 * len(alone)  # batches may be cut otherwise, and round otherwise
    assert max(np.abs(np.asarray(a.logprobs) - np.asarray(b.logprobs)).max() for a, b in same) < 0.5


@pytest.mark.parametrize(
    "changes",
    [{}, {"async_steps": 1}, {"vllm_enable_sleep_mode": True}, {"use_peft": True}, {"num_iterations": 2, "beta": 0.01}],
    ids=["on-time", "a-step-behind", "sleeping", "lora", "twice-with-kl"],
)
def test_a_run(checkpoint: Path, even_reward: str, tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = [{"problem": f"{a}+{a}?", "answer": str(2 * a)} for a in range(32)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model_name_or_path": checkpoint,
        "dataset_name": tmp_path / "sums.jsonl",
        "output_dir": tmp_path / "run",
        "reward_funcs": even_reward,
        "use_vllm": True,
        "vllm_enforce_eager": True,
        "bf16": True,
        "torch_compile": False,
        "max_steps": 4,
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "max_completion_length": 32,
        "learning_rate": 1e-4,
        "save_strategy": "no",
        "logging_steps": 1,
        **changes,
    }
    # In a process of its own: vLLM's engine lives as long as its process.
    words = [sys.executable, str(SOURCE / "grpo.py"), *flags(settings)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(0 <= line["mismatch"] < 0.2 for line in lines)  # a policy of an earlier step is further away
    assert lines[0]["mismatch"] < 0.05
    drawn = [line["seconds_generate"] > 0 for line in lines]
    assert drawn == [number % changes.get("num_iterations", 1) == 0 for number in range(4)]
