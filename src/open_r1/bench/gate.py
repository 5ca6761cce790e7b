"""When a part may begin to measure: its process is started earlier, so that imports cost no time of their own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from open_r1.files import write_text
from open_r1.machine.answer import Answer

_SECONDS_BETWEEN_LOOKS = 0.02


def open_gate(gate: Path, seconds: float) -> None:
    """Lets the part that waits measure, for so long; for 0 it ends without."""
    write_text(gate, repr(seconds))


def wait_for_gate(answer: Answer) -> None:
    """Waits in the part's own process; from then on its time runs, after which the kernel ends it by SIGALRM."""
    gate = Path(answer.asked["gate"])
    while not gate.exists():
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    seconds = float(gate.read_text())
    if seconds <= 0:
        os._exit(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
