from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from open_r1.config import EvaluateConfig
from open_r1.errors import UserError
from open_r1.evaluation.generations import SCHEMA
from open_r1.evaluation.result_files import METRICS_SCHEMA, write_results
from open_r1.evaluation.results import SubjectResult, TaskResult, results_table, stated, summarize
from open_r1.evaluation.statistics import Interval, pass_at_k

RIGHT = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1]])


def table(right: np.ndarray = RIGHT, **columns: list) -> pa.Table:
    problems, samples = right.shape
    answers = right.ravel().tolist()
    given = {
        "task": ["sums"] * len(answers),
        "problem": [problem for problem in range(problems) for _ in range(samples)],
        "sample": [*range(samples)] * problems,
        "prompt": ["?"] * len(answers),
        "completion": [f"It is {answer}" for answer in answers],
        "tokens": [*range(10, 10 + len(answers))],
        "finish_reason": ["stop"] * len(answers),
        "reward": [float(answer) for answer in answers],
        "gold": ["1"] * len(answers),
        "seed": [0] * len(answers),
        "subject": [None] * len(answers),
        "extracted": [str(answer) for answer in answers],
    }
    return pa.table(given | columns, schema=SCHEMA)


def result(rows: pa.Table | None = None, samples: int = 4, **further: object) -> TaskResult:
    rows = table() if rows is None else rows
    return summarize("sums", rows, samples, 2.0, Path("out/sums/generations.parquet"), seed=1, **further)


