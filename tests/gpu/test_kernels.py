"""On a CUDA device: every attention kernel computes what SDPA computes in float32; training runs in bf16 and fp16."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.model import attention, flash, kernels
from open_r1.model.pack_model import PackModel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
LENGTHS = (700, 3, 130, 64, 1, 257, 512)


@pytest.fixture(scope="module")
def model() -> PackModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    config._attn_implementation = attention.NAME
    return PackModel(Qwen2ForCausalLM(config)).cuda()


def pack():
    rng = np.random.default_rng(0)
    return make_pack(
        [TrainingSequence(rng.integers(0, 320, n), (rng.random(n) > 0.3).astype(np.float32)) for n in LENGTHS]
    ).to("cuda")


def loss_and_gradients(model: PackModel, dtype: torch.dtype | None) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    with torch.autocast("cuda", dtype=dtype or torch.float32, enabled=dtype is not None):
        loss = -model(pack()).logprobs.mean()
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("kernel", ["documents", "varlen", "fa4"])
def test_kernel_in_bf16_agrees_with_float32(model: PackModel, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "fa4" and not flash.has_flash_attention_4():
        pytest.skip("flash-attn-4 is not installed")
    reference, expected = loss_and_gradients(model, None)
    monkeypatch.setattr(attention, "choose_kernel", lambda device, dtype: kernel)
    loss, gradients = loss_and_gradients(model, torch.bfloat16)
    assert abs(loss - reference) < 2e-3 * reference
    for got, want in zip(gradients, expected, strict=True):
        assert (got - want).norm() <= 3e-2 * want.norm() + 1e-6


def test_the_rule_takes_a_fused_kernel_in_bf16() -> None:
    device = torch.device("cuda")
    assert kernels.choose_kernel(device, torch.bfloat16) in ("varlen", "fa4")
    assert kernels.choose_kernel(device, torch.float32) == "documents"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sft_learns_on_the_gpu(precision: str, tiny_checkpoint, tmp_path) -> None:
    from open_r1 import sft

    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"{a} + {b}", "completion": str(a + b)} for a in range(10) for b in range(10)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "run"
    arguments = {"model_name_or_path": tiny_checkpoint, "dataset_name": data, "output_dir": output, "max_length": 256}
    arguments |= {"learning_rate": 3e-3, "max_steps": 30, "save_strategy": "no", "token_cache_dir": tmp_path / "cache"}
    sft.main([word for name, value in arguments.items() for word in (f"--{name}", str(value))] + [f"--{precision}"])
    losses = [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
