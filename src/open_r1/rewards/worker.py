"""A process that computes rewards: ``python -m open_r1.rewards.worker FD PARENT``, started by a RewardPool.

It speaks pickled tuples over the socket FD. It first receives (search path, reward specs) and answers ("ready",
scopes) or ("broken", what is wrong). Then, for each job (completions, columns, chunks), where a chunk is (function,
indices of answers), it sends one ``Outcome`` a chunk, so that the pool knows which one is running when it has to kill
this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from open_r1.errors import UserError
from open_r1.rewards.call import call_reward
from open_r1.rewards.spec import RewardSpec
from open_r1.rewards.time_limit import leave_time_limits_to_the_pool

_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str]) -> None:
    """Serves jobs until the pool closes the socket or dies."""
    _die_with(parent=int(argv[1]))
    connection = Connection(int(argv[0]))
    try:
        functions = _build(connection)
        while functions:
            completions, columns, chunks = connection.recv()
            for index, answers in chunks:
                subset = {name: [values[answer] for answer in answers] for name, values in columns.items()}
                connection.send(call_reward(functions[index], [completions[answer] for answer in answers], subset))
    except (EOFError, ConnectionError):
        return


def _build(connection: Connection) -> list[Callable[..., Any]]:
    search_path, specs = connection.recv()
    sys.path[:] = search_path
    try:
        functions = [spec.build() for spec in specs]
    except UserError as error:
        connection.send(("broken", str(error)))
        return []
    connection.send(("ready", _scopes(specs, functions)))
    return functions


def _scopes(specs: Sequence[RewardSpec], functions: Sequence[Callable[..., Any]]) -> list[str]:
    return [spec.scope_of(function) for spec, function in zip(specs, functions, strict=True)]


def _die_with(parent: int) -> None:
    """Leaves no orphan and no core file, and lets the trainer rather than Ctrl-C decide when this process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
