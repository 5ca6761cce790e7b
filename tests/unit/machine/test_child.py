"""A probe in a child: what it says comes back, however it ends."""

from __future__ import annotations

import os
import textwrap
import time
from pathlib import Path

import pytest

from open_r1.machine.child import Outcome, kill_children, run_child


@pytest.fixture
def run(tmp_path: Path):
    """Runs a probe with the given body."""

    def run_body(body: str, seconds: float = 30.0) -> Outcome:
        lines = "from open_r1.machine.answer import Answer\nimport os, signal, sys, time\nanswer = Answer()\n"
        (tmp_path / "made_up_probe.py").write_text(lines + textwrap.dedent(body))
        paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        return run_child("made_up_probe", {"number": 7}, seconds=seconds, environment=environment)

    return run_body


def test_facts_come_back_and_noise_does_not(run) -> None:
    outcome = run(
        "print('noise'); print('{\"twice\": 0}'); answer.say(twice=2 * answer.asked['number']); answer.say(x=1)"
    )
    assert outcome.ended_well and outcome.signal_name is None and not outcome.timed_out
    assert outcome.facts == {"twice": 14, "x": 1}
    assert "noise" in outcome.errors


@pytest.mark.parametrize("name", ["SIGFPE", "SIGILL", "SIGSEGV", "SIGKILL"])
def test_a_death_is_put_down_to_what_was_tried(run, name: str) -> None:
    outcome = run(f"answer.begin('first'); answer.begin('second'); os.kill(os.getpid(), signal.{name})")
    assert (outcome.signal_name, outcome.facts["at"]) == (name, "second")
    assert not outcome.ended_well


def test_a_hang_ends_at_the_deadline_with_all_that_it_started(run, tmp_path: Path) -> None:
    body = """
        answer.begin('waiting')
        if os.fork() == 0:
            time.sleep(4)
            open(sys.argv[0] + '.left', 'w')
            os._exit(0)
        time.sleep(60)
    """
    outcome = run(body, seconds=2.0)
    assert outcome.timed_out and outcome.facts["at"] == "waiting"
    time.sleep(3.0)
    assert not list(tmp_path.glob("*.left"))


def test_an_exception_is_named_in_one_line(run) -> None:
    outcome = run("raise ImportError('undefined symbol: _ZN3c10')")
    assert outcome.status == 1 and outcome.last_error == "ImportError: undefined symbol: _ZN3c10"


def test_ctrl_c_takes_the_children_along(run) -> None:
    from open_r1.background import Background

    job = Background(run, "time.sleep(60)")
    deadline = time.monotonic() + 20.0
    while job.running and time.monotonic() < deadline:
        kill_children()
        job.wait(0.05)
    assert job.result().signal_name == "SIGKILL"
