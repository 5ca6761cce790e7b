from __future__ import annotations

import errno
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from open_r1.errors import UserError
from open_r1.evaluation.store import SCHEMA, Generation, GenerationStore

SETTINGS = {"model": "a", "temperature": 0.6, "stop_token_ids": (1, 2)}
PROMPTS = dict.fromkeys(range(9), "2+2?")
GOLDS = dict.fromkeys(range(9), "4")


def generation(problem: int, sample: int, text: str = "4", prompt: str = "2+2?", gold: str = "4") -> Generation:
    return Generation("task", problem, sample, prompt, text, 2, "stop", 1.0, gold, seed=2**62 + problem)


def store(folder: Path, **changes: object) -> GenerationStore:
    return GenerationStore(folder, {**SETTINGS, **changes})


def fill(folder: Path, *pairs: tuple[int, int]) -> None:
    with store(folder) as opened:
        for pair in pairs:
            opened.append(generation(*pair))


def test_rows_come_back_as_they_were_in_the_order_of_the_problems(tmp_path: Path) -> None:
    fill(tmp_path, (1, 1), (0, 1))
    fill(tmp_path, (1, 0), (0, 0))
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    rows, seconds = store(tmp_path).merge(set(pairs))
    assert [Generation(**row) for row in rows.to_pylist()] == [generation(*pair) for pair in pairs]
    assert pq.read_table(tmp_path / "generations.parquet").to_pylist() == rows.to_pylist()
    assert rows.schema.equals(SCHEMA)
    assert seconds >= 0
    assert list((tmp_path / "parts").iterdir()) == []


def test_done_knows_parts_and_the_merged_file(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0), (1, 0))
    assert store(tmp_path).done(PROMPTS, GOLDS) == {(0, 0), (1, 0)}
    store(tmp_path).merge({(0, 0), (1, 0)})
    fill(tmp_path, (2, 0))
    assert store(tmp_path).done(PROMPTS, GOLDS) == {(0, 0), (1, 0), (2, 0)}


def test_what_was_half_written_is_not_read(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0))
    torn = tmp_path / "parts" / ".part-00001.parquet.tmp"
    torn.write_bytes(b"PAR1 and then the power went")
    assert store(tmp_path).done(PROMPTS, GOLDS) == {(0, 0)}
    assert not torn.exists()


def test_a_kill_between_merging_and_dropping_the_parts_counts_nothing_twice(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0), (1, 0))
    part = next((tmp_path / "parts").iterdir())
    content = part.read_bytes()
    store(tmp_path).merge({(0, 0), (1, 0)})
    part.write_bytes(content)
    rows, _ = store(tmp_path).merge({(0, 0), (1, 0)})
    assert rows.num_rows == 2


def test_fewer_samples_leave_the_others_for_later(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0), (0, 1), (1, 0), (1, 1))
    rows, _ = store(tmp_path).merge({(0, 0), (1, 0)})
    assert [(row["problem"], row["sample"]) for row in rows.to_pylist()] == [(0, 0), (1, 0)]
    assert pq.read_table(tmp_path / "generations.parquet").num_rows == 2
    assert store(tmp_path).done(PROMPTS, GOLDS) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert store(tmp_path).merge({(0, 0), (0, 1), (1, 0), (1, 1)})[0].num_rows == 4


def wait_for_rows(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while sum(pq.read_metadata(path).num_rows for path in (folder / "parts").glob("part-*")) < count:
        assert time.monotonic() < deadline, "the rows never reached the disk"
        time.sleep(0.01)


@pytest.mark.parametrize(("rows", "seconds"), [(3, 60.0), (1000, 0.05)])
def test_rows_are_on_disk_before_the_end_of_a_long_run(
    rows: int, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_r1.evaluation.store._ROWS_PER_PART", rows)
    monkeypatch.setattr("open_r1.evaluation.store._SECONDS_PER_PART", seconds)
    with store(tmp_path) as opened:
        for sample in range(3):
            opened.append(generation(0, sample))
        wait_for_rows(tmp_path, 3)  # though nothing more is drawn for a long time; as if killed here


def test_rows_of_many_writes_are_each_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_r1.evaluation.store._ROWS_PER_PART", 2)
    pairs = [(problem, sample) for problem in range(50) for sample in range(8)]
    fill(tmp_path, *pairs)
    read = [pq.read_table(path) for path in (tmp_path / "parts").iterdir()]
    assert sum(rows.num_rows for rows in read) == 400
    assert store(tmp_path).done({}, {}) == set(pairs)
    assert store(tmp_path).merge(pairs)[0]["tokens"].to_pylist() == [2] * 400


def test_a_row_that_comes_while_others_are_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = store(tmp_path)
    write = pq.write_table

    def slowly(*arguments: object, **settings: object) -> None:
        if len(opened._buffer) < 3:
            opened.append(generation(0, len(opened._buffer)))
        write(*arguments, **settings)

    monkeypatch.setattr("open_r1.evaluation.store.pq.write_table", slowly)
    opened.append(generation(0, 0))
    opened.flush()
    opened.flush()
    assert store(tmp_path).done(PROMPTS, GOLDS) >= {(0, 0), (0, 1)}


def test_what_happens_on_the_way_out_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), store(tmp_path) as opened:
        opened.append(generation(0, 0))
        raise KeyboardInterrupt
    assert store(tmp_path).done(PROMPTS, GOLDS) == {(0, 0)}


def test_a_disk_that_is_full_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("open_r1.evaluation.store._SECONDS_PER_PART", 0.01)
    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"cannot be written .No space left"):
        patched.setattr("open_r1.evaluation.store.pq.write_table", full)
        with store(tmp_path) as opened:
            opened.append(generation(0, 0))
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:  # the run itself stops, not only its end
                time.sleep(0.01)
                opened.append(generation(0, 1))
    assert time.monotonic() < deadline


