"""A launcher passes on a signal that its processes have had already: the two are one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from open_r1 import signals
from open_r1.training.signals import StopSignal


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Signals that reach the handler that was there before; this process is one of a launcher's."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


def test_the_echo_is_not_a_second_signal(heard: list[int]) -> None:
    with StopSignal() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.number, heard) == (signal.SIGTERM, [])


def test_a_later_one_acts_as_before(heard: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO", -1.0)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.number, heard) == (signal.SIGTERM, [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]


def test_what_another_rank_has_heard_is_no_first_signal_here(heard: list[int]) -> None:
    """This rank's own may come long after, while the state is saved."""
    with StopSignal() as stop:
        stop.number = signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.number, heard) == (signal.SIGTERM, [])
