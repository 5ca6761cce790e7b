"""The files of tokenized data: written in pieces, so that what a killed process has written is not lost."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy

from open_r1.data.bad_rows import BadRows
from open_r1.files import read_json, write_json

SYNC_TOKENS = 32 << 20
"""After so many tokens what is written is made safe, and the journal says so: what a kill costs at most."""

AHEAD_BYTES = 64 << 20
"""Room is allocated by so much; growing a file with each write is several times slower."""

TOKENS, MASK, INDEX, META, JOURNAL = "input_ids.npy", "loss_mask.npy", "index.npy", "meta.json", "journal.json"

ARRAYS: dict[str, tuple[str, int]] = {TOKENS: ("<i4", 1), MASK: ("|u1", 1), INDEX: ("<i8", 4)}
"""Element type and columns of each file; a row of the index is (row, length, first target, end of last target)."""


@dataclass(frozen=True)
class Chunk:
    """What some consecutive rows have become.

    Attributes:
        rows: how many rows.
        tokens: tokens of all their sequences.
        index: int64 [N, 4]: row, length, first target, end of the last target.
        bad: (row, reason) of those that could not be used.
    """

    rows: int
    tokens: int
    index: np.ndarray
    bad: list[tuple[int, str]]


@dataclass(frozen=True)
class Meta:
    """What the files hold.

    Attributes:
        rows: rows that were read, bad ones included.
        sequences, tokens: counts.
        sizes: bytes of each file; another size means a torn one.
        bad_rows: `BadRows.to_json`.
    """

    rows: int
    sequences: int
    tokens: int
    sizes: dict[str, int]
    bad_rows: dict[str, Any]


def read_meta(path: Path) -> Meta | None:
    """The `Meta` in ``path``; None if there is none."""
    saved = read_json(path)
    try:
        return None if saved is None else Meta(**saved)
    except TypeError:
        return None


class TokenFiles:
    """The two large files, into which several processes write at once, each at its own place."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: (folder / name).open("r+b", buffering=0) for name in (TOKENS, MASK)}
        self._allocated = 0

    def put(self, place: int, input_ids: np.ndarray, loss_mask: np.ndarray) -> None:
        """Writes both from token ``place`` on."""
        for name, array in ((TOKENS, input_ids), (MASK, loss_mask)):
            left = memoryview(np.ascontiguousarray(array, ARRAYS[name][0])).cast("B")
            byte = _bytes(name, place)
            while left:
                written = os.pwrite(self._files[name].fileno(), left, byte)
                left, byte = left[written:], byte + written

    def allocate(self, tokens: int) -> None:
        """Makes sure of room for ``tokens`` tokens, where the file system can.

        Raises:
            OSError: the disk is full.
        """
        if tokens > self._allocated and hasattr(os, "posix_fallocate"):
            self._allocated = tokens + AHEAD_BYTES // 4
            for name, file in self._files.items():
                with suppress(NotImplementedError):
                    os.posix_fallocate(file.fileno(), 0, _bytes(name, self._allocated))

    def sync(self) -> None:
        """Returns when all is on disk."""
        for file in self._files.values():
            os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())

    def close(self, tokens: int | None = None) -> None:
        """Closes the files, cut to ``tokens`` tokens if that is given."""
        for name, file in self._files.items():
            if tokens is not None:
                file.truncate(_bytes(name, tokens))
            file.close()


class TokenWriter:
    """Gathers chunks in ``folder``; a journal says how much of them is whole and safe.

    Args:
        folder: made if it is not there; what a killed writer left in it is taken over.
        bad_rows: takes over the bad rows found before, and those of each chunk.

    Attributes:
        rows: rows that are done, counted from the first.
    """

    def __init__(self, folder: Path, bad_rows: BadRows) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._bad_rows = bad_rows
        journal = read_meta(folder / JOURNAL)
        if journal is not None and any(_size(folder / name) < size for name, size in journal.sizes.items()):
            journal = None
        if journal is None:
            journal = Meta(0, 0, 0, {}, bad_rows.to_json())
            for name in ARRAYS:
                (folder / name).write_bytes(_header(name, 0))
        bad_rows.restore(journal.bad_rows)
        self.rows, self._sequences, self._tokens = journal.rows, journal.sequences, journal.tokens
        self._reserved = self._safe = self._tokens
        self.files = TokenFiles(folder)
        self._index = (folder / INDEX).open("r+b")
        self._index.truncate(_bytes(INDEX, self._sequences))
        self._index.seek(0, os.SEEK_END)

    def reserve(self, tokens: int) -> int:
        """The place for the tokens of the next chunk, as `TokenFiles.put` takes it."""
        place = self._reserved
        self._reserved += tokens
        self.files.allocate(self._reserved)
        return place

    def commit(self, chunk: Chunk) -> None:
        """Takes up the next chunk, whose tokens have been put in their place.

        Raises:
            UserError: it has a bad row and ``strict`` is set.
        """
        for row, reason in chunk.bad:
            self._bad_rows.add(row, reason)
        self._index.write(np.ascontiguousarray(chunk.index, ARRAYS[INDEX][0]).data)
        self.rows += chunk.rows
        self._sequences += len(chunk.index)
        self._tokens += chunk.tokens
        if self._tokens - self._safe >= SYNC_TOKENS:
            self._save()

    def finish(self) -> None:
        """Writes the headers and `Meta`; everything is on disk when it returns."""
        self.files.close(self._tokens)
        self._index.close()
        for name in ARRAYS:
            with (self.folder / name).open("r+b") as file:
                file.write(_header(name, self._count(name)))
                file.flush()
                os.fsync(file.fileno())
        write_json(self.folder / META, asdict(self._meta()))
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None and not self._index.closed:
            with suppress(OSError):
                self._save()
        self.files.close()
        self._index.close()

    def _save(self) -> None:
        self._index.flush()
        os.fsync(self._index.fileno())
        self.files.sync()
        write_json(self.folder / JOURNAL, asdict(self._meta()))
        self._safe = self._tokens

    def _count(self, name: str) -> int:
        return self._sequences if name == INDEX else self._tokens

    def _meta(self) -> Meta:
        sizes = {name: _bytes(name, self._count(name)) for name in ARRAYS}
        return Meta(self.rows, self._sequences, self._tokens, sizes, self._bad_rows.to_json())


def _header(name: str, count: int) -> bytes:
    """An .npy header; numpy leaves room in it for the first dimension to grow, so its size is always the same."""
    dtype, columns = ARRAYS[name]
    file, shape = io.BytesIO(), (count,) if columns == 1 else (count, columns)
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _bytes(name: str, count: int) -> int:
    """The size of a file with ``count`` entries, and so where the next one goes."""
    dtype, columns = ARRAYS[name]
    return len(_header(name, 0)) + count * columns * np.dtype(dtype).itemsize


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
