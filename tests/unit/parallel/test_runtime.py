"""What threads of a run may ask of its runtime."""

from __future__ import annotations

from accelerate.state import AcceleratorState, PartialState

from open_r1.parallel.runtime import Runtime


def test_what_is_asked_after_the_end_makes_no_state_for_the_next_run() -> None:
    """A thread of a run that failed may outlive it, and ask while the next run in this process starts."""
    runtime = Runtime()
    runtime.close()
    assert (runtime.rank, runtime.world_size, runtime.is_main) == (0, 1, True)
    with runtime.main_first():
        runtime.barrier()
    assert PartialState._shared_state == {}
    assert AcceleratorState._shared_state == {}
