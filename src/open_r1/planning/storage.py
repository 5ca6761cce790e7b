"""What a run writes and downloads, by the disk that it goes to."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from open_r1.config import GRPOConfig, SFTConfig, resolve_steps
from open_r1.data.tokens import default_cache_dir
from open_r1.machine.disks import Space, check_space, run_space, space_line
from open_r1.model.memory import estimate_memory
from open_r1.planning.situation import Data, Machine, Model
from open_r1.training.integrity import Torn, read_manifest

TOKEN_BYTES = 5
"""Of a token in the cache: its id, and whether it is a target."""
ON_DISK = {"paged_adamw_8bit": "adamw_8bit", "paged_adamw_32bit": "adamw_split"}
"""An optimizer whose state is the same, for those whose state is not on the device."""


@dataclass(frozen=True)
class Storage:
    """Bytes, and how they compare with what is free.

    Attributes:
        checkpoint: one, with the optimizer's state.
        kept: checkpoints that will be there at the end; None where the number of steps is not known.
        final: the model at the end.
        tokens: the cache of tokens; None where the data's size is not known.
        download: of the model from the hub; 0 where it is here.
        disks: the same by disk.
    """

    checkpoint: int
    kept: int | None
    final: int
    tokens: int | None
    download: int
    disks: tuple[Space, ...]

    @property
    def fits(self) -> bool:
        return all(space.fits for space in self.disks)


def storage(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, data: Data, steps: int | None) -> Storage:
    """What a run of ``steps`` steps puts on disks.

    Args:
        steps: None where it is not known; then as many checkpoints as are kept are counted, or one.
    """
    checkpoint, final = written(settings, model, machine)
    saves = _saves(settings, steps)
    tokens = data.total * TOKEN_BYTES if data.total is not None and isinstance(settings, SFTConfig) else None
    download = 0 if model.local else model.stored_bytes
    needs: dict[str | Path, int] = {}
    run = run_space(checkpoint=checkpoint, final=final, saves=saves or 0, limit=settings.save_total_limit)
    for path, size in (
        (settings.output_dir, run),
        (Path(settings.token_cache_dir or default_cache_dir()), tokens or 0),
        (_hub_cache(), download),
    ):
        needs[path] = needs.get(path, 0) + size
    kept = None if saves is None else min(saves, settings.save_total_limit or saves)
    disks = space_line({path: size for path, size in needs.items() if size})
    return Storage(checkpoint, kept, final, tokens, download, tuple(disks))


def written(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine) -> tuple[int, int]:
    """Bytes of a checkpoint, the optimizer's state included, and of the model at the end."""
    work = machine.work(settings, model, 1)
    whole = replace(
        work,
        optimizer=ON_DISK.get(work.optimizer, work.optimizer),
        weight_shards=1,
        gradient_shards=1,
        optimizer_shards=1,
    )
    trained = model.shape.parameters if work.adapters is None else work.adapters
    width = work.weight_dtype.itemsize if work.adapters is None else 4
    checkpoint = int(trained * width + estimate_memory(model.shape, whole, "full").optimizer)
    return checkpoint, model.stored_bytes if work.adapters is None or settings.merge_lora else 4 * work.adapters


def check_output_disk(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine) -> None:
    """Holds what the run will write into its folder, from where it is continued on, against what is free there.

    Raises:
        UserError: it does not fit; with the numbers, and what to do.
    """
    checkpoint, final = written(settings, model, machine)
    steps = settings.max_steps if settings.max_steps > 0 else None
    saves = _saves(settings, steps, after=_resumed_step(settings))
    check_space(
        settings.output_dir,
        checkpoint=checkpoint,
        final=final,
        saves=1 if saves is None else saves,  # at least, where the number of steps is not known yet
        limit=settings.save_total_limit,
    )


def _saves(settings: SFTConfig | GRPOConfig, steps: int | None, after: int = 0) -> int | None:
    """Checkpoints that will be written after step ``after``."""
    if settings.save_strategy == "no":
        return 0
    if steps is None:
        return settings.save_total_limit
    if settings.save_strategy == "epoch":
        return math.ceil(settings.num_train_epochs) - 1
    every = resolve_steps(settings.save_steps, steps)
    return max(0, (steps - 1) // every - after // every)  # after the last step the model itself is written


def _resumed_step(settings: SFTConfig | GRPOConfig) -> int:
    """The step of the checkpoint that the run will continue from; 0 where it begins anew."""
    wanted = settings.resume_from_checkpoint
    if wanted is True:
        names = [path.name for path in Path(settings.output_dir).expanduser().glob("checkpoint-*")]
        return max((int(match[1]) for name in names if (match := re.fullmatch(r"checkpoint-(\d+)", name))), default=0)
    try:
        return read_manifest(Path(wanted)).step if wanted else 0
    except Torn:  # refused where it is to be loaded
        return 0


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
