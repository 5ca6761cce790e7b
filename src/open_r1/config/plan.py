"""The plan of a run before it runs: the settings of sft or grpo, and what to plan for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from open_r1.config.grpo import GRPOConfig
from open_r1.config.settings import PositiveFloat, PositiveInt, Settings
from open_r1.config.sft import SFTConfig
from open_r1.errors import UserError

NO_DATA = "no-data"
"""Stands for the data set of a plan that was asked for without one."""


@dataclass(kw_only=True)
class PlanConfig(Settings):
    """What to plan for"""

    gpu: str | None = None
    """A GPU that need not be here: 4090, 3090, L4, A10, L40S, A100-40, A100-80, H20, H100, H100-NVL, H200, B200, 5090,
    RTX-PRO-6000, …, or cpu; unset is what this machine has."""

    gpus: PositiveInt | None = None
    """GPUs of one node; unset counts those that are visible here, with --gpu it is 1."""

    nodes: PositiveInt = 1
    """Machines with so many GPUs each."""

    launcher: Literal["none", "ddp", "fsdp", "zero2", "zero3"] | None = None
    """How several GPUs share the work, by the names in recipes/accelerate_configs; unset is ddp."""

    accelerate_config: str | None = None
    """File of accelerate launch to read launcher and number of processes from."""

    rows: PositiveInt | None = None
    """Rows of the data set; unset counts them where that is quick."""

    plan_tokens: PositiveInt | None = None
    """Tokens of the data set; unset is told from rows and a sample of their lengths."""

    price: PositiveFloat | None = None
    """What one GPU costs for an hour, in any currency."""

    json: bool = False
    """Print the plan as JSON."""

    def __post_init__(self) -> None:
        unnamed = not self.dataset_name and self.dataset_mixture is None
        if unnamed:
            self.dataset_name = NO_DATA
        super().__post_init__()
        if self.launcher and self.accelerate_config:
            raise UserError("launcher and accelerate_config are both set: keep one of them")


@dataclass(kw_only=True)
class PlanSFTConfig(PlanConfig, SFTConfig):
    """Plan of supervised fine-tuning"""

    output_dir: str = field(default=".")
    """Folder of the run; its disk is compared with what checkpoints take."""


@dataclass(kw_only=True)
class PlanGRPOConfig(PlanConfig, GRPOConfig):
    """Plan of reinforcement learning"""

    output_dir: str = field(default=".")
    """Folder of the run; its disk is compared with what checkpoints take."""
