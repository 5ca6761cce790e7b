"""One pipeline at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from open_r1.errors import UserError


@contextmanager
def folder_lock(folder: Path) -> Iterator[int]:
    """Holds ``folder`` for this process; yields the lock's file descriptor.

    A stage's process inherits the descriptor, so the folder stays taken while a stage still saves, even if the pipeline
    itself was killed. The kernel gives the lock back when the last of them ends: a lock is never stale.

    Raises:
        UserError: somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"{folder} is in use by another pipeline or a stage that it started (process {holder}): "
                "wait until it ends, or choose another --output_dir"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()
