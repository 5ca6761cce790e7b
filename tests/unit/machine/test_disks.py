"""Mounts, free space and sizes of folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from open_r1.machine import disks
from open_r1.machine.disks import Disk, disk_of, folder_size, local_disks, size_text, space_line

ROOT = Disk(Path("/"), "overlay", 30 * 10**9, 4 * 10**9, None, device=1)
DATA = Disk(Path("/data"), "xfs", 500 * 10**9, 400 * 10**9, None, device=2)


def mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *entries: tuple[str | Path, str, str]) -> None:
    """Makes (place, kind, source) the kernel's list of mounts."""
    lines = [f"36 35 98:0 / {place} rw,relatime shared:1 - {kind} {source} rw" for place, kind, source in entries]
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(disks, "MOUNTS", tmp_path / "mountinfo")


def test_the_innermost_mount_is_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data disk" / "deep").mkdir(parents=True)
    escaped = str(tmp_path / "data disk").replace(" ", r"\040")
    mounts(
        monkeypatch, tmp_path, ("/", "overlay", "overlay"), (escaped, "ext4", "/dev/sdb"), (escaped, "xfs", "/dev/sdc")
    )
    found = disk_of(tmp_path / "data disk" / "deep" / "not" / "yet")
    assert (found.mount, found.kind) == (tmp_path / "data disk", "xfs"), "the later mount hides the earlier"
    assert disk_of(tmp_path / "data disk2").mount == Path("/"), "a longer name is another folder"


def test_links_are_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "data")
    mounts(monkeypatch, tmp_path, ("/", "overlay", "overlay"), (tmp_path / "data", "ext4", "/dev/sdb"))
    assert disk_of(tmp_path / "cache" / "hub").mount == tmp_path / "data"


def test_without_a_list_of_mounts_devices_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(disks, "MOUNTS", tmp_path / "none")
    found = disk_of(tmp_path)
    assert found.kind == "unknown" and os.stat(found.mount).st_dev == os.stat(tmp_path).st_dev
    assert 0 < found.free < found.total


def test_only_disks_of_this_machine_are_proposed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "share").mkdir()
    mounts(
        monkeypatch,
        tmp_path,
        (tmp_path / "share", "nfs4", "server:/export"),
        (tmp_path / "file", "ext4", "/dev/sdb"),
        (tmp_path / "data", "ext4", "/dev/sdb"),
    )
    assert [disk.mount for disk in local_disks()] == [tmp_path / "data"]


def test_a_folder_is_counted_as_it_lies_on_the_disk(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshot"
    blobs.mkdir(parents=True)
    snapshot.mkdir()
    (blobs / "weights").write_bytes(b"x" * 100_000)
    taken = (blobs / "weights").stat().st_blocks * 512
    (snapshot / "model").symlink_to("../blobs/weights")
    os.link(blobs / "weights", snapshot / "twin")
    assert folder_size(tmp_path / "hub", seconds=60) == disks.FolderSize(taken, True)
    assert folder_size(tmp_path, seconds=60, skip=[tmp_path / "hub"]).bytes == 0
    assert folder_size(tmp_path / "none", seconds=60) == disks.FolderSize(0, True)


def test_what_time_does_not_allow_is_a_lower_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)
    unfinished = folder_size(tmp_path, seconds=-1)
    assert not unfinished.whole and str(unfinished).startswith("≥ ")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (12_410_000_000, "12.4 GB"), (3e14, "300 TB")],
)
def test_sizes_read_as_disks_are_sold(size: float, text: str) -> None:
    assert size_text(size) == text


def test_space_is_added_up_by_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "disk_of", lambda path: DATA if str(path).startswith("/data") else ROOT)
    root, data = space_line({"/root/hub": 3 * 10**9, "/data/run": 10**9, "/root/tokens": 2 * 10**9})
    assert (root.need, root.fits, root.paths) == (5 * 10**9, False, (Path("/root/hub"), Path("/root/tokens")))
    assert (data.need, data.fits) == (10**9, True)
    assert str(root) == "/: 5.0 GB needed, 4.0 GB free (/root/hub, /root/tokens)"


def test_few_bytes_or_few_files_are_nearly_full() -> None:
    assert ROOT.nearly_full and not DATA.nearly_full
    assert replace(DATA, inodes_free=100).nearly_full
    assert replace(DATA, kind="tmpfs").in_memory and replace(DATA, kind="nfs4").network and not DATA.network
