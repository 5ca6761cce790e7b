"""Checkpoints: a folder that appears by one rename after everything in it is on disk.

``checkpoint-N/`` is a model folder (`transformers` opens it; `open-r1 evaluate --model …/checkpoint-N` runs it). In
addition ``training_state/`` holds the optimizer by parameter name and the state of what feeds the loop, so that any
number of ranks and any way of sharding continues it; ``checkpoint.json`` (see `integrity`) is written last. A folder
that does not match its ``checkpoint.json`` is passed over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from open_r1.config import TrainingConfig
from open_r1.errors import UserError
from open_r1.model.export import save_model
from open_r1.parallel.runtime import Runtime
from open_r1.training.continuity import made_by
from open_r1.training.integrity import (
    Manifest,
    Torn,
    check,
    checkpoints_by_step,
    read_manifest,
    seal,
    sync_folder,
    write_manifest,
)
from open_r1.training.stored_state import has_adapters, read_moments, read_rest, read_weights, write_state

console = Console(stderr=True, soft_wrap=True, highlight=False)
T = TypeVar("T")


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after ``step`` optimizer steps.

    Attributes:
        step: optimizer steps taken.
        source: what feeds the loop, as it says itself (`BatchSource.state_dict`), one entry a rank.
        fingerprint: of the settings and data that decide the order of batches, and of what is in them.
    """

    step: int
    source: list[dict[str, Any]]
    fingerprint: str


