"""The token cache: right, found again, never torn."""

from __future__ import annotations

import fcntl
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from rich.console import Console
from watched_rows import BAD, COLUMNS, ROWS, WatchedRows, contents, expected, interrupt

from open_r1.data import tokens
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import Columns
from open_r1.data.fingerprint import token_key
from open_r1.data.rows import DatasetRows
from open_r1.data.tokens import default_cache_dir, sample_lengths, tokenize
from open_r1.errors import UserError
from open_r1.machine.disks import disk_of

pytestmark = pytest.mark.usefixtures("small_pieces")


@pytest.mark.parametrize("num_proc", [1, 2, 3])
@pytest.mark.parametrize("encoder", ["auto", "tokenizers"])
def test_the_store_holds_each_row_in_order(rows, chat, tmp_path, num_proc, encoder):
    store = tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=num_proc, encoder=encoder)
    assert contents(store) == expected(rows, chat)
    assert (store.input_ids.dtype, store.loss_mask.dtype) == (np.int32, np.uint8)
    assert isinstance(store.input_ids, np.memmap) and isinstance(store.loss_mask, np.memmap)
    assert store.rows_read == ROWS
    assert store.key == token_key(DatasetRows(rows), chat, COLUMNS)
    assert store.lengths.tolist() == [len(ids) for _, ids, _ in expected(rows, chat)]
    for index, (first, end) in enumerate(store.targets):
        assert np.flatnonzero(store[index][1])[[0, -1]].tolist() == [first, end - 1]


def test_several_processes_write_the_files_of_one(rows, chat, tmp_path):
    for num_proc in (1, 2):
        tokenize(rows, chat, COLUMNS, cache_dir=tmp_path / str(num_proc), num_proc=num_proc)
    key = token_key(DatasetRows(rows), chat, COLUMNS)
    for name in ("input_ids.npy", "loss_mask.npy", "index.npy"):
        alone, together = (tmp_path / str(num_proc) / key / name for num_proc in (1, 2))
        assert alone.read_bytes() == together.read_bytes()


def test_a_second_start_uses_the_cache_and_reports_the_bad_rows_again(rows, chat, tmp_path):
    watched = WatchedRows(rows)
    texts = []
    for _ in range(2):
        console = Console(file=io.StringIO(), width=200)
        store = tokenize(watched, chat, COLUMNS, cache_dir=tmp_path, num_proc=1, console=console)
        texts.append(console.file.getvalue()[console.file.getvalue().index("3 of 50") :])
    assert store.cached and watched.read == ROWS
    assert texts[0] == texts[1]
    assert "2 × the assistant's content is empty (row 7, 30)" in texts[1]
    assert "1 × the assistant's content is missing (row 8)" in texts[1]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".lock"]


def key_of(rows: Dataset, chat: ChatFormat, columns: Columns = COLUMNS) -> str:
    return token_key(DatasetRows(rows), chat, columns)


def test_the_key_is_of_the_content(rows, chat, byte_level):
    key = key_of(rows, chat)
    halves = concatenate_datasets([rows.select(range(25)), rows.select(range(25, ROWS))])
    turned_twice = rows.select(range(ROWS - 1, -1, -1)).select(range(ROWS - 1, -1, -1))
    more_columns = rows.add_column("id", list(range(ROWS)))
    for same in (halves, turned_twice, more_columns):
        assert key_of(same, ChatFormat(byte_level("qwen2"))) == key
    other_text = rows.map(lambda row, index: {"prompt": row["prompt"] + "!" * (index == 49)}, with_indices=True)
    other_order = rows.select([1, 0, *range(2, ROWS)])
    assert key not in {key_of(other, chat) for other in (other_text, other_order, rows.select(range(49)))}
    formats = [
        ChatFormat(byte_level("qwen3")),
        ChatFormat(byte_level("qwen2"), system_prompt="be brief"),
        ChatFormat(byte_level("qwen2"), eos_token="<|im_end|>"),
    ]
    extended = byte_level("qwen2")
    extended.add_tokens(["forty-two"])
    keys = {key_of(rows, other) for other in [*formats, ChatFormat(extended)]}
    assert len(keys | {key}) == 5
    assert key_of(rows, chat, Columns(prompt="completion", completion="prompt")) != key


