"""Of the processes of one launch on one machine, the first that fails speaks; the others are consequences of it."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from open_r1.parallel.launch_environment import launch_name, launched_rank

_LATE = 60.0
"""Seconds by which ranks of one launch may start apart from each other."""

Turn = Literal["first", "same", "other"]


@dataclass(frozen=True)
class Rank:
    """This process among those of its launch.

    Attributes:
        launch: a name that all of them share.
        started: seconds since the epoch.
    """

    number: int = field(default_factory=lambda: launched_rank()[0])
    of: int = field(default_factory=lambda: launched_rank()[1])
    launch: str = field(default_factory=launch_name)
    started: float = field(default_factory=time.time)

    def turn(self, text: str) -> Turn:
        """Whether ``text`` is the first that a process of this launch says, or has been said, or neither."""
        if self.of == 1:
            return "first"
        try:
            return self._take(text)
        except OSError:  # better twice than never
            return "first"

    def _take(self, text: str) -> Turn:
        said = Path(tempfile.gettempdir()) / f".open-r1-said-{os.getuid()}-{self.launch}"
        with suppress(FileNotFoundError):
            if said.stat().st_mtime < self.started - _LATE:  # of a launch that had the same name by chance
                said.unlink()
        mine = said.with_name(f"{said.name}-{self.number}")
        mine.write_text(text, encoding="utf-8")
        try:
            os.link(mine, said)
        except FileExistsError:
            return "same" if said.read_text(encoding="utf-8", errors="replace") == text else "other"
        finally:
            mine.unlink()
        return "first"
