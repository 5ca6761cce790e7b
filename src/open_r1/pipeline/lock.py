"""One pipeline at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from open_r1.files import make_output_folder
from open_r1.locks import take


@contextmanager
def folder_lock(folder: Path) -> Iterator[int]:
    """Holds ``folder`` for this process; yields the lock's file descriptor.

    A stage's process inherits the descriptor, so the folder stays taken while a stage still saves, even if the pipeline
    itself was killed.

    Raises:
        UserError: somebody else holds it, or it cannot be made or written.
    """
    make_output_folder(folder, "output_dir")
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        take(
            file,
            f"{folder} is in use by another pipeline or a stage that it started ({{holder}}): "
            "wait until it ends, or choose another --output_dir",
        )
        yield file.fileno()
