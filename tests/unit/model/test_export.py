"""What is written is what transformers opens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import assert_same_weights, load_weights
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from open_r1.files import read_json, write_json
from open_r1.model.export import move_into, save_model
from open_r1.model.load import load_model, load_tokenizer


@pytest.fixture
def parts(tiny_checkpoint: Path):
    return load_model(str(tiny_checkpoint), dtype="float32"), load_tokenizer(str(tiny_checkpoint))


def test_a_folder_that_transformers_opens(parts, tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = parts
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256, 7))
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same_weights(opened.state_dict(), model.state_dict())
    assert opened.generation_config.eos_token_id == [256, 7]
    assert opened.generation_config.pad_token_id == tokenizer.pad_token_id
    assert opened.config._attn_implementation == "sdpa"  # not this project's, which others do not know
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = again.apply_chat_template([{"role": "user", "content": "2+2?"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert load_weights(tmp_path).keys() == load_weights(tiny_checkpoint).keys()  # tied weights once


def test_generation_stops_at_what_training_taught(parts, tmp_path: Path) -> None:
    model, tokenizer = parts
    ids = torch.tensor([[1, 2, 3]])
    free = model.generate(ids, max_new_tokens=8, do_sample=False)[0, 3:].tolist()
    stop = free[2]
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(stop,))
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert opened.generation_config.eos_token_id == stop
    stopped = opened.generate(ids, max_new_tokens=8, do_sample=False)[0, 3:].tolist()
    assert stopped == free[: free.index(stop) + 1]


def test_dtype_of_what_is_stored(parts, tmp_path: Path) -> None:
    model, tokenizer = parts
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256,), dtype=torch.bfloat16)
    stored = load_weights(tmp_path)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in stored  # tied to the embedding, and written once
    config = tmp_path / "config.json"
    assert (tmp_path / "model.safetensors").stat().st_mode == config.stat().st_mode  # as readable as the rest
    assert AutoConfig.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert model.dtype == torch.float32  # training goes on
    assert str(model.config.dtype).removeprefix("torch.") == "float32"


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.6, "top_p": 0.9, "top_k": 20},
        {"do_sample": True, "temperature": 0.6},
        {"temperature": 0.3, "min_p": 0.15},
        {"typical_p": 0.9},
        {"epsilon_cutoff": 0.01, "eta_cutoff": 0.01},
        {"num_beams": 1, "length_penalty": 0.8},
        {"num_beams": 1, "early_stopping": True},
        {"output_scores": True},
        {"use_cache": False, "cache_implementation": "static"},
    ],
    ids=lambda settings: ", ".join(settings),
)
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_generation_settings_of_which_transformers_warns(
    settings: dict[str, Any], file: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """They are not ours to mend, and no reason to end a run: what the base says, the trained model says."""
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    if file == "config.json":  # older models have no file for them
        (base / "generation_config.json").unlink()
    write_json(base / file, read_json(base / file) | settings)
    model, tokenizer = load_model(str(base)), load_tokenizer(str(base))
    kept = model.generation_config
    assert {name: getattr(kept, name) for name in settings} == settings
    save_model(model, tmp_path / "out", tokenizer=tokenizer, stop_token_ids=(256, 7))
    assert model.generation_config is kept
    written = read_json(tmp_path / "out" / "generation_config.json")
    assert {name: written[name] for name in settings} == settings
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    assert {name: getattr(opened, name) for name in settings} == settings
    assert (opened.eos_token_id, opened.pad_token_id) == ([256, 7], tokenizer.pad_token_id)


def test_a_padding_token_that_is_none(parts, tmp_path: Path) -> None:
    model, tokenizer = parts
    model.generation_config.pad_token_id = -1
    save_model(model, tmp_path, tokenizer=tokenizer, stop_token_ids=(256,))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.pad_token_id == tokenizer.pad_token_id


def test_files_are_moved_over_older_ones(tmp_path: Path) -> None:
    for folder, text in (("new", "new"), ("old", "old")):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(text)
        (tmp_path / folder / "deep" / f"{text}.txt").write_text(text)
    (tmp_path / "old" / "kept.txt").write_text("old")
    move_into(tmp_path / "new", tmp_path / "old")
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old" / "a.txt").read_text() == "new"
    assert (tmp_path / "old" / "kept.txt").read_text() == "old"
    assert [path.name for path in (tmp_path / "old" / "deep").iterdir()] == ["new.txt"]


def test_weights_of_an_earlier_export_go(tmp_path: Path) -> None:
    for folder, names in (
        ("new", ["model.safetensors", "config.json"]),
        ("old", ["adapter_config.json", "adapter_model.safetensors", "model-1-of-2.safetensors", "notes.txt"]),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("")
    move_into(tmp_path / "new", tmp_path / "old")
    assert {path.name for path in (tmp_path / "old").iterdir()} == {"config.json", "model.safetensors", "notes.txt"}


def test_what_is_somebodys_stays_beside_an_export(tmp_path: Path) -> None:
    theirs = {"vae.safetensors", "adapter_notes.txt", "embeddings.safetensors.index.json"}
    for folder, names in (("new", {"model.safetensors"}), ("old", theirs)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("")
    move_into(tmp_path / "new", tmp_path / "old")
    assert {path.name for path in (tmp_path / "old").iterdir()} == theirs | {"model.safetensors"}
