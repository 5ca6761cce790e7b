"""What a run writes and downloads, by the disk that it goes to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from open_r1.config import GRPOConfig, SFTConfig, resolve_steps
from open_r1.data.tokens import TOKEN_BYTES, default_cache_dir
from open_r1.machine.disks import Space, folder_size, space_line
from open_r1.machine.run_files import DATA_DISK, RunFiles, check_space, checkpoints_in
from open_r1.model.memory import estimate_memory
from open_r1.planning.situation import Data, Machine, Model
from open_r1.training.integrity import Torn, checkpoints_by_step, read_manifest

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
        remedy: what to change where one of them has not enough free; "" where all have.
    """

    checkpoint: int
    kept: int | None
    final: int
    tokens: int | None
    download: int
    disks: tuple[Space, ...]
    remedy: str = ""

    @property
    def fits(self) -> bool:
        return all(space.fits for space in self.disks)


def storage(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, data: Data, steps: int | None) -> Storage:
    """What a run of ``steps`` steps puts on disks.

    Args:
        steps: None where it is not known; then as many checkpoints as are kept are counted, or one.
    """
    files = run_files(settings, model, machine, steps)
    tokens = data.total * TOKEN_BYTES if data.total is not None and isinstance(settings, SFTConfig) else None
    download = 0 if model.local else model.stored_bytes
    needs: dict[str | Path, int] = {}
    for path, size in (
        (settings.output_dir, files.need),
        (Path(settings.token_cache_dir or default_cache_dir()), tokens or 0),
        (_hub_cache(), download),
    ):
        needs[path] = needs.get(path, 0) + size
    found = tuple(space_line({path: size for path, size in needs.items() if size}))
    kept = None if _saves(settings, steps) is None else files.kept
    return Storage(files.checkpoint, kept, files.final, tokens, download, found, _remedy(settings, files, found))


def _remedy(settings: SFTConfig | GRPOConfig, files: RunFiles, found: tuple[Space, ...]) -> str:
    """What to do for the disks that have not enough free; "" where all have."""
    remedies: list[str] = []
    for space in (space for space in found if not space.fits):
        caches_fill_it = True
        if Path(settings.output_dir) in space.paths:
            fitting = files.fitting_limit(space.disk.free - (space.need - files.need))
            remedies += [f"--save_total_limit {fitting}"] if fitting else []
            remedies.append("an --output_dir on a larger disk")
            caches_fill_it = files.need <= space.disk.free
        remedies += [f"{DATA_DISK} moves the caches"] if caches_fill_it else []
    return ", or ".join(dict.fromkeys(remedies))


def run_files(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, steps: int | None) -> RunFiles:
    """What is still to be written into the run's folder, from where the run is continued on."""
    checkpoint, final = written(settings, model, machine)
    saves = _saves(settings, steps, after=_resumed_step(settings))
    there = checkpoints_in(settings.output_dir)
    replaces = settings.overwrite_output_dir and not settings.resume_from_checkpoint
    return RunFiles(
        checkpoint=checkpoint,
        final=final,
        saves=1 if saves is None else saves,  # at least, where the number of steps is not known
        limit=settings.save_total_limit,
        present=0 if replaces else len(there),
        freed=sum(folder_size(path, seconds=1).bytes for path in there) if replaces else 0,
    )


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


def check_disks(settings: SFTConfig | GRPOConfig, model: Model, machine: Machine, steps: int | None = None) -> None:
    """Holds what the run will write and download against what is free on the disks that it goes to.

    The cache of tokens is not in it: whoever makes tokens looks whether there is room for them.

    Args:
        steps: of the run; None where they are not known yet and ``max_steps`` does not say.

    Raises:
        UserError: it does not fit; with the numbers, and what to do.
    """
    if settings.max_steps > 0:
        steps = settings.max_steps
    download = 0 if model.local else max(0, model.stored_bytes - _downloaded(model.name))
    check_space(
        settings.output_dir,
        run_files(settings, model, machine, steps),
        {_hub_cache(): (download, f"weights of {model.name} from the hub")},
    )


def _saves(settings: SFTConfig | GRPOConfig, steps: int | None, after: int = 0) -> int | None:
    """Checkpoints that will be written after step ``after``."""
    if settings.save_strategy == "no":
        return 0
    if settings.save_strategy == "epoch":
        return math.ceil(settings.num_train_epochs) - 1
    if steps is None:
        return settings.save_total_limit
    every = resolve_steps(settings.save_steps, steps)
    return max(0, (steps - 1) // every - after // every)  # after the last step the model itself is written


def _resumed_step(settings: SFTConfig | GRPOConfig) -> int:
    """The step of the checkpoint that the run will continue from; 0 where it begins anew."""
    wanted = settings.resume_from_checkpoint
    if wanted is True:
        there = checkpoints_by_step(Path(settings.output_dir).expanduser())
        return there[-1][0] if there else 0
    try:
        return read_manifest(Path(wanted)).step if wanted else 0
    except Torn:  # refused where it is to be loaded
        return 0


def _downloaded(name: str) -> int:
    """Bytes of a model that are in the hub's cache already, of files that are not whole too."""
    return folder_size(_hub_cache() / f"models--{name.replace('/', '--')}", seconds=1).bytes


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
