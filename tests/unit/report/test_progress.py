"""Progress in a log: plain lines, not many, with what matters; a bar only on a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from open_r1.report import progress as module
from open_r1.report.progress import TrainingProgress


def log_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def test_a_log_gets_plain_lines_at_the_first_and_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 1.0, 2.0, 3.0, 20.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    console = log_console()
    with TrainingProgress(4, "sft", console=console) as progress:
        progress.update(1, {"loss": 2.0, "tokens_per_second": 12345.6})
        progress.update(2, {"loss": 1.5})
        progress.update(3, {"loss": 1.25})
        progress.update(4, {"loss": 1.0, "reward": 0.5})
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "sft 1/4 · loss 2 · 12,346 tokens/s · 1.0 s, left 3.0 s",
        "sft 4/4 · loss 1 · reward 0.500 · 12,346 tokens/s · 20 s",
    ]


def test_the_time_left_of_a_resumed_run_counts_only_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 30.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    console = log_console()
    with TrainingProgress(100, "grpo", start=50, console=console) as progress:
        progress.update(60, {"loss": 0.1})
    assert console.file.getvalue().strip().endswith("30 s, left 2:00")


def test_a_log_has_no_control_characters() -> None:
    console = log_console()
    with TrainingProgress(2, "[b]sft", console=console) as progress:
        progress.update(1, {"loss": float("nan")})
        progress.update(2, {})
    assert not re.search(r"[^\S\n ]|[\x00-\x09\x0b-\x1f]", console.file.getvalue())
    assert "[b]sft 1/2 · loss nan" in console.file.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    with TrainingProgress(2, "sft", console=console) as progress:
        progress.update(2, {"loss": 0.5})
    shown = console.file.getvalue()
    assert "\x1b[" in shown
    assert "2/2" in shown
    assert "loss 0.5" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_other_ranks_say_nothing(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with TrainingProgress(1, enabled=False, console=console) as progress:
        progress.update(1, {"loss": 1.0})
    assert console.file.getvalue() == ""