@pytest.mark.parametrize("torn", ["input_ids.npy", "loss_mask.npy", "index.npy", "meta.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_torn_cache_is_made_anew(rows, chat, tmp_path, torn, how):
    folder = tmp_path / key_of(rows, chat)
    tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    if how == "cut":
        os.truncate(folder / torn, (folder / torn).stat().st_size - 5)
    else:
        (folder / torn).unlink()
    store = tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    assert not store.cached
    assert contents(store) == expected(rows, chat)


@pytest.mark.parametrize("journal", ["whole", "torn"])
def test_a_start_that_was_interrupted_is_continued(rows, chat, tmp_path, journal):
    with pytest.raises(KeyboardInterrupt):
        tokenize(WatchedRows(rows, at=32, act=interrupt), chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    (partial,) = tmp_path.glob("*.partial")
    with (partial / "input_ids.npy").open("ab") as file:  # half a chunk, written but not in the journal
        file.write(b"\1\2\3")
    if journal == "torn":
        os.truncate(partial / "journal.json", 20)
    again = WatchedRows(rows)
    store = tokenize(again, chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    assert contents(store) == expected(rows, chat)
    assert store.bad_rows.counts.total() == len(BAD)
    assert again.read == ROWS - (32 if journal == "whole" else 0)


def test_a_row_that_was_mended_is_not_taken_from_an_interrupted_start(rows, chat, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tokenize(WatchedRows(rows, at=32, act=interrupt), chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    mended = rows.map(lambda row, index: {"completion": "mended"} if index == 7 else row, with_indices=True)
    store = tokenize(mended, chat, COLUMNS, cache_dir=tmp_path, num_proc=1)
    assert store.rows[7] == 7 and len(store) == ROWS - len(BAD) + 1


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


def test_two_at_once_tokenize_once(rows, chat, tmp_path):
    watched = [WatchedRows(rows) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        stores = list(pool.map(lambda one: tokenize(one, chat, COLUMNS, cache_dir=tmp_path, num_proc=1), watched))
    assert sorted(one.read for one in watched) == [0, ROWS]
    assert contents(stores[0]) == contents(stores[1])


def test_a_process_that_waits_for_another_says_so(rows, chat, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    path = tmp_path / f"{token_key(DatasetRows(rows), chat, COLUMNS)}.lock"
    with path.open("w") as lock, ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(tokenize, rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=1, console=console)
        while "made by another process: this one waits" not in console.file.getvalue():
            assert not waiting.done()
            time.sleep(0.01)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result().rows_read == ROWS


def test_an_unusable_cache_folder_is_named(rows, chat, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/tokens cannot be used .*--token_cache_dir"):
        tokenize(rows, chat, COLUMNS, cache_dir=tmp_path / "file" / "tokens")


def test_tokens_that_will_not_fit_are_not_begun(rows, chat, tmp_path, monkeypatch):
    disk = replace(disk_of(tmp_path), free=100)
    monkeypatch.setattr(tokens, "disk_of", lambda _: disk)
    with pytest.raises(UserError, match=r"where 100 B are free, and about .* of tokens go there.*--token_cache_dir"):
        tokenize(rows, chat, COLUMNS, cache_dir=tmp_path)
    monkeypatch.setattr(tokens, "disk_of", lambda _: replace(disk, free=10**8))
    tokenize(rows, chat, COLUMNS, cache_dir=tmp_path)
    monkeypatch.setattr(tokens, "disk_of", lambda _: disk)
    assert tokenize(rows, chat, COLUMNS, cache_dir=tmp_path).cached


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
