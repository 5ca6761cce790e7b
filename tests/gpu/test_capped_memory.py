"""On a CUDA device whose allocator is capped: runs that do not fit go on in smaller parts, and predictions hold."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_runs import Run, assert_close_weights, train
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from open_r1.config import parse
from open_r1.config.plan import PlanSFTConfig
from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.errors import UserError
from open_r1.generation.colocated_engine import free_memory
from open_r1.model.attention import NAME
from open_r1.model.layers import LEVELS
from open_r1.model.memory import ModelShape, Workload, device_memory, estimate_memory
from open_r1.model.pack_model import PackModel
from open_r1.planning.reading import read_machine
from open_r1.training.low_memory_adamw import LowMemoryAdamW, join_bits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def empty() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@pytest.fixture
def cap() -> Iterator[Callable[[float], None]]:
    """Lets this process have so many bytes, and everything again afterwards."""
    total = torch.cuda.get_device_properties(0).total_memory
    empty()
    yield lambda amount: torch.cuda.set_per_process_memory_fraction(amount / total)
    torch.cuda.set_per_process_memory_fraction(1.0)
    empty()


@pytest.fixture(scope="module")
def settings(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Sequences of about 8,000 tokens, each nearly a pack, and a model whose activations are most of the memory."""
    folder = tmp_path_factory.mktemp("memory")
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": f"{number}?", "completion": f"{number % 7} is {number} " * 900} for number in range(100)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model_name_or_path": folder / "model",
        "dataset_name": folder / "rows.jsonl",
        "token_cache_dir": folder / "tokens",
        "dataset_num_proc": 1,
        "max_length": 8192,
        "max_steps": 4,
        "learning_rate": 1e-4,
        "adam_epsilon": 1e-4,
        "bf16": True,
        "save_strategy": "no",
        "torch_compile": False,
        "plan": "off",  # what happens when memory runs out all the same
    }


def measured(output: Path, **settings: Any) -> tuple[Run, float]:
    """A run, and the bytes that its tensors had at its peak: what the allocator holds besides it can give back."""
    empty()
    run = train("sft", output, **settings)
    peak = torch.cuda.max_memory_allocated()
    empty()
    return run, peak


def said(capsys: Any, part: str) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if part in line]


def assert_same_run(run: Run, plain: Run) -> None:
    assert run.losses == pytest.approx(plain.losses, rel=5e-3)
    assert [line["tokens"] for line in run.metrics] == [line["tokens"] for line in plain.metrics]
    assert_close_weights(run.weights, plain.weights, 1e-4)


def test_micro_batches_are_halved(settings: dict[str, Any], tmp_path: Path, cap: Callable, capsys: Any) -> None:
    settings = settings | {"per_device_train_batch_size": 8, "gradient_checkpointing": "none"}
    plain, peak = measured(tmp_path / "plain", **settings)
    capsys.readouterr()
    cap(0.7 * peak)
    run, less = measured(tmp_path / "run", **settings)
    assert said(capsys, "are halved to")
    assert less <= 0.7 * peak
    assert_same_run(run, plain)


def test_the_plan_makes_them_smaller_before(
    settings: dict[str, Any], tmp_path: Path, cap: Callable, capsys: Any
) -> None:
    settings = settings | {"per_device_train_batch_size": 8, "plan": "auto"}
    plain, peak = measured(tmp_path / "plain", **settings)
    assert not said(capsys, "plan: ")
    cap(0.7 * peak)
    run, less = measured(tmp_path / "run", **settings)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("plan: micro-batches of 65,536 tokens become ")]
    assert not [line for line in lines if "out of memory" in line]
    assert less <= 0.7 * peak
    assert_same_run(run, plain)


def test_a_single_sequence_is_recomputed(settings: dict[str, Any], tmp_path: Path, cap: Callable, capsys: Any) -> None:
    settings = settings | {"gradient_checkpointing": "none", "packing": False}
    plain, peak = measured(tmp_path / "plain", **settings)
    capsys.readouterr()
    cap(0.75 * peak)
    run, _ = measured(tmp_path / "run", **settings)
    assert said(capsys, "does not fit; gradient_checkpointing is")
    assert_same_run(run, plain)


