"""What the launcher asks for, read once from the environment that ``accelerate launch`` sets.

Accelerate then knows of ranks only: how weights are sharded is decided here, and nothing else (Accelerate's plugins, or
`transformers` while it loads a model) acts on the same request a second time.
"""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from open_r1.errors import UserError


@dataclass(frozen=True)
class LaunchPlan:
    """How weights and optimizer state are to be held.

    Attributes:
        kind: "whole" (one process, or DDP), "fsdp", or "deepspeed".
        reshard: FSDP frees a layer's weights after its forward pass, and gathers them again in the backward pass.
        layers: names of the classes that FSDP shards as units; () takes those that the model names.
        zero: DeepSpeed's ``zero_optimization`` settings, the stage among them.
    """

    kind: Literal["whole", "fsdp", "deepspeed"] = "whole"
    reshard: bool = True
    layers: tuple[str, ...] = ()
    zero: dict[str, Any] | None = None


def take_plan(environment: MutableMapping[str, str] = os.environ) -> LaunchPlan:
    """Reads the launcher's request and takes it out of the environment.

    Raises:
        UserError: for a way of training in parallel that is not supported.
    """
    # Accelerate would divide every loss by it; the loop divides by the global number of targets.
    environment.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
    for switch, name in (
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism_config (tensor, context or sequence parallel)"),
    ):
        if _is_true(environment.get(switch)):
            raise UserError(
                f"the launcher asks for {name}, which is not supported; take a file of recipes/accelerate_configs"
            )
    if _is_true(environment.pop("ACCELERATE_USE_DEEPSPEED", None)):
        return LaunchPlan("deepspeed", zero=_zero_settings(environment))
    if _is_true(environment.pop("ACCELERATE_USE_FSDP", None)):
        if _is_true(environment.get("FSDP_OFFLOAD_PARAMS")):
            raise UserError(
                "fsdp_offload_params is not supported: set it to false, or use zero3.yaml with offload_optimizer_device"
            )
        layers = environment.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
        names = tuple(name.strip() for name in layers.split(",") if name.strip() not in ("", "None"))
        # FULL_SHARD is FSDP 1's word for true, SHARD_GRAD_OP for false.
        wish = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
        return LaunchPlan("fsdp", reshard=wish in ("true", "1", "full_shard", "none"), layers=names)
    return LaunchPlan()


def _zero_settings(environment: MutableMapping[str, str]) -> dict[str, Any]:
    file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    settings: dict[str, Any] = {}
    if file.lower() not in ("none", ""):
        try:
            zero = json.loads(Path(file).read_text()).get("zero_optimization", {})
            settings = {name: value for name, value in zero.items() if value != "auto"}
        except (OSError, ValueError, AttributeError) as error:  # of what is no table
            raise UserError(f"deepspeed_config_file {file} cannot be read as DeepSpeed's JSON: {error}") from error
    if "stage" not in settings:
        settings["stage"] = int(environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
    for name in ("offload_optimizer", "offload_param"):
        device = environment.get(f"ACCELERATE_DEEPSPEED_{name.upper()}_DEVICE", "none").lower()
        if device != "none" and name not in settings:
            settings[name] = {"device": device, "pin_memory": True}
    if settings["stage"] not in (2, 3):
        raise UserError(f"zero_stage {settings['stage']} is not supported: choose 2 or 3, or ddp.yaml instead of 0")
    return settings


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1")
