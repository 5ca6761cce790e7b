"""How long a call takes: the median of several samples after warm-up, each of so many calls that its clock is exact."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

WARM_UP = 3
SAMPLES = 7


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        seconds: the median of the samples.
        spread: the distance between their quartiles, as a share of the median.
    """

    seconds: float
    spread: float


def time_calls(call: Callable[[], object], device: torch.device, *, seconds: float = 0.15) -> Timing:
    """Times ``call`` again and again on the same inputs.

    Args:
        seconds: to spend in all, about; a call that takes longer than a share of that is a sample by itself.
    """
    for _ in range(WARM_UP):
        call()
    once = _sample(call, 1, device)
    calls = max(1, math.ceil(seconds / SAMPLES / max(once, 1e-7)))
    samples = [_sample(call, calls, device) / calls for _ in range(SAMPLES)]
    low, median, high = np.percentile(samples, (25, 50, 75)).tolist()
    return Timing(median, (high - low) / median)


def _sample(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds of ``calls`` calls: on a GPU between two marks in its queue, which is empty before."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - begin
    torch.cuda.synchronize(device)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        first.record()
        for _ in range(calls):
            call()
        last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3
