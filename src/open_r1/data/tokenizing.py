"""Rows to tokens, piece by piece, in this process or in several others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from open_r1.data.fast_encoding import FastEncoder
from open_r1.data.rows import Piece, Rows
from open_r1.data.token_files import Chunk, TokenWriter
from open_r1.data.token_worker import Work, send_piece
from open_r1.errors import UserError
from open_r1.machine.limits import usable_cores

ROWS_WORTH_PROCESSES = 1024
"""Below this, this process is done before others have started."""

FAST_WORKERS = 4
"""With the fast encoder more processes would wait for the one that reads."""


def tokenize_rows(rows: Rows, work: Work, writer: TokenWriter, *, num_proc: int | None, console: Console) -> None:
    """Writes the tokens of all rows that the writer does not have yet, in order.

    Args:
        num_proc: processes; None takes one a core, and at most `FAST_WORKERS` with the fast encoder.

    Raises:
        UserError: a worker process was killed, or a row is bad under ``strict``.
    """
    fast = isinstance(work.encoder, FastEncoder)
    workers = num_proc or (min(usable_cores(), FAST_WORKERS) if fast else usable_cores())
    total = rows.count
    pieces = rows.pieces(work.columns.conversation, writer.rows)
    several = workers > 1 and (total is None or total - writer.rows >= ROWS_WORTH_PROCESSES)
    with ExitStack() as stack:
        if several:
            chunks = iter(stack.enter_context(_Assembly(pieces, work, writer, workers)))
        else:
            chunks = _in_this_process(pieces, work, writer)
        progress = stack.enter_context(_progress(console))
        task = progress.add_task("tokenizing", total=total, completed=writer.rows)
        for chunk in chunks:
            writer.commit(chunk)
            progress.advance(task, chunk.rows)


def _in_this_process(pieces: Iterator[Piece], work: Work, writer: TokenWriter) -> Iterator[Chunk]:
    row = writer.rows
    for piece in pieces:
        chunk, input_ids, loss_mask = work.make(piece, row)
        writer.files.put(writer.reserve(chunk.tokens), input_ids, loss_mask)
        row += chunk.rows
        yield chunk


class _Worker:
    """A process that runs `open_r1.data.token_worker`, and the connection to it."""

    def __init__(self, work: Work, folder: Path) -> None:
        self._connection, theirs = Pipe()
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "open_r1.data.token_worker", str(theirs.fileno())],
            stdin=subprocess.PIPE,  # nothing is written to it: its end tells the worker that this process has ended
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self._start = (work, folder)

    def make(self, piece: Piece, first_row: int) -> Chunk:
        """The chunk of a piece, whose tokens the worker keeps until it is told where they go."""
        if self._start is not None:
            self._connection.send(self._start)
            self._start = None
        send_piece(self._connection, piece, first_row)
        return self._answer()

    def put(self, place: int) -> None:
        """Has the tokens written at ``place``."""
        self._connection.send(place)
        self._answer()

    def end(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def close(self) -> None:
        """Closes this end of the connection; no thread may be using it."""
        self._connection.close()

    def _answer(self) -> Chunk | None:
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Assembly:
    """Chunks in order from several workers, each served by a thread; few pieces are under way, so memory is bounded.

    A chunk is given its place in the files when all before it have theirs; its worker then writes it there itself.
    """

    def __init__(self, pieces: Iterator[Piece], work: Work, writer: TokenWriter, workers: int) -> None:
        self._pieces, self._writer = pieces, writer
        self._changed = Condition()  # guards all that follows
        self._read: deque[tuple[int, int, Piece]] = deque()
        self._placed = 0  # chunks that have their place
        self._done: dict[int, Chunk] = {}
        self._total: int | None = None  # chunks there are, once all pieces are read
        self._error: BaseException | None = None
        self._workers = [_Worker(work, writer.folder) for _ in range(workers)]
        self._reader = Thread(target=self._guarded, args=(self._read_pieces,), daemon=True)
        self._servers = [Thread(target=self._guarded, args=(self._serve, one), daemon=True) for one in self._workers]

    def __enter__(self) -> Self:
        for thread in (self._reader, *self._servers):
            thread.start()
        return self

    def __iter__(self) -> Iterator[Chunk]:
        for number in count():
            chunk = self._take_done(number)
            if chunk is None:
                return
            yield chunk

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fail(error or StopIteration())
        for worker in self._workers:
            worker.end()
        for thread in self._servers:
            thread.join()
        self._reader.join(timeout=1)  # a download may keep it
        for worker in self._workers:
            worker.close()

    def _take_done(self, number: int) -> Chunk | None:
        with self._changed:
            self._wait_for(lambda: number in self._done or number == self._total)
            return self._done.pop(number, None)

    def _read_pieces(self) -> None:
        row, number = self._writer.rows, 0
        for piece in self._pieces:
            with self._changed:
                self._wait_for(lambda: len(self._read) < len(self._workers))
                self._read.append((number, row, piece))
                self._changed.notify_all()
            row, number = row + len(piece), number + 1
        with self._changed:
            self._total = number
            self._changed.notify_all()

    def _serve(self, worker: _Worker) -> None:
        while True:
            with self._changed:
                self._wait_for(lambda: self._read or self._total is not None)
                if not self._read:
                    return
                number, row, piece = self._read.popleft()
                self._changed.notify_all()
            chunk = worker.make(piece, row)
            worker.put(self._place(number, chunk.tokens))
            with self._changed:
                self._done[number] = chunk
                self._changed.notify_all()

    def _place(self, number: int, tokens: int) -> int:
        """Where the tokens of a chunk go; waits for those before it."""
        with self._changed:
            self._wait_for(lambda: self._placed == number)
            self._placed += 1
            self._changed.notify_all()
            return self._writer.reserve(tokens)

    def _wait_for(self, ready: Callable[[], Any]) -> None:
        """Returns, holding the lock, when ``ready``; raises what went wrong in any thread."""
        self._changed.wait_for(lambda: self._error is not None or ready())
        if self._error is not None:
            raise self._error

    def _guarded(self, target: Callable[..., None], *arguments: Any) -> None:
        """Runs a thread's work; what goes wrong in it is everybody's."""
        try:
            target(*arguments)
        except (EOFError, ConnectionError) as error:
            killed = UserError(
                "a process that tokenized was killed, most likely for lack of memory: lower --dataset_num_proc and "
                "start again; what is done is kept"
            )
            killed.__cause__ = error
            self._fail(killed)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


def _progress(console: Console) -> Progress:
    bar = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
    )
    return Progress(*bar, console=console, disable=console.quiet)
