"""What is where and how much: caches, their sizes and disks, what was left behind, what deserves a warning."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_r1.machine.caches import Cache, caches, outranked_by
from open_r1.machine.disks import FEW_INODES, Disk, FolderSize, disk_of, folder_size, local_disks, size_text, space_line
from open_r1.machine.home import MachineSettings, applied

ROOMY = 40e9
"""Bytes: a few models of 7 B parameters, and a run's checkpoints of one."""

WORTH_CARRYING = 1_000_000
"""Bytes; less is downloaded again before somebody has typed the command."""


@dataclass(frozen=True)
class Measured:
    """A cache with its size and its disk; both are None where the disk does not answer."""

    cache: Cache
    size: FolderSize | None
    disk: Disk | None


@dataclass(frozen=True)
class LeftBehind:
    """A cache's old folder, which its library no longer looks into."""

    cache: Cache
    path: Path
    size: FolderSize

    @property
    def command(self) -> str:
        """What carries its contents over; the old folder stays."""
        return f"cp -a {shlex.quote(f'{self.path}/.')} {shlex.quote(f'{self.cache.path}/')}"


@dataclass(frozen=True)
class Warned:
    """Something a person should know, in one line, and the command that mends it, if there is one."""

    problem: str
    command: str | None = None

    def __str__(self) -> str:
        return self.problem if self.command is None else f"{self.problem}: {self.command}"


@dataclass(frozen=True)
class Overview:
    """All that ``open-r1 setup`` shows.

    Attributes:
        warnings: variables that outrank the settings file, disks that are nearly full.
    """

    measured: list[Measured]
    left_behind: list[LeftBehind]
    warnings: list[Warned]

    @property
    def disks(self) -> list[Disk]:
        """The disks that caches lie on, each once."""
        found = {one.disk.mount: one.disk for one in self.measured if one.disk is not None}
        return [found[mount] for mount in sorted(found)]


def take_overview(
    settings: MachineSettings,
    *,
    seconds: float,
    earlier: Sequence[Cache] = (),
    environment: Mapping[str, str] = os.environ,
) -> Overview:
    """Looks at every cache.

    Args:
        seconds: for adding up sizes, divided among the folders; what one leaves is the next one's.
        earlier: the caches before the settings were changed; their folders may have been left behind.
        environment: with the settings applied.
    """
    now = caches(environment)
    old = [one for one in _old_folders(now, earlier, settings) if one[1].is_dir()]
    places = [cache.path for cache in now] + [path for _, path in old]
    sizes = _sizes(places, seconds)
    measured = [Measured(cache, size, _disk(cache.path)) for cache, size in zip(now, sizes, strict=False)]
    left = [LeftBehind(cache, path, size) for (cache, path), size in zip(old, sizes[len(now) :], strict=True)]
    left = [one for one in left if one.size.bytes >= WORTH_CARRYING]
    warnings = [*outranking(settings, environment), *_full(measured, settings), *_too_much(left)]
    return Overview(measured, left, warnings)


def outranking(settings: MachineSettings, environment: Mapping[str, str]) -> list[Warned]:
    """One for each variable of the person's own that moves caches elsewhere than the settings file does."""
    if settings.data_disk is None:
        return []
    ours = applied(environment)
    theirs = {name: value for name, value in environment.items() if name not in ours}
    paths = {cache.variable: cache.path for cache in caches(environment)}
    names: dict[str, list[str]] = {}
    for variable, value in settings.data_disk.environment.items():
        stronger = outranked_by(variable, theirs)
        if stronger is not None and paths.get(variable, Path(value)) != Path(value):
            names.setdefault(stronger, []).append(variable)
    lines = []
    for name, moved in names.items():
        over = "" if moved == [name] else f" (over {', '.join(moved)})"
        wins = f"{name}={theirs[name]} of your environment wins over the settings file{over}"
        lines.append(Warned(wins, f"unset {name}"))
    return lines


def _old_folders(now: Sequence[Cache], earlier: Sequence[Cache], settings: MachineSettings) -> list[tuple[Cache, Path]]:
    """Caches worth carrying that the settings file has moved, each with a folder that it was in."""
    before = {cache.variable: cache.path for cache in earlier}
    found: dict[tuple[str, str], tuple[Cache, Path]] = {}
    for cache in now:
        if settings.data_disk is None or cache.set_by != "settings file" or not cache.kind.kept:
            continue
        for path in (cache.default, before.get(cache.variable, cache.default)):
            real = os.path.realpath(path)
            if real != os.path.realpath(cache.path):
                found.setdefault((cache.variable, real), (cache, path))
    return list(found.values())


def _too_much(left: Sequence[LeftBehind]) -> list[Warned]:
    """One for each disk on which there is no room for what was left behind."""
    needs: dict[str | Path, int] = {}
    for one in left:
        needs[one.cache.path] = needs.get(one.cache.path, 0) + one.size.bytes
    return [
        Warned(
            f"what was left behind takes {size_text(space.need)}, and {space.disk.mount} has "
            f"{size_text(space.disk.free)} free: carry over only what you need"
        )
        for space in space_line(needs)
        if not space.fits
    ]


def _sizes(paths: Sequence[Path], seconds: float) -> list[FolderSize]:
    end = time.monotonic() + seconds
    sizes = []
    for index, path in enumerate(paths):
        share = max(0.0, end - time.monotonic()) / (len(paths) - index)
        inside = [other for other in paths if other != path and other.is_relative_to(path)]
        sizes.append(folder_size(path, seconds=share, skip=inside))
    return sizes


def _disk(path: Path) -> Disk | None:
    try:
        return disk_of(path)
    except OSError:
        return None


def _full(measured: Sequence[Measured], settings: MachineSettings) -> list[Warned]:
    """One for each disk that is nearly full, with the command that moves caches away from it."""
    disks = {one.disk.device: one.disk for one in measured if one.disk is not None and one.disk.nearly_full}
    warned = []
    for disk in disks.values():
        few_files = disk.inodes_free is not None and disk.inodes_free < FEW_INODES
        left = f"{disk.inodes_free:,} more files can be made" if few_files else f"{size_text(disk.free)} are free"
        problem = f"{disk.mount} is nearly full: {left} of {size_text(disk.total)}"
        if settings.data_disk is None:
            larger = next((other for other in local_disks() if _roomy(other, disk)), None)
            where = "DIR" if larger is None else shlex.quote(str(larger.mount))
            room = "a larger disk" if larger is None else f"{where}, which has {size_text(larger.free)} free"
            warned.append(Warned(f"{problem}; caches are moved to {room} by", f"open-r1 setup --data-disk {where}"))
        else:
            warned.append(Warned(problem))
    return warned


def _roomy(disk: Disk, full: Disk) -> bool:
    """Whether a disk is one to move caches to; / is none, where folders of no package would surprise."""
    return disk.device != full.device and disk.mount != Path("/") and disk.free > max(ROOMY, 2 * full.free)
