from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.doctor.disk_checks import check_cache_disks, check_output_disk
from open_r1.machine.caches import caches
from open_r1.machine.disks import Disk

GB = 10**9
ENVIRONMENT = {"HF_HUB_CACHE": "/data/hub", "HOME": "/root"}


def disk_with(free: int, inodes: int | None = None):
    def disk(path) -> Disk:
        on_data = str(path).startswith("/data")
        mount, room = (Path("/data"), 900 * GB) if on_data else (Path("/"), free)
        return Disk(mount, "ext4", 1000 * GB, room, inodes, device=int(on_data), bars_programs=False)

    return disk


def cache_findings(free: int, inodes: int | None = None, **more):
    found = caches(ENVIRONMENT)
    return check_cache_disks(found, disk_with(free, inodes), **{"writable": lambda path: True} | more)


@pytest.mark.parametrize(("free", "level"), [(500 * GB, "ok"), (10 * GB, "warn"), (1 * GB, "fail")])
def test_each_disk_has_its_line(free: int, level: str) -> None:
    findings = cache_findings(free)
    assert [finding.level for finding in findings] == ["ok", level]
    assert "/data, 900 GB free" in findings[0].summary and ": hub" in findings[0].summary
    assert ("setup --data-disk" in findings[1].fix) == (level != "ok")
    assert "HF_HUB_CACHE" in findings[0].detail


def test_what_a_model_needs_is_held_against_the_hub_s_disk() -> None:
    hub, other = cache_findings(500 * GB, model_bytes=2000 * GB)
    assert hub.level == "fail" and "2.0 TB" in hub.summary and other.level == "ok"
    hub, _ = cache_findings(500 * GB, model_bytes=2000 * GB, cached_bytes=2000 * GB)
    assert hub.level == "ok"


def test_no_inodes_or_no_permission() -> None:
    assert "inodes" in cache_findings(500 * GB, 12)[1].summary
    barred = cache_findings(500 * GB, writable=lambda path: not str(path).startswith("/data"))
    assert barred[0].level == "fail" and "/data/hub" in barred[0].summary and "HF_HUB_CACHE" in barred[0].fix


def test_room_for_checkpoints() -> None:
    well = check_output_disk("/data/run", disk_with(GB), lambda path: True)
    assert well.level == "ok" and "checkpoints in /data/run" in well.summary
    full = check_output_disk("/root/run", disk_with(30 * GB), lambda path: True, parameters=1_500_000_000)
    assert full.level == "fail" and "36.0 GB" in full.summary and "--output_dir" in full.fix
    assert check_output_disk("/data/run", disk_with(GB), lambda path: False).level == "fail"
    assert "working folder" in check_output_disk(None, disk_with(GB), lambda path: True).summary
