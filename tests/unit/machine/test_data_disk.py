"""What a data disk must be able to do, tried out, and what is done where it cannot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.machine import data_disk as module
from open_r1.machine.data_disk import ROOT, Trial, refuse_unfit, root_of, set_up, try_out, variables
from open_r1.machine.disks import Disk, disk_of


def failing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module, name, refuse)


def on_a_disk(folder: Path) -> Disk:
    return replace(disk_of(folder), kind="ext4")


def test_folders_are_made_and_nothing_else(data_disk: Path, person: Path) -> None:
    disk, _ = set_up(str(data_disk), allow_tmpfs=True)
    root = data_disk / ROOT
    assert disk.folder == str(root) and os.listdir(data_disk) == [ROOT]
    assert sorted(os.listdir(root)) == sorted(Path(path).name for path in disk.environment.values())
    assert (root / "tmp").stat().st_mode & 0o777 == 0o700
    (root / "hub" / "model").touch()
    again, _ = set_up(str(data_disk / "."), allow_tmpfs=True)
    assert again == disk and (root / "hub" / "model").exists()


def test_a_folder_that_is_not_there_is_made(data_disk: Path) -> None:
    disk, _ = set_up(str(data_disk / "a" / "b"), allow_tmpfs=True)
    assert disk.folder == str(data_disk / "a" / "b" / ROOT) and Path(disk.folder).is_dir()


def test_the_same_disk_is_said(monkeypatch: pytest.MonkeyPatch, data_disk: Path) -> None:
    monkeypatch.setattr(module, "disk_of", lambda path: on_a_disk(data_disk))
    _, warnings = set_up(str(data_disk))
    assert any("on the same disk as /" in line for line in warnings)


def test_a_smaller_disk_and_a_network_share_are_said(monkeypatch: pytest.MonkeyPatch, data_disk: Path) -> None:
    system = Disk(Path("/"), "overlay", 30 * 10**9, 9 * 10**9, None, device=1)
    share = Disk(Path("/data"), "nfs4", 9 * 10**9, 4 * 10**9, None, device=2)
    monkeypatch.setattr(module, "disk_of", lambda path: system if str(path) == "/" else share)
    _, warnings = set_up(str(data_disk))
    assert warnings == [
        "/data has 4.0 GB free, less than / (9.0 GB)",
        "/data is a network share (nfs4): models and compiled kernels load slower",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"kind": "tmpfs"}, "--allow-tmpfs"), ({"bars_programs": True}, "mount -o remount,exec /")],
)
def test_what_the_mount_forbids_is_refused(change: dict[str, object], said: str, data_disk: Path) -> None:
    disk = replace(on_a_disk(data_disk), **change)
    with pytest.raises(UserError, match=said):
        refuse_unfit(data_disk / ROOT, disk, allow_tmpfs=False)
    assert os.listdir(data_disk) == []


def test_memory_is_accepted_where_it_is_asked_for(data_disk: Path) -> None:
    refuse_unfit(data_disk / ROOT, replace(on_a_disk(data_disk), kind="tmpfs"), allow_tmpfs=True)


def test_a_file_is_no_folder(data_disk: Path) -> None:
    (data_disk / "file").touch()
    with pytest.raises(UserError, match=r"file is a file: name a folder"):
        set_up(str(data_disk / "file" / "below"), allow_tmpfs=True)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_refused() -> None:
    with pytest.raises(UserError, match="you may not write in"):
        set_up("/usr")


@pytest.mark.parametrize(
    ("trial", "said"),
    [("_map_program", "kernels cannot be loaded"), ("_lock", "cannot be locked"), ("_write", "no file can be written")],
)
def test_what_cannot_be_done_without_is_refused(
    trial: str, said: str, monkeypatch: pytest.MonkeyPatch, data_disk: Path
) -> None:
    failing(trial, monkeypatch)
    with pytest.raises(UserError, match=said):
        set_up(str(data_disk / "new"), allow_tmpfs=True)
    assert os.listdir(data_disk) == [], "what the trial made is taken away"


def test_without_links_the_hub_is_told_to_be_silent(monkeypatch: pytest.MonkeyPatch, data_disk: Path) -> None:
    def refuse(*names: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    disk, warnings = set_up(str(data_disk), allow_tmpfs=True)
    assert disk.environment["HF_HUB_DISABLE_SYMLINKS_WARNING"] == "1"
    assert any("no symbolic links" in line for line in warnings)


def test_without_sockets_temporary_files_stay(monkeypatch: pytest.MonkeyPatch, data_disk: Path) -> None:
    failing("_bind", monkeypatch)
    disk, warnings = set_up(str(data_disk), allow_tmpfs=True)
    assert "TMPDIR" not in disk.environment and not (data_disk / ROOT / "tmp").exists()
    assert any("sockets cannot be made" in line for line in warnings)


def test_a_long_name_leaves_temporary_files_where_they_are(data_disk: Path) -> None:
    longest = 107 - 45 - len(f"/{ROOT}/tmp") - len(str(data_disk)) - 1
    fits = set_up(str(data_disk / ("x" * longest)), allow_tmpfs=True)[0]
    too_long, warnings = set_up(str(data_disk / ("x" * (longest + 1))), allow_tmpfs=True)
    assert "TMPDIR" in fits.environment and "TMPDIR" not in too_long.environment
    assert any("a folder of a shorter name moves them too" in line for line in warnings)


def test_every_kind_has_its_variable() -> None:
    chosen = variables(Path("/d") / ROOT, Trial())
    assert chosen["HF_HUB_CACHE"] == f"/d/{ROOT}/hub" and chosen["TMPDIR"] == f"/d/{ROOT}/tmp"
    assert "HF_HOME" not in chosen and "WANDB_DIR" not in chosen


@pytest.fixture
def mounted(data_disk: Path) -> Iterator[Path]:
    """A real mount that bars programs; only root can make one."""
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,noexec", "tmpfs", str(data_disk)]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield data_disk
    subprocess.run(["umount", str(data_disk)], check=True)


def test_a_real_mount_is_seen_through(mounted: Path) -> None:
    disk = disk_of(mounted / "not" / "yet")
    assert (disk.mount, disk.kind, disk.bars_programs, disk.in_memory) == (mounted, "tmpfs", True, True)
    assert disk.total == 8 * 2**20
    with pytest.raises(UserError, match="kept in memory"):
        set_up(str(mounted))
    with pytest.raises(UserError, match="noexec"):
        set_up(str(mounted), allow_tmpfs=True)
    with pytest.raises(UserError, match="cannot be loaded from there"):
        try_out(root_of(str(mounted)))
    with suppress(OSError), (mounted / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(UserError, match="the disk is full"):
        try_out(root_of(str(mounted)))
