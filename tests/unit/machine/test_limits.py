"""Limits of containers, under both versions of control groups, from made-up /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.machine import limits
from open_r1.machine.limits import (
    cores_of_rank,
    cpu_limit,
    cpus_of_host,
    memory_available,
    memory_limit,
    memory_of_host,
    usable_cores,
)

GB = 1_000_000_000
MEMINFO = f"MemTotal: {64 * GB >> 10} kB\nMemAvailable: {60 * GB >> 10} kB\nHugePages_Total: 0\n"
VERSION_2 = "30 23 0:26 {inside} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n"
VERSION_1 = (
    "31 30 0:27 {inside} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 {inside} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_groups_the_host_is_the_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, {})
    assert cpu_limit(root) == cpus_of_host()
    assert memory_limit(root) == memory_of_host(root) == pytest.approx(64 * GB, rel=1e-6)
    assert memory_available(root) == pytest.approx(60 * GB, rel=1e-6)


def test_version_2_takes_the_lowest_limit_on_the_way_up(tmp_path: Path) -> None:
    group = "sys/fs/cgroup"
    root = machine(
        tmp_path,
        {
            "proc/self/mountinfo": VERSION_2.format(inside="/"),
            "proc/self/cgroup": "0::/pod/box\n",
            f"{group}/pod/box/cpu.max": "max 100000\n",
            f"{group}/pod/cpu.max": "50000 100000\n",
            f"{group}/pod/box/memory.max": f"{16 * GB}\n",
            f"{group}/pod/box/memory.current": f"{10 * GB}\n",
            f"{group}/pod/box/memory.stat": f"anon 5\ninactive_file {4 * GB}\n",
            f"{group}/pod/memory.max": "max\n",
        },
    )
    assert cpu_limit(root) == 0.5
    assert memory_limit(root) == 16 * GB
    assert memory_available(root) == 10 * GB


@pytest.mark.parametrize("inside", ["/", "/docker/abc"])
def test_version_1_is_read_by_its_controllers(inside: str, tmp_path: Path) -> None:
    """Also in a container that sees its own group as the root, under the name that the host has for it."""
    group = "sys/fs/cgroup"
    below = "/docker/abc" if inside == "/" else ""
    root = machine(
        tmp_path,
        {
            "proc/self/mountinfo": VERSION_1.format(inside=inside),
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/\n",
            f"{group}/cpu,cpuacct{below}/cpu.cfs_quota_us": "75000\n",
            f"{group}/cpu,cpuacct{below}/cpu.cfs_period_us": "100000\n",
            f"{group}/memory{below}/memory.limit_in_bytes": f"{8 * GB}\n",
            f"{group}/memory{below}/memory.usage_in_bytes": f"{9 * GB}\n",
            f"{group}/memory{below}/memory.stat": f"total_inactive_file {2 * GB}\n",
        },
    )
    assert cpu_limit(root) == 0.75
    assert memory_limit(root) == 8 * GB
    assert memory_available(root) == 1 * GB


def test_no_limit_of_version_1_is_none(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/mountinfo": VERSION_1.format(inside="/"),
            "proc/self/cgroup": "5:memory:/gone\n4:cpu,cpuacct:/gone\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert cpu_limit(root) == cpus_of_host()
    assert memory_limit(root) == memory_of_host(root)


def test_what_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/mountinfo": VERSION_2.format(inside="/"),
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{GB}\n",
            "sys/fs/cgroup/memory.current": f"{2 * GB}\n",
        },
    )
    assert memory_available(root) == 0


@pytest.mark.parametrize(
    ("cpus", "ranks", "whole", "share"),
    [(16.0, None, 16, 16), (7.5, "2", 7, 3), (0.5, None, 1, 1), (4.0, "8", 4, 1), (4.0, "", 4, 4)],
)
def test_ranks_of_a_machine_share_its_cores(
    cpus: float, ranks: str | None, whole: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "cpu_limit", lambda: cpus)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert (usable_cores(), cores_of_rank()) == (whole, share)
