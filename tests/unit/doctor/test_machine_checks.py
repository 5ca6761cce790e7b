from __future__ import annotations

import resource
from pathlib import Path

import pytest

from open_r1.doctor.machine_checks import (
    check_core_dumps,
    check_cpu,
    check_memory,
    check_open_files,
    check_python,
    check_shared_memory,
)
from open_r1.machine.disks import Disk

GB = 10**9


def shm(total: int, free: int) -> Disk:
    return Disk(Path("/dev/shm"), "tmpfs", total, free, None, device=1, bars_programs=False)


def test_an_old_python_fails() -> None:
    found = check_python((3, 9, 18))
    assert found.level == "fail" and "3.9.18" in found.summary and "python3.11" in found.fix
    assert check_python((3, 12, 1)).level == "ok"
    assert check_python().level == "ok"


def test_a_quota_that_libraries_do_not_see_is_a_warning() -> None:
    found = check_cpu(limit=8.0, visible=64, host=64, threads="")
    assert found.level == "warn" and found.fix == "export OMP_NUM_THREADS=8"
    assert check_cpu(limit=8.0, visible=64, host=64, threads="8").level == "ok"
    assert check_cpu(limit=8.0, visible=8, host=64, threads="").summary == "8 of the host's 64 CPUs"
    assert check_cpu(limit=0.5, visible=4, host=4, threads="").fix == "export OMP_NUM_THREADS=1"


@pytest.mark.parametrize(("available", "level"), [(1 * GB, "fail"), (5 * GB, "warn"), (30 * GB, "ok")])
def test_memory_is_the_containers(available: int, level: str) -> None:
    found = check_memory(available, limit=32 * GB, host=512 * GB)
    assert found.level == level and "the host has 512 GB" in found.summary
    assert bool(found.fix) == (level != "ok")


def test_docker_s_small_shared_memory() -> None:
    few, many = (check_shared_memory(shm(64 << 20, 64 << 20), gpus, there=True) for gpus in (1, 8))
    assert (few.level, many.level) == ("warn", "fail")
    assert "--shm-size" in few.fix
    assert check_shared_memory(shm(16 * GB, 16 * GB), 8, there=True).level == "ok"
    assert check_shared_memory(there=False).level == "skip"


def test_few_open_files() -> None:
    assert check_open_files(256, 1_048_576).fix == "ulimit -n 4096"
    found = check_open_files(256, 512)
    assert found.level == "warn" and "--ulimit" in found.fix
    assert check_open_files(1024, 4096).level == "ok"
    assert check_open_files(resource.RLIM_INFINITY, resource.RLIM_INFINITY).summary == "no limit of open files"


def test_core_dumps() -> None:
    found = check_core_dumps(resource.RLIM_INFINITY, "core")
    assert found.level == "warn" and found.fix == "ulimit -c 0" and "working folder" in found.summary
    assert "/var/crash" in check_core_dumps(1 << 30, "/var/crash/core.%p").summary
    assert check_core_dumps(0, "core").level == "ok"
    assert check_core_dumps(resource.RLIM_INFINITY, "|/usr/share/apport/apport").level == "ok"
