"""What ``open-r1 doctor`` checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from open_r1.config.settings import PositiveFloat, Settings, alias, positional
from open_r1.errors import UserError

CheckName = Literal[
    "python",
    "cpu",
    "memory",
    "shared_memory",
    "open_files",
    "core_dumps",
    "torch",
    "driver",
    "gpus",
    "precision",
    "links",
    "matmul_bf16",
    "matmul_fp16",
    "matmul_fp32",
    "matmul_fp8",
    "attention",
    "all_reduce",
    "packages",
    "vllm",
    "deepspeed",
    "cache_disks",
    "output_disk",
    "hub",
    "clock",
    "tokens",
]
"""The names of the checks, which stay what they are."""


@dataclass(kw_only=True)
class DoctorConfig(Settings):
    """Checks of this machine"""

    only: list[CheckName] | None = field(default=None, metadata=positional())
    """Do these checks alone."""

    skip: list[CheckName] = field(default_factory=list)
    """Leave these checks out."""

    model: str | None = field(default=None, metadata=alias("model_name_or_path"))
    """Hub id or local folder of a model that will be trained: is there room for it?"""

    output_dir: str | None = None
    """Folder that checkpoints will be written to; unset looks at the working folder."""

    quick: bool = False
    """Start no child processes: neither arithmetic nor imports are tried."""

    json: bool = False
    """Print one JSON object instead of the checklist."""

    strict: bool = False
    """Exit with 1 for warnings too."""

    details: bool = False
    """Also print what lies behind each line."""

    timeout: PositiveFloat = 120.0
    """Seconds that one child process may take before it counts as hanging."""

    def __post_init__(self) -> None:
        super().__post_init__()
        both = [name for name in self.only or [] if name in self.skip]
        if both:
            raise UserError(f"only and skip both name {both[0]}: take it out of one of them")
