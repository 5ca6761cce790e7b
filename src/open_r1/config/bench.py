"""What ``open-r1 bench`` measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from open_r1.config.settings import PositiveFloat, Settings, positional
from open_r1.errors import UserError

BenchPart = Literal["products", "attention", "sft", "engine", "gpus"]
"""Matrix products and copies; attention kernels; training; drawing completions; the other GPUs beside the first."""


@dataclass(kw_only=True)
class BenchConfig(Settings):
    """Rates of this machine"""

    only: list[BenchPart] | None = field(default=None, metadata=positional())
    """Measure these parts alone."""

    seconds: PositiveFloat = 120.0
    """Time for all of it; what does not fit is named, and measured by a further call."""

    json: bool = False
    """Print one JSON object instead of tables."""

    no_save: bool = False
    """Do not keep the rates; else open-r1 plan reckons with them from now on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.only is not None and not self.only:
            raise UserError("only is empty: name parts, or leave it out to measure all")
