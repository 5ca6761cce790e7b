"""Rows to be tokenized, wherever they lie: read in order, in pieces whose size is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from open_r1.data.unreadable import why_unreadable
from open_r1.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

PIECE_ROWS = 512
"""Rows that are read, encoded and written at a time: some ten megabytes of long traces."""

PIECE_BYTES = 16 << 20
"""A piece of more than that is halved until its parts are smaller, or single rows."""

SAMPLED_GROUPS = 8

Piece = pa.Table | list[dict[str, Any]]
"""Consecutive rows; as Python objects where Arrow's types do not say all that the rows hold."""


class Rows(Protocol):
    """What `tokenize` reads. Its text says how many rows there are, and where.

    Attributes:
        column_names: the columns.
        count: how many rows there are; None where that is known only when all are read.
    """

    column_names: list[str]
    count: int | None

    def content_hash(self, columns: Sequence[str]) -> str:
        """Equal for equal content of ``columns`` in the same files, another for any other content."""

    def pieces(self, columns: Sequence[str], start: int = 0) -> Iterator[Piece]:
        """The rows from ``start`` on, in order."""

    def sample(self, columns: Sequence[str], size: int, seed: int = 0) -> list[dict[str, Any]]:
        """At most ``size`` seeded rows."""


class DatasetRows:
    """The rows of a `datasets.Dataset`; their hash does not depend on where they lie."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.column_names: list[str] = dataset.column_names
        self.count = len(dataset)

    def __len__(self) -> int:
        return self.count

    def __str__(self) -> str:
        return f"{len(self):,} rows"

    def content_hash(self, columns: Sequence[str]) -> str:
        """Over Arrow's buffers of all rows; see `Rows`."""
        sink = _HashSink()
        for table in self._dataset.select_columns(list(columns)).with_format("arrow").iter(PIECE_ROWS):
            # Taking all rows copies them into buffers of their own: a slice brings along bits of its neighbours.
            whole = table.replace_schema_metadata(None).take(pa.array(range(len(table)))).combine_chunks()
            with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), whole.schema) as stream:
                stream.write_table(whole)
        return sink.hash.hexdigest()

    def pieces(self, columns: Sequence[str], start: int = 0) -> Iterator[Piece]:
        """As `Rows.pieces`."""
        chosen = self._dataset.select_columns(list(columns))
        if _needs_decoding(str(chosen.features)):
            for first in range(start, len(chosen), PIECE_ROWS):
                yield _as_rows(chosen.with_format(None)[first : first + PIECE_ROWS])
        else:
            arrow = chosen.with_format("arrow")
            for first in range(start, len(chosen), PIECE_ROWS):
                yield from _small(arrow[first : first + PIECE_ROWS])

    def sample(self, columns: Sequence[str], size: int, seed: int = 0) -> list[dict[str, Any]]:
        """As `Rows.sample`."""
        chosen = np.random.default_rng(seed).choice(len(self), min(size, len(self)), replace=False)
        return list(self._dataset.select_columns(list(columns)).with_format(None).select(np.sort(chosen)))


