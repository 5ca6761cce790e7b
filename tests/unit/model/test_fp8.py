"""Products in 8 bits: refused where the chip has none; emulated, they train as the original type does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import train
from transformers import Qwen2Config, Qwen2ForCausalLM

from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.errors import UserError
from open_r1.model import fp8
from open_r1.model.fp8 import check_fp8, multiply_in_fp8
from open_r1.model.layers import LEVELS
from open_r1.model.pack_model import PackModel

GPU = torch.device("cuda")
emulated = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")


def test_a_cpu_is_refused(sft_settings: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^fp8 needs a GPU of the Ada or Hopper .*there is none here; leave --fp8"):
        train("sft", tmp_path / "run", **sft_settings, fp8=True)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6)])
def test_an_old_gpu_is_refused(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    with pytest.raises(UserError, match=rf"this one's is {capability[0]}\.{capability[1]}; leave --fp8 out"):
        check_fp8(GPU)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0)])
def test_a_new_gpu_needs_the_library(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(fp8.importlib.util, "find_spec", lambda name: object())
    check_fp8(GPU)
    monkeypatch.setattr(fp8.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"torchao, which is not installed.*open-r1\[quant\]"):
        check_fp8(GPU)


def small_model(width: int = 64, bias: bool = True) -> PackModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("open_r1")
    return PackModel(model).train()


def losses(module: PackModel, steps: int) -> list[float]:
    """Of counting by threes, modulo 64."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    found = []
    for step in range(steps):
        starts = np.random.default_rng(step).integers(0, 64, 4)
        pack = make_pack([TrainingSequence((start + 3 * np.arange(32)) % 64, np.ones(32)) for start in starts])
        loss = module(pack, nll=True) / len(pack.target_index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@emulated
def test_emulated_it_trains_as_float32_does() -> None:
    plain = losses(small_model(), 40)
    module = small_model()
    names = [name for name, _ in module.named_parameters()]
    multiply_in_fp8(module.causal_lm, emulate=True)
    assert [name for name, _ in module.named_parameters()] == names
    rounded = losses(module, 40)
    assert rounded != plain  # something was rounded
    assert rounded[0] == pytest.approx(plain[0], rel=0.01)
    assert plain[-1] < 0.5 * plain[0]
    assert np.mean(rounded[-10:]) == pytest.approx(np.mean(plain[-10:]), rel=0.05)


@emulated
def test_it_goes_with_every_level_of_recomputation() -> None:
    found = {}
    for level in LEVELS:
        module = small_model()
        multiply_in_fp8(module.causal_lm, emulate=True)
        module.layers.recompute = level
        found[level] = losses(module, 3)
    assert found["none"] == found["selective"] == found["full"]


@emulated
def test_only_the_layers_that_fit_are_swapped() -> None:
    """Head and embedding stay; so do products whose sizes are no multiples of 16."""
    model = small_model().causal_lm
    head = model.get_output_embeddings()
    model.model.layers[0].mlp.up_proj = nn.Linear(64, 24)
    multiply_in_fp8(model, emulate=True)
    swapped = {name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"}
    assert type(head) is nn.Linear
    assert "model.layers.0.mlp.up_proj" not in swapped
    assert len(swapped) == 2 * 7 - 1


@emulated
def test_a_model_that_it_does_not_fit() -> None:
    with pytest.raises(UserError, match="Qwen2ForCausalLM has no linear layers that fp8 fits; leave --fp8 out"):
        multiply_in_fp8(small_model(width=40).causal_lm, emulate=True)
