"""The card of a trained model: its head is the hub's, its settings are a recipe, its program runs, and it tells tales
of no one's machine.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_runs import train
from transformers import Pipeline

from open_r1.config import GRPOConfig, SFTConfig, parse
from open_r1.training.model_card import model_card

HUB = {"model_name_or_path": "Qwen/Qwen2.5-1.5B", "dataset_name": "open-r1/OpenR1-Math-220k", "output_dir": "out/mine"}
MIXTURE = {
    "datasets": [
        {"id": "open-r1/Mixture-of-Thoughts", "config": "math", "columns": ["messages"], "weight": 0.5},
        {"id": "open-r1/Mixture-of-Thoughts", "config": "code", "columns": ["messages"]},
    ],
    "seed": 7,
    "test_split_size": 0.01,
}


def head(card: str) -> dict[str, Any]:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)[1])


def block(card: str, language: str) -> str:
    ((_, text),) = re.findall(rf"^(````*){language}\n(.*?)^\1$", card, flags=re.DOTALL | re.MULTILINE)
    return text


def recipe(card: str, folder: Path, kind: type, **beside: str) -> Any:
    """The settings that the block of the card gives to ``--config``."""
    path = folder / "recipe.yaml"
    path.write_text(block(card, "yaml"))
    words = [word for name, value in beside.items() for word in (f"--{name}", value)]
    return parse(kind, ["--config", str(path), *words], prog="open-r1").config


def card(kind: type, results: dict[str, float] | None = None, repository: str | None = None, **settings: Any) -> str:
    data = {"dataset_name": None} if "dataset_mixture" in settings else {}
    config = kind(**HUB | data | settings)
    return model_card(config, results or {"steps": 3, "train_loss": 0.5}, 8, repository)


def answer(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """What the card's program prints, run beside the model's folder, with fewer tokens."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(re.sub(r"max_new_tokens=\d+", "max_new_tokens=5", block(text, "python")), {})
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "extra"), [("sft", {}), ("sft", {"use_peft": True}), ("sft", {"use_peft": True, "merge_lora": True})]
)
def test_the_card_of_a_run(
    command: str,
    extra: dict[str, Any],
    sft_settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    run = train(command, tmp_path / "mine", **sft_settings, **extra, max_steps=2, system_prompt="Count.")
    text = (run.folder / "README.md").read_text()
    adapters = extra == {"use_peft": True}
    assert head(text) == {
        "library_name": "peft" if adapters else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["open-r1", "sft"],
    }
    assert str(tmp_path) not in text and str(Path(sft_settings["dataset_name"]).parent) not in text
    assert "`sums.jsonl` (split train)" in text
    assert f"| loss | {run.results['train_loss']:.4g} |" in text
    places = {name: str(sft_settings[name]) for name in ("model_name_or_path", "dataset_name")}
    again = recipe(text, tmp_path, SFTConfig, output_dir=str(run.folder), **places)
    stored = json.loads((run.folder / "settings.json").read_text())
    differ = {name for name, value in vars(again).items() if value != stored[name]}
    assert differ <= {"token_cache_dir", "no_effect"}
    asked: list[Any] = []
    call = Pipeline.__call__
    monkeypatch.setattr(
        Pipeline, "__call__", lambda self, inputs, **how: asked.append(inputs) or call(self, inputs, **how)
    )
    assert answer(text, tmp_path, monkeypatch, capsys)
    assert [message["role"] for message in asked[0]] == ["system", "user"]


def test_the_card_of_a_grpo_run(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    run = train("grpo", tmp_path / "mine", **grpo_settings, max_steps=2)
    text = (run.folder / "README.md").read_text()
    assert head(text)["tags"] == ["open-r1", "grpo"]
    assert f"| rewards/even.py:even_tokens | {run.metrics[-1]['reward']:.4g} |" in text
    assert os.path.dirname(grpo_settings["reward_funcs"][0]) not in text
    places = {name: str(grpo_settings[name]) for name in ("model_name_or_path", "dataset_name")}
    again = recipe(text, tmp_path, GRPOConfig, output_dir="out", **places)
    assert (again.reward_funcs, again.num_generations) == (["even.py:even_tokens"], 4)


def test_the_settings_train_the_same_model(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    first = train("sft", tmp_path / "first", **sft_settings, max_steps=3, lr_scheduler_type="cosine")
    (tmp_path / "recipe.yaml").write_text(block((first.folder / "README.md").read_text(), "yaml"))
    places = {name: sft_settings[name] for name in ("model_name_or_path", "dataset_name", "token_cache_dir")}
    again = train("sft", tmp_path / "again", config=tmp_path / "recipe.yaml", **places)
    assert again.losses == first.losses


@pytest.mark.parametrize("kind", [SFTConfig, GRPOConfig])
def test_what_lies_on_the_hub_is_in_the_head(kind: type, tmp_path: Path) -> None:
    text = card(kind, use_peft=True)
    assert head(text)["base_model"] == "Qwen/Qwen2.5-1.5B"
    assert head(text)["datasets"] == ["open-r1/OpenR1-Math-220k"]
    assert "[Qwen/Qwen2.5-1.5B](https://huggingface.co/Qwen/Qwen2.5-1.5B), trained by" in text
    assert recipe(text, tmp_path, kind, output_dir="out/mine") == kind(**HUB, use_peft=True)


def test_a_mixture(tmp_path: Path) -> None:
    text = card(SFTConfig, dataset_mixture=MIXTURE)
    assert head(text)["datasets"] == ["open-r1/Mixture-of-Thoughts"]
    assert "(config math, split train, columns messages, weight 0.5)" in text
    same = SFTConfig(**HUB | {"dataset_name": None}, dataset_mixture=MIXTURE)
    assert recipe(text, tmp_path, SFTConfig, output_dir="out/mine") == same


def test_a_mixture_of_files_tells_their_names_alone(sums: Path, tmp_path: Path) -> None:
    text = card(SFTConfig, dataset_mixture={"datasets": [{"id": str(sums)}]})
    assert "datasets" not in head(text)
    assert str(sums.parent) not in text
    mixture = recipe(text, tmp_path, SFTConfig, output_dir="out").dataset_mixture
    assert [entry.id for entry in mixture.datasets] == ["sums.jsonl"]


def test_where_the_model_is_uploaded_to_is_where_it_is_loaded_from() -> None:
    text = card(SFTConfig, repository="ada/mine", push_to_hub=True, hub_model_revision="v2")
    assert 'pipeline("text-generation", model="ada/mine", revision="v2")' in text
    assert "`vllm serve ada/mine --revision v2`" in text
    assert "vllm" not in card(SFTConfig, repository="ada/mine", use_peft=True)
    assert 'model="mine")' in card(SFTConfig)


def test_numbers_that_are_none_do_not_harm(tmp_path: Path) -> None:
    config = {"output_dir": str(tmp_path)}
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": null, "eval_loss": 0.25}\n{"step": 4, "lo')
    results = {"steps": 4, "train_loss": math.nan, "train_steps": 2, "train_runtime": 4000.0, "train_mfu": math.inf}
    text = card(SFTConfig, results, **config)
    for row in ("loss | nan", "mfu | inf", "run time | 1:06:40", "steps since it was resumed | 2", "eval loss | 0.25"):
        assert f"| {row} |" in text
    assert head(text)["library_name"] == "transformers"


def test_no_secret_and_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "wandb_secret")
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }}")
    settings = {
        "chat_template": str(template),
        "token_cache_dir": str(tmp_path / "cache"),
        "resume_from_checkpoint": str(tmp_path / "checkpoint-5"),
        "wandb_entity": "team",
        "hub_model_id": "ada/hidden",
        "e2b_router_url": "router.internal:8000",
        "vllm_server_host": "engine.internal",
        "use_vllm": True,
        "vllm_mode": "server",
    }
    text = card(GRPOConfig, **settings)
    for word in ("secret", str(tmp_path), "team", "hidden", "internal", "checkpoint-5"):
        assert word not in text, word
    assert "chat_template: template.jinja" in text


TEXTS = ['Think: first, {then} "answer".\n---\n`x`', "x" * 5000, "Write\n```python\nx\n```\nonly.", "日本語 | a | b"]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_any_kind(text: str, tmp_path: Path) -> None:
    made = card(SFTConfig, system_prompt=text)
    assert recipe(made, tmp_path, SFTConfig, output_dir="out/mine").system_prompt == text
    compile(block(made, "python"), "card", "exec")
    assert head(made)["library_name"] == "transformers"


def test_a_folder_that_has_the_name_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what training started from, so no id of the hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "Qwen2.5-1.5B").mkdir(parents=True)
    assert "base_model" not in head(card(SFTConfig))
    shutil.rmtree(tmp_path / "Qwen")
    assert "base_model" in head(card(SFTConfig))
