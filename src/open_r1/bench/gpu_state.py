"""Clock, power and temperature of a GPU, as nvidia-smi has them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from open_r1.doctor.gpus import output_of

FIELDS = ("clocks.sm", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu", "utilization.gpu")


@dataclass(frozen=True)
class GpuState:
    """MHz, watts, °C, per cent of the last moments in which something ran; 0 for what the driver does not say."""

    clock: float = 0.0
    most_clock: float = 0.0
    power: float = 0.0
    power_limit: float = 0.0
    temperature: float = 0.0
    busy: float = 0.0


def gpu_state(uuid: str = "", run: Callable[[list[str]], str] | None = None) -> GpuState | None:
    """Asks nvidia-smi; None where that is not there or fails.

    Args:
        uuid: of the GPU, without the prefix; "" takes the first of CUDA_VISIBLE_DEVICES, or of all.
        run: runs a command and returns what it prints; raises OSError or subprocess.SubprocessError.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    which = f"GPU-{uuid}" if uuid else visible or "0"
    command = ["nvidia-smi", f"--id={which}", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        values = (run or output_of)(command).strip().splitlines()[0].split(", ")
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
    return GpuState(*map(_number, values)) if len(values) == len(FIELDS) else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return 0.0
