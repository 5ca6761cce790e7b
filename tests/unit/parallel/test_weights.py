"""What an engine is given of a policy: a checkpoint's names, adapters added in, and the policy left as it is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_checkpoint import save_tiny_moe
from torch import Tensor, nn
from training_runs import assert_same_weights, load_weights
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from open_r1.config import SFTConfig
from open_r1.errors import UserError
from open_r1.model.load import load_model
from open_r1.model.lora import quantization_arguments
from open_r1.model.merge import merged_weights
from open_r1.model.pack_model import PackModel
from open_r1.model.stored_weights import as_stored
from open_r1.parallel.weights import whole_weights

IDS = torch.tensor([[5, 80, 3, 200, 17, 41]])


class Here:
    """Tensors that are whole already, as one process has them; counts how many are asked for at once."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def whole(self, tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype | None]) -> list[Tensor]:
        self.calls.append(len(tensors))
        return [tensor.detach() for tensor in tensors]


def given(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    pairs = list(whole_weights(model, Here(), dtype))
    weights = dict(pairs)
    assert len(weights) == len(pairs), "a name comes twice"
    return weights


def adapted(model: PreTrainedModel, targets: str | list[str] = "all-linear") -> PeftModel:
    """Adapters that are far from zero."""
    torch.manual_seed(3)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return peft.eval()


def test_a_checkpoints_own_weights_without_a_copy(tiny_checkpoint: Path) -> None:
    model = load_model(str(tiny_checkpoint))
    weights = given(model)
    assert_same_weights(weights, load_weights(tiny_checkpoint))  # the tied head once, as in the file
    held = model.state_dict()
    assert all(tensor.data_ptr() == held[name].data_ptr() for name, tensor in weights.items())
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_a_layer_at_a_time(tiny_checkpoint: Path) -> None:
    here = Here()
    weights = whole_weights(load_model(str(tiny_checkpoint)), here)
    assert here.calls == []  # nothing is gathered for an engine that takes nothing
    next(weights)
    assert here.calls == [1]
    list(weights)
    assert here.calls == [1, 12, 12, 1]  # embedding, two layers, the last norm


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_adapters_are_added_and_the_module_stays(tiny_checkpoint: Path, targets: str | list[str]) -> None:
    model = adapted(load_model(str(tiny_checkpoint)), targets)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = given(model)
    assert_same_weights(dict(model.state_dict()), before)
    assert weights.keys() == load_weights(tiny_checkpoint).keys()
    merged = merged_weights(model)[1]
    assert_same_weights(weights, {name: merged[name] for name in weights})

    plain = load_model(str(tiny_checkpoint))
    plain.load_state_dict(weights, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, model(IDS).logits, atol=1e-4, rtol=1e-4)


def test_grad_mode_is_not_touched_while_weights_are_taken(tiny_checkpoint: Path) -> None:
    for _, tensor in whole_weights(adapted(load_model(str(tiny_checkpoint))), Here()):
        assert torch.is_grad_enabled()
        assert not tensor.requires_grad


def test_a_cast_is_taken_after_the_sum(tiny_checkpoint: Path) -> None:
    model = adapted(load_model(str(tiny_checkpoint)))
    exact, cast = given(model), given(model, torch.bfloat16)
    assert_same_weights(cast, {name: tensor.bfloat16() for name, tensor in exact.items()})


def test_joined_projections_keep_their_names(tiny_checkpoint: Path) -> None:
    pack_model = PackModel(load_model(str(tiny_checkpoint)))
    pack_model.layers.compile(backend="aot_eager")
    assert type(pack_model.causal_lm.model.layers[0].self_attn.q_proj) is not nn.Linear
    assert_same_weights(given(pack_model.model), load_weights(tiny_checkpoint))


def test_a_head_of_its_own_is_given(tiny_checkpoint: Path) -> None:
    model = load_model(str(tiny_checkpoint))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 0.5)
    assert torch.equal(given(model)["lm_head.weight"], model.lm_head.weight)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_that_would_untie_weights_are_refused(tiny_checkpoint: Path, target: str) -> None:
    with pytest.raises(UserError, match=rf"lora_target_modules: .*{target}.weight is tied to another weight"):
        given(adapted(load_model(str(tiny_checkpoint)), ["q_proj", target]))


def test_adapters_that_are_no_plain_lora_are_refused(tiny_checkpoint: Path) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    with pytest.raises(UserError, match=r"lora_magnitude_vector.* is no plain LoRA"):
        given(get_peft_model(load_model(str(tiny_checkpoint)), config))


def test_experts_come_apart_as_the_files_hold_them(tmp_path: Path) -> None:
    stored = load_weights(save_tiny_moe(tmp_path))
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in stored
    assert_same_weights(given(load_model(str(tmp_path))), stored)


def test_adapters_on_experts_are_added(tmp_path: Path) -> None:
    model = adapted(load_model(str(save_tiny_moe(tmp_path))))
    weights = given(model)
    assert weights.keys() == load_weights(tmp_path).keys()
    assert_same_weights(weights, as_stored(model.get_base_model(), merged_weights(model)[1]))
    served = type(model.get_base_model()).from_pretrained(None, config=model.config, state_dict=weights)
    with torch.no_grad():
        torch.testing.assert_close(served(IDS % 60).logits, model(IDS % 60).logits, atol=1e-4, rtol=1e-4)


def test_adapters_on_experts_that_take_what_goes_in_first() -> None:
    """Of equal sizes, which do not tell it."""
    config = GptOssConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    plain = GptOssForCausalLM(config).eval()
    names = [f"mlp.experts.{part}_proj" for part in ("gate_up", "down")]
    torch.manual_seed(3)
    model = get_peft_model(copy.deepcopy(plain), LoraConfig(r=4, target_modules=["q_proj"], target_parameters=names))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    plain.load_state_dict(merged_weights(model)[1])
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS % 60).logits, model.eval()(IDS % 60).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("flag", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.parametrize("adapters", [True, False])
def test_quantised_weights_are_widened(flag: str, adapters: bool, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 256}
    config = Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    needed = {"model_name_or_path": str(tmp_path), "dataset_name": "none", "output_dir": "none"}
    arguments = quantization_arguments(SFTConfig(**needed, use_peft=True, bf16=True, **{flag: True}))
    model = load_model(str(tmp_path), dtype="bfloat16", **arguments)
    model = adapted(model) if adapters else model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    weights = given(model, torch.bfloat16)
    assert_same_weights({name: model.state_dict()[name] for name in before}, before)
    assert weights.keys() == load_weights(tmp_path).keys()
    plain = load_model(str(tmp_path), dtype="bfloat16")
    plain.load_state_dict(weights)
    with torch.no_grad():
        expected = model(IDS).logits.float()
        distance = (plain(IDS).logits - expected).norm() / expected.norm()
    assert distance < 0.03
    # At their first pass 8-bit layers move their scales, and 4-bit layers repack their weights on some CPUs.
    for name, tensor in given(model, torch.bfloat16).items():
        torch.testing.assert_close(tensor, weights[name], atol=4e-3, rtol=0.02)
