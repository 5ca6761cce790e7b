from __future__ import annotations

import os

from open_r1.machine.child import run_child


def test_two_processes_sum() -> None:
    """Under a launcher too, whose variables are not theirs."""
    asked = {"ranks": 2, "backend": "gloo", "seconds": 60}
    environment = os.environ | {"RANK": "3", "WORLD_SIZE": "8", "MASTER_PORT": "1"}
    outcome = run_child("open_r1.parallel.all_reduce_probe", asked, seconds=120, environment=environment)
    assert outcome.ended_well, outcome.errors
    assert {line["joined"] for line in outcome.lines if "joined" in line} == {0, 1}
    assert {line["summed"] for line in outcome.lines if "summed" in line} == {0, 1}
    assert outcome.facts["bandwidth"] > 0 and "wrong" not in outcome.facts


def test_a_way_that_is_not_there_fails() -> None:
    asked = {"ranks": 2, "backend": "no_such_backend", "seconds": 60}
    outcome = run_child("open_r1.parallel.all_reduce_probe", asked, seconds=120)
    assert not outcome.ended_well and "no_such_backend" in outcome.errors