class ParquetRows:
    """The rows of Parquet files, read straight from them; their hash is that of the files.

    Raises:
        UserError: a file is no Parquet, or has other columns than the first.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self.column_names = parquet_columns(self._files[0])
        for path in self._files[1:]:
            if sorted(names := parquet_columns(path)) != sorted(self.column_names):
                raise UserError(f"{path} has the columns {names}, {self._files[0]} {self.column_names}")
        self._counts = [parquet_count(path) for path in self._files]
        self.count = sum(self._counts)

    def __len__(self) -> int:
        return self.count

    def __str__(self) -> str:
        return f"{len(self):,} rows"

    def content_hash(self, columns: Sequence[str]) -> str:
        """Over the bytes of the files; see `Rows`."""
        with ThreadPoolExecutor(4) as pool:
            return " ".join([*pool.map(file_hash, self._files), *columns])

    def pieces(self, columns: Sequence[str], start: int = 0) -> Iterator[Piece]:
        """As `Rows.pieces`."""
        for path, count in zip(self._files, self._counts, strict=True):
            if start < count:
                yield from parquet_pieces(path, columns, start)
            start = max(0, start - count)

    def sample(self, columns: Sequence[str], size: int, seed: int = 0) -> list[dict[str, Any]]:
        """As `Rows.sample`, from a few groups of rows."""
        return parquet_sample(self._files, columns, size, seed)


def parquet_pieces(path: Path, columns: Sequence[str], start: int = 0) -> Iterator[pa.Table]:
    """The rows of one file from ``start`` on, a few at a time however large its groups of rows are.

    Raises:
        UserError: it lacks a column, or cannot be read.
    """
    with _open(path) as file:
        there = file.schema_arrow.names
        if absent := [name for name in columns if name not in there]:
            raise UserError(f"{path} has no column {absent[0]!r}, as the files before it have; its columns are {there}")
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        counts = [group.num_rows for group in groups]
        first = int(np.searchsorted(np.cumsum(counts), start, side="right"))
        skip = start - sum(counts[:first])
        row_bytes = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
        size = max(1, min(PIECE_ROWS, PIECE_BYTES // max(row_bytes, 1)))  # fewer of longer rows
        for batch in _batches(path, file, size, range(first, len(groups)), columns):
            if skip < len(batch):
                yield from _small(pa.Table.from_batches([batch.slice(skip)]).select(list(columns)))
            skip = max(0, skip - len(batch))


def parquet_sample(files: Sequence[Path], columns: Sequence[str], size: int, seed: int) -> list[dict[str, Any]]:
    """Seeded rows, from the beginnings of a few seeded groups of rows; of more groups where these are small."""
    rng = np.random.default_rng(seed)
    groups = [(path, group) for path in files for group in range(_group_count(path))]
    rows: list[dict[str, Any]] = []
    for number, chosen in enumerate(rng.permutation(len(groups))):
        if len(rows) == size:
            break
        path, group = groups[chosen]
        share = -(-(size - len(rows)) // max(1, min(SAMPLED_GROUPS, len(groups)) - number))
        with _open(path) as file, closing(_batches(path, file, 2 * share, [group], columns)) as batches:
            for batch in islice(batches, 1):
                taken = np.sort(rng.choice(len(batch), min(share, len(batch)), replace=False))
                rows += to_rows(batch.take(pa.array(taken)))
    return rows


def to_rows(piece: Piece | pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a piece as Python objects, without the nulls that Arrow has put into calls of tools.

    A struct has the same fields in all rows, so that a call would have the arguments of all functions there are.
    """
    if isinstance(piece, list):
        return piece
    rows = piece.to_pylist()
    if "tool_calls" not in str(piece.schema):
        return rows
    return [{name: _without_nulls(value) for name, value in row.items()} for row in rows]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def parquet_columns(path: Path) -> list[str]:
    """The columns of a file."""
    with _open(path) as file:
        return file.schema_arrow.names


def _group_count(path: Path) -> int:
    with _open(path) as file:
        return file.num_row_groups


def parquet_count(path: Path) -> int:
    """The rows of a file."""
    with _open(path) as file:
        return file.metadata.num_rows


def file_hash(path: Path) -> str:
    """xxh3 of the bytes of a file, 32 hexadecimal digits."""
    hasher, block = xxhash.xxh3_128(), bytearray(4 << 20)
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            hasher.update(memoryview(block)[:read])
    return hasher.hexdigest()


def reads_as_it_is(path: Path) -> bool:
    """Whether a Parquet file's own types say all that its rows hold."""
    with _open(path) as file:
        features = (file.schema_arrow.metadata or {}).get(b"huggingface", b"").decode()
        return not _needs_decoding(features) and "extension<" not in str(file.schema_arrow)


def _needs_decoding(features: str) -> bool:
    """Whether the features of the datasets library, as text, hold JSON inside strings."""
    return "Json" in features


def _open(path: Path) -> pq.ParquetFile:
    with _one_line(path):
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _batches(
    path: Path, file: pq.ParquetFile, size: int, groups: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Some groups of rows, ``size`` rows at a time."""
    with _one_line(path):
        for batch in file.iter_batches(size, row_groups=groups, columns=list(columns)):
            batch.validate(full=True)  # that all text is UTF-8: nobody has looked
            yield batch


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """What reading a file raises, as a UserError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        gist = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: {why_unreadable(path) or gist[:300]}") from error


def _small(table: pa.Table) -> Iterator[pa.Table]:
    if table.nbytes <= PIECE_BYTES or len(table) < 2:
        yield table
        return
    yield from _small(table.slice(0, len(table) // 2))
    yield from _small(table.slice(len(table) // 2))


def _as_rows(batch: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


class _HashSink:
    """A file that only hashes what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.hash = xxhash.xxh3_128()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""
