"""Room where caches are and where checkpoints will go."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from open_r1.doctor.finding import Finding
from open_r1.machine.caches import Cache, caches
from open_r1.machine.disks import Disk, disk_of, existing_parent, size_text

DiskOf = Callable[[str | Path], Disk]

LITTLE, TOO_LITTLE = 20e9, 2e9
FEW_INODES = 10_000
HUB_VARIABLE = "HF_HUB_CACHE"
CHECKPOINT_BYTES = 12
"""Of a checkpoint of full training, a parameter: the weight and two moments of AdamW, in float32."""

_NAMES_SHOWN = 4


def check_cache_disks(
    found: Sequence[Cache] | None = None,
    disk: DiskOf = disk_of,
    writable: Callable[[Path], bool] | None = None,
    model_bytes: int | None = None,
    cached_bytes: int = 0,
) -> list[Finding]:
    """One finding for each disk that caches are on.

    Args:
        model_bytes: of the weights that will be downloaded; None where no model is named.
        cached_bytes: how much of them lies in the hub's cache already.
    """
    writable = writable or can_write
    by_disk: dict[int, list[tuple[Cache, Disk]]] = {}
    for cache in caches() if found is None else found:
        there = disk(cache.path)
        by_disk.setdefault(there.device, []).append((cache, there))
    findings = []
    for members in by_disk.values():
        there = members[0][1]
        hub = any(cache.variable == HUB_VARIABLE for cache, _ in members)
        needed = max(0, model_bytes - cached_bytes) if hub and model_bytes is not None else 0
        what = "all caches" if len(by_disk) == 1 else _names([cache.name for cache, _ in members])
        summary = f"{_room(there)}: {what}"
        detail = "\n".join(f"{cache.name}: {cache.path} ({cache.variable})" for cache, _ in members)
        barred = [cache for cache, _ in members if not writable(cache.path)]
        if barred:
            who = f"{barred[0].name} ({barred[0].path})"
            fix = f"export {barred[0].variable}=…   # a folder of yours; or all: open-r1 setup --data-disk DIR"
            findings.append(Finding("fail", "cache_disks", f"you may not write to {who}", detail, fix))
            continue
        findings.append(_judge("cache_disks", there, needed, summary, detail, "open-r1 setup --data-disk DIR"))
    return findings


def check_output_disk(
    folder: str | None,
    disk: DiskOf = disk_of,
    writable: Callable[[Path], bool] | None = None,
    parameters: int | None = None,
) -> Finding:
    """Room for checkpoints in ``folder``, or in the working folder.

    Args:
        parameters: of the model; None where none is named.
    """
    path = Path(folder or ".").expanduser().absolute()
    there = disk(path)
    shown = f"checkpoints in {folder}" if folder else "the working folder, where checkpoints go"
    summary = f"{_room(there)}: {shown}"
    fix = f"--output_dir DIR   # on a larger disk than {there.mount}; or a smaller --save_total_limit"
    if not (writable or can_write)(path):
        return Finding(
            "fail", "output_disk", f"you may not write to {path}", fix="--output_dir DIR   # a folder of yours"
        )
    needed = 2 * CHECKPOINT_BYTES * (parameters or 0)
    detail = "Two checkpoints of full training: one replaces the other only when it is whole." if needed else ""
    return _judge("output_disk", there, needed, summary, detail, fix)


def can_write(path: Path) -> bool:
    """Whether this process may write to a folder, or make it."""
    return os.access(existing_parent(path), os.W_OK | os.X_OK)


def _judge(check: str, disk: Disk, needed: int, summary: str, detail: str, fix: str) -> Finding:
    if needed > disk.free or disk.free < TOO_LITTLE:
        what = f"too little for what the model needs ({size_text(needed)})" if needed > disk.free else "nearly full"
        return Finding("fail", check, f"{summary}: {what}", detail, fix)
    if disk.inodes_free is not None and disk.inodes_free < FEW_INODES:
        return Finding("fail", check, f"{summary}: only {disk.inodes_free:,} more files (inodes)", detail, fix)
    if disk.free < LITTLE:
        return Finding("warn", check, f"{summary}: little room", detail, fix)
    if needed:
        summary = f"{summary}; {size_text(needed)} are needed"
    return Finding("ok", check, summary, detail)


def _names(names: Sequence[str]) -> str:
    more = f"; {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{'; '.join(names[:_NAMES_SHOWN])}{more}"


def _room(disk: Disk) -> str:
    return f"{disk.mount}, {size_text(disk.free)} free of {size_text(disk.total)}"
