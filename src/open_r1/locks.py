"""Files that a process holds while it works, so that a second start neither mixes with it nor waits unknowing.

The kernel gives a lock back when the last process that has the file open ends: a lock is never stale. On a file system
without locks nobody is refused.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from open_r1.errors import UserError

_TRIES = 1000
"""Openings of a file that others go on removing."""


def take(file: TextIO, refusal: str | None) -> None:
    """Locks an open file (mode ``a+``) until it is closed, and writes this process's id into it.

    Args:
        refusal: what to say where somebody else holds it, with ``{holder}`` for that process; None waits instead.

    Raises:
        UserError: ``refusal``.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        raise UserError(refusal.replace("{holder}", f"process {holder}")) from None
    except OSError:  # a network disk without locks
        return
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


@contextmanager
def held(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Holds ``path``, a file made for that and removed at the end.

    Args:
        refusal: as `take`'s.

    Raises:
        UserError: ``refusal``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _taken(path, refusal):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _taken(path: Path, refusal: str | None) -> TextIO:
    for _ in range(_TRIES):
        file = path.open("a+", encoding="utf-8")
        try:
            take(file, refusal)
            if _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # whoever held it removed it between our opening and our locking
    return path.open("a+", encoding="utf-8")  # a file system whose files have no lasting number


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
