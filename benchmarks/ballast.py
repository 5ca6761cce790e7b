"""Takes all of a GPU's memory but so much, as a smaller card would lack it, and notes how much of that is used.

    python benchmarks/ballast.py BYTES        (started by benchmarks/grpo_memory.py; until its input ends)

A limit on PyTorch's allocator would not do where vLLM sleeps: the allocator goes on counting what vLLM gave back to the
driver, and would refuse to the training what is there. And the driver is asked from here, not by the process that is
measured: in that one a question could spoil the capture of a CUDA graph.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch

LOOK = 0.01
"""Seconds between looks at the device."""
BLOCK = 2 * 2**20
"""Bytes in which the driver hands memory out."""

Sample = tuple[float, int]  # seconds on the machine's monotonic clock, bytes that are used from then on


@contextmanager
def leaving(room: float) -> Iterator[list[Sample]]:
    """Within, about ``room`` bytes of the first GPU are free. The list that it gives has what others used of them when
    it is over.

    Raises:
        SystemExit: less is free to begin with.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(int(room))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    samples: list[Sample] = []
    try:
        said = process.stdout.readline().strip()
        if not said.isdigit():
            sys.exit(f"the GPU has no {room / 1e9:.1f} GB to measure in{said and f': {said}'}")
        yield samples
    finally:
        process.stdin.close()
        written = process.stdout.read()
        process.wait()
        samples += [(seconds, used) for seconds, used in json.loads(written or "[]")]


def by_phase(samples: Sequence[Sample], phases: Sequence[tuple[float, str]]) -> tuple[dict[str, int], list[int]]:
    """The most that was used in each phase, and what was used when each of the phases "train" began; bytes.

    Args:
        samples: where the number changed, in order.
        phases: when each began; the last goes on to the end.
    """
    most: dict[str, int] = {}
    before: list[int] = []
    for (start, name), (end, _) in pairwise([*phases, (float("inf"), "")]):
        first = [used for seconds, used in samples if seconds < start][-1:]
        within = first + [used for seconds, used in samples if start <= seconds < end]
        most[name] = max(within, default=0) if name not in most else max(most[name], *within, 0)
        if name == "train":
            before += first
    return most, before


def main(room: int) -> None:
    """Takes the rest, says what is left, and looks until the input ends."""
    free, _ = torch.cuda.mem_get_info()
    if free < room:
        print(f"{free / 1e9:.1f} GB are free", flush=True)
        return
    held = torch.empty(max(0, (free - room) // BLOCK * BLOCK), dtype=torch.uint8, device="cuda")
    free, _ = torch.cuda.mem_get_info()
    print(free, flush=True)
    samples: list[Sample] = []
    while not select.select([sys.stdin], [], [], LOOK)[0]:
        used = free - torch.cuda.mem_get_info()[0]
        if not samples or samples[-1][1] != used:
            samples.append((time.monotonic(), used))
    print(json.dumps(samples), flush=True)
    del held


if __name__ == "__main__":
    main(int(sys.argv[1]))
