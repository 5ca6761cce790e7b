"""What a probe, run as a child process by `open_r1.machine.child`, says to its parent: lines of JSON.

Imports nothing that a probe is there to find out about.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any


class Answer:
    """The way back to the parent; whatever libraries print goes to standard error instead.

    It ends this process when standard input does: a probe does not outlive the parent that asked.

    Attributes:
        asked: what the parent wants to know.
    """

    def __init__(self) -> None:
        self.asked: dict[str, Any] = json.loads(sys.argv[1])
        sys.stdout.flush()
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        threading.Thread(target=_end_with_stdin, daemon=True).start()

    def say(self, **facts: Any) -> None:
        """Tells the parent some facts, at once: they stand even if this process dies in what comes next."""
        os.write(self._descriptor, (json.dumps(facts) + "\n").encode())

    def begin(self, what: str) -> None:
        """Says what is tried now; a death or a deadline is then put down to it."""
        self.say(at=what)


def _end_with_stdin() -> None:
    while os.read(0, 1 << 12):
        pass
    os._exit(1)
