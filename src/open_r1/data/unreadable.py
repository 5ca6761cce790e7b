"""Why a data file cannot be read, where what a library says of it does not help."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_SEARCHED = 4 << 30
"""Bytes of a file that is searched for the line; it goes at some hundred megabytes a second."""


def why_unreadable(path: Path) -> str | None:
    """A sentence on what is wrong with a file and what to do, or None where it is nothing known here."""
    try:
        if _is_pointer(path):
            return "it is a pointer of Git LFS, not the data: run `git lfs pull` in its repository"
        return _bad_line(path) if ".jsonl" in path.suffixes and path.stat().st_size <= _LARGEST_SEARCHED else None
    except (EOFError, zlib.error):
        return "its end is missing or torn: copy or download it again"
    except OSError:
        return None


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _bad_line(path: Path) -> str | None:
    """The first line that is no JSON, and whether it is the last."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    json.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            except UnicodeDecodeError:
                return f"line {number:,} is not text in UTF-8: convert the file"
            except (ValueError, RecursionError):
                if file.read(1):
                    return f"line {number:,} is not JSON: mend or remove it"
                return f"line {number:,}, the last, is not JSON: the file was cut; write it anew, or remove that line"
    return None
