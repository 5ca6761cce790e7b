"""Rows to tokens, chunk by chunk, in one process or several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from open_r1.data.bad_rows import BadRow
from open_r1.data.columns import Columns, to_messages
from open_r1.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from open_r1.data.chat import ChatFormat

CHUNK_ROWS = 512
"""Rows that are read, encoded and written at a time: some ten megabytes of long traces."""

ROWS_WORTH_PROCESSES = 4 * CHUNK_ROWS
"""Below this, one process, whose encoder uses all cores anyway, is done before others have started."""


@dataclass(frozen=True)
class Chunk:
    """The sequences of ``rows`` consecutive rows.

    Attributes:
        input_ids: int32 [tokens].
        loss_mask: uint8 [tokens].
        index: int64 [N, 4]: row, length, first target, end of the last target.
        bad: (row, reason) of those that could not be used.
    """

    rows: int
    input_ids: np.ndarray
    loss_mask: np.ndarray
    index: np.ndarray
    bad: list[tuple[int, str]]


def tokenize_rows(
    rows: Dataset, chat: ChatFormat, columns: Columns, *, start: int, num_proc: int | None, console: Console
) -> Iterator[Chunk]:
    """Yields the chunks from row ``start`` on, in order.

    Raises:
        UserError: a worker process was killed.
    """
    work = _Work(rows.select_columns(columns.conversation).with_format(None), chat, columns)
    starts = range(start, len(rows), CHUNK_ROWS)
    workers = num_proc or len(os.sched_getaffinity(0))
    several = workers > 1 and len(rows) - start >= ROWS_WORTH_PROCESSES
    # Processes are forked before the progress bar starts its thread.
    with _pool(work, workers) if several else nullcontext() as pool, _progress(console) as progress:
        task = progress.add_task("tokenizing", total=len(rows), completed=start)
        for chunk in _in_order(pool, starts, 2 * workers) if pool else map(work.chunk, starts):
            yield chunk
            progress.advance(task, chunk.rows)


@dataclass(frozen=True)
class _Work:
    rows: Dataset
    chat: ChatFormat
    columns: Columns

    def chunk(self, start: int) -> Chunk:
        batch = self.rows[start : start + CHUNK_ROWS]
        size = len(next(iter(batch.values())))
        rendered, good, bad = [], [], []
        for place in range(size):
            row: dict[str, Any] = {name: values[place] for name, values in batch.items()}
            try:
                rendered.append(self.chat.render(to_messages(row, self.columns)))
                good.append(start + place)
            except BadRow as error:
                bad.append((start + place, str(error)))
        encoded = self.chat.encode(rendered)
        index = [(row, len(item.input_ids), *_targets(item.loss_mask)) for row, item in zip(good, encoded, strict=True)]
        return Chunk(
            size,
            np.concatenate([item.input_ids for item in encoded] or [np.empty(0, np.int32)]),
            np.concatenate([item.loss_mask for item in encoded] or [np.empty(0, np.uint8)]),
            np.array(index, np.int64).reshape(-1, 4),
            bad,
        )


def _targets(loss_mask: np.ndarray) -> tuple[int, int]:
    """The first target and the end of the last; (0, 0) if there is none."""
    trained = np.flatnonzero(loss_mask)
    return (int(trained[0]), int(trained[-1]) + 1) if len(trained) else (0, 0)


_work: _Work | None = None


def _take_work(work: _Work) -> None:
    """Runs once in each worker process; forked ones share the rows and the tokenizer without copying them."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which then ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone, even by SIGKILL; it would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _chunk_in_worker(start: int) -> Chunk:
    return _work.chunk(start)


@contextmanager
def _pool(work: _Work, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Started processes whose encoders use one thread each."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, _take_work, (work,))
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        pool.submit(os.getpid).result()
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a process that tokenized was killed, most likely for lack of memory: lower --dataset_num_proc and start "
            "again; what is done is kept"
        ) from error
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, starts: Iterable[int], in_flight: int) -> Iterator[Chunk]:
    """Chunks in order, with few enough under way that memory stays bounded."""
    starts = iter(starts)
    waiting = deque(pool.submit(_chunk_in_worker, start) for start in islice(starts, in_flight))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(_chunk_in_worker, start) for start in islice(starts, 1))


def _progress(console: Console) -> Progress:
    bar = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
    )
    return Progress(*bar, console=console, disable=console.quiet)
