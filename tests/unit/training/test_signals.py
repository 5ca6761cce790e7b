"""The first signal is noted, the second acts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from open_r1.cli import sigterm_raises
from open_r1.errors import Terminated
from open_r1.training.signals import Interrupted, StopSignal


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Signals that reach the handler that was there before."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


def test_no_signal() -> None:
    with StopSignal() as stop:
        stop.check()
    assert stop.number == 0


def test_the_first_is_noted_the_second_acts_as_before(heard: list[int]) -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.number, heard) == (signal.SIGTERM, [])
        with pytest.raises(Interrupted, match="SIGTERM") as interrupted:
            stop.check()
        assert interrupted.value.signal_number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]


def test_ctrl_c_twice() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_signals_act_as_before(heard: list[int]) -> None:
    with StopSignal():
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_sigterm_where_nothing_is_to_be_saved(heard: list[int]) -> None:
    with sigterm_raises():  # somebody listens already
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(Terminated), sigterm_raises():
        with StopSignal() as stop:  # what listens within goes first
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_forked_child_ends_as_it_would_have() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with sigterm_raises():
            child = os.fork()
            if not child:
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                finally:
                    os._exit(5)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
