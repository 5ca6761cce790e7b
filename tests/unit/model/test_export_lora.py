"""What is exported says what the trained model says: adapters alone, adapters merged, shards, gathered weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from tiny_checkpoint import save_tiny_moe
from torch import Tensor
from training_runs import assert_same_weights, load_weights
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from open_r1.errors import UserError
from open_r1.model.export import save_model
from open_r1.model.load import load_model, load_tokenizer

IDS = torch.tensor([[5, 80, 3, 200, 17, 41]])


def adapted(checkpoint: Path, targets: str | list[str] = "all-linear", dtype: str = "float32") -> PeftModel:
    """Adapters that are far from zero on a tiny model."""
    torch.manual_seed(3)
    model = load_model(str(checkpoint), dtype=dtype)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return peft.eval()


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.fixture
def tokenizer(tiny_checkpoint: Path):
    return load_tokenizer(str(tiny_checkpoint))


def test_adapters_alone_open_on_their_base(
    tiny_checkpoint: Path, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)
    model = adapted(Path(tiny_checkpoint.name))
    save_model(model, tmp_path / "out", tokenizer=tokenizer, stop_token_ids=(256,))
    monkeypatch.chdir(tmp_path)  # a relative name of the base would not be found from here
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "generation_config.json"} <= written
    assert not written & {"model.safetensors", "config.json", "README.md"}
    assert all("lora_" in name for name in load_weights(tmp_path / "out"))
    for opened in (
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
    ):
        torch.testing.assert_close(logits(opened), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "embed_tokens"], ["v_proj", "lm_head"]], ids=["linear", "embedding", "head"]
)
@pytest.mark.parametrize("gathered", [False, True], ids=["held", "gathered"])
def test_merged_is_the_trained_model(
    targets: str | list[str], gathered: bool, tiny_checkpoint: Path, tokenizer, tmp_path: Path
) -> None:
    model = adapted(tiny_checkpoint, targets)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in before.items()} if gathered else None
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256,), state_dict=state, merge_lora=True)
    assert_same_weights(model.state_dict(), before)  # training could go on
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(opened), logits(model), atol=1e-4, rtol=1e-4)
    assert (logits(opened) - logits(load_model(str(tiny_checkpoint), dtype="float32"))).abs().max() > 0.1
    assert not (tmp_path / "adapter_config.json").exists()
    tied = targets == "all-linear"
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in load_weights(tmp_path)) is not tied


@pytest.mark.parametrize("gathered", [False, True], ids=["held", "gathered"])
def test_adapters_on_experts_are_merged(gathered: bool, tmp_path: Path) -> None:
    """Those of a layer are one tensor in memory and lie apart in the file; the router has an adapter too."""
    base = save_tiny_moe(tmp_path / "base")
    model, tokenizer = adapted(base), load_tokenizer(str(base))
    assert any(".experts.base_layer.lora_A." in name for name in model.state_dict())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()} if gathered else None
    out = tmp_path / "out"
    save_model(model, out, tokenizer=tokenizer, stop_token_ids=(256,), state_dict=state, merge_lora=True)
    assert load_weights(out).keys() == load_weights(base).keys()
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out)), logits(model), atol=1e-4, rtol=1e-4)
    assert (logits(model) - logits(load_model(str(base), dtype="float32"))).abs().max() > 0.1


def test_a_quantised_base_is_loaded_again_to_be_merged(
    tiny_checkpoint: Path, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tiny_checkpoint)
    expected = logits(model)
    base = model.get_base_model()
    monkeypatch.setattr(base, "is_quantized", True, raising=False)
    for name, parameter in base.named_parameters():  # what few bits make of weights
        if "lora_" not in name:
            parameter.data = parameter.data.round()
    assert (logits(model) - expected).abs().max() > 0.1
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256,), merge_lora=True)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected, atol=1e-4, rtol=1e-4)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_merged_in_bfloat16(tiny_checkpoint: Path, tokenizer, tmp_path: Path) -> None:
    model = adapted(tiny_checkpoint)
    settings = {"tokenizer": tokenizer, "stop_token_ids": (256,), "merge_lora": True}
    save_model(model, tmp_path / "exact", **settings)
    save_model(model, tmp_path / "half", dtype=torch.bfloat16, **settings)
    exact = load_weights(tmp_path / "exact")
    assert_same_weights(
        load_weights(tmp_path / "half"), {name: tensor.bfloat16() for name, tensor in exact.items()}
    )  # rounded once, after the sum
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_merge_needs_adapters(tiny_checkpoint: Path, tokenizer, tmp_path: Path) -> None:
    model = load_model(str(tiny_checkpoint))
    with pytest.raises(UserError, match="merge_lora: the model has no adapters"):
        save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256,), merge_lora=True)


def test_shards_with_an_index(tiny_checkpoint: Path, tokenizer, tmp_path: Path) -> None:
    model = load_model(str(tiny_checkpoint), dtype="float32")
    gathered = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # tied weights are two copies
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256,), state_dict=gathered, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2 and set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in load_weights(tiny_checkpoint).values())
    assert_same_weights(AutoModelForCausalLM.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_nothing_of_training_is_left_in_the_configuration(tiny_checkpoint: Path, tokenizer, tmp_path: Path) -> None:
    model = load_model(str(tiny_checkpoint), dtype="float32")
    model.config.auto_map, model.config.use_cache = {"AutoModelForCausalLM": "modeling.Mine"}, False
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256,))
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["use_cache"] is True and values["architectures"] == ["Qwen2ForCausalLM"]
    assert not {"auto_map", "_attn_implementation", "quantization_config"} & set(values)
    assert "open_r1" not in (tmp_path / "config.json").read_text()
    assert model.config.use_cache is False  # the model in memory is as it was


def test_the_token_that_training_taught_ends_a_text_everywhere(
    tiny_checkpoint: Path, tokenizer, tmp_path: Path
) -> None:
    model = load_model(str(tiny_checkpoint), dtype="float32")
    end, other = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    tokenizer.eos_token = "<|endoftext|>"  # as base models have it
    kept = model.generation_config.eos_token_id
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(end, other))
    assert tokenizer.eos_token == "<|endoftext|>" and model.generation_config.eos_token_id == kept
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert (opened.eos_token, opened.chat_template) == ("<|im_end|>", tokenizer.chat_template)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == end
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [end, other]


def test_a_chat_with_the_exported_model(tiny_checkpoint: Path, tokenizer, tmp_path: Path) -> None:
    model = adapted(tiny_checkpoint)
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256,), merge_lora=True)
    chat = pipeline("text-generation", model=str(tmp_path), device="cpu")
    (answer,) = chat([{"role": "user", "content": "2+2?"}], max_new_tokens=6, do_sample=False)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "2+2?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    drawn = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert answer["generated_text"][-1]["content"] == tokenizer.decode(drawn, skip_special_tokens=True)
