"""A home folder in which nobody has set anything, and a data disk, for tests of what is kept on a machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from open_r1.machine.caches import KINDS
from open_r1.machine.home import APPLIED


@contextmanager
def own_home(folder: Path) -> Iterator[Path]:
    """``folder/home`` as HOME, without a variable that moves a cache; the environment is put back in the end."""
    before = dict(os.environ)
    movers = {name for kind in KINDS for name in (kind.variable, *kind.also)}
    for name in movers | {APPLIED, "XDG_CACHE_HOME", "XDG_DATA_HOME"}:
        os.environ.pop(name, None)
    home = folder / "home"
    home.mkdir()
    os.environ.update(HOME=str(home), OPEN_R1_HOME=str(home / "settings"))
    try:
        yield home
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose name is as short as that of a mount, so that sockets fit in it."""
    folder = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
