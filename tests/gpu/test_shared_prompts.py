"""On a CUDA device: a prompt computed once for all of its completions, by every kernel, is one computed with each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.model import attention, flash
from open_r1.model.pack_model import PackModel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
GROUPS = ((130, (257, 1, 64, 300)), (1, (40, 3)), (64, (128,)), (500, (100, 17, 260)))
"""Tokens of a prompt, and of each of its completions."""
SIZES = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}
MODELS = {
    "grouped": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)),
    "as many keys": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=4)),
    "window": lambda: MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=100)),
}


def small_model(name: str) -> PackModel:
    torch.manual_seed(0)
    model = MODELS[name]()
    model.set_attn_implementation(attention.NAME)
    return PackModel(model).cuda().train()


def pack(share: bool, groups: tuple[tuple[int, tuple[int, ...]], ...] = GROUPS) -> Pack:
    chance = np.random.default_rng(0)
    sequences, shared = [], []
    for size, answers in groups:
        prompt = chance.integers(0, 320, size)
        for number, answer in enumerate(answers):
            weight = np.repeat([0.0, 1.0], [size, answer]).astype(np.float32)
            sequences.append(TrainingSequence(np.concatenate([prompt, chance.integers(0, 320, answer)]), weight))
            shared.append(size if number else 0)
    return make_pack(sequences, shared if share else None).to("cuda")


def logprobs_and_gradients(module: PackModel, of: Pack, dtype: torch.dtype | None) -> tuple[Tensor, list[Tensor]]:
    module.zero_grad()
    with torch.autocast("cuda", dtype=dtype or torch.float32, enabled=dtype is not None):
        logprobs = module(of).logprobs
    (-logprobs.mean()).backward()
    return logprobs.detach(), [parameter.grad.clone() for parameter in module.parameters()]


def aten(query, key, value, cu_keys, longest, scale, window, cu_queries) -> Tensor:
    """The operator under `varlen_attn`, as `varlen_attention` is called."""
    sides: dict[str, Any] = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    cu_queries = cu_keys if cu_queries is None else cu_queries
    return torch.ops.aten._flash_attention_forward(
        query, key, value, cu_queries, cu_keys, longest, longest, 0.0, True, False, scale=scale, **sides
    )[0]


@pytest.fixture(params=["documents", "varlen", "aten", "fa4"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which computes attention, in bf16."""
    name = request.param
    if name == "fa4" and not flash.has_flash_attention_4():
        pytest.skip("flash-attn-4 is not installed")
    if name == "aten":
        monkeypatch.setattr(attention, "varlen_attention", aten)
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: "varlen" if name == "aten" else name)
    return name


def assert_near(found: tuple[Tensor, list[Tensor]], exact: tuple[Tensor, list[Tensor]], tolerance: float) -> None:
    """In norms: the last bits differ."""
    for got, want in zip((found[0], *found[1]), (exact[0], *exact[1]), strict=True):
        assert got.isfinite().all()
        assert (got - want).norm() <= tolerance * want.norm() + 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_float32(name: str) -> None:
    module = small_model(name)
    assert_near(*(logprobs_and_gradients(module, pack(share), None) for share in (True, False)), 1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_every_kernel_in_bf16(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small_model(name)
    with monkeypatch.context() as patched:
        patched.setattr(attention, "choose_kernel", lambda *_: "documents")
        exact = logprobs_and_gradients(module, pack(False), None)
    shared, each = (logprobs_and_gradients(module, pack(share), torch.bfloat16) for share in (True, False))
    assert_near(each, exact, 3e-2)
    assert_near(shared, exact, 3e-2)
    assert_near(shared, each, 3e-2)


@pytest.mark.parametrize("kernel", ["varlen", "fa4"], indirect=True)
def test_compiled_once_for_full_packs(kernel: str) -> None:
    """Padded, with keys that no query sees; how much is shared makes no other shape."""
    torch._dynamo.reset()
    counters.clear()
    groups = [GROUPS, ((300, (700,)), (100, (600,))), ((20, (85,) * 20),)]  # 1865, 1700, 1720 tokens are computed
    plain = small_model("grouped")
    expected = [logprobs_and_gradients(plain, pack(False, some), torch.bfloat16) for some in groups]
    module = small_model("grouped")
    module.full, module.sequences, module.longest = 2048, 32, 1024
    module.layers.compile()
    compiled = set()
    for some, numbers in zip(groups, expected, strict=True):
        assert_near(logprobs_and_gradients(module, pack(True, some), torch.bfloat16), numbers, 3e-2)
        compiled.add(counters["stats"]["unique_graphs"])
    assert len(compiled) == 1 and compiled != {0}
