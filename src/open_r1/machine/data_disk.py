"""Whether a folder is fit to hold every cache, tried out, and the variables that move the caches there."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from open_r1.errors import UserError
from open_r1.machine.caches import KINDS
from open_r1.machine.disks import Disk, disk_of, existing_parent, size_text
from open_r1.machine.home import DataDisk

ROOT = "open-r1-caches"
"""The one folder that is made on a data disk."""

LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket (unix(7): 108 with its end)."""

SOCKET_NAME = 45
"""Bytes that programs append to TMPDIR for theirs: vLLM 37, Python's multiprocessing 32, wandb about 40."""

TEMPORARY = "TMPDIR"
_PAGE = mmap.PAGESIZE


@dataclass
class Trial:
    """What was found out about a folder.

    Attributes:
        symlinks: links can be made in it.
        sockets: a Unix socket can be bound in its ``tmp``, under the longest name that programs choose.
        warnings: one line each, for a person.
    """

    symlinks: bool = True
    sockets: bool = True
    warnings: list[str] = field(default_factory=list)


def root_of(folder: str) -> Path:
    """Where the caches lie on the data disk ``folder``.

    Raises:
        UserError: ``~NAME`` of a user that there is not.
    """
    try:
        return Path(os.path.abspath(Path(folder).expanduser())) / ROOT
    except RuntimeError:
        user = Path(folder).parts[0]
        raise UserError(f"--data-disk {folder}: no home folder of {user} is known: write the path out") from None


def set_up(folder: str, *, allow_tmpfs: bool = False) -> tuple[DataDisk, list[str]]:
    """Makes the folders of all caches below ``folder``, nothing else, once it has been found fit.

    Returns:
        What the settings file shall say, and warnings, one line each.

    Raises:
        UserError: the folder is not fit; nothing has been written then.
    """
    root = root_of(folder)
    try:
        disk, system = disk_of(root), disk_of("/")
    except OSError as error:
        raise UserError(f"{folder}: its disk does not answer ({error.strerror})") from None
    refuse_unfit(root, disk, allow_tmpfs=allow_tmpfs)
    trial = try_out(root)
    if disk.device == system.device:
        trial.warnings.append(f"{root.parent} is on the same disk as /: the caches are moved, but no room is gained")
    elif disk.free < system.free:
        trial.warnings.append(f"{disk.mount} has {size_text(disk.free)} free, less than / ({size_text(system.free)})")
    if disk.network:
        trial.warnings.append(f"{disk.mount} is a network share ({disk.kind}): models and compiled kernels load slower")
    environment = variables(root, trial)
    for path in environment.values():
        if path.startswith(f"{root}{os.sep}"):
            _make(Path(path))
    if TEMPORARY in environment:
        _works(lambda: os.chmod(environment[TEMPORARY], 0o700))
    return DataDisk(str(root), environment), trial.warnings


def refuse_unfit(root: Path, disk: Disk, *, allow_tmpfs: bool) -> None:
    """Refuses what can be told without writing.

    Raises:
        UserError: a path through a file; no disk but memory; ``noexec``; no permission to write.
    """
    parent = existing_parent(root)
    shown = root.parent
    if not parent.is_dir():
        raise UserError(f"--data-disk {shown}: {parent} is a file: name a folder")
    if disk.in_memory and not allow_tmpfs:
        raise UserError(
            f"--data-disk {shown}: {disk.mount} is kept in memory ({disk.kind}), is lost at a restart, and takes RAM "
            "from the run: name a folder on a disk, or add --allow-tmpfs"
        )
    if disk.bars_programs:
        raise UserError(
            f"--data-disk {shown}: {disk.mount} is mounted noexec, so that kernels compiled there cannot be loaded: "
            f"mount -o remount,exec {disk.mount}, or name another disk"
        )
    if not os.access(parent, os.W_OK | os.X_OK) or os.statvfs(parent).f_flag & os.ST_RDONLY:
        raise UserError(
            f"--data-disk {shown}: you may not write in {parent}: name a folder of your own, such as "
            f"{disk.mount}/YOUR_NAME, that its owner makes for you"
        )


def try_out(root: Path) -> Trial:
    """Writes, maps, locks and links small files in a folder at ``root``, and takes all of it away again.

    Raises:
        UserError: what cannot be done without.
    """
    trial, made = Trial(), _missing(root)
    shown = root.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".trial-", dir=root))
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"--data-disk {shown}: {root} cannot be written in ({error.strerror}): name another") from None
    try:
        _must(shown, "no file can be written there", lambda: _write(folder))
        _must(shown, "compiled kernels cannot be loaded from there (noexec?)", lambda: _map_program(folder))
        _must(shown, "files cannot be locked there, and caches are shared by locks", lambda: _lock(folder))
        trial.symlinks = _works(lambda: os.symlink("file", folder / "link"))
        trial.sockets = len(os.fsencode(root / "tmp")) + SOCKET_NAME <= LONGEST_SOCKET and _works(lambda: _bind(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(made)
    if not trial.symlinks:
        trial.warnings.append(f"{shown} has no symbolic links: each revision of a model takes its whole size")
    if not trial.sockets:
        trial.warnings.append(_why_no_sockets(root))
    return trial


def variables(root: Path, trial: Trial) -> dict[str, str]:
    """The variables that move the caches below ``root``."""
    kinds = [kind for kind in KINDS if kind.variable != TEMPORARY or trial.sockets]
    chosen = {kind.variable: str(root / kind.folder) for kind in kinds}
    return chosen if trial.symlinks else chosen | {"HF_HUB_DISABLE_SYMLINKS_WARNING": "1"}


def _why_no_sockets(root: Path) -> str:
    length = len(os.fsencode(root / "tmp"))
    if length + SOCKET_NAME > LONGEST_SOCKET:
        return (
            f"temporary files stay where they are: {root / 'tmp'} has {length} bytes, and sockets in it would have "
            f"more than {LONGEST_SOCKET}; a folder of a shorter name moves them too"
        )
    return f"temporary files stay where they are: sockets cannot be made on {root.parent}"


def _must(shown: Path, what: str, act: Callable[[], None]) -> None:
    try:
        act()
    except OSError as error:
        full = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"--data-disk {shown}: {what}{full}: {error.strerror}; name another disk") from None


def _works(act: Callable[[], None]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


def _write(folder: Path) -> None:
    with (folder / "file").open("wb") as file:
        file.write(b"\0" * _PAGE)
        file.flush()
        os.fsync(file.fileno())


def _map_program(folder: Path) -> None:
    """As the loader maps a shared library."""
    with (folder / "file").open("rb") as file:
        mmap.mmap(file.fileno(), _PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def _lock(folder: Path) -> None:
    """Both kinds of lock: the hub's library takes the one, SQLite the other."""
    with (folder / "file").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _bind(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "socket"))


def _missing(path: Path) -> list[Path]:
    """``path`` and the folders above it that do not exist, innermost first."""
    return [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if not _works(folder.rmdir):
            return


def _make(path: Path) -> None:
    """A folder, unless it is there.

    Raises:
        UserError: it cannot be made, or is somebody else's.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be made ({error.strerror}): move what is there, or name another disk"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{path} belongs to somebody else: name a folder of your own with --data-disk")
