"""What sft and grpo look at again once their data has told them how many steps they will take."""

from __future__ import annotations

from rich.console import Console

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.errors import UserError
from open_r1.model.memory import device_memory
from open_r1.parallel.runtime import Runtime
from open_r1.planning.first import disk_problem
from open_r1.planning.reading import machine_of_run, read_model

console = Console(stderr=True, soft_wrap=True, highlight=False)


def check_disks_again(config: SFTConfig | GRPOConfig, runtime: Runtime, steps: int) -> None:
    """Holds all checkpoints and the final model against what is free; `plan_first` could count one checkpoint only.

    A run could go on without the checkpoints that do not fit, but not be continued from them: so it stops while that
    costs nothing. On a CPU, with ``plan: off``, and where ``max_steps`` had said the steps, nothing is looked at.

    Raises:
        UserError: they will not fit on their disk (``plan: auto``); all ranks raise it.
    """
    memory = device_memory(runtime.device)
    if memory is None or config.plan == "off" or config.max_steps > 0:
        return
    found = ""
    if runtime.is_main:
        found = disk_problem(config, read_model(config), machine_of_run(runtime, memory), steps)
    if problem := runtime.gather([found])[0]:
        problem = f"{steps:,} steps: {problem}"
        if config.plan == "auto":
            raise UserError(f"{problem}; or go on all the same with --plan warn")
        if runtime.is_main:
            console.print(f"[yellow]{problem}[/]")
