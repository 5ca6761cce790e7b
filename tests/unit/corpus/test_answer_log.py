from __future__ import annotations

import json
from pathlib import Path

import pytest

from open_r1.corpus.answer_log import AnswerLog, drop_torn_line, read_log, sort_log
from open_r1.errors import UserError


def record(name: str, sample: int = 0, text: str = "é") -> dict:
    return {"id": name, "sample": sample, "text": text}


def write(path: Path, *records: dict) -> None:
    with AnswerLog(path) as log:
        for entry in records:
            log.append(entry)


def read(path: Path) -> list[dict]:
    return [entry for _, entry in read_log(path)]


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    with AnswerLog(path) as log:
        log.append(record("a", text="two\nlines \u2028 é"))
        assert read(path) == [record("a", text="two\nlines \u2028 é")]


def test_half_a_surrogate_pair_does_not_end_a_run(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, record("a", text="so \ud83d"))
    assert read(path) == [record("a", text="so ?")]


@pytest.mark.parametrize("torn", ['{"id": "b", "sam', "x" * 200_000])
def test_a_torn_last_line_is_dropped_and_nothing_else(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, record("a"), record("a", 1))
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    write(path, record("b"))
    assert path.read_bytes() == whole + (json.dumps(record("b"), ensure_ascii=False) + "\n").encode()


def test_a_file_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id"')
    drop_torn_line(path)
    assert path.read_bytes() == b""
    drop_torn_line(path)
    drop_torn_line(tmp_path / "absent.jsonl")
    assert not (tmp_path / "absent.jsonl").exists()


@pytest.mark.parametrize("line", ["not json", "5", '{"prompt": "of somebody else"}', ""])
def test_a_strange_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, record("a"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match="line 2 is not an answer"):
        read(path)


def test_sorting_follows_the_prompts_then_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, record("gone"), record("b", 1), record("a", 1), record("b", 0), record("a", 0))
    sort_log(path, {"a": 7, "b": 9})
    assert [(entry["id"], entry["sample"]) for entry in read(path)] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
        ("gone", 0),
    ]


def test_sorting_on_a_full_disk_changes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    lines = b'{"id": "b", "sample": 0}\n{"id": "a", "sample": 0}\n'
    path.write_bytes(lines)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        sort_log(path, {"a": 0, "b": 1})
    assert path.read_bytes() == lines
    assert list(tmp_path.iterdir()) == [path]
