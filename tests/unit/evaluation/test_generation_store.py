from __future__ import annotations

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


def test_rows_are_on_disk_before_the_end_of_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_r1.evaluation.store._ROWS_PER_PART", 3)
    opened = store(tmp_path)
    for sample in range(7):
        opened.append(generation(0, sample))
    assert store(tmp_path).done(PROMPTS, GOLDS) == {(0, sample) for sample in range(6)}  # as if killed here


def test_a_missing_answer_is_an_error_and_not_a_smaller_number(tmp_path: Path) -> None:
    fill(tmp_path, (0, 0))
    with pytest.raises(RuntimeError, match="1 of 2 answers"):
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
