"""Tokenizing in several processes: whichever of them ends, nothing is lost and none is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from watched_rows import COLUMNS, PIECE, ROWS, WatchedRows, contents, expected

from open_r1.data import token_files
from open_r1.data.tokens import tokenize
from open_r1.errors import UserError

pytestmark = pytest.mark.usefixtures("small_pieces")


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_start_that_was_killed_is_continued(rows, chat, tmp_path, monkeypatch, num_proc):
    monkeypatch.setattr(token_files, "SYNC_TOKENS", 1)

    def die_once_something_is_safe() -> None:
        wait_until(lambda: any(tmp_path.glob("*.partial/journal.json")))
        os.kill(os.getpid(), signal.SIGKILL)

    dying = WatchedRows(rows, at=40, act=die_once_something_is_safe)
    wait_for_end(start(lambda: tokenize(dying, chat, COLUMNS, cache_dir=tmp_path, num_proc=num_proc)))
    again = WatchedRows(rows)
    store = tokenize(again, chat, COLUMNS, cache_dir=tmp_path, num_proc=num_proc)
    assert contents(store) == expected(rows, chat)
    assert ROWS - 40 <= again.read <= ROWS - PIECE  # what was in hand is made again


def test_a_killed_worker_is_said_in_one_line_and_leaves_no_other(rows, chat, tmp_path):
    started = []

    def kill_one() -> None:
        started.extend(workers_of(os.getpid()))
        os.kill(started[0], signal.SIGKILL)

    with pytest.raises(UserError, match="lack of memory: lower --dataset_num_proc") as error:
        tokenize(WatchedRows(rows, at=24, act=kill_one), chat, COLUMNS, cache_dir=tmp_path, num_proc=2)
    assert "\n" not in str(error.value)
    assert len(started) == 2 and not any(is_running(pid) for pid in started)
    store = tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=2)
    assert contents(store) == expected(rows, chat)


def test_what_fails_in_a_worker_is_raised_here_with_its_place(rows, chat, tmp_path):
    del chat.template.frame  # a fault of no row
    with pytest.raises(AttributeError, match="frame") as error:
        tokenize(rows, chat, COLUMNS, cache_dir=tmp_path, num_proc=2, encoder="tokenizers")
    assert "render_turns" in "".join(error.value.__notes__)


@pytest.mark.parametrize("at", [8, 48])
def test_what_fails_while_rows_are_read_is_raised_here(rows, chat, tmp_path, at):
    def fail() -> None:
        raise UserError("the third shard is torn")

    with pytest.raises(UserError, match="the third shard is torn"):
        tokenize(WatchedRows(rows, at=at, act=fail), chat, COLUMNS, cache_dir=tmp_path, num_proc=2)
    assert not workers_of(os.getpid())


def test_workers_end_with_the_process_that_started_them(rows, chat, tmp_path):
    slow = WatchedRows(rows, at=24, act=lambda: time.sleep(60))
    parent = start(lambda: tokenize(slow, chat, COLUMNS, cache_dir=tmp_path, num_proc=2))
    wait_until(lambda: len(workers_of(parent.pid)) == 2)
    workers = workers_of(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    wait_for_end(parent)
    wait_until(lambda: not any(is_running(pid) for pid in workers))


def start(run: Callable[[], object]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def wait_for_end(process: multiprocessing.Process) -> None:
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for half a minute in vain")


def workers_of(parent: int) -> list[int]:
    """The processes that tokenize for another, oldest first."""
    found = []
    for pid in sorted(int(folder.name) for folder in Path("/proc").glob("[0-9]*")):
        try:
            ours = b"open_r1.data.token_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            if ours and int(stat_of(pid)[1]) == parent:
                found.append(pid)
        except OSError:  # ended meanwhile
            continue
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process; a dead one that nobody has asked for yet is not."""
    try:
        return stat_of(pid)[0] != "Z"
    except OSError:
        return False


def stat_of(pid: int) -> list[str]:
    """State, parent and so on of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
