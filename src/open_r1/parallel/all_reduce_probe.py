"""Child process of ``open-r1 doctor``: a sum over all GPUs, a process each, by the library that training uses."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from open_r1.machine.answer import Answer
from open_r1.parallel.launch_environment import without_launch

SIZE = 1 << 26
"""Bytes of the largest sum: the size of a bucket of gradients."""

REPEATS = 5


def main() -> None:
    """Tells ``joined`` and ``summed`` once a rank has, ``wrong`` where a sum is, and ``bandwidth`` in bytes/s."""
    answer = Answer()
    plain = without_launch(os.environ)
    for name in set(os.environ) - set(plain):
        del os.environ[name]
    ranks, backend = answer.asked["ranks"], answer.asked["backend"]
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        arguments = (ranks, backend, str(meeting), answer.asked["seconds"], answer)
        # Forked, which is safe as nothing has asked for a GPU yet: torch is imported once, and all speak to the parent.
        torch.multiprocessing.start_processes(_rank, arguments, nprocs=ranks, start_method="fork")


def _rank(rank: int, ranks: int, backend: str, meeting: str, seconds: float, answer: Answer) -> None:
    on_gpu = backend == "nccl"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=seconds),
        device_id=device if on_gpu else None,  # connects here, and not in the first sum
    )
    answer.say(joined=rank)
    for elements in (1, 1000, SIZE // 4):
        values = torch.full((elements,), float(rank + 1), device=device)
        dist.all_reduce(values)
        if not torch.equal(values, torch.full_like(values, ranks * (ranks + 1) / 2)):
            answer.say(wrong=f"rank {rank}: the sum of {elements:,} numbers is {values[0].item():g}")
    answer.say(summed=rank)
    started = _now(device)
    for _ in range(REPEATS):
        dist.all_reduce(values)
    taken = _now(device) - started
    if rank == 0:  # each byte crosses a link 2(n − 1)/n times, as nccl-tests count bus bandwidth
        answer.say(bandwidth=2 * (ranks - 1) / ranks * SIZE * REPEATS / taken)
    dist.destroy_process_group()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
