"""What tests of several rooms need: a tiny checkpoint, small data, no network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it
os.environ["OPEN_R1_HOME"] = "/nonexistent/open_r1"  # settings of whoever runs the tests stay out of them
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it: cores may be shared

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# What a script starts in the background is deaf to Ctrl-C, and so would be what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Qwen2 of two layers; read it, do not write into it."""
    from tiny_checkpoint import save_tiny_checkpoint

    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """47 sums as JSONL, each with a ``problem``, a ``solution`` of one to three steps, and the bare ``answer``."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = []
    for number in range(47):
        a, b = number * 7 % 23, number * 11 % 19
        steps = f"{a}+{b}={a + b}. " * (1 + number % 3)
        rows.append({"problem": f"{a}+{b}?", "solution": f"{steps}It is {a + b}", "answer": str(a + b)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def even_reward(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward of the user's own that differs between any two completions, or nearly: the share of even tokens."""
    path = tmp_path_factory.mktemp("rewards") / "even.py"
    path.write_text(
        "def even_tokens(completion_ids, **columns):\n"
        "    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]\n"
    )
    return f"{path}:even_tokens"


@pytest.fixture(scope="session")
def sft_settings(tiny_checkpoint: Path, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a short SFT run, all but ``output_dir``: packs of one or two sums."""
    return {
        "model_name_or_path": tiny_checkpoint,
        "dataset_name": sums,
        "token_cache_dir": tmp_path_factory.mktemp("tokens"),
        "dataset_num_proc": 1,
        "max_length": 96,
        "learning_rate": 1e-2,
        "cpu_threads": 1,
        "save_strategy": "no",
    }


@pytest.fixture(scope="session")
def grpo_settings(sums: Path, even_reward: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a short GRPO run, all but ``output_dir``: two prompts a step, four completions each, of which some
    stop before the longest length.
    """
    from tiny_checkpoint import save_tiny_checkpoint

    return {
        "model_name_or_path": save_tiny_checkpoint(tmp_path_factory.mktemp("stopping") / "model", stops=range(20)),
        "dataset_name": sums,
        "reward_funcs": [even_reward],
        "reward_workers": 1,
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 12,
        "learning_rate": 1e-2,
        "cpu_threads": 1,
        "save_strategy": "no",
    }


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """The made-up ``LLM`` class, on a machine that says it has a GPU."""
    import torch

    monkeypatch.syspath_prepend(Path(__file__).parent / "unit" / "generation" / "fake_vllm")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    from vllm import LLM

    yield LLM
    for llm in LLM.made:
        llm.process.kill()
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]
