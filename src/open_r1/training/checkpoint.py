"""Checkpoints: a folder that appears by one rename after everything in it is on disk.

``checkpoint-N/`` is a model folder (`transformers` opens it; `open-r1 evaluate --model …/checkpoint-N` runs it) with,
in addition, the optimizer, the state of what feeds the loop, and ``checkpoint.json``, written last, which lists every
file with its size. A folder without it, or with a file of another size, is not a checkpoint and is passed over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from open_r1.config import TrainingConfig
from open_r1.errors import UserError
from open_r1.model.export import save_model
from open_r1.parallel.runtime import Runtime

MANIFEST = "checkpoint.json"
STATE = "training_state.pt"
console = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after ``step`` optimizer steps.

    Attributes:
        step: optimizer steps taken.
        source: what feeds the loop, as it says itself (`BatchSource.state_dict`), one entry a rank.
        fingerprint: of the settings and data that decide the order of batches.
    """

    step: int
    source: list[dict[str, Any]]
    fingerprint: str


class Checkpoints:
    """Writes, finds and reads the checkpoints of one run.

    Args:
        config: names the run's output folder and how many checkpoints are kept.
        stop_token_ids: written to each checkpoint's generation_config.json.
    """

    def __init__(
        self,
        config: TrainingConfig,
        runtime: Runtime,
        tokenizer: PreTrainedTokenizerBase,
        stop_token_ids: tuple[int, ...],
    ) -> None:
        self.folder = Path(config.output_dir)
        self.limit = config.save_total_limit
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._stop_token_ids = stop_token_ids

    def save(self, state: TrainingState, model: nn.Module, optimizer: Optimizer) -> Path | None:
        """Writes ``checkpoint-{state.step}`` and returns its path.

        A full disk is said, leaves nothing behind, and does not raise: then rank 0 returns None.
        """
        target: Path | None = self.folder / f"checkpoint-{state.step}"
        if self._runtime.is_main:
            temporary = self.folder / f".checkpoint-{state.step}.tmp"
            try:
                self._write(temporary, state, model, optimizer)
                if target.exists():
                    _remove(target)
                os.replace(temporary, target)
                _sync(self.folder)
                self._rotate()
            except OSError as error:
                shutil.rmtree(temporary, ignore_errors=True)
                console.print(f"[red]checkpoint {state.step} was not saved[/]: {error}; the last whole one stays")
                target = None
        self._runtime.barrier()
        return target

    def _write(self, folder: Path, state: TrainingState, model: nn.Module, optimizer: Optimizer) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        save_model(model, folder, tokenizer=self._tokenizer, stop_token_ids=self._stop_token_ids)
        scaler = self._runtime.loss_scaler
        torch.save(
            {
                "step": state.step,
                "source": state.source,
                "fingerprint": state.fingerprint,
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else None,
            },
            folder / STATE,
        )
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        for name in sizes:
            _sync(folder / name)
        (folder / MANIFEST).write_text(json.dumps({"step": state.step, "files": sizes}, indent=1))
        _sync(folder / MANIFEST)

    def _rotate(self) -> None:
        if self.limit:
            for stale in self.whole()[: -self.limit]:
                _remove(stale)

    def whole(self) -> list[Path]:
        """The run's whole checkpoints, oldest first; torn ones are named and passed over."""
        found = []
        for path in self.folder.glob("checkpoint-*"):
            if match := re.fullmatch(r"checkpoint-(\d+)", path.name):
                if reason := torn(path):
                    console.print(f"[yellow]{path} is passed over[/]: {reason}")
                else:
                    found.append((int(match[1]), path))
        return [path for _, path in sorted(found)]

    def find(self, wanted: bool | str | None) -> Path | None:
        """The checkpoint that ``resume_from_checkpoint`` means; None to start anew.

        Raises:
            UserError: for a path that is not a whole checkpoint.
        """
        if wanted is None or wanted is False:
            return None
        if wanted is True:
            latest = self.whole()
            if not latest and self._runtime.is_main:
                console.print(f"no checkpoint in {self.folder}: the run starts at step 0")
            return latest[-1] if latest else None
        path = Path(wanted)
        if not path.is_dir():
            raise UserError(f"resume_from_checkpoint {path}: no such folder; give a checkpoint-N folder, or true")
        if reason := torn(path):
            raise UserError(
                f"resume_from_checkpoint {path}: {reason}; give another one, or true for the last whole one"
            )
        return path

    def load(self, path: Path, model: nn.Module, optimizer: Optimizer) -> TrainingState:
        """Puts a checkpoint's weights and optimizer state into ``model`` and ``optimizer``.

        Raises:
            UserError: when the weights do not fit the model.
        """
        _load_weights(path, model)
        stored = torch.load(path / STATE, map_location="cpu", weights_only=False)
        try:
            optimizer.load_state_dict(stored["optimizer"])
        except ValueError as error:
            raise UserError(f"{path}: its optimizer state does not fit this model ({error})") from error
        if stored["scaler"] and self._runtime.loss_scaler:
            self._runtime.loss_scaler.load_state_dict(stored["scaler"])
        return TrainingState(stored["step"], stored["source"], stored["fingerprint"])


def _load_weights(path: Path, model: nn.Module) -> None:
    weights: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        weights |= load_file(file)
    if hasattr(model, "get_base_model"):
        from peft import set_peft_model_state_dict

        missing: list[str] = []
        unexpected = set_peft_model_state_dict(model, weights).unexpected_keys
    else:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        missing = [name for name in missing if name not in tied]
    if missing or unexpected:
        name = [*missing, *unexpected][0]
        raise UserError(f"{path}: its weights do not fit this model ({name} is missing or not known)")


def torn(path: Path) -> str | None:
    """Why a folder is not a whole checkpoint; None if it is one."""
    try:
        sizes = json.loads((path / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError):
        return f"{MANIFEST} cannot be read"
    for name, size in sizes.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes where {size} were written"
    return None


def _remove(path: Path) -> None:
    """Deletes a folder under a name that no one takes for a checkpoint, and that the next start clears away."""
    doomed = path.with_name(f".{path.name}.old.tmp")
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
