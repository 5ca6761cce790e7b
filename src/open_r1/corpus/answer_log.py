"""An append-only JSONL file of answers, from which a second start learns what is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from open_r1.errors import UserError
from open_r1.files import replacing

Record = dict[str, Any]
Key = tuple[str, int]
"""Id of the prompt, and sample."""

_TAIL = 1 << 16


class AnswerLog:
    """Appends one line an answer; a context manager. A line is on disk, whole, once `append` returns.

    A last line that was torn when a run was killed is dropped on opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        self._file = path.open("ab")

    def __enter__(self) -> AnswerLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Harmless when repeated."""
        self._file.close()

    def append(self, record: Record) -> None:
        """Writes ``record``, which has at least ``id`` and ``sample``."""
        self._file.write(_line(record))
        self._file.flush()


def key_of(record: Mapping[str, Any]) -> Key:
    """Which answer it is."""
    return record["id"], record["sample"]


def read_log(path: Path) -> Iterator[tuple[int, Record]]:
    """The offset in bytes and the content of each line.

    Raises:
        UserError: a line is not an answer.
    """
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                key_of(record)
            except (ValueError, TypeError, KeyError):
                raise UserError(
                    f"{path}: line {number} is not an answer of open-r1 generate; mend it, choose another --output, "
                    "or start anew with --overwrite_output"
                ) from None
            yield offset, record
            offset += len(line)


def drop_torn_line(path: Path) -> None:
    """Cuts ``path`` after its last newline; nothing happens where there is no such file."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        whole = 0
        for start in range(end, 0, -_TAIL):
            begin = max(0, start - _TAIL)
            file.seek(begin)
            newline = file.read(start - begin).rfind(b"\n")
            if newline >= 0:
                whole = begin + newline + 1
                break
        if whole < end:
            file.truncate(whole)


def sort_log(path: Path, order: Mapping[str, int]) -> None:
    """Puts the lines in the order of their prompts and samples, by one rename; prompts not in ``order`` come last.

    Answers arrive in the order in which they were finished, which differs after a resumption; sorted, the file is the
    same however often the run was stopped. Of lines of the same answer the first stays.
    """
    last = max(order.values(), default=0) + 1
    offsets: dict[Key, int] = {}
    repeated = False
    for offset, record in read_log(path):
        repeated |= offsets.setdefault(key_of(record), offset) != offset
    lines = [((order.get(prompt, last), sample), offset) for (prompt, sample), offset in offsets.items()]
    if not repeated and all(before[0] <= after[0] for before, after in pairwise(lines)):
        return
    with path.open("rb") as source:
        _rewrite(path, (_line_at(source, offset) for _, offset in sorted(lines)))


def revise_log(path: Path, revised: Mapping[Key, Mapping[str, Any] | None]) -> None:
    """Gives the answers in ``revised`` those fields, or takes them out where they are None, by one rename.

    Of lines of the same answer the first stays.
    """

    def lines(source: BinaryIO) -> Iterator[bytes]:
        seen = set()
        for offset, record in read_log(path):
            key = key_of(record)
            fields = revised.get(key, {})
            if fields is None or key in seen:
                continue
            seen.add(key)
            yield _line(record | fields) if fields else _line_at(source, offset)

    with path.open("rb") as source:
        _rewrite(path, lines(source))


def _rewrite(path: Path, lines: Iterable[bytes]) -> None:
    with replacing(path, path.with_name(f".{path.name}.partial")) as target:
        target.writelines(lines)


def _line(record: Mapping[str, Any]) -> bytes:
    # Half of a surrogate pair, which a server's JSON can carry and UTF-8 cannot, becomes "?".
    return json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"


def _line_at(source: BinaryIO, offset: int) -> bytes:
    source.seek(offset)
    return source.readline()
