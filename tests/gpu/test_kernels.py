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
    return small_model()


def small_model() -> PackModel:
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


def pack(lengths: tuple[int, ...] = LENGTHS):
    rng = np.random.default_rng(0)
    return make_pack(
        [TrainingSequence(rng.integers(0, 320, n), (rng.random(n) > 0.3).astype(np.float32)) for n in lengths]
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bonus", [False, True], ids=["logprobs", "logprobs and entropies"])
@pytest.mark.parametrize("vocabulary", [31, 8192, 20_001])
def test_policy_kernels_are_the_plain_versions(dtype: torch.dtype, bonus: bool, vocabulary: int) -> None:
    """On rows of which one is near certain and one is uniform, with a stride, a part of the vocabulary ruled out."""
    from open_r1.model.logit_chunk import gradient_plainly, score_plainly
    from open_r1.model.policy_kernel import gradient_, score

    torch.manual_seed(0)
    scale, rows = 1.3, 7
    logits = (torch.randn(rows, vocabulary + 24, device="cuda") * 3).to(dtype)[:, :vocabulary]
    logits[0], logits[1, 5], logits[2, : vocabulary // 2] = 0.25, 80.0, -float("inf")
    targets = torch.randint(vocabulary // 2, vocabulary, (rows,), device="cuda")
    of_logprob, of_entropy = torch.randn(rows, device="cuda"), torch.randn(rows, device="cuda") if bonus else None

    expected = score_plainly(logits.float() * scale, targets, bonus)
    logprobs, normalisers, entropies = score(logits, targets, scale, bonus)
    torch.testing.assert_close(logprobs, expected.logprobs, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(normalisers, expected.normalisers, rtol=1e-5, atol=1e-4)
    assert (entropies is None) is not bonus
    if bonus:
        torch.testing.assert_close(entropies, expected.entropies, rtol=1e-5, atol=1e-4)

    wanted = gradient_plainly(logits.float() * scale, targets, expected, of_logprob, of_entropy) * scale
    gradient_(logits, targets, normalisers, entropies, of_logprob, of_entropy, scale)
    torch.testing.assert_close(logits.float(), wanted, rtol=1e-2 if dtype is torch.bfloat16 else 1e-4, atol=1e-5)


def test_the_policys_loss_in_one_pass_is_that_in_two() -> None:
    from open_r1.model.head import policy_loss, target_logprobs
    from open_r1.model.policy_head import PolicyTargets

    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 20_001, bias=False, device="cuda", dtype=torch.bfloat16)
    hidden = torch.randn(300, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, 20_001, (300,), device="cuda")
    of_targets = PolicyTargets(torch.rand(300, device="cuda"), torch.zeros_like(targets))

    def objective(predicted, of):
        return (of.loss_weight * (predicted.logprobs.exp() - 0.1 * predicted.entropy)).sum(), {
            "entropy": predicted.entropy.sum()
        }

    leaves = (hidden, layer.weight)
    loss, metrics = policy_loss(hidden, layer, targets, objective, of_targets, temperature=0.8, chunk=128)
    predicted = target_logprobs(hidden, layer, targets, temperature=0.8, entropy=True, chunk=128)
    other, _ = objective(predicted, of_targets)
    torch.testing.assert_close(loss, other)
    torch.testing.assert_close(metrics["entropy"], predicted.entropy.sum().detach())
    for got, want in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(other, leaves), strict=True):
        assert (got - want).norm() <= 2e-2 * want.norm()


def test_full_packs_of_completions_are_compiled_for_once() -> None:
    """However many completions they hold, and however long those are."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    module = small_model().train()
    module.full, module.sequences, module.longest = 1024, 32, 1024
    module.layers.compile()
    compiled = set()
    for lengths in [(200,) * 5, (1024,), (40,) * 25, (700, 3, 130), (400, 400)]:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = -module(pack(lengths)).logprobs.mean()
        loss.backward()
        compiled.add(counters["stats"]["unique_graphs"])
    assert len(compiled) == 1 and compiled != {0}
