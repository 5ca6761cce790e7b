"""Python, CPUs, memory, and the limits that the system sets a process."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

from open_r1.doctor.finding import Finding
from open_r1.machine.disks import Disk, disk_of, size_text
from open_r1.machine.limits import cpu_limit, cpus_of_host, memory_available, memory_limit, memory_of_host

OLDEST_PYTHON = (3, 11)
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 8e9, 2e9
LITTLE_SHARED_MEMORY = 1e9
SHARED_MEMORY_OF_A_GPU = 32 << 20
"""About what NCCL takes for each pair of processes that it connects that way."""

FEW_FILES = 1024
SHARED_MEMORY = Path("/dev/shm")
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


def check_python(version: tuple[int, ...] | None = None) -> Finding:
    """The interpreter is one that open-r1 is made for."""
    found = tuple(version or sys.version_info[:3])
    text = ".".join(map(str, found))
    if found[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Finding(
            "fail",
            "python",
            f"{text} is too old: open-r1 needs {oldest} or newer",
            fix=f"python{oldest} -m venv .venv && .venv/bin/pip install -e .",
        )
    return Finding("ok", "python", text, detail=f"{sys.executable}, {platform.platform()}")


def check_cpu(
    limit: float | None = None, visible: int | None = None, host: int | None = None, threads: str | None = None
) -> Finding:
    """CPUs that may be used, against those that libraries see.

    Args:
        limit: by affinity and quota.
        visible: by affinity, which is what libraries take their number of threads from.
        host: of the machine.
        threads: OMP_NUM_THREADS.
    """
    limit = cpu_limit() if limit is None else limit
    visible = cpus_of_host() if visible is None else visible
    host = host or os.cpu_count() or visible
    threads = os.environ.get("OMP_NUM_THREADS", "") if threads is None else threads
    summary = f"{limit:g} of the host's {host} CPUs" if limit < host else f"{host} CPUs"
    if limit <= visible / 2 and not threads:
        return Finding(
            "warn",
            "cpu",
            f"{limit:g} CPUs by the container's quota, but libraries see {visible} and start as many threads",
            fix=f"export OMP_NUM_THREADS={max(1, int(limit))}",
        )
    return Finding("ok", "cpu", summary)


def check_memory(available: int | None = None, limit: int | None = None, host: int | None = None) -> Finding:
    """Bytes of memory that can still be taken, of what this process may use."""
    available = memory_available() if available is None else available
    limit = memory_limit() if limit is None else limit
    host = memory_of_host() if host is None else host
    of = f" (the container's limit; the host has {size_text(host)})" if limit < 0.98 * host else ""
    summary = f"{size_text(available)} free of {size_text(limit)}{of}"
    if available < LITTLE_MEMORY:
        return Finding(
            "fail" if available < TOO_LITTLE_MEMORY else "warn",
            "memory",
            f"{summary}: loading a model may be killed",
            detail="Weights pass through memory on their way to the GPU; the kernel kills what goes over the limit.",
            fix="ps aux --sort=-rss | head   # what takes it; or raise the container's limit (docker run --memory)",
        )
    return Finding("ok", "memory", summary)


def check_shared_memory(disk: Disk | None = None, gpus: int = 0, there: bool | None = None) -> Finding:
    """/dev/shm, which processes exchange tensors through; a container has 64 MB of it by default."""
    if not (SHARED_MEMORY.is_dir() if there is None else there):
        return Finding("skip", "shared_memory", "this system has no /dev/shm")
    disk = disk or disk_of(SHARED_MEMORY)
    summary = f"/dev/shm: {size_text(disk.free)} free of {size_text(disk.total)}"
    if disk.free >= LITTLE_SHARED_MEMORY:
        return Finding("ok", "shared_memory", summary)
    too_little = disk.free < SHARED_MEMORY_OF_A_GPU * max(1, gpus)
    return Finding(
        "fail" if too_little else "warn",
        "shared_memory",
        f"{summary}: too little for processes that exchange tensors",
        detail="NCCL, vLLM and data workers die there with a bus error (SIGBUS) or 'No space left on device'.",
        fix="mount -o remount,size=16G /dev/shm   # or start the container with: docker run --shm-size=16g",
    )


def check_open_files(soft: int | None = None, hard: int | None = None) -> Finding:
    """How many files a process may have open."""
    if soft is None or hard is None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    without = resource.RLIM_INFINITY
    if soft == without or soft >= FEW_FILES:
        return Finding("ok", "open_files", "no limit of open files" if soft == without else f"up to {soft:,}")
    can_raise = hard == without or hard >= 4 * FEW_FILES
    return Finding(
        "warn",
        "open_files",
        f"a process may open {soft:,} files: too few for data sets of many parts",
        fix="ulimit -n 4096" if can_raise else "docker run --ulimit nofile=65536   # or nofile in limits.conf",
    )


def check_core_dumps(limit: int | None = None, pattern: str | None = None) -> Finding:
    """Whether a crash would write the memory of the process into a file, which can be tens of GB."""
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_CORE)[0]
    if pattern is None:
        pattern = CORE_PATTERN.read_text().strip() if CORE_PATTERN.is_file() else ""
    if limit == 0 or not pattern or pattern.startswith("|"):
        return Finding("ok", "core_dumps", "a crash writes no file of its own")
    where = f"to {pattern}" if pattern.startswith("/") else "into the working folder"
    return Finding(
        "warn",
        "core_dumps",
        f"a crash would write all memory of the process {where}: tens of GB",
        fix="ulimit -c 0",
    )
