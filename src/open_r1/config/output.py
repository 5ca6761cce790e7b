"""How a run evaluates while it trains, logs, saves and publishes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Literal

from open_r1.config.settings import PositiveInt, Settings, Steps, alias, did_you_mean
from open_r1.errors import UserError

TRACKERS = ("wandb", "tensorboard", "trackio")
PUSH_CALLBACK = "push_to_hub_revision"


@dataclass(kw_only=True)
class OutputConfig(Settings):
    """Evaluation during training, logging, checkpoints"""

    output_dir: str
    """Folder of the run: checkpoints, metrics, the final model."""

    overwrite_output_dir: bool = False
    """Start anew in a folder that already holds a run."""

    do_eval: bool = False
    """Accepted for published recipes; eval_strategy decides whether the held-out split is evaluated."""

    eval_strategy: Literal["no", "steps", "epoch"] = field(default="no", metadata=alias("evaluation_strategy"))
    """When the held-out split is evaluated."""

    eval_steps: Steps | None = None
    """Steps between evaluations, or a share of all steps below 1; unset is logging_steps."""

    eval_on_start: bool = False
    """Evaluate before the first step too."""

    logging_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When metrics are written."""

    logging_steps: Steps = 1
    """Steps between two lines of metrics, or a share of all steps below 1."""

    logging_first_step: bool = False
    """Write metrics of the first step too."""

    log_level: Literal["debug", "info", "warning", "error", "critical", "passive"] = "info"
    """What is printed beside progress."""

    report_to: str | list[str] = "none"
    """Trackers: wandb, tensorboard, trackio, all or none. Metrics are always written as JSONL in output_dir."""

    run_name: str | None = None
    """Name of the run at the trackers; unset is the name of output_dir."""

    wandb_entity: str | None = None
    """Entity that wandb stores the run under."""

    wandb_project: str | None = None
    """Project that wandb stores the run under."""

    wandb_run_group: str | None = None
    """Group that wandb stores the run under."""

    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When checkpoints are saved; a stopped run saves one in any case."""

    save_steps: Steps = 500
    """Steps between checkpoints, or a share of all steps below 1."""

    save_total_limit: PositiveInt | None = None
    """Checkpoints kept, the oldest go first; unset keeps all."""

    resume_from_checkpoint: bool | str | None = None
    """true for the latest whole checkpoint of output_dir, or the path of one."""

    allow_config_change: bool = False
    """Continue a checkpoint although settings that it was made with have changed."""

    benchmarks: list[str] = field(default_factory=list)
    """Accepted for published recipes; open-r1 evaluate measures a trained model on tasks."""

    callbacks: list[str] = field(default_factory=list)
    """Accepted for published recipes: push_to_hub_revision."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output_dir:
            raise UserError("output_dir is empty: give the folder of the run")
        if self.eval_steps is None and self.eval_strategy == "steps":
            self.eval_steps = self.logging_steps
        known = [*TRACKERS, "all", "none"]
        for name in self._reported():
            if name not in known:
                raise UserError(f"report_to: {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)}")
        for name in self.callbacks:
            if name != PUSH_CALLBACK:
                raise UserError(f"callbacks: {name!r} is not known; the one accepted name is {PUSH_CALLBACK}")

    def _reported(self) -> list[str]:
        names = self.report_to.split(",") if isinstance(self.report_to, str) else self.report_to
        return [name.strip() for name in names]

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers that ``report_to`` asks for, without ``none`` and with ``all`` spelt out."""
        names = self._reported()
        return TRACKERS if "all" in names else tuple(name for name in TRACKERS if name in names)

    def notes(self) -> list[str]:
        lines = super().notes()
        if self.do_eval and self.eval_strategy == "no":
            lines.append("do_eval evaluates nothing while eval_strategy is no: set eval_strategy to steps or epoch")
        if self.benchmarks:
            lines.append(
                "benchmarks are not evaluated by the run: when it has ended, open-r1 evaluate --model "
                f"{shlex.quote(self.output_dir)} --tasks {shlex.join(self.benchmarks)} does that"
            )
        if PUSH_CALLBACK in self.callbacks:
            lines.append(f"callbacks {PUSH_CALLBACK} means push_to_hub with hub_strategy and hub_model_revision")
        return lines


@dataclass(kw_only=True)
class HubConfig(Settings):
    """Publishing"""

    push_to_hub: bool = False
    """Upload the model to the hub."""

    hub_model_id: str | None = None
    """Repository to upload to; unset is the name of output_dir."""

    hub_model_revision: str = "main"
    """Branch to upload to."""

    hub_strategy: Literal["end", "every_save", "checkpoint"] = "end"
    """When to upload: the final model, every saved model, or checkpoints that can be resumed from."""

    hub_private_repo: bool | None = None
    """Make a new repository private; unset is the account's default."""
