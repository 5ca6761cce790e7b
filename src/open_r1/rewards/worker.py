"""A process that computes rewards: ``python -m open_r1.rewards.worker FD PAGE PARENT NICE``, started by a RewardPool.

It speaks pickled tuples over the socket FD. It first receives (search path, reward specs) and answers ("ready",
traits) or ("broken", what is wrong). Then, for each job (completions, columns, calls), where a call is (function,
indices of answers), it sends one ``Outcome`` a call in order, many in one list. Before each call it notes its number
and the time in the shared PAGE, so that the pool knows which one is running when it has to kill this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from open_r1.errors import UserError
from open_r1.rewards.call import Outcome, call_reward, traits_of
from open_r1.rewards.progress import Progress
from open_r1.rewards.time_limit import leave_time_limits_to_the_pool

_PR_SET_PDEATHSIG = 1

SECONDS_HELD_BACK = 0.01
"""How old an outcome may grow before it is sent, and so how much is done again when this process is killed."""


def main(argv: Sequence[str]) -> None:
    """Serves jobs until the pool closes the socket or dies."""
    _die_with(parent=int(argv[2]))
    os.nice(int(argv[3]))
    connection, progress = Connection(int(argv[0])), Progress(int(argv[1]))
    try:
        functions = _build(connection)
        while functions:
            _serve(functions, connection, progress, *connection.recv())
    except (EOFError, ConnectionError):
        return


def _serve(
    functions: Sequence[Callable[..., Any]],
    connection: Connection,
    progress: Progress,
    completions: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    calls: Sequence[tuple[int, Sequence[int]]],
) -> None:
    outcomes: list[Outcome] = []
    sent = time.monotonic()
    for number, (function, answers) in enumerate(calls):
        progress.begin(number)
        subset = {name: [values[answer] for answer in answers] for name, values in columns.items()}
        outcomes.append(call_reward(functions[function], [completions[answer] for answer in answers], subset))
        now = time.monotonic()
        if now - sent > SECONDS_HELD_BACK or number == len(calls) - 1:
            connection.send(outcomes)
            outcomes, sent = [], now


def _build(connection: Connection) -> list[Callable[..., Any]]:
    search_path, specs = connection.recv()
    sys.path[:] = search_path
    try:
        functions = [spec.build() for spec in specs]
    except UserError as error:
        connection.send(("broken", str(error)))
        return []
    connection.send(("ready", [traits_of(spec, function) for spec, function in zip(specs, functions, strict=True)]))
    return functions


def _die_with(parent: int) -> None:
    """Leaves no orphan and no core file, and lets the trainer rather than Ctrl-C or a terminal that is closed decide
    when this process ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    leave_time_limits_to_the_pool()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # A process that is stuck in C code never sees that its socket was closed: the kernel kills it with its parent.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # When memory runs out it is the hostile expression that goes, not the trainer.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
