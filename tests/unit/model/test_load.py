"""What cannot be loaded is said in one line; what can gets this project's attention."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint
from transformers import GptOssConfig, GptOssForCausalLM, MambaConfig, MambaForCausalLM

from open_r1.errors import UserError
from open_r1.model.attention import keeps_sequences_apart
from open_r1.model.load import explained, load_model, load_tokenizer, stored_dtype


def assert_one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 600
    for word in words:
        assert word in said


@pytest.mark.parametrize("load", [load_model, load_tokenizer, stored_dtype])
def test_no_such_folder(load, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(str(tmp_path / "absent"))
    assert_one_line(error, f"{tmp_path}/absent: no such folder; give a hub id or a folder")


@pytest.mark.parametrize("load", [load_model, load_tokenizer, stored_dtype])
def test_an_empty_folder(load, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(str(tmp_path))
    assert_one_line(error, str(tmp_path), "no JSON files", "is the checkpoint complete?")


def test_adapters_alone_have_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError) as error:
        stored_dtype(str(tmp_path))
    assert_one_line(error, f"{tmp_path}: the folder holds adapters alone", "--merge_lora true")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_hub_id_that_cannot_be_reached(load) -> None:
    with pytest.raises(UserError) as error:
        load("nobody/nothing")
    assert_one_line(error, "nobody/nothing: the", "is the name right, and the hub reachable")


def test_weights_are_missing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_checkpoint / name, tmp_path)
    with pytest.raises(UserError) as error:
        load_model(str(tmp_path))
    assert_one_line(error, f"{tmp_path}: the model could not be loaded [", "model.safetensors")


@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("described", [True, False], ids=["tokenizer_config.json", "no tokenizer_config.json"])
def test_a_tokenizer_without_tokens(family: str, described: bool, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As ``hf download --include "*.safetensors" "*config.json"`` leaves a folder; transformers builds a blank one."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    if described:
        names = {"qwen2": "Qwen2", "llama": "Llama", "gpt2": "GPT2", "gemma2": "Gemma", "mistral": "Llama"}
        told = json.loads((tiny_checkpoint / "tokenizer_config.json").read_text())
        told["tokenizer_class"] = f"{names[family]}Tokenizer"
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(UserError) as error:
        load_tokenizer(str(tmp_path))
    assert_one_line(error, f"{tmp_path}: ", "tokenizer.json is missing; copy it from the model that this one was made")


@pytest.mark.parametrize("load", [stored_dtype, load_model])
@pytest.mark.parametrize("value", [{"dtype": "float99"}, {"hidden_size": "abc"}])
def test_a_value_that_transformers_does_not_take(load, value, tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | value))
    with pytest.raises(UserError) as error:
        load(str(tmp_path))
    said = f"{tmp_path}: its config.json has a value that transformers does not take ["
    assert_one_line(error, said, next(iter(value.values())))


def test_an_error_that_is_not_of_the_configuration_stays(tiny_checkpoint: Path) -> None:
    with pytest.raises(RuntimeError, match="of the chip"), explained(str(tiny_checkpoint), "model"):
        raise RuntimeError("of the chip")


def test_the_home_of_nobody() -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_model("~nobody-has-this-name/model")


def test_an_architecture_that_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    with pytest.raises(UserError) as error:
        load_model(str(tmp_path))
    assert_one_line(error, "the model could not be loaded", "abacus")


def test_an_unknown_dtype(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"torch_dtype 'int4' is not known; choose one of float32"):
        load_model(str(tiny_checkpoint), dtype="int4")


def test_the_dtype_of_a_model_whose_text_part_has_it(tmp_path: Path) -> None:
    text = {"model_type": "qwen3_5_text", "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_5", "text_config": text}))
    assert stored_dtype(str(tmp_path)) == torch.bfloat16


def test_dtypes(tmp_path: Path) -> None:
    folder = str(save_tiny_checkpoint(tmp_path, dtype=torch.bfloat16))
    assert stored_dtype(folder) == torch.bfloat16
    assert load_model(folder).dtype == torch.bfloat16
    assert load_model(folder, dtype="float32").dtype == torch.float32


@pytest.mark.parametrize(
    ("wanted", "used"),
    [
        (None, "open_r1"),
        ("flash_attention_2", "open_r1"),
        ("sdpa", "open_r1"),
        ("eager", "eager"),
    ],
)
def test_attention(wanted: str | None, used: str, tiny_checkpoint: Path) -> None:
    model = load_model(str(tiny_checkpoint), attn_implementation=wanted)
    assert model.config._attn_implementation == used
    assert keeps_sequences_apart(model)


def test_attention_that_these_kernels_do_not_have(tmp_path: Path) -> None:
    config = GptOssConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16,
        num_local_experts=2, num_experts_per_tok=1, pad_token_id=0,
    )  # fmt: skip
    GptOssForCausalLM(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("open_r1")
    with pytest.raises(UserError, match=r"GptOssAttention uses s_aux.*set --attn_implementation eager"):
        model(torch.tensor([[1, 2]]))


def test_a_state_space_model_needs_rows_of_its_own() -> None:
    assert not keeps_sequences_apart(MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1)))
