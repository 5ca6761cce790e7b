"""A process that makes tokens of rows: started on its own, it imports neither torch nor the data set's library.

It is no fork of the process that it works for, which may hold a GPU and run threads.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pyarrow as pa

from open_r1.data.bad_rows import BadRow
from open_r1.data.columns import Columns, to_messages
from open_r1.data.encoding import Encoder
from open_r1.data.rows import Piece, to_rows
from open_r1.data.template import ChatTemplate
from open_r1.data.token_files import Chunk, TokenFiles
from open_r1.data.turns import render_conversation


@dataclass(frozen=True)
class Work:
    """What is needed to make tokens of rows; it can be sent to another process."""

    columns: Columns
    template: ChatTemplate
    system_prompt: str | None
    encoder: Encoder

    def make(self, piece: Piece, first_row: int) -> tuple[Chunk, np.ndarray, np.ndarray]:
        """The chunk of some rows, of which the first has the number ``first_row``, its ids and its mask."""
        rendered, good, bad = [], [], []
        for number, row in enumerate(to_rows(piece), first_row):
            try:
                rendered.append(render_conversation(self.template, to_messages(row, self.columns), self.system_prompt))
                good.append(number)
            except BadRow as error:
                bad.append((number, str(error)))
        pairs = self.encoder.encode_spans([item.text for item in rendered], [item.spans for item in rendered])
        index = [(row, len(ids), *_targets(mask)) for row, (ids, mask) in zip(good, pairs, strict=True)]
        input_ids = np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in pairs)])
        loss_mask = np.concatenate([np.empty(0, np.uint8), *(mask for _, mask in pairs)])
        return Chunk(len(piece), len(input_ids), np.array(index, np.int64).reshape(-1, 4), bad), input_ids, loss_mask


def _targets(loss_mask: np.ndarray) -> tuple[int, int]:
    """The first target and the end of the last; (0, 0) if there is none."""
    if not loss_mask.any():
        return 0, 0
    return int(loss_mask.argmax()), len(loss_mask) - int(loss_mask[::-1].argmax())


def serve(connection: Connection) -> None:
    """Takes the work, then pieces until there are no more: answers each with its chunk, and writes where it is told."""
    work, folder = connection.recv()
    files = TokenFiles(folder)
    while (message := connection.recv()) is not None:
        chunk, input_ids, loss_mask = work.make(_received(connection, message["rows"]), message["first_row"])
        connection.send(chunk)
        files.put(connection.recv(), input_ids, loss_mask)
        connection.send(None)


def send_piece(connection: Connection, piece: Piece, first_row: int) -> None:
    """A piece, as `serve` takes it."""
    if not isinstance(piece, pa.Table):
        connection.send({"first_row": first_row, "rows": piece})
        return
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, piece.schema) as stream:
        stream.write_table(piece)
    connection.send({"first_row": first_row, "rows": None})
    connection.send_bytes(memoryview(sink.getvalue()))


def _received(connection: Connection, rows: list[dict[str, Any]] | None) -> Piece:
    return rows if rows is not None else pa.ipc.open_stream(connection.recv_bytes()).read_all()


def _end_with_parent() -> None:
    """Ends this process when nobody holds the other end of its input, however the parent has ended."""
    sys.stdin.buffer.read()
    os._exit(1)


def _send_error(connection: Connection, error: Exception) -> None:
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # it cannot be sent, or not be received: its text can
        error = RuntimeError("\n".join([f"{type(error).__name__}: {error}", *error.__notes__]))
    connection.send(error)


def main() -> None:
    """Works for the process at the other end of the connection whose descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which then ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    try:
        serve(connection)
    except EOFError:
        os._exit(1)
    except Exception as error:
        error.add_note(f"in a process that tokenizes:\n{traceback.format_exc()}")
        _send_error(connection, error)


if __name__ == "__main__":
    main()