def test_what_never_fits_is_one_line(settings: dict[str, Any], tmp_path: Path, cap: Callable) -> None:
    _, peak = measured(tmp_path / "plain", **settings, gradient_checkpointing="full")
    cap(0.5 * peak)
    with pytest.raises(UserError, match=r"out of memory in (the optimizer of )?step 1") as caught:
        train("sft", tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)


def test_the_level_follows_the_cap(settings: dict[str, Any], tmp_path: Path, cap: Callable, capsys: Any) -> None:
    """And what was chosen fits: nothing is halved."""
    settings = settings | {"per_device_train_batch_size": 16}
    plain, peak = measured(tmp_path / "plain", **settings)
    assert len(said(capsys, "gradient_checkpointing none: ")) == 1
    cap(0.5 * peak)
    assert device_memory(torch.device("cuda", 0)) <= 0.5 * peak
    run, _ = measured(tmp_path / "run", **settings)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith(("gradient_checkpointing full: ", "gradient_checkpointing sel"))]
    assert not [line for line in lines if "out of memory" in line]
    assert_same_run(run, plain)


def test_an_engine_is_told_what_the_cap_leaves(cap: Callable) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    cap(4 * 2**30)
    held = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    free, whole = free_memory()
    assert free == pytest.approx(4 * 2**30 - torch.cuda.memory_reserved(), abs=1024)
    assert whole == total
    del held


def test_a_plan_is_made_for_what_the_cap_leaves(cap: Callable) -> None:
    cap(4 * 2**30)
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]
    machine = read_machine(parse(PlanSFTConfig, words, prog="open-r1 plan sft").config)
    assert (machine.gpus, machine.launcher) == (torch.cuda.device_count(), "none" if machine.gpus == 1 else "ddp")
    assert 3.9 * 2**30 < machine.memory <= 4 * 2**30


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_the_prediction(level: str, compiled: bool, cap: Callable) -> None:
    """The second of two steps, each of two micro-batches, in bf16."""
    config = Qwen2Config(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=32_000,
        dtype=torch.bfloat16,
    )
    config._attn_implementation = NAME
    torch._dynamo.reset()
    with torch.device("cuda"):
        module = PackModel(Qwen2ForCausalLM(config).bfloat16()).train()
    if compiled:
        module.layers.compile()
    module.layers.recompute = level
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    ids = np.arange(8192) % 32_000
    pack = make_pack([TrainingSequence(ids, np.ones(len(ids), np.float32))] * 2).to("cuda")
    for _ in range(2):
        empty()
        optimizer.zero_grad()
        for _ in range(2):
            (module(pack, nll=True) / len(pack)).backward()
        optimizer.step()
    measured_peak = torch.cuda.max_memory_allocated()
    work = Workload(tokens=len(pack), weight_dtype=torch.bfloat16, accumulates=True, compiled=compiled)
    predicted = estimate_memory(ModelShape.of(config), work, level).total
    assert 0.85 < predicted / measured_peak < 1.2


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("moment_bits", [8, 32])
def test_the_small_optimizer_is_that_of_the_cpu(moment_bits: int, offload: bool) -> None:
    """Compiled for the device, beside its plain code in the host's memory."""
    masters: dict[str, Tensor] = {}
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(256, 512, generator=generator) * 0.02
        weight = nn.Parameter(start.bfloat16().to(device))
        optimizer = LowMemoryAdamW(
            [{"params": [weight], "weight_decay": 0.1}],
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            moment_bits=moment_bits,
            offload=offload,
            compiled=device == "cuda",
        )
        for _ in range(20):
            weight.grad = (torch.randn(256, 512, generator=generator) + 0.5).bfloat16().to(device)
            optimizer.step()
        low_bits = optimizer.state[weight]["low_bits"]
        assert low_bits.device.type == ("cpu" if offload else device)
        masters[device] = join_bits(weight.data, low_bits.to(device)).cpu()
    way = (masters["cpu"] - start.bfloat16().float()).norm()
    assert (masters["cuda"] - masters["cpu"]).norm() < (0.02 if moment_bits == 8 else 1e-4) * way
