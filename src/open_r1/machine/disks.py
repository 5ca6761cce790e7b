"""Mounts, free space and sizes of folders, asked of the kernel; nothing here writes."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
NETWORK = ("nfs", "cifs", "smb", "lustre", "ceph", "9p", "beegfs", "gpfs", "fuse.")
"""How the kinds of network shares begin; what is mounted by FUSE mostly is one."""

FEW_INODES = 20_000
_BLOCK = 512  # bytes of a block in st_blocks, whatever the disk's own are (stat(2))


@dataclass(frozen=True)
class Disk:
    """The file system that a path lies on, or would lie on.

    Attributes:
        mount: where it is mounted.
        kind: its type as the kernel names it (ext4, overlay, nfs4, tmpfs, …); "unknown" without Linux's list of mounts.
        total: bytes.
        free: bytes that this user may still write.
        inodes_free: files that may still be made; None where there is no such limit.
        device: the same for two mounts that share one file system, and so its free space.
        bars_programs: mounted ``noexec``.
    """

    mount: Path
    kind: str
    total: int
    free: int
    inodes_free: int | None
    device: int = 0
    bars_programs: bool = False

    @property
    def in_memory(self) -> bool:
        """Whether what is written there takes memory and is gone after a restart."""
        return self.kind in IN_MEMORY

    @property
    def network(self) -> bool:
        """Whether files are fetched from another machine."""
        return self.kind.startswith(NETWORK)

    @property
    def nearly_full(self) -> bool:
        """Too little left for the weights of one model of 7 B parameters, or for the files of a cache."""
        few_files = self.inodes_free is not None and self.inodes_free < FEW_INODES
        return few_files or self.free < 16e9


def disk_of(path: str | Path) -> Disk:
    """The disk of ``path``, links followed; of its nearest parent that exists where it does not exist yet.

    Raises:
        OSError: the disk does not answer, such as a share whose server is gone.
    """
    there = existing_parent(path)
    facts = os.statvfs(there)
    mount, kind = _mount_of(there)
    return Disk(
        mount=mount,
        kind=kind,
        total=facts.f_blocks * facts.f_frsize,
        free=facts.f_bavail * facts.f_frsize,
        inodes_free=facts.f_favail if facts.f_files else None,
        device=os.stat(there).st_dev,
        bars_programs=bool(facts.f_flag & getattr(os, "ST_NOEXEC", 0)),
    )


def local_disks() -> list[Disk]:
    """Disks of this machine that can be written and run programs, the largest free space first; no network shares.

    A share whose server is gone would stop whoever asks, so none is asked.
    """
    found: dict[int, Disk] = {}
    for mount, _, source in _mounts():
        if source.startswith("/dev/") and os.path.isdir(mount) and os.access(mount, os.W_OK | os.X_OK):
            disk = disk_of(mount)
            if disk.total and not disk.bars_programs and disk.mount == mount:
                found.setdefault(disk.device, disk)
    return sorted(found.values(), key=lambda disk: -disk.free)


def existing_parent(path: str | Path) -> Path:
    """``path`` without links, or the nearest folder above it that exists."""
    real = Path(os.path.realpath(Path(path).expanduser()))
    while not os.path.exists(real) and real != real.parent:
        real = real.parent
    return real


def _mount_of(path: Path) -> tuple[Path, str]:
    """The mount that an existing path lies on, and its kind; the later of two mounts at one place hides the earlier."""
    mounts = _mounts()
    if not mounts:
        return _mount_by_device(path), "unknown"
    best, kind = Path("/"), "unknown"
    for mount, its_kind, _ in mounts:
        if path.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, its_kind
    return best, kind


def _mounts() -> list[tuple[Path, str, str]]:
    """Place, kind and source of every mount, in the order of mounting; none where the kernel has no such list."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:  # proc_pid_mountinfo(5): id parent device root MOUNT options … - KIND SOURCE options
        before, _, after = line.partition(" - ")
        kind, source = after.split(" ")[:2]
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        found.append((Path(mount), kind, source))
    return found


def _mount_by_device(path: Path) -> Path:
    while path != path.parent and os.stat(path.parent).st_dev == os.stat(path).st_dev:
        path = path.parent
    return path


@dataclass(frozen=True)
class FolderSize:
    """Bytes on the disk, and whether all files were counted; else there are at least so many."""

    bytes: int
    whole: bool

    def __str__(self) -> str:
        return f"{'' if self.whole else '≥ '}{size_text(self.bytes)}"


def folder_size(path: Path, *, seconds: float, skip: Collection[Path] = ()) -> FolderSize:
    """What the files of a folder take on its disk: links not followed, a file with several names once (``du -x``).

    Args:
        seconds: after so many the count so far is returned.
        skip: folders in it that are not counted.
    """
    deadline = time.monotonic() + seconds
    left_out = {os.path.realpath(folder) for folder in skip}
    total, whole, seen = 0, True, set()
    try:
        device = os.stat(path).st_dev
    except OSError:
        return FolderSize(0, not os.path.lexists(path))
    pending = [os.path.realpath(path)]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if time.monotonic() > deadline:
                        return FolderSize(total, False)
                    facts = entry.stat(follow_symlinks=False)
                    if facts.st_dev != device or facts.st_ino in seen:
                        continue
                    if stat.S_ISDIR(facts.st_mode):
                        if entry.path in left_out:
                            continue
                        pending.append(entry.path)
                        continue
                    if facts.st_nlink > 1:
                        seen.add(facts.st_ino)
                    total += facts.st_blocks * _BLOCK
        except OSError:
            whole = False
    return FolderSize(total, whole)


def size_text(size: float) -> str:
    """Bytes as disks are sold, in powers of 1,000: ``12.4 GB``, ``310 MB``."""
    for unit, power in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= power * 0.9995:
            value = size / power
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
    return f"{size:.0f} B"


@dataclass(frozen=True)
class Space:
    """What is needed on one disk against what is free there.

    Attributes:
        need: bytes that will be written beside what lies there already.
        paths: where they will be written.
    """

    disk: Disk
    need: int
    paths: tuple[Path, ...]

    @cached_property
    def fits(self) -> bool:
        return self.need <= self.disk.free

    def __str__(self) -> str:
        where = ", ".join(map(str, self.paths))
        return f"{self.disk.mount}: {size_text(self.need)} needed, {size_text(self.disk.free)} free ({where})"


def space_line(needs: Mapping[str | Path, int]) -> list[Space]:
    """By disk, what a run will write there against what is free; ``str()`` of each is one line.

    Args:
        needs: bytes by path; the paths need not exist yet.
    """
    disks = {path: disk_of(path) for path in needs}
    found = []
    for device in dict.fromkeys(disk.device for disk in disks.values()):
        paths = [path for path, disk in disks.items() if disk.device == device]
        found.append(Space(disks[paths[0]], sum(needs[path] for path in paths), tuple(map(Path, paths))))
    return found
