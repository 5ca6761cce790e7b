"""The files of tokenized data: written in pieces, so that what a killed process has written is not lost."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy

from open_r1.data.bad_rows import BadRows
from open_r1.data.tokenizing import Chunk
from open_r1.files import read_json, write_json

TOKENS, MASK, INDEX, META, JOURNAL = "input_ids.npy", "loss_mask.npy", "index.npy", "meta.json", "journal.json"

ARRAYS: dict[str, tuple[str, int]] = {TOKENS: ("<i4", 1), MASK: ("|u1", 1), INDEX: ("<i8", 4)}
"""Element type and columns of each file; a row of the index is (row, length, first target, end of last target)."""


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


class TokenWriter:
    """Appends chunks to the files in ``folder``; a journal, replaced after each chunk, says how much of them is whole.

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
        if journal is not None:
            bad_rows.restore(journal.bad_rows)
        self.rows = journal.rows if journal is not None else 0
        self._sequences = journal.sequences if journal is not None else 0
        self._tokens = journal.tokens if journal is not None else 0
        self._files: dict[str, BinaryIO] = {}
        for name in ARRAYS:
            path = folder / name
            self._files[name] = path.open("r+b" if path.exists() else "w+b")
            if journal is None:
                self._write_header(name)
            self._files[name].truncate(journal.sizes[name] if journal is not None else self._files[name].tell())
            self._files[name].seek(0, os.SEEK_END)

    def write(self, chunk: Chunk) -> None:
        """Appends one chunk.

        Raises:
            UserError: it has a bad row and ``strict`` is set; nothing of it is written.
        """
        for row, reason in chunk.bad:
            self._bad_rows.add(row, reason)
        for name, array in ((TOKENS, chunk.input_ids), (MASK, chunk.loss_mask), (INDEX, chunk.index)):
            self._files[name].write(np.ascontiguousarray(array, ARRAYS[name][0]).data)
            self._files[name].flush()
        self.rows += chunk.rows
        self._sequences += len(chunk.index)
        self._tokens += len(chunk.input_ids)
        write_json(self.folder / JOURNAL, asdict(self._meta()))

    def finish(self) -> None:
        """Writes the headers and `Meta`; everything is on disk when it returns."""
        for name, file in self._files.items():
            self._write_header(name)
            file.flush()
            os.fsync(file.fileno())
        write_json(self.folder / META, asdict(self._meta()))
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def _write_header(self, name: str) -> None:
        """An .npy header; numpy leaves room in it for the first dimension to grow, so its size is always the same."""
        dtype, columns = ARRAYS[name]
        count = self._tokens if columns == 1 else self._sequences
        shape = (count,) if columns == 1 else (count, columns)
        self._files[name].seek(0)
        npy.write_array_header_1_0(self._files[name], {"descr": dtype, "fortran_order": False, "shape": shape})

    def _meta(self) -> Meta:
        sizes = {name: _size(self.folder / name) for name in ARRAYS}
        return Meta(self.rows, self._sequences, self._tokens, sizes, self._bad_rows.to_json())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
