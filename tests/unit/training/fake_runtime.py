"""One rank of a run, in this process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class FakeRuntime:
    """Rank ``rank`` of ``world_size``; the other ranks have nothing to add."""

    device = torch.device("cpu")
    loss_scaler = None
    autocast_dtype = None
    sharded = False

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.kind = "single" if world_size == 1 else "ddp"
        self.rank, self.world_size, self.is_main = rank, world_size, rank == 0

    def sum(self, values: Tensor) -> Tensor:
        return values

    def max(self, value: float) -> float:
        return value

    def gather(self, items: list[Any]) -> list[Any]:
        return items

    def barrier(self) -> None:
        pass
