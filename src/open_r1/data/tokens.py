"""Tokens on disk, under a key of what they were made from: rows, tokenizer, template."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.console import Console

from open_r1.data.bad_rows import BadRow, BadRows
from open_r1.data.columns import Columns, to_messages
from open_r1.data.encoding import Encoder
from open_r1.data.fast_encoding import choose_encoder, fast_version
from open_r1.data.fingerprint import token_key
from open_r1.data.rows import DatasetRows, Rows
from open_r1.data.token_files import INDEX, MASK, META, TOKENS, Meta, TokenWriter, read_meta
from open_r1.data.token_worker import Work
from open_r1.data.tokenizing import tokenize_rows
from open_r1.data.turns import Rendered, render_conversation
from open_r1.errors import UserError
from open_r1.files import cache_folder
from open_r1.machine.disks import disk_of, size_text

if TYPE_CHECKING:
    from datasets import Dataset

    from open_r1.data.chat import ChatFormat

CHECKED_ROWS = 64
"""Rows on which the fast encoder is compared with tokenizers at every run that makes tokens."""
TOKEN_BYTES = 5
"""Of a token in the cache: its id, and whether it is a target."""
ROOMY = 1e11
"""Bytes free from which on it is not asked whether tokens fit: they would be 20 billion."""

EncoderName = Literal["auto", "tokenizers"]


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
        rows_read: rows there were, bad ones included.
        key: of what the tokens were made from (`token_key`); "" where it is not known.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    bad_rows: BadRows
    cached: bool
    rows_read: int = 0
    key: str = ""

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
    return cache_folder("tokens")


def tokenize(
    rows: Rows | Dataset,
    chat: ChatFormat,
    columns: Columns,
    *,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    encoder: EncoderName = "auto",
    strict: bool = False,
    max_bad_rows_shown: int = 5,
    console: Console | None = None,
    report: bool = True,
) -> TokenStore:
    """The tokens of all rows, from the cache or made now.

    Safe to call from several processes at once: one makes the tokens, the others wait for it. What was made before a
    process was killed is made use of by the next.

    Args:
        cache_dir: None means `default_cache_dir`.
        num_proc: processes; None takes what is of use, see `tokenize_rows`.
        encoder: "auto" takes a fast encoder where its ids are sure to be those of tokenizers; the tokens, and so the
            key of the cache, are the same.
        strict: a bad row stops the run.
        max_bad_rows_shown: indices shown for each reason.
        console: where progress and bad rows are shown; None shows nothing. Progress is that of the process that makes
            the tokens, so each of several is to have one.
        report: whether bad rows are shown; of several processes one is to.

    Raises:
        UserError: no rows, all of them bad, one of them bad under ``strict``, the cache cannot be written, or its disk
            is too small.
    """
    console = console or Console(quiet=True)
    folder = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    rows = _as_rows(rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        final = folder / token_key(rows, chat, columns)
        store = _open(final, strict, max_bad_rows_shown)
        if store is None:
            with _lock(final.with_suffix(".lock"), console if report else None):
                store = _open(final, strict, max_bad_rows_shown)
                if store is None:
                    work = Work(columns, chat.template, chat.system_prompt, chat.encoder)
                    if encoder == "auto":
                        work = replace(work, encoder=_checked(rows, work, console))
                    _make(final, rows, work, num_proc, BadRows(strict, max_bad_rows_shown), console)
                    store = _open(final, strict, max_bad_rows_shown, cached=False)
    except OSError as error:
        raise UserError(
            f"the token cache {folder} cannot be used ({error.strerror or error}): free space, or set --token_cache_dir"
        ) from error
    if report:
        store.bad_rows.report(console, store.rows_read)
    return store


def sample_lengths(
    rows: Rows | Dataset,
    chat: ChatFormat,
    columns: Columns,
    *,
    size: int = 256,
    seed: int = 0,
    encoder: EncoderName = "auto",
) -> np.ndarray:
    """Lengths in tokens, int64 [≤ size], of a seeded sample of the rows; bad rows are left out."""
    work = Work(columns, chat.template, chat.system_prompt, chat.encoder)
    chosen = work.encoder
    if encoder == "auto" and chosen.byte_level:
        with suppress(Exception):  # not there, or not for this tokenizer: `tokenize` says so
            chosen = fast_version(chosen)
    rendered = _sample(_as_rows(rows), work, size, seed)
    pairs = chosen.encode_spans([item.text for item in rendered], [item.spans for item in rendered])
    return np.array([len(ids) for ids, _ in pairs], np.int64)


def _as_rows(rows: Rows | Dataset) -> Rows:
    return rows if hasattr(rows, "pieces") else DatasetRows(rows)


def _sample(rows: Rows, work: Work, size: int, seed: int = 0) -> list[Rendered]:
    rendered = []
    for row in rows.sample(work.columns.conversation, size, seed):
        with suppress(BadRow):
            rendered.append(render_conversation(work.template, to_messages(row, work.columns), work.system_prompt))
    return rendered


def _checked(rows: Rows, work: Work, console: Console) -> Encoder:
    """The fast encoder if it passes its checks on this tokenizer and a sample of these rows; says so if it does not."""
    chosen, why = choose_encoder(work.encoder, (item.text for item in _sample(rows, work, CHECKED_ROWS)))
    if why is not None:
        console.print(f"encoder: tokenizers, because {why}", markup=False)
    return chosen


def _make(final: Path, rows: Rows, work: Work, num_proc: int | None, bad: BadRows, console: Console) -> None:
    """Writes the tokens beside ``final``, going on where a killed process stopped, and moves them there by one rename.

    If it stops at a bad row, what is written stays for the next start.
    """
    with TokenWriter(final.with_suffix(".partial"), bad) as writer:
        _check_room(final.parent, rows, work, writer.rows)
        tokenize_rows(rows, work, writer, num_proc=num_proc, console=console)
        if not writer.rows:
            raise UserError("there are no rows to tokenize")
        bad.raise_if_all(writer.rows)
        writer.finish()
    if final.exists():  # torn: `_open` has refused it
        shutil.rmtree(final)
    os.replace(writer.folder, final)


def _check_room(folder: Path, rows: Rows, work: Work, done: int) -> None:
    """Holds the tokens of the rows that are not ``done``, as a sample has them, against what is free for them.

    Where their number is not known before they are read, a disk that fills up is said then; what was done is kept.

    Raises:
        UserError: they will not fit.
    """
    disk = disk_of(folder)
    if disk.free > ROOMY or not rows.count:
        return
    try:
        sampled = _sample(rows, work, CHECKED_ROWS)
        pairs = work.encoder.encode_spans([item.text for item in sampled], [item.spans for item in sampled])
    except Exception:  # of a row or the template: said with its place where all rows are tokenized
        return
    tokens = sum(len(ids) for ids, _ in pairs)
    need = tokens * TOKEN_BYTES * (rows.count - done) / min(CHECKED_ROWS, rows.count)
    if need > disk.free:
        raise UserError(
            f"the token cache {folder} is on {disk.mount} ({disk.kind}), where {size_text(disk.free)} are free, and "
            f"about {size_text(need)} of tokens go there: free space, or set --token_cache_dir"
        )


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
        rows_read=meta.rows,
        key=folder.name,
    )


def _whole(folder: Path, meta: Meta) -> bool:
    return all((folder / name).exists() and (folder / name).stat().st_size == size for name, size in meta.sizes.items())


@contextmanager
def _lock(path: Path, console: Console | None) -> Iterator[None]:
    """Held by one process of this machine at a time; it ends with the process, however that ends.

    Args:
        console: where it is said that this process waits for another.
    """
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if console is not None:
                console.print("these tokens are being made by another process: this one waits for it", markup=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
