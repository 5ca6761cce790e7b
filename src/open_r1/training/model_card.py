"""The README.md of a trained model: where it comes from, how to use it, settings, data, metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from open_r1 import __version__
from open_r1.config import GRPOConfig, SFTConfig
from open_r1.report.tables import number

_METHOD = {"SFTConfig": "supervised fine-tuning", "GRPOConfig": "GRPO"}
_NOT_OF_THE_MODEL = {  # the person's own affair, or said elsewhere in the card
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "token_cache_dir",
    "dataset_mixture",
    "report_to",
    "run_name",
    "log_level",
    "callbacks",
    "no_effect",
    "push_to_hub",
}
_NOR = ("hub_", "wandb_")


def model_card(config: SFTConfig | GRPOConfig, results: Mapping[str, float], processes: int) -> str:
    """The whole file.

    Args:
        results: of the finished run, by name.
        processes: that trained together.
    """
    name = Path(config.output_dir).resolve().name
    return "\n".join([*_head(config), f"# {name}", "", *_body(config, results, processes)]) + "\n"


def _head(config: SFTConfig | GRPOConfig) -> Iterator[str]:
    """The hub's metadata. It wants hub ids: what lies on this machine is named in the text alone."""
    adapters = config.use_peft and not config.merge_lora
    data = [entry["id"] for entry in _data(config) if not Path(entry["id"]).exists()]
    values = {
        "library_name": "peft" if adapters else "transformers",
        "pipeline_tag": "text-generation",
        **({} if Path(config.model_name_or_path).exists() else {"base_model": config.model_name_or_path}),
        **({"datasets": data} if data else {}),
        "tags": ["open-r1", type(config).__name__.removesuffix("Config").lower()],
    }
    yield "---\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True) + "---\n"


def _body(config: SFTConfig | GRPOConfig, results: Mapping[str, float], processes: int) -> Iterator[str]:
    base = _shown(config.model_name_or_path)
    yield f"{base}, trained by {_METHOD[type(config).__name__]} with open-r1 {__version__}."
    if config.use_peft and not config.merge_lora:
        yield "\nThe folder holds LoRA adapters; PEFT puts them on the base model."
    yield from ["", "## Data", ""]
    for entry in _data(config):
        beside = [f"{key} {value}" for key, value in entry.items() if key != "id" and value is not None]
        yield f"- {_shown(entry['id'])}" + (f" ({', '.join(map(str, beside))})" if beside else "")
    yield from ["", "## Metrics", "", "| | |", "| --- | ---: |"]
    for key, value in results.items():
        yield f"| {key.removeprefix('train_').replace('_', ' ')} | {number(value)} |"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield f"\n{processes} × {device}, torch {torch.__version__}, transformers {transformers.__version__}."
    yield from ["", "## Settings", "", "Those that differ from the defaults, as a recipe for `--config`:", ""]
    yield "```yaml\n" + yaml.safe_dump(_changed(config), sort_keys=True, allow_unicode=True) + "```"


def _data(config: SFTConfig | GRPOConfig) -> list[dict[str, Any]]:
    if config.dataset_mixture is not None:
        return [asdict(entry) for entry in config.dataset_mixture.datasets]
    return [{"id": config.dataset_name, "config": config.dataset_config, "split": config.dataset_train_split}]


def _shown(name: str) -> str:
    """A hub id as a link; of a local path the last part, which tells a stranger as much as the whole."""
    return f"`{Path(name).name}`" if Path(name).exists() else f"[{name}](https://huggingface.co/{name})"


def _changed(config: SFTConfig | GRPOConfig) -> dict[str, Any]:
    """Settings that are not the defaults, without those that say where things lie on this machine."""
    values = asdict(config)
    changed = {
        entry.name: values[entry.name]
        for entry in fields(config)
        if entry.name not in _NOT_OF_THE_MODEL
        and not entry.name.startswith(_NOR)
        and values[entry.name] != _default(entry)
    }
    for name in ("model_name_or_path", "dataset_name"):
        if name in changed and Path(str(changed[name])).exists():
            changed[name] = Path(changed[name]).name
    return changed


def _default(entry: Field[Any]) -> Any:
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default
