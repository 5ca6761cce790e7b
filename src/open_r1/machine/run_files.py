"""What a run writes, counted at the fullest moment, against what is free where it goes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from open_r1.errors import UserError
from open_r1.machine import disks
from open_r1.machine.disks import size_text

DATA_DISK = "open-r1 setup --data-disk DIR"


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run's folder.

    Attributes:
        checkpoint: bytes of one checkpoint, optimizer included.
        final: bytes of the final model.
        saves: checkpoints that will be written; of a run that is continued, those that are left.
        limit: ``save_total_limit``; None keeps all.
        present: checkpoints that lie there already and are deleted in their turn.
        freed: bytes of what is deleted before the first is written.
    """

    checkpoint: int
    final: int
    saves: int
    limit: int | None = None
    present: int = 0
    freed: int = 0

    @property
    def kept(self) -> int:
        """Checkpoints that are there at the end."""
        there = self.saves + self.present
        return there if self.limit is None else min(self.limit, there)

    @property
    def added(self) -> int:
        """Bytes that are there at the fullest moment, beside what lies there already.

        An old checkpoint is deleted only after the next one is whole, so for a moment there is one more than the limit.
        """
        while_saving = min(self.saves + self.present, self.kept + 1) if self.saves else 0
        saving = self.checkpoint * max(while_saving - self.present, 0)
        return max(saving, self.checkpoint * max(self.kept - self.present, 0) + self.final)

    @property
    def need(self) -> int:
        """Bytes of `added` that have to be free now."""
        return max(0, self.added - self.freed)

    def fitting_limit(self, room: int) -> int | None:
        """The largest ``save_total_limit`` with which it needs at most ``room`` bytes; None where none does."""
        most = min(self.kept, self.present + (room + self.freed) // max(1, self.checkpoint))
        limits = (limit for limit in range(most, 0, -1) if replace(self, limit=limit).need <= room)
        return next(limits, None)


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The folders of checkpoints in a run's folder, whole or not."""
    folder = Path(folder).expanduser()
    if not os.path.isdir(folder):  # also where no folder can have that name, of which pathlib raises
        return []
    return [path for path in folder.glob("checkpoint-*") if path.is_dir()]


def check_space(output_dir: str | Path, files: RunFiles, caches: Mapping[Path, tuple[int, str]] | None = None) -> None:
    """Holds what a run will write against what is free on each disk that it writes to.

    Args:
        caches: by folder, bytes that go there too, and what they are.

    Raises:
        UserError: it does not fit; with the numbers, and what to do.
    """
    sizes = {output_dir: (files.need, "")} | {path: told for path, told in (caches or {}).items() if told[0]}
    for space in disks.space_line({path: size for path, (size, _) in sizes.items()}):
        if space.fits:
            continue
        beside = [sizes[path] for path in space.paths if path in sizes and sizes[path][1]]
        if Path(output_dir) in space.paths:
            raise UserError(_run_too_large(output_dir, space, files, beside))
        where = ", ".join(map(str, space.paths))
        raise UserError(
            f"{where} is on {space.disk.mount} ({space.disk.kind}), where {size_text(space.disk.free)} are free, and "
            f"{_listed(beside)} go there: make room, or move the caches to a larger disk ({DATA_DISK})"
        )


def _run_too_large(
    output_dir: str | Path, space: disks.Space, files: RunFiles, beside: Sequence[tuple[int, str]]
) -> str:
    disk, others = space.disk, sum(size for size, _ in beside)
    kept = files.saves if files.limit is None else min(files.saves, files.limit)
    parts = [f"{kept} checkpoints of {size_text(files.checkpoint)}"] if kept > 1 else []
    parts += [f"a checkpoint of {size_text(files.checkpoint)}"] if kept == 1 else []
    parts += [f"the final model of {size_text(files.final)}", *([_listed(beside)] if beside else [])]
    listed = " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)
    fitting = files.fitting_limit(disk.free - others)
    fewer = f"set --save_total_limit {fitting}, " if fitting else ""
    return (
        f"output_dir {output_dir} is on {disk.mount} ({disk.kind}), where {size_text(disk.free)} are free, and the run "
        f"adds up to {size_text(files.added + others)} ({listed}): {fewer}name an --output_dir on a larger disk, or "
        f"make room ({DATA_DISK} moves the caches)"
    )


def _listed(sizes: Sequence[tuple[int, str]]) -> str:
    return ", ".join(f"{size_text(size)} of {what}" for size, what in sizes)
