"""Parts run in processes of their own: what kills one, or never ends, is a line; the others and the time are kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from open_r1.bench.parts import Part
from open_r1.bench.reading import Origin, read_part
from open_r1.bench.runner import LEAST, Done, run_parts

PROBE = """
import os, signal, time
from open_r1.bench.gate import wait_for_gate
from open_r1.machine.answer import Answer

answer = Answer()
born = time.time()
wait_for_gate(answer)
asked = answer.asked
answer.begin("doing it")
for line in asked.get("lines", []):
    answer.say(**line)
if asked.get("dies"):
    os.kill(os.getpid(), getattr(signal, asked["dies"]))
if asked.get("raises"):
    raise RuntimeError(asked["raises"])
time.sleep(asked.get("sleeps", 0))
answer.say(at="", born=born, began=time.time(), environment=dict(os.environ))
"""
ORIGIN = Origin("NVIDIA H200", {"torch": "2.11", "vllm": "0.26"}, "2026-01-02T00:00:00Z")
COPY = {"copy": {"kind": "copy", "bytes": 100, "seconds": 0.5, "spread": 0.0}}


@pytest.fixture(autouse=True)
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_probe.py").write_text(PROBE)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def part(usual: float = 20.0, **asked: object) -> Part:
    return Part("products", "made up", "made_up_probe", asked, usual)


def run(*parts: Part, seconds: float = 60.0, ahead: int = 0) -> list[Done]:
    return list(run_parts(parts, seconds=seconds, ahead=ahead))


def test_a_death_keeps_what_was_said_and_the_next_part_runs() -> None:
    first, second = run(part(lines=[COPY], dies="SIGFPE"), part(lines=[COPY]))
    reading = read_part(first, ORIGIN)
    assert [rate.value for rate in reading.rates] == [200.0]
    assert reading.failures == ["died by SIGFPE (doing it): open-r1 doctor looks into it"]
    assert read_part(second, ORIGIN).failures == []


def test_one_that_hangs_is_ended_at_its_deadline() -> None:
    (done,) = run(part(usual=0.8, sleeps=60), seconds=600)
    assert done.outcome.signal_name == "SIGALRM"
    assert read_part(done, ORIGIN).failures == ["not done in 2 s (doing it)"]


def test_an_error_is_one_line_and_memory_has_its_word() -> None:
    wrong, memory = run(part(raises="no such\nkernel"), part(raises="CUDA out of memory"))
    assert read_part(wrong, ORIGIN).failures[0].startswith("failed (doing it): RuntimeError: no such")
    assert read_part(memory, ORIGIN).failures == ["out of memory (doing it)"]


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_what_has_no_time_is_left_out_and_shorter_ones_still_run(ahead: int) -> None:
    long, short = run(part(usual=100.0 / LEAST), part(usual=1.0, lines=[COPY]), seconds=30, ahead=ahead)
    assert read_part(long, ORIGIN).left_out
    assert read_part(short, ORIGIN).rates


def test_one_that_was_started_ahead_and_has_no_time_left_is_let_go() -> None:
    began = time.monotonic()
    first, second = run(part(usual=4.0, sleeps=3), part(usual=12.0, sleeps=60), seconds=8, ahead=2)
    assert first.outcome.ended_well
    assert second.outcome is None
    assert time.monotonic() - began < 30


def test_as_many_start_ahead_as_are_asked_for() -> None:
    for ahead in (0, 1, 2):
        first, *others = run(part(sleeps=3), part(sleeps=1), part(), ahead=ahead)
        born_early = [done.outcome.facts["born"] < first.outcome.facts["began"] for done in others]
        assert born_early == [ahead > 0, ahead > 1]
        begins = [done.outcome.facts["began"] for done in (first, *others)]
        assert begins == sorted(begins)


def test_a_launchers_ranks_do_not_reach_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    (done,) = run(part())
    assert "ACCELERATE_USE_FSDP" not in done.outcome.facts["environment"]
    assert done.outcome.facts["environment"]["HF_HUB_OFFLINE"] == "1"


def test_interrupted_nothing_is_left_running() -> None:
    parts = run_parts([part(sleeps=60), part()], seconds=60, ahead=2, waiting=_interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(parts)


def _interrupt(part: Part, gone: float) -> None:
    raise KeyboardInterrupt
