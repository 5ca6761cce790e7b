"""Progress of a training run: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from open_r1.report.tables import clock

_SECONDS_BETWEEN_LINES = 10.0
_SPEED_WINDOW = 300.0
"""Seconds over which the remaining time is estimated: a step of GRPO may take a minute."""

_SHOWN = (
    ("loss", "loss {:.4g}"),
    ("eval_loss", "eval loss {:.4g}"),
    ("reward", "reward {:.3f}"),
    ("eval/reward", "held out {:.3f}"),
    ("tokens_per_second", "{:,.0f} tokens/s"),
)


class _AboveTheBar(FileProxy):
    """Standard error whose lines go above the bar, also those of other consoles: these look for what is behind."""

    @property
    def rich_proxied_file(self) -> _AboveTheBar:
        return self


class TrainingProgress:
    """Shows step, loss, reward, tokens per second, time gone and time left; a context manager.

    A terminal gets a bar. Anything else gets plain lines without control characters: at the first and the last step,
    and every ten seconds between.

    Args:
        total_steps: steps of the whole run.
        enabled: False shows nothing (every rank but one).
        start: steps that were done before, in a run that was resumed.
        console: standard error unless given.
    """

    def __init__(
        self,
        total_steps: int,
        description: str = "train",
        enabled: bool = True,
        *,
        start: int = 0,
        console: Console | None = None,
    ) -> None:
        self._console = console or Console(file=sys.stderr)
        self._total, self._description, self._start = total_steps, description, start
        self._latest: dict[str, float] = {}
        self._began = time.monotonic()
        self._last_line = -math.inf
        has_bar = self._console.is_terminal and not self._console.is_dumb_terminal
        self._lines = enabled and not has_bar
        self._bar = Progress(
            TextColumn("[bold]{task.description}[/bold]"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left[/dim]"),
            TimeRemainingColumn(),
            console=self._console,
            speed_estimate_period=_SPEED_WINDOW,
            disable=not (enabled and has_bar),
        )
        self._task = self._bar.add_task(description, total=total_steps, completed=start, metrics="")

    def __enter__(self) -> TrainingProgress:
        self._began = time.monotonic()
        self._bar.start()
        if isinstance(sys.stderr, FileProxy):  # until the bar stops, which puts back what was there
            sys.stderr = _AboveTheBar(self._console, sys.stderr.rich_proxied_file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows that ``step`` steps are done; a metric that is not given keeps its last value."""
        self._latest |= metrics
        self._bar.update(self._task, completed=step, metrics=self._describe())
        if not self._lines:
            return
        now = time.monotonic()
        if step >= self._total or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._console.print(self._line(step, now - self._began), markup=False, highlight=False, soft_wrap=True)

    def _describe(self) -> str:
        return " · ".join(text.format(self._latest[name]) for name, text in _SHOWN if name in self._latest)

    def _line(self, step: int, elapsed: float) -> str:
        done = step - self._start
        left = f", left {clock(elapsed / done * (self._total - step))}" if done > 0 and step < self._total else ""
        return f"{self._description} {step}/{self._total} · {self._describe()} · {clock(elapsed)}{left}"
