"""The token cache: right, found again, never torn."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from rich.console import Console

from open_r1.data import tokenizing
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import Columns, to_messages
from open_r1.data.fingerprint import rows_hash, token_key
from open_r1.data.tokens import default_cache_dir, sample_lengths, tokenize
from open_r1.errors import UserError

COLUMNS = Columns(prompt="prompt", completion="completion")
ROWS = 50
BAD = {7: "", 8: None, 30: "  "}


@pytest.fixture
def rows() -> Dataset:
    completions = [BAD.get(index, f"it is {index} " * (1 + index % 5)) for index in range(ROWS)]
    return Dataset.from_dict({"prompt": [f"ask {index}?" for index in range(ROWS)], "completion": completions})


@pytest.fixture
def chat(byte_level) -> ChatFormat:
    return ChatFormat(byte_level("qwen2"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(tokenizing, "CHUNK_ROWS", 8)
    monkeypatch.setattr(tokenizing, "ROWS_WORTH_PROCESSES", 16)


class CountingChat(ChatFormat):
    """Counts what it renders, and does something at one of the rows."""

    rendered = 0
    at = -1

    def render(self, messages):
        if self.rendered == self.at:
            self.act()
        self.rendered += 1
        return super().render(messages)

    def act(self) -> None:
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


@pytest.mark.parametrize("num_proc", [1, 2])
def test_the_store_holds_each_row_in_order(rows, chat, tmp_path, num_proc):
    store = tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=num_proc)
    assert contents(store) == expected(rows, chat)
    assert (store.input_ids.dtype, store.loss_mask.dtype) == (np.int32, np.uint8)
    assert isinstance(store.input_ids, np.memmap) and isinstance(store.loss_mask, np.memmap)
    assert store.lengths.tolist() == [len(ids) for _, ids, _ in expected(rows, chat)]
    for index, (first, end) in enumerate(store.targets):
        assert np.flatnonzero(store[index][1])[[0, -1]].tolist() == [first, end - 1]


def test_a_second_start_uses_the_cache_and_reports_the_bad_rows_again(rows, byte_level, tmp_path):
    chat = CountingChat(byte_level("qwen2"))
    texts = []
    for _ in range(2):
        console = Console(file=io.StringIO(), width=200)
        store = tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1, console=console)
        texts.append(console.file.getvalue()[console.file.getvalue().index("3 of 50") :])
    assert store.cached and chat.rendered == ROWS - len(BAD)
    assert texts[0] == texts[1]
    assert "2 × the assistant's content is empty (row 7, 30)" in texts[1]
    assert "1 × the assistant's content is missing (row 8)" in texts[1]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".lock"]


def test_the_key_is_of_the_content(rows, chat, byte_level):
    key = token_key(rows, chat, COLUMNS)
    halves = concatenate_datasets([rows.select(range(25)), rows.select(range(25, ROWS))])
    turned_twice = rows.select(range(ROWS - 1, -1, -1)).select(range(ROWS - 1, -1, -1))
    more_columns = rows.add_column("id", list(range(ROWS)))
    for same in (halves, turned_twice, more_columns):
        assert token_key(same, ChatFormat(byte_level("qwen2")), COLUMNS) == key
    other_text = rows.map(lambda row, index: {"prompt": row["prompt"] + "!" * (index == 49)}, with_indices=True)
    other_order = rows.select([1, 0, *range(2, ROWS)])
    assert key not in {token_key(other, chat, COLUMNS) for other in (other_text, other_order, rows.select(range(49)))}
    formats = [
        ChatFormat(byte_level("qwen3")),
        ChatFormat(byte_level("qwen2"), system_prompt="be brief"),
        ChatFormat(byte_level("qwen2"), eos_token="<|im_end|>"),
    ]
    extended = byte_level("qwen2")
    extended.add_tokens(["forty-two"])
    keys = {token_key(rows, other, COLUMNS) for other in [*formats, ChatFormat(extended)]}
    assert len(keys | {key}) == 5
    assert token_key(rows, chat, Columns(prompt="completion", completion="prompt")) != key


def test_rows_that_are_slices_of_one_buffer_hash_by_their_content():
    texts = Dataset.from_dict({"a": ["x", "yy", "x", "yy", None, "x"], "b": [[1], [2, 3], [1], [2, 3], [], [1]]})
    assert rows_hash(texts.select(range(2))) == rows_hash(texts.select(range(2, 4)))
    assert rows_hash(texts.select(range(2))) != rows_hash(texts.select(range(4, 6)))


@pytest.mark.parametrize("torn", ["input_ids.npy", "loss_mask.npy", "index.npy", "meta.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_torn_cache_is_made_anew(rows, chat, tmp_path, torn, how):
    folder = tmp_path / token_key(rows, chat, COLUMNS)
    tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    if how == "cut":
        os.truncate(folder / torn, (folder / torn).stat().st_size - 5)
    else:
        (folder / torn).unlink()
    store = tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    assert not store.cached
    assert contents(store) == expected(rows, chat)


@pytest.mark.parametrize("journal", ["whole", "torn"])
def test_a_start_that_was_killed_is_continued(rows, chat, byte_level, tmp_path, journal):
    first = CountingChat(byte_level("qwen2"))
    first.at = 30
    with pytest.raises(KeyboardInterrupt):
        tokenize(rows, first, COLUMNS, cache_dir=tmp_path, num_proc=1)
    (partial,) = tmp_path.glob("*.partial")
    with (partial / "input_ids.npy").open("ab") as file:  # half a chunk, written but not in the journal
        file.write(b"\1\2\3")
    if journal == "torn":
        os.truncate(partial / "journal.json", 20)
    second = CountingChat(byte_level("qwen2"))
    store = tokenize(rows, second, COLUMNS, cache_dir=tmp_path, num_proc=1)
    assert contents(store) == expected(rows, chat)
    assert store.bad_rows.counts.total() == len(BAD)
    done = 32 if journal == "whole" else 0  # the 30th good row is row 32, the first of its chunk
    assert second.rendered == sum(index not in BAD for index in range(done, ROWS))


def test_strict_stops_at_the_first_bad_row_with_or_without_cache(rows, chat, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="row 7 is bad: the assistant's content is empty"):
            tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1, strict=True)
        tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1)


def test_rows_that_are_all_bad_are_an_error_each_time(rows, chat, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="all 2 rows are bad"):
            tokenize(rows.select([7, 8]), chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    with pytest.raises(UserError, match="no rows"):
        tokenize(rows.select([]), chat, COLUMNS, cache_dir=tmp_path)


def test_two_at_once_tokenize_once(rows, byte_level, tmp_path):
    chats = [CountingChat(byte_level("qwen2")) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        stores = list(pool.map(lambda chat: tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1), chats))
    assert sum(chat.rendered for chat in chats) == ROWS - len(BAD)
    assert contents(stores[0]) == contents(stores[1])


def test_a_killed_process_is_said_in_one_line(rows, byte_level, tmp_path):
    class DyingChat(CountingChat):
        at = 0

        def act(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UserError, match="lack of memory: lower --dataset_num_proc"):
        tokenize(rows, DyingChat(byte_level("qwen2")), COLUMNS, cache_dir=tmp_path, num_proc=2)


def test_processes_end_with_the_one_that_started_them(rows, byte_level, tmp_path):
    class SleepingChat(CountingChat):
        at = 0

        def act(self) -> None:
            (tmp_path / f"{os.getpid()}.worker").touch()
            time.sleep(60)

    def run() -> None:
        tokenize(rows, SleepingChat(byte_level("qwen2")), COLUMNS, cache_dir=tmp_path, num_proc=2)

    parent = multiprocessing.get_context("fork").Process(target=run)
    parent.start()
    wait_until(lambda: len(list(tmp_path.glob("*.worker"))) == 2)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    workers = [int(path.stem) for path in tmp_path.glob("*.worker")]
    wait_until(lambda: not any(is_running(pid) for pid in workers))


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for half a minute in vain")


def is_running(pid: int) -> bool:
    """Whether there is such a process; a dead one that nobody has asked for yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_unusable_cache_folder_is_named(rows, chat, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/tokens cannot be used .*--token_cache_dir"):
        tokenize(rows, chat, COLUMNS, cache_dir=tmp_path / "file" / "tokens")


def test_the_cache_moves_by_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("OPEN_R1_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "tokens"
    monkeypatch.delenv("OPEN_R1_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "open_r1" / "tokens"


def test_a_sample_measures_the_lengths(rows, chat, tmp_path):
    store = tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    assert sorted(sample_lengths(rows, chat, COLUMNS)) == sorted(store.lengths)
    few = sample_lengths(rows, chat, COLUMNS, size=10, seed=1)
    assert len(few) <= 10 and set(few) <= set(store.lengths)
    assert np.array_equal(few, sample_lengths(rows, chat, COLUMNS, size=10, seed=1))
