"""Settings that do not go with the launcher or the chip: said by the plan, refused by a run before it begins."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.config.training import TORCH_OPTIMIZERS
from open_r1.errors import UserError
from open_r1.machine.cards import BF16_FROM
from open_r1.model.fp8 import check_fp8, chip_problem
from open_r1.model.lora import quantization_arguments
from open_r1.parallel.runtime import Runtime
from open_r1.planning.reading import launcher_of
from open_r1.planning.situation import Machine

SHARDED = ("fsdp", "zero2", "zero3")
"""Launchers that spread weights or the optimizer's state over processes."""
GATHERED = ("fsdp", "zero3")
"""Those that leave each process a part of the weights."""
NO_CUDA = (0, 0)
console = Console(stderr=True, soft_wrap=True, highlight=False)


def refusal(settings: SFTConfig | GRPOConfig, launcher: str, capability: tuple[int, int] | None) -> str:
    """Why no run of these settings can begin, in its own words; "" where one can.

    Args:
        launcher: one of `open_r1.planning.situation.LAUNCHERS`.
        capability: CUDA's compute capability; (0, 0) without CUDA, None where it is not known.
    """
    quantised = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(settings, name)), None)
    if isinstance(settings, GRPOConfig) and not settings.use_vllm and launcher in GATHERED:
        return (
            "transformers draws completions from whole weights, and this launcher leaves each process a part of them: "
            "set --use_vllm, or launch with recipes/accelerate_configs/ddp.yaml or zero2.yaml"
        )
    if quantised and launcher in SHARDED:
        return (
            f"{quantised} and {launcher} do not go together: quantised weights cannot be sharded; launch with "
            f"recipes/accelerate_configs/ddp.yaml, or leave {quantised} out"
        )
    if settings.optim not in TORCH_OPTIMIZERS and launcher in SHARDED:
        return (
            f"optim {settings.optim} holds whole parameters, and the launcher shards them ({launcher}): set --optim "
            "adamw_torch, whose state is spread over the GPUs, or launch with recipes/accelerate_configs/ddp.yaml"
        )
    if settings.torch_compile and launcher == "zero3":
        return "torch_compile and ZeRO-3 do not go together: leave torch_compile out, or launch fsdp.yaml"
    return chip_problem(capability) if settings.fp8 and capability is not None else ""


def slow_type(settings: SFTConfig | GRPOConfig, capability: tuple[int, int] | None) -> str:
    """That this chip emulates the type that is computed in; "" where it does not, or is not known.

    No library says so: torch finds bf16 supported wherever it can make a tensor of it.

    Args:
        capability: as `refusal`.
    """
    if capability is None or not NO_CUDA < capability < BF16_FROM or not computes_in_bf16(settings):
        return ""
    weights = "--torch_dtype float32 " if settings.torch_dtype == "bfloat16" else ""
    return (
        f"bf16 is slow on this GPU: its compute capability is {capability[0]}.{capability[1]}, and chips before 8.0 "
        f"(Ampere) have no tensor cores for it; {weights}--bf16 false --fp16 true is several times as fast"
    )


def computes_in_bf16(settings: SFTConfig | GRPOConfig) -> bool:
    """Whether products are in bf16: under autocast, or since the weights are."""
    return settings.bf16 or (settings.torch_dtype == "bfloat16" and not settings.fp16)


def on_machine(machine: Machine) -> tuple[str, tuple[int, int] | None]:
    """Launcher and compute capability of a machine that is planned for, as `refusal` takes them."""
    whole = machine.gpus == 1 and machine.launcher == "fsdp"  # has nothing to shard
    capability = machine.card.capability if machine.card else NO_CUDA if machine.memory is None else None
    return "none" if whole else machine.launcher, capability


def check_settings(config: SFTConfig | GRPOConfig, runtime: Runtime) -> None:
    """Refuses what cannot run here, before anything is prepared or an earlier run is deleted; says what will be slow.

    Raises:
        UserError: settings that do not go with this launcher or chip, a package that they need is not installed, or the
            checkpoint that they name is not there; all ranks raise it.
    """
    on_gpu = runtime.device.type == "cuda"
    capability = torch.cuda.get_device_capability(runtime.device) if on_gpu else NO_CUDA
    if problem := refusal(config, launcher_of(runtime), capability):
        raise UserError(problem)
    if config.fp8:
        check_fp8(runtime.device)
    quantization_arguments(config)
    if isinstance(config.resume_from_checkpoint, str):  # looked into once all is prepared
        path = Path(config.resume_from_checkpoint)
        if not runtime.gather([path.is_dir()])[0]:
            raise UserError(f"resume_from_checkpoint {path}: no such folder; give a checkpoint-N folder, or true")
    if runtime.is_main and (line := slow_type(config, capability)):
        console.print(f"[yellow]{line}[/]")
