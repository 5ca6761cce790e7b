from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.locks import held


def test_one_at_a_time_and_nothing_left_behind(tmp_path: Path) -> None:
    path, inside = tmp_path / "new" / ".lock", []

    def work(number: int) -> None:
        with held(path):
            inside.append(number)
            assert inside == [number]
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_second_holder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    refusal = "x is in use ({holder})"
    with held(tmp_path / ".lock", refusal), pytest.raises(UserError, match=r"^x is in use \(process \d+\)$"):  # noqa: SIM117
        with held(tmp_path / ".lock", refusal):
            pass
    with held(tmp_path / ".lock", refusal):
        assert (tmp_path / ".lock").exists()


def test_a_disk_without_locks_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with held(tmp_path / ".lock", "in use"), held(tmp_path / ".lock", "in use"):
        pass
    assert list(tmp_path.iterdir()) == []
