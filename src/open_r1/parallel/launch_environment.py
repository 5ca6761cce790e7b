"""The environment of a process that a rank starts, and that is no rank itself."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME",
          "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # fmt: skip
_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "TORCH_NCCL_")


def without_launch(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what ``accelerate launch`` and ``torchrun`` have put there."""
    return {name: value for name, value in environment.items() if name not in _NAMES and not name.startswith(_PREFIXES)}
