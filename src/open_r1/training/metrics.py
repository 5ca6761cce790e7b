"""Metrics as JSON lines in the run's folder, and to trackers when asked."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

from open_r1.config import TrainingConfig
from open_r1.errors import UserError
from open_r1.parallel.runtime import Runtime

FILE = "metrics.jsonl"
COMPLETIONS_FILE = "completions.jsonl"


def installed_trackers(config: TrainingConfig) -> list[str]:
    """The trackers that ``report_to`` names; "all" means those that are installed.

    Checked before anything is prepared. A tracker never asks a question: without a key, wandb records offline.

    Raises:
        UserError: for a tracker that is not installed.
    """
    missing = [name for name in config.trackers if importlib.util.find_spec(name) is None]
    if missing and config.report_to not in ("all", ["all"]):
        name = missing[0]
        raise UserError(f"report_to {name}: it is not installed; run: pip install {name} (or set --report_to none)")
    if "wandb" in config.trackers and not _wandb_has_key():
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
    return [name for name in config.trackers if name not in missing]


def _wandb_has_key() -> bool:
    netrc = Path.home() / ".netrc"
    return "WANDB_API_KEY" in os.environ or (netrc.exists() and "api.wandb.ai" in netrc.read_text())


def tracker_options(config: TrainingConfig) -> dict[str, dict[str, Any]]:
    """What each tracker is started with."""
    options = {"entity": config.wandb_entity, "group": config.wandb_run_group, "name": config.run_name}
    return {"wandb": {key: value for key, value in options.items() if value}}


class MetricLog:
    """One JSON object a line in ``metrics.jsonl``; rank 0 writes.

    A resumed run continues the file: lines of steps that are about to be taken again are dropped first.
    """

    def __init__(self, folder: Path, runtime: Runtime, first_step: int) -> None:
        self._runtime = runtime
        self._file = None
        if not runtime.is_main:
            return
        path = folder / FILE
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step] if first_step else []
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        os.replace(temporary, path)
        self._file = path.open("a", buffering=1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Records the metrics of a finished step; values that are not finite are written as null."""
        if self._file:
            finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._runtime.track(metrics, step)

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that may have been cut in the middle of its last one."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
