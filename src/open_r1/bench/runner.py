"""Runs parts one after the other, each in a process of its own, within a time for all of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from open_r1.bench.gate import open_gate
from open_r1.bench.parts import Part
from open_r1.machine.child import Outcome, kill_children, run_child
from open_r1.parallel.launch_environment import without_launch

LEAST = 0.5
"""Of its usual time that a part needs: compiled code is often there already."""
MOST = 2.5
"""Of its usual time that it may take, so that one that hangs leaves some to the others."""
GRACE = 5.0
"""Seconds after its time before a process is killed that has not ended by itself."""
_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Done:
    """A part's end.

    Attributes:
        outcome: of its process; None where there was no time to begin it.
        allowed: seconds that it was given.
    """

    part: Part
    outcome: Outcome | None
    allowed: float = 0.0


@dataclass(frozen=True)
class _Started:
    gate: Path
    future: Future[Outcome]


def run_parts(
    parts: Sequence[Part],
    *,
    seconds: float,
    ahead: int,
    start: float | None = None,
    waiting: Callable[[Part, float], None] = lambda part, taken: None,
) -> Iterator[Done]:
    """Runs the parts in order, and yields each when it is over.

    Args:
        seconds: for all of them, from ``start`` on (of `time.monotonic`; None is now).
        ahead: so many of the next parts have their process started while one measures: imports then take no time. 0 on
            a CPU, where they would take it from what is measured.
        waiting: called ten times a second with the part that measures, and the seconds gone since ``start``.
    """
    start = time.monotonic() if start is None else start
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1 + ahead) as threads:

        def begin(number: int) -> _Started:
            part, place = parts[number], Path(folder) / str(number)
            place.mkdir()
            gate = place / "gate"
            asked = {**part.asked, "gate": str(gate), "folder": str(place)}
            until = seconds - (time.monotonic() - start) + GRACE
            future = threads.submit(run_child, part.module, asked, seconds=until, environment=_environment())
            return _Started(gate, future)

        started: dict[int, _Started] = {}
        try:
            for number, part in enumerate(parts):
                left = seconds - (time.monotonic() - start)
                if left < LEAST * part.usual:
                    if number in started:
                        open_gate(started[number].gate, 0.0)
                    yield Done(part, None)
                    continue
                allowed = min(left, MOST * part.usual)
                current = started.get(number) or begin(number)
                open_gate(current.gate, allowed)
                for following in range(number + 1, min(len(parts), number + 1 + ahead)):
                    if parts[following].gated and following not in started:
                        started[following] = begin(following)
                while not wait([current.future], _SECONDS_BETWEEN_LOOKS).done:
                    waiting(part, time.monotonic() - start)
                yield Done(part, current.future.result(), allowed)
        finally:
            kill_children()


def _environment() -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONUNBUFFERED": "1"}
    return without_launch(os.environ) | quiet
