"""How many CPUs and how much memory this process may use: the host's, less what a container's control groups take.

Both versions of control groups are read (cgroups(7)); a limit may stand at the group of the process or at any above it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_WITHOUT_LIMIT = 1 << 60
"""Version 1 writes a number of pages near 2⁶³ where there is no limit."""


def cpu_limit(root: Path = ROOT) -> float:
    """CPUs that this process may use: the smaller of its affinity and of the quotas of its control groups.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    quotas = [quota for folder in _groups("cpu", root) if (quota := _cpu_quota(folder)) is not None]
    return min([float(cpus_of_host()), *quotas])


def processor(cpuinfo: Path = ROOT / "proc" / "cpuinfo") -> str:
    """What the CPU calls itself, and how many of its cores this process may use."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {cpu_limit():g} cores"


def cpus_of_host() -> int:
    """CPUs by affinity: what a library sees that does not ask for quotas."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """Whole CPUs that this process may use, one at least: for work that one process of the machine does for all."""
    return max(1, int(cpu_limit()))


def cores_of_rank() -> int:
    """The share of `usable_cores` that falls to this process, where a launcher has started several on this machine."""
    return max(1, usable_cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))


def memory_limit(root: Path = ROOT) -> int:
    """Bytes of memory that this process may use: the smaller of the host's and its control groups' limits."""
    return min([memory_of_host(root), *(limit for _, limit in _memory_groups(root))])


def memory_of_host(root: Path = ROOT) -> int:
    """Bytes of memory of the host."""
    return _meminfo(root).get("MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_available(root: Path = ROOT) -> int:
    """Bytes that can still be taken before something is killed for it; file caches that can go count as free."""
    left = [limit - _memory_used(folder) for folder, limit in _memory_groups(root)]
    return max(0, min([_meminfo(root).get("MemAvailable", memory_of_host(root)), *left]))


def _meminfo(root: Path) -> dict[str, int]:
    lines = _read(root / "proc/meminfo").splitlines()
    words = [line.split() for line in lines]
    return {word[0].rstrip(":"): int(word[1]) << 10 for word in words if len(word) == 3}


def _memory_groups(root: Path) -> list[tuple[Path, int]]:
    """The groups above this process that limit memory, each with its limit in bytes."""
    limited = []
    for folder in _groups("memory", root):
        text = (_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")).strip()
        if text.isdigit() and int(text) < _WITHOUT_LIMIT:
            limited.append((folder, int(text)))
    return limited


def _memory_used(folder: Path) -> int:
    """Bytes in use in a group, without file caches that nothing has touched lately."""
    used = (_read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")).strip()
    stat = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if " " in line)
    dropped = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"
    return max(0, int(used or 0) - int(dropped))


def _cpu_quota(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control groups that may hold a limit of ``controller``, nearest first."""
    for mount, inside, names in _mounts(root):
        for line in _read(root / "proc/self/cgroup").splitlines():
            _, of, path = line.split(":", 2)
            controllers = set(of.split(",")) - {""}
            if controllers & names != controllers or (controllers and controller not in controllers):
                continue
            if not controllers and names:  # the unified hierarchy is not under a mount of version 1
                continue
            below = path[len(inside.rstrip("/")) :] if path.startswith(inside) else ""
            folder = mount / below.strip("/")
            if not folder.is_dir():  # a container that does not see its own name
                folder = mount
            yield folder
            while folder != mount:
                folder = folder.parent
                yield folder


def _mounts(root: Path) -> Iterator[tuple[Path, str, set[str]]]:
    """Mounts of control groups: the place, the group that is seen there, version 1's controllers ({} for version 2)."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, *rest = after.split()
        if kind in ("cgroup", "cgroup2"):
            _, _, _, inside, mount = before.split()[:5]
            names = set(rest[-1].split(",")) - {"rw", "ro"} if kind == "cgroup" else set()
            yield root / mount.lstrip("/"), inside, names


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