def test_half_a_surrogate_pair_does_not_stop_the_run(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        opened.append(generation(0, 0, text="half \ud83d of it"))
        opened.append(generation(0, 1, text="naïve"))
    rows, _ = store(tmp_path).merge([(0, 0), (0, 1)])
    assert rows["completion"].to_pylist() == ["half ? of it", "naïve"]


def test_rows_of_an_older_version_are_used(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0))
    (part,) = (tmp_path / "parts").iterdir()
    pq.write_table(pq.read_table(part).drop_columns(["subject", "extracted"]), part)
    fill(tmp_path, (0, 1))
    assert store(tmp_path).done(PROMPTS, GOLDS) == {(0, 0), (0, 1)}
    rows, _ = store(tmp_path).merge([(0, 0), (0, 1)])
    assert rows.schema.equals(SCHEMA)
    assert rows["extracted"].to_pylist() == [None, None]


@pytest.mark.parametrize("merged", [True, False])
def test_a_row_that_was_verified_later_takes_the_place_of_the_one_without_a_reward(
    merged: bool, tmp_path: Path
) -> None:
    with store(tmp_path) as opened:
        for sample in range(3):
            opened.append(replace(generation(0, sample), reward=None if sample < 2 else 0.0))
    pairs = [(0, 0), (0, 1), (0, 2)]
    if merged:
        store(tmp_path).merge(pairs)
    assert [(row.sample, row.reward) for row in store(tmp_path).unverified()] == [(0, None), (1, None)]
    with store(tmp_path) as opened:
        opened.append(generation(0, 1))
    assert [row.sample for row in store(tmp_path).unverified()] == [0]
    for _ in range(2):
        assert store(tmp_path).merge(pairs)[0]["reward"].to_pylist() == [None, 1.0, 0.0]


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0))
    (part,) = (tmp_path / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(
        UserError, match=r"part-00000.parquet cannot be read \(it is no whole Parquet file\); delete it"
    ):
        store(tmp_path).done(PROMPTS, GOLDS)


def test_a_complete_file_is_not_written_again(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0), (0, 1))
    first = store(tmp_path).merge([(0, 0), (0, 1)])
    before = (tmp_path / "generations.parquet").stat()
    again = store(tmp_path).merge([(0, 0), (0, 1)])
    assert (tmp_path / "generations.parquet").stat().st_ino == before.st_ino
    assert again[0].to_pylist() == first[0].to_pylist()
    assert again[1] == pytest.approx(first[1], abs=0.001)


def test_a_missing_answer_is_an_error_and_not_a_smaller_number(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0))
    with pytest.raises(UserError, match=r"1 of 2 answers were never drawn \(the first: problem 1, sample 0\)"):
        store(tmp_path).merge({(0, 0), (1, 0)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"model": "b"}, "model 'a' → 'b'"), ({"temperature": 0.7}, "temperature 0.6 → 0.7")],
)
def test_other_settings_never_mix(tmp_path: Path, changes: dict, message: str) -> None:
    fill(tmp_path, (0, 0))
    with pytest.raises(UserError, match=message):
        store(tmp_path, **changes)
    fresh = GenerationStore(tmp_path, {**SETTINGS, **changes}, overwrite=True)
    assert store(tmp_path).done(PROMPTS, GOLDS) == {(0, 0)}  # as long as nothing has begun
    fresh.start_anew()
    assert fresh.done(PROMPTS, GOLDS) == set()


def test_answers_without_settings_are_not_trusted(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0))
    (tmp_path / "settings.json").unlink()
    with pytest.raises(UserError, match="other settings"):
        store(tmp_path)


def test_other_prompts_or_gold_answers_never_mix(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0), (1, 0))
    with pytest.raises(UserError, match="another prompt of problem 1"):
        store(tmp_path).done({**PROMPTS, 1: "3+3?"}, GOLDS)
    with pytest.raises(UserError, match="another gold answer of problem 0"):
        store(tmp_path).done(PROMPTS, {**GOLDS, 0: "5"})
    assert store(tmp_path).done({0: "2+2?"}, {0: "4"}) == {(0, 0), (1, 0)}  # problem 1 is not asked this time


def judged(folder: Path, by: str | None) -> GenerationStore:
    return GenerationStore(folder, SETTINGS, judged_by=by)


def test_a_kill_while_rewards_are_forgotten_leaves_the_rest_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pair in ((0, 0), (1, 0)):
        with judged(tmp_path, "old") as opened:
            opened.append(generation(*pair))
    write, written = GenerationStore._write, []

    def killed(path: Path, *args: object, **kwargs: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args, **kwargs)

    opened = judged(tmp_path, "new")
    assert opened.judged_otherwise
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(GenerationStore, "_write", staticmethod(killed))
        opened.forget_rewards()
    assert len(judged(tmp_path, "new").unverified()) == 1
    assert not judged(tmp_path, "old").judged_otherwise

    again = judged(tmp_path, "new")
    assert again.judged_otherwise
    again.forget_rewards()
    assert [row.reward for row in again.unverified()] == [None, None]
    assert not again.judged_otherwise
    assert not judged(tmp_path, "new").judged_otherwise


def test_code_that_is_not_known_changes_no_reward(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0))  # as an older version did
    assert not judged(tmp_path, "new").judged_otherwise
    assert not judged(tmp_path, None).judged_otherwise
    assert judged(tmp_path, "other").judged_otherwise
