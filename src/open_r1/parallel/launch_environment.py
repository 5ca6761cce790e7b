"""The environment of a process that a rank starts, and that is no rank itself."""

from __future__ import annotations

import os
from collections.abc import Mapping

_NAMES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME",
          "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # fmt: skip
_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "TORCH_NCCL_")


def without_launch(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what ``accelerate launch`` and ``torchrun`` have put there."""
    return {name: value for name, value in environment.items() if name not in _NAMES and not name.startswith(_PREFIXES)}


def launched_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Rank and number of the processes of this launch, as the launcher says; (0, 1) where there is none."""
    try:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1


def launch_name(environment: Mapping[str, str] = os.environ) -> str:
    """A name that the processes of one launch on one machine have in common, and no other launch at the time."""
    parts = (str(os.getppid()), *(environment.get(name, "") for name in ("MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")))
    return "-".join(filter(None, parts))
