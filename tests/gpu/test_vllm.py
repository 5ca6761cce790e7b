"""On a GPU with vLLM: it answers as our own engine does, seeds decide, and its process is gone at the end."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import save_vllm_checkpoint
from transformers import AutoModelForCausalLM

from open_r1.cli import main
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.vllm_engine import VllmEngine, VllmOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]

OPTIONS = {"dtype": "bfloat16", "max_model_length": 512, "gpu_memory_utilization": 0.3, "enforce_eager": True}
PROMPTS = [tuple((7 * place + 3 * step) % 250 for step in range(5 + place)) for place in range(24)]
STOP = 255


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights large enough that tokens depend on each other."""
    return save_vllm_checkpoint(tmp_path_factory.mktemp("vllm") / "model", initializer_range=0.1)


@pytest.fixture(scope="module")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    engine = VllmEngine(str(checkpoint), VllmOptions(**OPTIONS), log=tmp_path_factory.mktemp("log") / "vllm.log")
    yield engine
    engine.close()


def draw(engine: VllmEngine, params: SamplingParams, seeds: list[int], copies: int = 1) -> list[Completion]:
    prompts = [prompt for prompt in PROMPTS for _ in range(copies)]
    requests = [Request(place, ids, seed) for place, (ids, seed) in enumerate(zip(prompts, seeds, strict=True))]
    return sorted(engine.generate(requests, params), key=lambda completion: completion.request_id)


@torch.no_grad()
def test_greedy_completions_are_those_of_the_model(checkpoint: Path, engine: VllmEngine) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).cuda().eval()
    answers = draw(engine, SamplingParams(48, temperature=0, stop_token_ids=(STOP,)), [0] * len(PROMPTS))
    likeliest = total = 0
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        logits_TV = model(torch.tensor([[*prompt, *answer.token_ids]], device="cuda")).logits[0, len(prompt) - 1 : -1]
        chosen_T = logits_TV.gather(1, torch.tensor(answer.token_ids, device="cuda")[:, None])[:, 0]
        assert (logits_TV.amax(1) - chosen_T).max() < 0.15, answer.request_id  # as near as bfloat16 can tell
        likeliest += (logits_TV.argmax(1) == torch.tensor(answer.token_ids, device="cuda")).sum().item()
        total += len(answer.token_ids)
        assert (answer.token_ids[-1] == STOP) == (answer.finish_reason == "stop")
        assert STOP not in answer.token_ids[:-1] and len(answer.token_ids) <= 48
    assert likeliest > 0.9 * total


def test_a_seed_decides_a_completion_whatever_is_drawn_beside_it(engine: VllmEngine) -> None:
    params = SamplingParams(32, temperature=1.0, stop_token_ids=(STOP,))
    seeds = [2**62 + number for number in range(len(PROMPTS) * 3)]
    whole = draw(engine, params, seeds, copies=3)
    assert len({answer.token_ids for answer in whole}) > 0.9 * len(whole)
    again = [next(iter(engine.generate([Request(0, PROMPTS[place // 3], seeds[place])], params))) for place in range(9)]
    same = sum(one.token_ids == other.token_ids for one, other in zip(again, whole, strict=False))
    assert same >= 7  # another batch rounds otherwise


def test_a_full_context_cuts_a_completion(engine: VllmEngine) -> None:
    (answer,) = engine.generate([Request(0, (5,) * 500, 1)], SamplingParams(100, stop_token_ids=()))
    assert (len(answer.token_ids), answer.finish_reason) == (12, "length")


def test_leaving_early_leaves_nothing_behind(engine: VllmEngine) -> None:
    stream = engine.generate([Request(place, ids, 1) for place, ids in enumerate(PROMPTS)], SamplingParams(200))
    next(stream)
    stream.close()
    assert len(draw(engine, SamplingParams(4), [1] * len(PROMPTS))) == len(PROMPTS)
    assert not engine.llm.llm_engine.has_unfinished_requests()


def test_evaluate_with_vllm_leaves_no_process(checkpoint: Path, tmp_path: Path, engine: VllmEngine) -> None:
    problems = tmp_path / "sums.jsonl"
    problems.write_text("".join(json.dumps({"prompt": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(8)))
    command = ["evaluate", "--model", str(checkpoint), "--engine", "vllm", "--tasks", f"problems={problems}"]
    command += ["--num_samples", "4", "--max_new_tokens", "16", "--output_dir", str(tmp_path / "out")]
    before = len(multiprocessing.active_children())
    assert main([*command, "--vllm_gpu_memory_utilization", "0.3", "--vllm_enforce_eager"]) == 0
    assert len(multiprocessing.active_children()) == before
    (task,) = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]
    assert (task["problems"], task["samples"]) == (8, 4)


def test_too_little_memory_is_one_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    problems = tmp_path / "sums.jsonl"
    problems.write_text(json.dumps({"prompt": "1+1?", "answer": "2"}) + "\n")
    command = ["evaluate", "--model", str(checkpoint), "--engine", "vllm", "--tasks", f"problems={problems}"]
    command += ["--output_dir", str(tmp_path / "out"), "--vllm_gpu_memory_utilization", "0.000001"]
    assert main([*command, "--vllm_enforce_eager"]) == 2
    said = capsys.readouterr().err
    assert "vLLM could not start" in said and "vllm_gpu_memory_utilization" in said
