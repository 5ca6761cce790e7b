"""Adapters over frozen weights: what is loaded, in which dtype, and that it learns."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from open_r1.config import SFTConfig
from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.errors import UserError
from open_r1.model.load import load_model
from open_r1.model.lora import add_adapters, quantization_arguments, weights_dtype
from open_r1.model.pack_model import PackModel


def settings(checkpoint: Path | str = "m", **more: Any) -> SFTConfig:
    return SFTConfig(model_name_or_path=str(checkpoint), dataset_name="d", output_dir="o", **more)


def adapted(checkpoint: Path, **more: Any) -> tuple[PackModel, SFTConfig]:
    config = settings(checkpoint, use_peft=True, lora_r=4, **more)
    torch.manual_seed(0)
    model = load_model(str(checkpoint), dtype=weights_dtype(config), **quantization_arguments(config))
    return PackModel(add_adapters(model, config)).train(), config


def loss_of(module: PackModel, config: SFTConfig) -> torch.Tensor:
    pack = make_pack([TrainingSequence(np.arange(start, 40), np.ones(40 - start, np.float32)) for start in (0, 7)])
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
        return -module(pack).logprobs.mean()


def train(module: PackModel, config: SFTConfig) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(module, config)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_weights_that_train_are_float32_and_frozen_ones_as_computed() -> None:
    assert weights_dtype(settings(bf16=True)) == "float32"
    assert weights_dtype(settings(bf16=True, use_peft=True)) == "bfloat16"
    assert weights_dtype(settings(fp16=True, use_peft=True)) == "float16"
    assert weights_dtype(settings(use_peft=True)) == "float32"
    assert weights_dtype(settings(bf16=True, use_peft=True, torch_dtype="float32")) == "float32"


@pytest.mark.parametrize("bf16", [False, True])
def test_adapters_train_in_float32_over_frozen_weights(tiny_checkpoint: Path, bf16: bool) -> None:
    module, config = adapted(tiny_checkpoint, bf16=bf16)
    frozen = {name: parameter for name, parameter in module.named_parameters() if not parameter.requires_grad}
    before = {name: parameter.clone() for name, parameter in frozen.items()}
    assert {p.dtype for p in frozen.values()} == {torch.bfloat16 if bf16 else torch.float32}
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32} and all("lora_" in name for name in trained)
    losses = train(module, config)
    assert losses[-1] < losses[0] - 0.1
    assert all(torch.equal(before[name], parameter) for name, parameter in frozen.items())


def test_the_product_with_an_adapter_is_in_bf16_under_autocast(tiny_checkpoint: Path) -> None:
    module, config = adapted(tiny_checkpoint, bf16=True)
    seen = set()
    for name, child in module.named_modules():
        if name.endswith("lora_A.default"):
            child.register_forward_hook(lambda _, inputs, output: seen.add((inputs[0].dtype, output.dtype)))
    loss_of(module, config)
    assert seen == {(torch.bfloat16, torch.bfloat16)}


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers whose sizes are multiples of 64, the block of 4-bit weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 256}
    config = Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1)
    folder = tmp_path_factory.mktemp("wide") / "model"
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("flag", "bf16"), [("load_in_4bit", False), ("load_in_4bit", True), ("load_in_8bit", True)])
def test_adapters_over_quantised_weights(wide_checkpoint: Path, flag: str, bf16: bool) -> None:
    pytest.importorskip("bitsandbytes")
    whole, whole_config = adapted(wide_checkpoint)
    module, config = adapted(wide_checkpoint, bf16=bf16, **{flag: True})
    compute = torch.bfloat16 if bf16 else torch.float32
    rest = {p.dtype for name, p in module.named_parameters() if "embed_tokens" in name or "norm" in name}
    assert rest == {compute} and module.causal_lm.lm_head.weight.dtype == compute
    linear = module.causal_lm.model.layers[0].mlp.up_proj
    stored = linear.base_layer.weight
    assert stored.nbytes == stored.shape.numel() and stored.dtype in (torch.uint8, torch.int8)
    assert stored.numel() == 64 * 128 // (2 if flag == "load_in_4bit" else 1)
    assert linear.lora_A.default.weight.dtype == torch.float32
    module.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    losses = train(module, config)
    assert losses[0] == pytest.approx(loss_of(whole, whole_config).item(), rel=0.05)
    assert losses[-1] < losses[0] - 0.1


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert quantization_arguments(settings(use_peft=True)) == {}
    with pytest.raises(UserError, match=r"load_in_8bit needs bitsandbytes.*pip install 'open-r1\[quant\]'"):
        quantization_arguments(settings(use_peft=True, load_in_8bit=True))
