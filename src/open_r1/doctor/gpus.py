"""What the driver's own tool and torch say of the GPUs, in one form."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_r1.machine.child import Outcome

PROC_DRIVER = Path("/proc/driver/nvidia/version")
_SECONDS = 20.0
_MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, bytes of memory in all and free, and its compute capability where torch has said it."""

    name: str
    memory: int
    free: int
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Driver:
    """What is known without torch.

    Attributes:
        version: of the driver, such as ``580.65.06``; None where there is none.
        gpus: as nvidia-smi lists them, whatever CUDA_VISIBLE_DEVICES says.
        topology: what ``nvidia-smi topo -m`` prints.
        error: what nvidia-smi says instead.
    """

    version: str | None = None
    gpus: tuple[Gpu, ...] = ()
    topology: str = ""
    error: str = ""


@dataclass(frozen=True)
class Torch:
    """What torch says in a child process; see `open_r1.doctor.torch_probe`.

    Attributes:
        cuda: the CUDA version that it was built with; None for a build without.
        built_for: the chips that it has kernels for (``sm_90``, ``compute_90``).
        peers: whether all GPUs reach each other's memory.
        kernels: attention kernels that can be tried; ``chosen`` is the one for training.
        error: why CUDA does not start; or what the child died of.
    """

    version: str = ""
    cuda: str | None = None
    hip: str | None = None
    gpus: tuple[Gpu, ...] = ()
    built_for: tuple[str, ...] = ()
    peers: bool = True
    kernels: tuple[str, ...] = ()
    chosen: str = ""
    error: str = ""
    outcome: Outcome = field(default_factory=Outcome)


def ask_driver(run: Callable[[list[str]], str] | None = None, proc: Path = PROC_DRIVER) -> Driver:
    """Asks nvidia-smi, or the driver's file where that tool is not there.

    Args:
        run: runs a command and returns what it prints; raises OSError or subprocess.SubprocessError.
    """
    run = run or output_of
    fields = "--query-gpu=driver_version,name,memory.total,memory.free"
    try:
        lines = run(["nvidia-smi", fields, "--format=csv,noheader,nounits"]).strip().splitlines()
    except subprocess.CalledProcessError as error:
        said = " ".join(f"{error.stdout or ''} {error.stderr or ''}".split())
        return Driver(_proc_version(proc), error=said or f"nvidia-smi ends with status {error.returncode}")
    except (OSError, subprocess.SubprocessError) as error:
        missing = isinstance(error, FileNotFoundError)
        return Driver(_proc_version(proc), error="" if missing else f"nvidia-smi: {error}")
    rows = [line.split(", ") for line in lines if line.count(", ") == 3]
    gpus = tuple(Gpu(name, _bytes(total), _bytes(free)) for _, name, total, free in rows)
    topology = ""
    if len(gpus) > 1:
        try:
            topology = run(["nvidia-smi", "topo", "-m"])
        except (OSError, subprocess.SubprocessError):
            topology = ""
    return Driver(rows[0][0] if rows else _proc_version(proc), gpus, topology)


def torch_from(outcome: Outcome) -> Torch:
    """What the child `open_r1.doctor.torch_probe` has said, however far it came."""
    facts: dict[str, Any] = outcome.facts
    error = facts.get("error", "")
    if outcome.timed_out:
        error = f"{facts.get('at', 'torch')} does not end"
    elif outcome.signal_name:
        error = f"{facts.get('at', 'torch')} dies by {outcome.signal_name}"
    elif not outcome.ended_well:
        error = f"{facts.get('at', 'torch')} fails: {outcome.last_error}"
    return Torch(
        version=facts.get("version", ""),
        cuda=facts.get("cuda"),
        hip=facts.get("hip"),
        gpus=tuple(
            Gpu(gpu["name"], gpu["memory"], gpu["free"], tuple(gpu["capability"])) for gpu in facts.get("gpus", ())
        ),
        built_for=tuple(facts.get("built_for", ())),
        peers=facts.get("peers", True),
        kernels=tuple(facts.get("kernels", ())),
        chosen=facts.get("chosen", ""),
        error=error,
        outcome=outcome,
    )


def _bytes(mebibytes: str) -> int:
    return int(mebibytes) * _MIB if mebibytes.strip().isdigit() else 0  # "[N/A]" on chips that share the host's


def _proc_version(proc: Path) -> str | None:
    try:
        found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", proc.read_text())
    except OSError:
        return None
    return found[1] if found else None


def output_of(command: list[str]) -> str:
    """What a command of the driver prints.

    Raises:
        OSError, subprocess.SubprocessError: it is not there, fails, or does not end.
    """
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True, env=environment)
    return done.stdout
