"""The output folder of a run, which belongs to one run at a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.errors import UserError
from open_r1.files import write_json
from open_r1.locks import held
from open_r1.parallel.runtime import Runtime
from open_r1.training.metrics import COMPLETIONS_FILE
from open_r1.training.metrics import FILE as METRICS_FILE
from open_r1.training.watching import ALARMS_FILE

SETTINGS_FILE = "settings.json"
RESULTS_FILE = "train_results.json"
LOCK_FILE = ".lock"
console = Console(stderr=True, soft_wrap=True)


@contextmanager
def taken_folder(config: SFTConfig | GRPOConfig, runtime: Runtime) -> Iterator[None]:
    """Makes the output folder this run's own until it ends. Collective.

    Raises:
        UserError: another run is in it, it holds one that is neither continued nor replaced, or it cannot be made or
            written.
    """
    with ExitStack() as stack:
        if runtime.is_main:
            with _one_line(config):
                _take(Path(config.output_dir), config, stack)
            for note in config.notes():
                console.print(f"[dim]note: {escape(note)}[/]")
        runtime.barrier()
        yield


def begin_run(config: SFTConfig | GRPOConfig, runtime: Runtime) -> None:
    """Deletes what an earlier run left that is not continued, and writes the settings. Collective.

    All that can refuse has to come before: data, model and engine are there.
    """
    if runtime.is_main:
        folder = Path(config.output_dir)
        with _one_line(config):
            for path in [] if config.resume_from_checkpoint else _earlier(folder):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            write_json(folder / SETTINGS_FILE, asdict(config))
    runtime.barrier()


@contextmanager
def _one_line(config: SFTConfig | GRPOConfig) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = f"{config.output_dir} cannot be used ({error}): name a folder that you may write to"
        raise UserError(f"output_dir {why}") from error


def _take(folder: Path, config: SFTConfig | GRPOConfig, stack: ExitStack) -> None:
    """Makes the folder; a run that lies there is continued, or replaced, only when the person says so."""
    if folder.is_dir() and folder.resolve() == Path(config.model_name_or_path).resolve():
        raise UserError(f"output_dir {folder} is the folder of the model that training starts from; choose another")
    refusal = f"output_dir {folder} is in use by another run ({{holder}}): wait until it ends, or choose another folder"
    stack.enter_context(held(folder / LOCK_FILE, refusal))
    for stale in folder.glob(".*.tmp"):
        shutil.rmtree(stale)
    for stale in folder.glob(".*.partial"):  # of a run that was killed while it wrote a file
        stale.unlink(missing_ok=True)
    if not config.resume_from_checkpoint and not config.overwrite_output_dir and _earlier(folder):
        raise UserError(
            f"output_dir {folder} holds a run already; continue it with --resume_from_checkpoint true, "
            "start anew with --overwrite_output_dir, or choose another folder"
        )


def _earlier(folder: Path) -> list[Path]:
    """What a run left; one that ended before its first step left an empty file of metrics, which is nothing to lose."""
    finished = (folder / RESULTS_FILE).exists()
    return [
        path
        for path in folder.iterdir()
        if _is_of_a_run(path.name, finished) and (path.is_dir() or path.stat().st_size)
    ]


def _is_of_a_run(name: str, finished: bool) -> bool:
    """Whether a run wrote this; weights count only beside the results of a finished run, else they are somebody's."""
    if name in (METRICS_FILE, COMPLETIONS_FILE, ALARMS_FILE, RESULTS_FILE) or re.fullmatch(r"checkpoint-\d+", name):
        return True
    # Of adapters the configuration too: beside a whole model it would send who loads it to another base.
    return finished and name.endswith((".safetensors", ".safetensors.index.json", "adapter_config.json"))
