"""What is said while parts are measured: a bar on a terminal, and a line for each part that is through."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from open_r1.bench.parts import Part
from open_r1.bench.reading import Reading
from open_r1.bench.screen import flops_text
from open_r1.machine.rates import Rate
from open_r1.report.tables import clock


class BenchProgress:
    """Shows what is measured and how much of the time is gone; a context manager.

    Args:
        seconds: for all of it.
        console: standard error unless given; one that is no terminal gets no bar.
    """

    def __init__(self, seconds: float, *, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("[dim]{task.fields[gone]} of {task.fields[all]}[/]"),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=seconds, gone="", all=clock(seconds))
        self._began = time.monotonic()

    def __enter__(self) -> BenchProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def waiting(self, part: Part, gone: float) -> None:
        """A part measures; ``gone`` seconds since the start of all."""
        self._bar.update(self._task, description=part.title, completed=gone, gone=clock(gone))

    def done(self, part: Part, reading: Reading) -> None:
        """A part is through, or was left out, which is said later."""
        if reading.left_out:
            return
        now = time.monotonic()
        taken, self._began = now - self._began, now
        mark = ("✗ ", "red") if reading.failures else ("✓ ", "green")
        said = "; ".join(filter(None, [in_words(reading), *reading.failures]))
        self._bar.console.print(
            Text.assemble(mark, part.title, f": {said} ", (f"({clock(taken)})", "dim")), soft_wrap=True
        )


def in_words(reading: Reading) -> str:
    """The rates that tell most of a part; "" where there is none."""
    if not reading.rates:
        return f"{flops_text(min(reading.devices))} or more each" if reading.devices else ""
    kind = reading.rates[0].kind
    rates = reading.rates if kind == "sft" else reading.rates[-1:] if kind == "attention" else reading.rates[:1]
    return ", ".join(f"{_value(rate)}{_of(rate)}" for rate in rates)


def _of(rate: Rate) -> str:
    if rate.kind == "product":
        return f" in {rate.settings['dtype']}"
    return f" at {rate.tokens:,}" if rate.kind in ("attention", "sft") else ""


def _value(rate: Rate) -> str:
    if rate.unit == "FLOP/s":
        return flops_text(rate.value)
    return f"{rate.value / 1e9:,.1f} GB/s" if rate.unit == "bytes/s" else f"{rate.value:,.0f} tokens/s"