class Checkpoints:
    """Writes, finds and reads the checkpoints of one run. Rank 0 touches the disk.

    Args:
        config: names the run's output folder and how many checkpoints are kept; stored with each.
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
        self._config = config
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._stop_token_ids = stop_token_ids
        self._latest: tuple[int, Path] | None = None  # of this course: written or loaded by this process

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint of this run that this process has written, or has gone on from."""
        return self._latest[1] if self._latest else None

    @property
    def what_is_left(self) -> str:
        """For a checkpoint that could not be written: what a run can go on from instead."""
        return "the last whole one stays" if self._latest else "there is no earlier one"

    def save(self, state: TrainingState, module: nn.Module, optimizer: Optimizer) -> Path | None:
        """Writes ``checkpoint-{state.step}`` and returns its path; collective.

        A disk that is full or fails is said, leaves nothing behind, and does not raise: then the answer is None.
        """
        target = self.folder / f"checkpoint-{state.step}"
        if self._latest == (state.step, target):
            return target
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # moments kept in host memory may still be on their way there
        model = self._runtime.unwrap(module).model
        weights = self._runtime.model_state(module, trainable_only=has_adapters(model))
        moments = self._runtime.optimizer_state(module, optimizer)["state"]
        saved = False
        if self._runtime.is_main:
            temporary = self.folder / f".{target.name}.tmp"
            try:
                self._write(temporary, state, model, weights, moments)
                if target.exists():
                    _remove(target)
                os.replace(temporary, target)
                sync_folder(self.folder)
                saved = True
            except Exception as error:
                shutil.rmtree(temporary, ignore_errors=True)
                if not is_of_the_disk(error):
                    raise
                console.print(f"[red]checkpoint {state.step} was not saved[/]: {error}; {self.what_is_left}")
            if saved:
                self._rotate(state.step)
        if not self._from_main(lambda: saved):
            return None
        self._latest = (state.step, target)
        return target

    def _write(
        self,
        folder: Path,
        state: TrainingState,
        model: nn.Module,
        weights: dict[str, Tensor],
        moments: dict[str, dict[str, Any]],
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        save_model(model, folder, tokenizer=self._tokenizer, stop_token_ids=self._stop_token_ids, state_dict=weights)
        written = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        with ThreadPoolExecutor(2) as pool:  # while these go to the disk, the optimizer's state is written
            sealed = {str(path.relative_to(folder)): pool.submit(seal, path) for path in written}
            files = write_state(folder, state.source, self._runtime.loss_scaler, moments)
            files |= {name: record.result() for name, record in sealed.items()}
        settings, command = asdict(self._config), type(self._config).__name__
        manifest = Manifest(state.step, state.fingerprint, command, settings, made_by(self._runtime), files)
        write_manifest(folder, manifest)

    def _rotate(self, newest: int) -> None:
        """Keeps the last ``limit`` whole ones up to ``newest``, which has just been written, and what is later."""
        if not self.limit:
            return
        earlier = [(step, path) for step, path in checkpoints_by_step(self.folder) if step <= newest]
        whole = [step for step, path in earlier if not flaw(path, contents=False)]
        for step, path in earlier:
            if step < whole[-self.limit :][0]:
                try:
                    _remove(path)
                except OSError as error:
                    console.print(f"[yellow]{path} could not be deleted[/]: {error}")

    def find(self, wanted: bool | str | None) -> Path | None:
        """The checkpoint that ``resume_from_checkpoint`` means, compared byte by byte with what was written.

        None to start anew. Torn ones are named and passed over. Collective.

        Raises:
            UserError: for a path that is not a whole checkpoint, or where all that there are are torn: to begin again
                would give up the steps that they stand for, which is the person's to decide.
        """
        return self._from_main(lambda: self._find(wanted))

    def _find(self, wanted: bool | str | None) -> Path | None:
        if wanted is None or wanted is False:
            return None
        if wanted is True:
            torn = checkpoints_by_step(self.folder)
            for _, path in reversed(torn):
                reason = flaw(path, contents=True)
                if not reason:
                    return path
                console.print(f"[yellow]{path} is passed over[/]: {reason}")
            if torn:
                raise UserError(
                    f"resume_from_checkpoint true: no checkpoint in {self.folder} is whole (of {len(torn)}); start "
                    "anew with --overwrite_output_dir instead, or from the weights of one: --model_name_or_path "
                    f"{torn[-1][1]} and another --output_dir"
                )
            console.print(f"no checkpoint in {self.folder}: the run starts at step 0", markup=False)
            return None
        path = Path(wanted)
        if not path.is_dir():
            raise UserError(f"resume_from_checkpoint {path}: no such folder; give a checkpoint-N folder, or true")
        if reason := flaw(path, contents=True):
            raise UserError(
                f"resume_from_checkpoint {path}: {reason}; give another one, or true for the last whole one"
            )
        return path

    def manifest(self, path: Path) -> Manifest:
        """What a checkpoint that was found says about itself; collective."""
        return self._from_main(lambda: read_manifest(path))

    def load(
        self, path: Path, module: nn.Module, optimizer: Optimizer, *, with_optimizer: bool = True
    ) -> TrainingState:
        """Puts a checkpoint's weights and optimizer state into ``module`` and ``optimizer``; collective.

        Raises:
            UserError: when they do not fit.
        """
        stored = self.manifest(path)
        rest = self._from_main(lambda: read_rest(path))
        main, model = self._runtime.is_main, self._runtime.unwrap(module).model
        try:
            self._runtime.load_model_state(module, read_weights(path, model) if main else {})
            if with_optimizer:
                moments = read_moments(path, rest["optimizer"]) if main else {}
                self._runtime.load_optimizer_state(module, optimizer, {"state": moments, "param_groups": []})
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        if rest["scaler"] and (scaler := self._runtime.loss_scaler):
            # DeepSpeed's is of the scale alone: how it grows is this scaler's own, counted from here on
            scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": 0} | rest["scaler"])
        if path.resolve().parent == self.folder.resolve():
            self._latest = (stored.step, self.folder / path.name)
        return TrainingState(stored.step, rest["source"], stored.fingerprint)

    def set_aside_after(self, step: int) -> None:
        """Renames whole checkpoints of later steps, which a run that goes on from ``step`` has abandoned.

        Under their own names the next ``--resume_from_checkpoint true`` would take them for the newest of this course.
        """
        for later, path in checkpoints_by_step(self.folder):
            if later > step and not flaw(path, contents=False):
                aside = path.with_name(f"superseded-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
                console.print(f"{path.name} is of the course that is given up: renamed to {aside}", markup=False)

    def _from_main(self, function: Callable[[], T]) -> T:
        """Rank 0's result, or its UserError, on every rank."""
        answer: tuple[Any, str | None] = (None, None)
        if self._runtime.is_main:
            try:
                answer = (function(), None)
            except UserError as error:
                answer = (None, str(error))
        value, problem = self._runtime.gather([answer])[0]
        if problem is not None:
            raise UserError(problem)
        return value


def flaw(path: Path, *, contents: bool) -> str | None:
    """Why a folder is not a whole checkpoint; None if it is one. ``contents`` compares every byte, not sizes alone."""
    try:
        check(path, contents=contents)
    except Torn as reason:
        return str(reason)
    return None


def is_of_the_disk(error: Exception) -> bool:
    """Whether writing failed: libraries in Rust raise what the system said under classes of their own."""
    return isinstance(error, OSError) or "os error" in str(error)


def _remove(path: Path) -> None:
    """Deletes a folder under a name that no one takes for a checkpoint, and that the next start clears away."""
    doomed = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(path, doomed)
    shutil.rmtree(doomed)
