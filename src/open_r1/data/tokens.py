"""Tokens on disk, under a key of what they were made from: rows, tokenizer, template."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from open_r1.data.bad_rows import BadRow, BadRows
from open_r1.data.columns import Columns, to_messages
from open_r1.data.fingerprint import token_key
from open_r1.data.token_files import INDEX, MASK, META, TOKENS, Meta, TokenWriter, read_meta
from open_r1.data.tokenizing import tokenize_rows
from open_r1.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from open_r1.data.chat import ChatFormat


@dataclass(frozen=True)
class TokenStore:
    """Tokenized sequences, memory-mapped.

    Attributes:
        input_ids: int32 [tokens], all sequences end to end.
        loss_mask: uint8 [tokens], 1 where a token is to be predicted.
        offsets: int64 [N + 1]: sequence i is ``input_ids[offsets[i]:offsets[i + 1]]``.
        rows: int64 [N], the row that each sequence came from.
        targets: int64 [N, 2], the first target of each sequence and the end of its last.
        bad_rows: what was left out.
        cached: the tokens were found, not made.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    bad_rows: BadRows
    cached: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """``input_ids`` and ``loss_mask`` of one sequence, as views of the mapped files."""
        span = slice(self.offsets[index], self.offsets[index + 1])
        return self.input_ids[span], self.loss_mask[span]

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N], tokens of each sequence."""
        return np.diff(self.offsets)


def default_cache_dir() -> Path:
    """``$OPEN_R1_CACHE/tokens``, or ``~/.cache/open_r1/tokens``."""
    return Path(os.environ.get("OPEN_R1_CACHE", "~/.cache/open_r1")).expanduser() / "tokens"


def tokenize(
    rows: Dataset,
    chat: ChatFormat,
    columns: Columns,
    *,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    strict: bool = False,
    max_bad_rows_shown: int = 5,
    console: Console | None = None,
) -> TokenStore:
    """The tokens of all rows, from the cache or made now.

    Safe to call from several processes at once: one makes the tokens, the others wait for it. What was made before a
    process was killed is made use of by the next.

    Args:
        cache_dir: None means `default_cache_dir`.
        num_proc: processes; None takes one a core.
        strict: a bad row stops the run.
        max_bad_rows_shown: indices shown for each reason.
        console: where progress and bad rows are shown; None shows nothing.

    Raises:
        UserError: no rows, all of them bad, one of them bad under ``strict``, or the cache cannot be written.
    """
    console = console or Console(quiet=True)
    folder = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    if not len(rows):
        raise UserError("there are no rows to tokenize")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        final = folder / token_key(rows, chat, columns)
        store = _open(final, strict, max_bad_rows_shown)
        if store is None:
            with _lock(final.with_suffix(".lock")):
                store = _open(final, strict, max_bad_rows_shown)
                if store is None:
                    _make(final, rows, chat, columns, num_proc, BadRows(strict, max_bad_rows_shown), console)
                    store = _open(final, strict, max_bad_rows_shown, cached=False)
    except OSError as error:
        raise UserError(
            f"the token cache {folder} cannot be used ({error.strerror or error}): free space, or set --token_cache_dir"
        ) from error
    store.bad_rows.report(console, len(rows))
    return store


def sample_lengths(rows: Dataset, chat: ChatFormat, columns: Columns, *, size: int = 256, seed: int = 0) -> np.ndarray:
    """Lengths in tokens, int64 [≤ size], of a seeded sample of the rows; bad rows are left out."""
    chosen = np.random.default_rng(seed).choice(len(rows), min(size, len(rows)), replace=False)
    rendered = []
    for row in rows.select_columns(columns.conversation).select(np.sort(chosen)):
        try:
            rendered.append(chat.render(to_messages(row, columns)))
        except BadRow:
            continue
    return np.array([len(encoded.input_ids) for encoded in chat.encode(rendered)], np.int64)


def _make(
    final: Path, rows: Dataset, chat: ChatFormat, columns: Columns, num_proc: int | None, bad: BadRows, console: Console
) -> None:
    """Writes the tokens beside ``final``, going on where a killed process stopped, and moves them there by one rename.

    If it stops at a bad row, what is written stays for the next start.
    """
    with TokenWriter(final.with_suffix(".partial"), bad) as writer:
        for chunk in tokenize_rows(rows, chat, columns, start=writer.rows, num_proc=num_proc, console=console):
            writer.write(chunk)
        bad.raise_if_all(len(rows))
        writer.finish()
    if final.exists():  # torn: `_open` has refused it
        shutil.rmtree(final)
    os.replace(writer.folder, final)


def _open(folder: Path, strict: bool, shown: int, cached: bool = True) -> TokenStore | None:
    """The store in ``folder``; None if there is none or it is not whole."""
    meta = read_meta(folder / META)
    if meta is None or not _whole(folder, meta):
        return None
    bad_rows = BadRows(strict, shown)
    bad_rows.restore(meta.bad_rows)
    index = np.load(folder / INDEX)
    return TokenStore(
        input_ids=np.load(folder / TOKENS, mmap_mode="r"),
        loss_mask=np.load(folder / MASK, mmap_mode="r"),
        offsets=np.concatenate([[0], np.cumsum(index[:, 1])]),
        rows=index[:, 0],
        targets=index[:, 2:],
        bad_rows=bad_rows,
        cached=cached,
    )


def _whole(folder: Path, meta: Meta) -> bool:
    return all((folder / name).exists() and (folder / name).stat().st_size == size for name, size in meta.sizes.items())


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process of this machine at a time; it ends with the process, however that ends."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
