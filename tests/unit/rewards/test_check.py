from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from open_r1.errors import UserError
from open_r1.rewards.check import GoldReport, check_gold
from open_r1.rewards.registry import reward_spec

ACCURACY, FORMAT, LENGTH, COSINE = map(reward_spec, ("accuracy", "format", "length", "cosine"))


def printed(report: GoldReport) -> str:
    out = StringIO()
    report.print(Console(file=out, width=140))
    return out.getvalue()


@pytest.mark.parametrize("name", ["gsm8k_train.jsonl", "math_500.jsonl", "aime24.jsonl"])
def test_real_gold_answers_are_rewarded(real_rows: Callable[[str], list[dict[str, str]]], name: str) -> None:
    rows = real_rows(name)
    report = check_gold(rows, [FORMAT, ACCURACY, COSINE, LENGTH], sample=30)
    assert report.failures == []
    assert (len(report.rows), report.checked, list(report.skipped)) == (
        30,
        ["accuracy", "cosine"],
        ["format", "length"],
    )
    report.raise_if_hopeless()
    assert printed(report).startswith("Reward accuracy: 30 of 30 gold answers tried are rewarded.")


def test_planted_bad_golds_are_shown() -> None:
    rows = [{"problem": "p", "answer": gold} for gold in ("18", "forty two apples", r"\frac{1}{2}", "[see] above")]
    report = check_gold(rows, [ACCURACY])
    assert [(failure.row, failure.value) for failure in report.failures] == [(1, None), (3, None)]
    assert report.unparsable_share("accuracy") == 0.5
    report.raise_if_hopeless()
    text = printed(report)
    assert "2 of 4 gold answers tried are rewarded, 50% give no reward" in text
    assert "forty two apples" in text and "[see] above" in text and "cannot be parsed" in text


def test_no_gold_that_parses_stops_the_run() -> None:
    rows = [{"problem": "p", "solution": "no such thing"}] * 3
    report = check_gold(rows, [FORMAT, ACCURACY])
    with pytest.raises(
        UserError, match=r"'accuracy' rewards none of the 3 .* None for every answer; row 0: gold 'no such"
    ):
        report.raise_if_hopeless()


def test_a_named_column_goes_before_the_parameter() -> None:
    rows = [{"solution": "prose without a value", "answer": "5"}]
    assert check_gold(rows, [ACCURACY]).failures[0].gold == "prose without a value"
    assert check_gold(rows, [ACCURACY], gold_column="answer").failures == []


def test_prose_must_be_rewarded_in_a_box_too(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "def unboxed(completions, answer, **columns):\n"
        "    return [float('boxed' not in one[0]['content']) for one, _ in zip(completions, answer, strict=True)]\n"
    )
    report = check_gold([{"answer": "March 5"}], [ACCURACY, reward_spec(f"{path}:unboxed")])
    assert [(one.reward, one.value) for one in report.failures] == [(f"{path}:unboxed", 0.0)]


def test_data_without_gold() -> None:
    with pytest.raises(
        UserError, match=r"need a gold answer \(solution\) and the data has none; its columns are problem"
    ):
        check_gold([{"problem": "p"}], [ACCURACY])
    assert check_gold([{"problem": "p"}], [FORMAT]).checked == []
    assert check_gold([], [ACCURACY]).rows == []


def test_own_reward_that_rejects_everything(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def strict(completions, answer, **columns):\n    return [0.0 for _ in completions]\n")
    report = check_gold([{"answer": "5"}], [reward_spec(f"{path}:strict")])
    with pytest.raises(UserError, match=r"would be 0 for every answer.*judged wrong by its own reward"):
        report.raise_if_hopeless()


def test_why_each_gold_answer_fails(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "import time\n"
        "def fussy(completions, answer, **columns):\n"
        "    if answer[0] == 'hang':\n        time.sleep(100)\n"
        "    if answer[0] == 'raise':\n        raise ValueError('no such price')\n"
        "    return [None if answer[0] == 'none' else float(answer[0] == '5')]\n"
    )
    rows = [{"answer": gold} for gold in ("5", "7", "hang", "raise", "none", None)]
    report = check_gold(rows, [reward_spec(f"{path}:fussy")], timeout=0.5)
    assert [(one.row, one.kind) for one in report.failures] == [
        (1, "rejected"),
        (2, "timed out"),
        (3, "failed"),
        (4, "no value"),
        (5, "no value"),
    ]
    reasons = [one.reason for one in report.failures]
    assert reasons[1] == "took longer than 0.5 s" and "ValueError: no such price" in reasons[2]
    assert reasons[4] == "the row has no gold answer"
    assert report.counts(f"{path}:fussy").total() == 5


def test_worked_solutions_are_tried_where_they_are_named() -> None:
    rows = [
        {"answer": r"\frac{1}{2}", "solution": r"so \boxed{1/2}"},
        {"answer": r"\frac{1}{2}", "solution": r"so \boxed{\frac{1}{3}}"},
        {"answer": "9", "solution": "no idea"},
    ]
    tried: list[int] = []
    report = check_gold(
        rows, [ACCURACY], gold_column="answer", completion_column="solution", progress=tried.append, sample=None
    )
    assert [(one.row, one.value, one.reason) for one in report.failures] == [
        (1, 0.0, "the answer is parsed as 1/3, which does not equal 1/2"),
        (2, 0.0, "the answer is parsed as nothing, which does not equal 9"),
    ]
    assert tried[-1] == 3
    with pytest.raises(UserError, match="no column 'worked'; its columns are answer, solution"):
        check_gold(rows, [ACCURACY], completion_column="worked")


def test_a_column_that_a_reward_needs_is_missed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def priced(completions, answer, price):\n    return [1.0]\n")
    with pytest.raises(UserError, match=r"needs the column 'price' and the data has none; its columns are answer"):
        check_gold([{"answer": "5"}], [reward_spec(f"{path}:priced")])


def test_the_sample_is_seeded() -> None:
    rows = [{"answer": str(index)} for index in range(100)]
    first, again, other = (check_gold(rows, [ACCURACY], sample=5, seed=seed).rows for seed in (1, 1, 2))
    assert first == again != other
