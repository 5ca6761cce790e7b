"""The README.md of a trained model: where it comes from, how to use it, settings, data, metrics."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from open_r1 import __version__
from open_r1.config import GRPOConfig, SFTConfig
from open_r1.report.tables import clock, number
from open_r1.training.metrics import FILE as METRICS_FILE
from open_r1.training.metrics import read_metrics

_METHOD = {"SFTConfig": "supervised fine-tuning", "GRPOConfig": "GRPO"}
_NOT_OF_THE_MODEL = {  # the person's own affair, or of the machine, and of no use to anybody else
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "allow_config_change",
    "token_cache_dir",
    "report_to",
    "run_name",
    "log_level",
    "callbacks",
    "no_effect",
    "push_to_hub",
    "e2b_router_url",
    "morph_router_url",
}
_NOR = ("hub_", "wandb_", "vllm_server_")
_TELLING = ("loss", "eval_", "eval/", "reward", "kl_reference", "entropy", "completion_length", "truncated")
"""What the names of metrics begin with that say something about the model."""

_ANSWER_TOKENS = 2048


def model_card(
    config: SFTConfig | GRPOConfig, results: Mapping[str, float], processes: int, repository: str | None = None
) -> str:
    """The whole file.

    Args:
        results: of the finished run, by name.
        processes: that trained together.
        repository: of the hub, with its owner, where the model is uploaded.
    """
    name = Path(config.output_dir).resolve().name
    parts = [_head(config), [f"# {name}", ""], _body(config, results, processes, repository or name)]
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(config: SFTConfig | GRPOConfig) -> Iterator[str]:
    """The hub's metadata. It wants hub ids: what lies on this machine is named in the text alone."""
    data = [entry["id"] for entry in _data(config) if not os.path.exists(entry["id"])]
    values = {
        "library_name": "peft" if _adapters_alone(config) else "transformers",
        "pipeline_tag": "text-generation",
        **({} if os.path.exists(config.model_name_or_path) else {"base_model": config.model_name_or_path}),
        **({"datasets": list(dict.fromkeys(data))} if data else {}),
        "tags": ["open-r1", type(config).__name__.removesuffix("Config").lower()],
    }
    yield "---\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True) + "---\n"


def _body(
    config: SFTConfig | GRPOConfig, results: Mapping[str, float], processes: int, repository: str
) -> Iterator[str]:
    base = _shown(config.model_name_or_path)
    yield f"{base}, trained by {_METHOD[type(config).__name__]} with open-r1 {__version__}."
    if _adapters_alone(config):
        yield "\nThe folder holds LoRA adapters; PEFT puts them on the base model."
    yield from ["", "## Use", "", *_usage(config, repository), "", "## Data", ""]
    for entry in _data(config):
        beside = [f"{key} {_listed(value)}" for key, value in entry.items() if key != "id" and value is not None]
        yield f"- {_shown(entry['id'])}" + (f" ({', '.join(beside)})" if beside else "")
    yield from ["", "## Metrics", "", "| the run | |", "| --- | ---: |"]
    yield from (f"| {name} | {value} |" for name, value in _run_metrics(results))
    last = list(_last_metrics(config))
    yield from ["", "| the last step | |", "| --- | ---: |"] if last else []
    yield from (f"| {name} | {number(value)} |" for name, value in last)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield f"\n{processes} × {device}, torch {torch.__version__}, transformers {transformers.__version__}."
    command = type(config).__name__.removesuffix("Config").lower()
    yield from ["", "## Settings", "", "Those that differ from the defaults, as a recipe for"]
    yield f"`open-r1 {command} --config recipe.yaml --output_dir OUT`:\n"
    recipe = yaml.safe_dump(_changed(config), sort_keys=True, allow_unicode=True)
    fence = "````" if "```" in recipe else "```"  # a prompt may show how code is to be written
    yield f"{fence}yaml\n{recipe}{fence}"


def _usage(config: SFTConfig | GRPOConfig, repository: str) -> Iterator[str]:
    """A program that asks the model something, as it was taught to be asked."""
    messages = [{"role": "system", "content": config.system_prompt}] if config.system_prompt else []
    messages.append({"role": "user", "content": "What is 12 times 17?"})
    revision = config.hub_model_revision if repository.count("/") and config.hub_model_revision != "main" else None
    where = json.dumps(repository) + (f", revision={json.dumps(revision)}" if revision else "")
    tokens = config.max_completion_length if isinstance(config, GRPOConfig) else _ANSWER_TOKENS
    yield "```python"
    yield "from transformers import pipeline\n"
    yield f'chat = pipeline("text-generation", model={where})'
    yield f"messages = {json.dumps(messages, ensure_ascii=False)}"
    yield f"(answer,) = chat(messages, max_new_tokens={tokens})"
    yield 'print(answer["generated_text"][-1]["content"])'
    yield "```"
    if not _adapters_alone(config):
        yield f"\nOr serve it: `vllm serve {repository}{f' --revision {revision}' if revision else ''}`."


def _run_metrics(results: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for key, value in results.items():
        name = key.removeprefix("train_").replace("_", " ")
        if key == "train_runtime" and math.isfinite(value):
            yield "run time", clock(value)
        elif key != "train_steps":
            yield name, number(value)
        elif value != results.get("steps"):
            yield "steps since it was resumed", number(value)


def _last_metrics(config: SFTConfig | GRPOConfig) -> Iterator[tuple[str, float]]:
    """What the last step says about the model: held-out loss, rewards, lengths."""
    last = (read_metrics(Path(config.output_dir) / METRICS_FILE) or [{}])[-1]
    for name, value in last.items():
        if value is not None and name.startswith(_TELLING):
            part, slash, rest = name.partition("/")  # rewards/PLACE:FUNCTION
            yield f"{part.replace('_', ' ')}{slash}{_local(rest)}", value


def _adapters_alone(config: SFTConfig | GRPOConfig) -> bool:
    return config.use_peft and not config.merge_lora


def _data(config: SFTConfig | GRPOConfig) -> list[dict[str, Any]]:
    if config.dataset_mixture is not None:
        return [asdict(entry) for entry in config.dataset_mixture.datasets]
    return [{"id": config.dataset_name, "config": config.dataset_config, "split": config.dataset_train_split}]


def _listed(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _shown(name: str) -> str:
    """A hub id as a link; of a local path the last part, which tells a stranger as much as the whole."""
    return f"`{_local(name)}`" if os.path.exists(name) else f"[{name}](https://huggingface.co/{name})"


def _changed(config: SFTConfig | GRPOConfig) -> dict[str, Any]:
    """Settings that are not the defaults, without those that say where things lie on this machine."""
    values = asdict(config)
    return {
        entry.name: _without_places(values[entry.name])
        for entry in fields(config)
        if entry.name not in _NOT_OF_THE_MODEL
        and not entry.name.startswith(_NOR)
        and values[entry.name] != _default(entry)
    }


def _without_places(value: Any) -> Any:
    """A setting in which paths of this machine are cut to their last part, and what is unset is left out."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_places(inner) for inner in value]
    return _local(value) if isinstance(value, str) else value


def _local(text: str) -> str:
    """``/home/ada/rewards.py:even`` as ``rewards.py:even``; what is no path stays as it is."""
    path, colon, member = text.rpartition(":")
    for place, rest in ((text, ""), (path, colon + member)):
        if os.sep in place and os.path.exists(place):
            return os.path.basename(os.path.normpath(place)) + rest
    return text


def _default(entry: Field[Any]) -> Any:
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default
