"""Writing files so that a reader finds the old one or the whole new one, never a part."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from open_r1.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Writes ``path`` by renaming a finished file onto it, so that a crash leaves no torn file."""
    with replacing(path, path.with_name(f".{path.name}.{os.getpid()}.partial")) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def replacing(path: Path, partial: Path) -> Iterator[BinaryIO]:
    """``partial``, to be written: once it is on the disk it takes the place of ``path``; a failure leaves nothing."""
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:  # a full disk: what is left of it would only fill that further
        partial.unlink(missing_ok=True)
        raise


def make_output_folder(folder: Path, setting: str) -> None:
    """Makes ``folder``, and tries to write into it, before anything is done that would be lost otherwise.

    Args:
        setting: of the person's that names it, for the message.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{setting} {folder} cannot be used ({reason}): name a folder that you may write to") from error


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None where there is no file, or it is torn or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def folder_name(label: str) -> str:
    """A label as the name of a folder on any system: ``gpqa:diamond`` is ``gpqa-diamond``."""
    return re.sub(r"[^\w.+-]", "-", label)


def cache_folder(name: str) -> Path:
    """``$OPEN_R1_CACHE/NAME``, or ``~/.cache/open_r1/NAME``: where what can be made again is kept."""
    return Path(os.environ.get("OPEN_R1_CACHE", "~/.cache/open_r1")).expanduser() / name
