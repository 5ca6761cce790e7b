"""On a GPU with vLLM: what a run exports, vLLM opens, and says what transformers says with it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import save_vllm_checkpoint
from training_runs import Run, train
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_r1.generation.vllm_process import ENVIRONMENT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]

QUESTIONS = [f"{a}+{b}?" for a in range(4) for b in range(4)]

# In a process of its own: the engine's memory is given back by its end alone. All settings are those of the folder:
# the chat template, and what ends an answer.
ASK = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    folder, answers, questions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    llm = LLM(model=folder, dtype="bfloat16", max_model_len=256, gpu_memory_utilization=0.3, enforce_eager=True)
    chats = [[{"role": "user", "content": question}] for question in questions]
    outputs = llm.chat(chats, SamplingParams(temperature=0, max_tokens=32), use_tqdm=False)
    with open(answers, "w") as file:
        json.dump([[list(one.prompt_token_ids), list(one.outputs[0].token_ids), one.outputs[0].finish_reason]
                   for one in outputs], file)
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model of heads that every kernel of vLLM's has, and sums that it learns by heart, so that no answer is near to
    another one.
    """
    place = tmp_path_factory.mktemp("base")
    folder = save_vllm_checkpoint(place / "model", initializer_range=0.02)
    rows = [{"prompt": question, "completion": f"It is {eval(question[:-1])}"} for question in QUESTIONS]
    (place / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model_name_or_path": folder,
        "dataset_name": place / "sums.jsonl",
        "token_cache_dir": place / "tokens",
        "dataset_num_proc": 1,
        "max_length": 512,
        "max_steps": 300,
        "learning_rate": 3e-3,
        "warmup_ratio": 0.1,
        "save_strategy": "no",
        "bf16": "true",
        "torch_compile": "false",
    }


@torch.no_grad()
def transformers_answers(folder: Path) -> list[tuple[list[int], list[int]]]:
    """Prompt and greedy answer of each question, with the settings of the folder alone."""
    model = AutoModelForCausalLM.from_pretrained(folder).cuda().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        (drawn,) = model.generate(**ids.to("cuda"), max_new_tokens=32, do_sample=False).tolist()
        length = ids["input_ids"].shape[1]
        answers.append((drawn[:length], drawn[length:]))
    return answers


def vllm_answers(folder: Path, place: Path) -> list[tuple[list[int], list[int], str]]:
    program, answers = place / "ask.py", place / "answers.json"
    program.write_text(ASK)
    words = [sys.executable, str(program), str(folder), str(answers), json.dumps(QUESTIONS)]
    environment = os.environ | ENVIRONMENT | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=500, cwd=place)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return [tuple(answer) for answer in json.loads(answers.read_text())]


def check(run: Run, place: Path) -> None:
    torch.cuda.empty_cache()
    expected, got = transformers_answers(run.folder), vllm_answers(run.folder, place)
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    for question, (prompt, answer), (vllm_prompt, vllm_answer, reason) in zip(QUESTIONS, expected, got, strict=True):
        assert vllm_prompt == prompt, question  # the template
        assert vllm_answer == answer, question
        assert reason == "stop" and answer[-1] == tokenizer.eos_token_id, question
    texts = [tokenizer.decode(answer, skip_special_tokens=True) for _, answer in expected]
    assert texts == [f"It is {eval(question[:-1])}" for question in QUESTIONS]  # so that the above is no accident


def test_a_model_that_was_trained_whole(settings: dict[str, Any], tmp_path: Path) -> None:
    check(train("sft", tmp_path / "run", **settings), tmp_path)


def test_adapters_that_were_merged(settings: dict[str, Any], tmp_path: Path) -> None:
    """On the model that knows nothing yet: embeddings and norms stay as they are drawn, so that adapters have to do."""
    adapters = {"use_peft": True, "merge_lora": True, "lora_r": 64, "lora_alpha": 128}
    run = train("sft", tmp_path / "run", **settings | adapters)
    assert (run.folder / "config.json").exists() and not (run.folder / "adapter_config.json").exists()
    check(run, tmp_path)
