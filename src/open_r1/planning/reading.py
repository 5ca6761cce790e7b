"""Where a plan's facts are read: the model's config.json, this machine, the rows of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig

from open_r1.config import GRPOConfig, ModelConfig, SFTConfig
from open_r1.config.plan import NO_DATA, PlanGRPOConfig, PlanSFTConfig
from open_r1.data.mixture import load_mixture
from open_r1.data.sft_rows import find_sft_columns, load_sft_rows
from open_r1.data.sources import is_path, load_rows
from open_r1.data.tokens import sample_lengths
from open_r1.errors import UserError
from open_r1.machine.cards import card_named, find_card
from open_r1.machine.limits import processor
from open_r1.machine.rates import Rate, measured_card
from open_r1.model.load import explained
from open_r1.model.memory import device_memory
from open_r1.model.shape import ModelShape
from open_r1.parallel.runtime import Runtime
from open_r1.planning.situation import Data, Machine, Model, size_flag
from open_r1.training.setup import load_chat

DISTRIBUTED = {"NO": "none", "MULTI_GPU": "ddp", "MULTI_CPU": "ddp", "FSDP": "fsdp"}
SAMPLED_ROWS = 256


def read_model(config: ModelConfig) -> Model:
    """The model's configuration, by far the smallest of its files; no weights.

    Raises:
        UserError: there is no such model, its configuration cannot be, or the hub cannot be reached.
    """
    name = config.model_name_or_path
    with explained(name, "config.json"):
        found = AutoConfig.from_pretrained(
            name, revision=config.model_revision, trust_remote_code=config.trust_remote_code
        )
        shape = ModelShape.of(found, config.trust_remote_code)
    stored = getattr(found, "dtype", None) or torch.float32
    return Model(name, found, shape, stored, local=_has_weights(name, config.model_revision))


def _has_weights(name: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return Path(name).expanduser().is_dir() or any(
        isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files
    )


def read_machine(config: PlanSFTConfig | PlanGRPOConfig, rates: Sequence[Rate] = ()) -> Machine:
    """The machine that is asked about, or this one.

    Args:
        rates: of ``open-r1 bench``, by which a device is known that is not in the table.

    Raises:
        UserError: an unknown card, or an unreadable file of ``accelerate launch``.
    """
    launched, processes = _launch(config.accelerate_config)
    if config.gpu is None:
        found = _here(rates)
    elif config.gpu.lower() == "cpu":
        found = _processor(rates)
    else:
        found = Machine.of_card(find_card(config.gpu))
    visible = torch.cuda.device_count() if config.gpu is None else 1
    # A launcher file counts the processes of all nodes.
    gpus = processes if processes and not config.gpus else (config.gpus or max(1, visible)) * config.nodes
    launcher = config.launcher or launched or ("ddp" if gpus > 1 else "none")
    if gpus > 1 and launcher == "none":
        raise UserError(
            f"launcher none is one process, and {gpus} GPUs are planned for: leave --launcher out, or --gpus 1"
        )
    return Machine(
        name=found.name, memory=found.memory, card=found.card, gpus=gpus, nodes=config.nodes, launcher=launcher
    )


def machine_of_run(runtime: Runtime, memory: float) -> Machine:
    """The machine that a run has found.

    Args:
        memory: bytes that the process with the least can have.
    """
    name, launcher = torch.cuda.get_device_name(runtime.device), launcher_of(runtime)
    return Machine(name=name, memory=memory, card=card_named(name), gpus=runtime.world_size, launcher=launcher)


def launcher_of(runtime: Runtime) -> str:
    """One of `open_r1.planning.situation.LAUNCHERS`, as the run was launched."""
    if runtime.kind == "deepspeed":
        return "zero2" if runtime.whole_weights else "zero3"
    return "none" if runtime.kind == "single" else runtime.kind


def _here(rates: Sequence[Rate]) -> Machine:
    if not torch.cuda.is_available():
        return _processor(rates)
    name = torch.cuda.get_device_name()
    card = card_named(name)
    if card is None:
        total = torch.cuda.get_device_properties().total_memory
        card = measured_card(name, total, torch.cuda.get_device_capability(), rates)
    return Machine(name=card.name if card else name, memory=device_memory(torch.device("cuda")), card=card)


def _processor(rates: Sequence[Rate]) -> Machine:
    """This machine's: there is no other that ``cpu`` could name."""
    return Machine(name="CPU", memory=None, card=measured_card(processor(), 0.0, None, rates))


def _launch(path: str | None) -> tuple[str | None, int | None]:
    """Launcher and processes of a file of ``accelerate launch``."""
    if path is None:
        return None, None
    try:
        told = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"accelerate_config {path}: cannot be read ({' '.join(str(error).split())[:100]})") from None
    told = told if isinstance(told, dict) else {}
    kind = str(told.get("distributed_type", "NO")).upper()
    if kind == "DEEPSPEED":
        launcher = f"zero{(told.get('deepspeed_config') or {}).get('zero_stage', 2)}"
    else:
        launcher = DISTRIBUTED.get(kind, "")
    if launcher not in ("none", "ddp", "fsdp", "zero2", "zero3"):
        raise UserError(f"accelerate_config {path}: distributed_type {kind} is not supported here")
    processes: Any = told.get("num_processes")
    return launcher, processes if isinstance(processes, int) else None


def read_data(config: PlanSFTConfig | PlanGRPOConfig) -> Data:
    """Rows, and lengths of a sample where the rows are on this machine; what cannot be read quickly stays unknown."""
    if config.plan_tokens is not None:
        return Data(config.rows, None, config.plan_tokens, "given by --plan_tokens")
    size = size_flag(config)
    if config.dataset_name == NO_DATA:
        return Data(config.rows, None, None, f"no data set is given: add --dataset_name, or {size}")
    mixture = config.dataset_mixture
    names = [config.dataset_name] if mixture is None else [entry.id for entry in mixture.datasets]
    # On the hub even a sample would be a download of hundreds of megabytes.
    if not all(is_path(name) or Path(name).expanduser().exists() for name in names):
        return Data(config.rows, None, None, f"{config.dataset_name or 'the mixture'} is not read: give {size}")
    return _sft_data(config) if isinstance(config, SFTConfig) else _grpo_data(config)


def _sft_data(config: PlanSFTConfig) -> Data:
    rows = load_sft_rows(config)["train"]
    columns = find_sft_columns(config, rows.column_names)
    _, chat = load_chat(config)
    lengths = sample_lengths(rows, chat, columns, size=SAMPLED_ROWS, encoder=config.encoder)
    return Data(config.rows or len(rows), lengths, None, f"{len(lengths):,} rows sampled")


def _grpo_data(config: GRPOConfig) -> Data:
    if config.dataset_mixture is not None:
        rows = load_mixture(config.dataset_mixture)["train"]
    else:
        rows = load_rows(config.dataset_name, config.dataset_config, config.dataset_train_split)
    return Data(config.rows or len(rows), None, None, "rows counted")
