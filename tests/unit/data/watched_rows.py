"""Rows of which some are bad, what they should become, and an eye on how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from datasets import Dataset

from open_r1.data.chat import ChatFormat
from open_r1.data.columns import Columns, to_messages
from open_r1.data.rows import DatasetRows, Piece

COLUMNS = Columns(prompt="prompt", completion="completion")
ROWS, PIECE = 50, 8
BAD = {7: "", 8: None, 30: "  "}


def rows_with_bad_ones() -> Dataset:
    completions = [BAD.get(index, f"it is {index} " * (1 + index % 5)) for index in range(ROWS)]
    return Dataset.from_dict({"prompt": [f"ask {index}?" for index in range(ROWS)], "completion": completions})


class WatchedRows(DatasetRows):
    """Counts the rows that are read to be tokenized, and does something before the piece that begins with one of them.

    Rows are read in the process that tokenizes or that has started those which do.
    """

    def __init__(self, dataset: Dataset, at: int = -1, act: Callable[[], None] | None = None) -> None:
        super().__init__(dataset)
        self.read, self._at, self._act = 0, at, act

    def pieces(self, columns: Sequence[str], start: int = 0) -> Iterator[Piece]:
        row = start
        for piece in super().pieces(columns, start):
            if row == self._at:
                self._act()
            self.read, row = self.read + len(piece), row + len(piece)
            yield piece


def interrupt() -> None:
    raise KeyboardInterrupt


def expected(rows: Dataset, chat: ChatFormat) -> list[tuple[int, list[int], list[int]]]:
    made = []
    for index in range(len(rows)):
        if index not in BAD:
            (encoded,) = chat.encode_batch([to_messages(rows[index], COLUMNS)])
            made.append((index, encoded.input_ids.tolist(), encoded.loss_mask.tolist()))
    return made


def contents(store) -> list[tuple[int, list[int], list[int]]]:
    return [(int(store.rows[i]), *(part.tolist() for part in store[i])) for i in range(len(store))]