def said(results: list[TaskResult], width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(results_table(results))
    return output.getvalue()


def test_names_in_brackets_are_shown_as_they_are() -> None:
    named = replace(result(), task="sums[hard]", subjects=[SubjectResult("[/b] of algebra", 5, 0.5, 0.1, 0.9)])
    shown = said([named])
    assert shown.count("sums[hard]") == 3 and "[/b] of algebra" in shown


def test_an_extract_that_fails_is_told_when_every_answer_is_kept() -> None:
    def last(text: str) -> str:
        return text[-1]

    assert (stated(last, "4"), stated(last, ""), stated(None, "4"), stated(len, "four")) == ("4", None, None, "4")
    answers = table(completion=[""] * RIGHT.size, extracted=[None] * RIGHT.size)
    with pytest.raises(UserError, match=r"task sums: its extract fails on '', at .*test_results\.py:\d+: IndexError"):
        result(answers, extract=last)


def test_every_k_has_its_value_and_an_interval_around_it() -> None:
    found = result()
    assert found.pass_at_1 == pytest.approx(RIGHT.mean())
    assert {k: value.mean for k, value in found.pass_at_k.items()} == {
        "2": pytest.approx(pass_at_k(RIGHT, 2)),
        "4": pytest.approx(4 / 5),
    }
    for value in found.pass_at_k.values():
        assert 0 <= value.low <= value.mean <= value.high <= 1
    assert result(table(RIGHT[:, :1]), samples=1).pass_at_k == {}


def test_lengths_speed_and_counts() -> None:
    reasons = ["length"] * 3 + ["stop"] * 17
    found = result(table(finish_reason=reasons))
    assert (found.mean_tokens, found.median_tokens, found.p95_tokens) == (19.5, 19.5, pytest.approx(28.05))
    assert (found.tokens, found.tokens_per_second, found.seconds) == (390, 195.0, 2.0)
    assert found.truncated == pytest.approx(3 / 20)
    assert (found.problems, found.samples, found.answers) == (5, 4, 20)


def test_a_run_that_took_no_time_has_no_speed() -> None:
    assert summarize("sums", table(), 4, 0.0, Path("x"), seed=1).tokens_per_second is None


def test_empty_answers_are_counted() -> None:
    completions = ["", "  \n", "<think>\n", "<think>", "0"] + ["It is 1"] * 15
    assert result(table(completion=completions)).empty == 4


def test_what_could_not_be_verified_is_counted_and_not_right() -> None:
    rewards = [None, None, *RIGHT.ravel().tolist()[2:]]
    found = result(table(reward=rewards))
    assert found.unverified == 2
    assert found.pass_at_1 == pytest.approx((RIGHT.sum() - 2) / 20)


def test_a_reward_below_1_is_not_right() -> None:
    assert result(table(reward=[0.99] * 20)).pass_at_1 == 0


def test_the_vote_is_taken_where_the_task_can_read_answers() -> None:
    assert result().majority is None
    assert result(table(RIGHT[:, :1]), samples=1, extract=str.strip).majority is None
    vote = result(extract=str.strip).majority
    assert vote.mean == pytest.approx((0.5 + 0 + 1 + 0 + 1) / 5)
    assert vote.low <= vote.mean <= vote.high


def test_answers_of_an_older_version_are_read_for_the_vote() -> None:
    kept = [*map(str, RIGHT.ravel())]
    older = table(extracted=[None] * 8 + kept[8:])
    assert (
        result(older, extract=lambda text: text.removeprefix("It is ")).majority == result(extract=str.strip).majority
    )


def test_subjects_have_their_own_problems_and_those_without_one_have_none() -> None:
    found = result(subjects={0: "b", 1: "a", 2: "b", 3: None, 4: "b"})
    assert [(part.subject, part.problems) for part in found.subjects] == [("a", 1), ("b", 3)]
    assert found.subjects[1].pass_at_1 == pytest.approx(RIGHT[[0, 2, 4]].mean())
    assert found.subjects[0].low == 0 < 0.9 < found.subjects[0].high  # one problem says little


def test_the_table_fits_80_columns_whatever_the_numbers() -> None:
    wide = Interval(0.885, 0.873, 1.0)
    long = TaskResult(
        "lcb:codegeneration", 1.0, 0.995, 1.0, 1055, 16, 0.123, 12_345.0, 0, 40_000.0, "x", {"16": wide}, majority=wide
    )
    shown = said([long, replace(result(extract=str.strip), task="a-file-with-a-name-that-goes-on-and-on-and-on")])
    assert max(map(len, shown.splitlines())) <= 80
    assert "99.5 – 100.0 %" in shown and "1,055 × 16" in shown and "12,345" in shown and "11:06:40" in shown
    assert "…" not in shown


def test_what_is_wrong_with_the_numbers_is_said_under_them() -> None:
    rows = table(reward=[None] * 3 + [1.0] * 17, completion=[""] * 2 + ["1"] * 18)
    shown = said([result(rows, rejected_gold=[3, 4])], width=200)
    assert "could not be verified, which count as not right: sums 3" in shown
    assert "empty answers, which count as not right: sums 2" in shown
    assert "gold answers of 2 of 5 problems as right (rows 3, 4)" in shown
    assert len(said([result()], width=200).splitlines()) == 7  # and nothing where nothing is


def test_files_hold_every_number(tmp_path: Path) -> None:
    found = result(extract=str.strip, subjects={0: "a", 1: "b"}, rejected_gold=[2])
    config = EvaluateConfig(model="org/m", tasks=["gsm8k"])
    model = SimpleNamespace(name="org/m", fingerprint="f00")
    write_results(tmp_path / "new", model, [found], config)
    written = json.loads((tmp_path / "new" / "results.json").read_text())
    (task,) = written["tasks"]
    assert written["model"] == "org/m" and written["settings"]["seed"] == 42
    assert task["majority"] == {"mean": found.majority.mean, "low": found.majority.low, "high": found.majority.high}
    assert task["rejected_gold"] == [2]
    assert task["subjects"][1] == {"subject": "b", "problems": 1, "pass_at_1": 0.0, "low": 0.0, "high": 0.975}

    metrics = pq.read_table(tmp_path / "new" / "results.parquet")
    assert metrics.schema.equals(METRICS_SCHEMA)
    whole = {row["metric"]: row for row in metrics.to_pylist() if row["subject"] is None}
    assert whole["pass@1"] == {
        "task": "sums",
        "subject": None,
        "metric": "pass@1",
        "value": found.pass_at_1,
        "low": found.low,
        "high": found.high,
        "problems": 5,
        "samples": 4,
    }
    assert {"pass@2", "pass@4", "maj@4", "truncated", "mean_tokens", "empty", "unverified", "seconds"} <= set(whole)
    assert whole["rejected_gold"]["value"] == 1 and whole["truncated"]["low"] is None
    by_subject = [(row["subject"], row["value"]) for row in metrics.to_pylist() if row["subject"]]
    assert by_subject == [("a", 0.5), ("b", 0.0)]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "model_card.md",
        "results.json",
        "results.parquet",
    ]
