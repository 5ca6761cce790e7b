"""Continuing a run from a checkpoint: found, compared with the settings of now, loaded, and said."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from open_r1.config import TrainingConfig
from open_r1.errors import UserError
from open_r1.parallel.runtime import Runtime
from open_r1.training.batches import BatchSource
from open_r1.training.checkpoint import Checkpoints
from open_r1.training.continuity import Changes, compare

console = Console(stderr=True, soft_wrap=True, highlight=False)


def resume(
    checkpoints: Checkpoints,
    config: TrainingConfig,
    runtime: Runtime,
    module: nn.Module,
    optimizer: Optimizer,
    source: BatchSource,
    total_steps: int,
) -> int:
    """Puts the run where the checkpoint that ``resume_from_checkpoint`` means has left it; collective.

    Returns:
        The step to take next, 0 where there is nothing to continue.

    Raises:
        UserError: the checkpoint cannot be continued, or settings that lead to other weights have changed and
            ``allow_config_change`` is not set.
    """
    path = checkpoints.find(config.resume_from_checkpoint)
    if path is None:
        return 0
    stored = checkpoints.manifest(path)
    if stored.command != type(config).__name__:
        raise UserError(
            f"{path} was made by a run with {stored.command}, this one has {type(config).__name__}; to start from its "
            "weights, set --model_name_or_path to it and leave --resume_from_checkpoint out"
        )
    fingerprint = runtime.gather([source.fingerprint])[0]  # rank 0's is the one that is stored
    changes = compare(stored, config, runtime, fingerprint)
    if changes.course:
        _say_changes(path, changes, config.allow_config_change, runtime.is_main)
    state = checkpoints.load(path, module, optimizer, with_optimizer=not changes.optimizer)
    losses = []
    if changes.order or len(state.source) != runtime.world_size:
        losses.append(source.adopt(state.source))
    else:
        source.load_state_dict(state.source[runtime.rank])
    if runtime.is_main:
        if changes.last_bits:
            losses = ["sums are taken in another order", "dropout draws other masks", *filter(None, losses)]
            console.print(
                f"[yellow]the same course from here on, but no longer bit for bit[/] ({', '.join(losses)}): ",
                "; ".join(changes.last_bits),
                sep="",
            )
        checkpoints.set_aside_after(state.step)
        console.print(f"continuing from {path} (step {state.step} of {total_steps})", markup=False)
    return state.step


def _say_changes(path: Path, changes: Changes, allowed: bool, is_main: bool) -> None:
    if allowed:
        if is_main:
            console.print("[yellow]continuing with changed settings[/]:", "; ".join(changes.course))
        return
    if is_main:
        console.print(f"{path} was made with other settings:", markup=False)
        for line in changes.course:
            console.print(f"  {line}", markup=False)
    names = ", ".join(line.partition(":")[0] for line in changes.course)
    raise UserError(
        f"{path} was made with other settings ({names}): set them back, or add --allow_config_change to continue with "
        "the new ones"
    )
