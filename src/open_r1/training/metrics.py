"""Metrics as JSON lines in the run's folder, and to trackers when asked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from open_r1.config import TrainingConfig
from open_r1.files import write_text
from open_r1.parallel.runtime import Runtime
from open_r1.training.trackers import Trackers

FILE = "metrics.jsonl"
COMPLETIONS_FILE = "completions.jsonl"
console = Console(stderr=True, soft_wrap=True, highlight=False)


class MetricLog:
    """One JSON object a line in ``output_dir/metrics.jsonl``, and the trackers; rank 0 writes.

    A resumed run continues the file: lines of steps that are about to be taken again are dropped first. A disk that is
    full loses lines, not the run.

    Args:
        first_step: steps taken before, by the run that this one continues.
    """

    def __init__(self, config: TrainingConfig, runtime: Runtime, first_step: int) -> None:
        self._file = self._trackers = None
        self._failed = False
        self._replaced: int | None = None  # where the line begins that stands for now
        if not runtime.is_main:
            return
        path = Path(config.output_dir) / FILE
        keep_lines(path, lambda line: 0 < first_step >= line["step"])
        self._file = path.open("a", buffering=1)
        self._trackers = Trackers(config, first_step)

    def write(self, step: int, metrics: dict[str, float], *, for_now: bool = False) -> None:
        """Records the metrics of a finished step; values that are not finite are written as null.

        Args:
            for_now: the next call has more of the same step, and replaces this; until then it may be all there is.
        """
        if not self._file:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        begin, self._replaced = self._replaced, None
        try:
            if begin is not None:
                self._file.truncate(begin)
            if for_now:
                self._replaced = self._file.tell()
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
        except OSError as error:
            self._say(step, error)
        if not for_now:
            self._trackers.log(metrics, step)

    def _say(self, step: int, error: OSError) -> None:
        if not self._failed:  # once
            console.print(f"[yellow]{FILE} cannot be written at step {step}[/] ({escape(str(error))})")
        self._failed = True

    def close(self) -> None:
        """Closes the file, and lets the trackers send what is left."""
        if not self._file:
            return
        try:
            self._file.close()
        except OSError:  # said already, when it was written
            self._failed = True
        self._trackers.finish()


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drops from a file of JSON lines those that ``keep`` does not want, and those that are not whole."""
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in read_metrics(path) if keep(line)))


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of a file of metrics that are whole: a kill may have cut its last one, a full disk any."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
