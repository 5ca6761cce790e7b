from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_folders import Rewards, write_task

from open_r1.errors import UserError
from open_r1.evaluation.comparison import Change, TaskComparison, compare
from open_r1.evaluation.generations import SCHEMA

A: Rewards = {0: [1, 0], 1: [0, 0], 2: [1, 1], 3: [0, 1]}
B: Rewards = {0: [1, 1], 1: [0, 0], 2: [1, 0], 3: [1, 1]}


def of(a: Path | str, b: Path | str, *tasks: str) -> list[TaskComparison]:
    return compare(str(a), str(b), tasks or None, seed=0)


def only(a: Path, b: Path) -> TaskComparison:
    (one,) = of(a, b)
    return one


def test_problems_are_paired(tmp_path: Path) -> None:
    one = only(write_task(tmp_path / "a", A), write_task(tmp_path / "b", B))
    assert (one.task, one.problems, one.answers_a, one.answers_b) == ("sums", 4, 8, 8)
    assert (one.scores.a, one.scores.b, one.scores.difference.mean) == (0.5, 0.625, 0.125)
    assert (one.scores.better, one.scores.worse, one.scores.alike) == (2, 1, 1)
    assert one.changed == [Change(0, 0.5, 1.0), Change(2, 1.0, 0.5), Change(3, 0.5, 1.0)]
    assert one.scores.difference.low <= 0 <= one.scores.difference.high
    assert not one.differs
    assert one.notes == []


def test_the_problems_that_changed_most_come_first(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", {0: [1, 1, 1, 1], 1: [1, 0, 0, 0], 2: [0, 0, 0, 0]})
    b = write_task(tmp_path / "b", {0: [1, 1, 1, 0], 1: [1, 1, 1, 0], 2: [1, 1, 1, 1]})
    assert [change.problem for change in only(a, b).changed] == [2, 1, 0]


def test_a_clear_difference_is_found_in_the_direction_it_has(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", {problem: [problem % 2, 0] for problem in range(40)})
    b = write_task(tmp_path / "b", {problem: [1, problem % 2] for problem in range(40)})
    there, back = only(a, b), only(b, a)
    assert there.differs and there.scores.difference.low > 0
    assert back.differs and back.scores.difference.high < 0
    assert there.scores.p_value < 0.001


def test_a_folder_with_itself_does_not_differ(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", A)
    one = only(a, a)
    assert (one.scores.difference.mean, one.changed, one.differs) == (0, [], False)


def test_other_numbers_of_samples_and_problems_are_paired_and_said(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", {0: [1, 0, 0, 0], 1: [1, 1, 1, 1], 2: [0, 0, 0, 0]})
    b = write_task(tmp_path / "b", {1: [1, 0], 2: [1, 1], 3: [1, 1], 4: [0, 0]})
    one = only(a, b)
    assert (one.problems, one.scores.a, one.scores.b, one.answers_a, one.answers_b) == (2, 0.5, 0.75, 8, 4)
    assert one.notes == [
        "only the 2 problems that both have are compared (1 only in A, 2 only in B)",
        "answers to a problem: 4 in A, 2 in B",
    ]


def test_what_was_not_verified_is_not_right_and_said(tmp_path: Path) -> None:
    one = only(write_task(tmp_path / "a", A), write_task(tmp_path / "b", {**B, 0: [None, 1]}))
    assert one.scores.b == 0.5
    assert one.notes == ["answers that could not be verified, which count as not right: 1 in B"]


def test_what_is_partly_right_is_not_right(tmp_path: Path) -> None:
    assert only(write_task(tmp_path / "a", A), write_task(tmp_path / "b", {**B, 0: [0.9, 1]})).scores.b == 0.5


def test_settings_that_differ_are_said_but_not_the_model(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", A, stop_token_ids=[1])
    b = write_task(tmp_path / "b", B, temperature=1.0, stop_token_ids=[2])
    assert only(a, b).notes == ["settings differ, A → B: temperature 0.6 → 1.0"]


def test_another_dtype_or_engine_is_said(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", A, model=f"{'a' * 32}/float32")
    b = write_task(tmp_path / "b", B, model=f"{'b' * 32}/bfloat16/vllm")
    assert only(a, b).notes == ["settings differ, A → B: held_as 'float32' → 'bfloat16/vllm'"]
    assert only(a, write_task(tmp_path / "c", B, model=f"{'b' * 32}/float32")).notes == []


@pytest.mark.parametrize(
    "template",
    [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{}<|im_end|>",
        '[{{"role": "user", "content": "{}"}}]',
    ],
)
def test_another_chat_template_is_the_same_problem(template: str, tmp_path: Path) -> None:
    question = 'For {0}, say "what" is\n{0} + 1 in \\naive terms, \\frac{{{0}}}{{2}}, ok?'
    a = write_task(tmp_path / "a", A, question=question)
    escaped = question.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    b = write_task(tmp_path / "b", B, template=template, question=escaped if "role" in template else question)
    assert only(a, b).notes == []


def test_other_words_between_are_said(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", A, question="{} apples and one more")
    b = write_task(tmp_path / "b", B, question="{0} pears, not {0} apples, and one more")
    (note,) = only(a, b).notes
    assert note.startswith("the prompts of 4 problems differ by more than the chat template (the first: problem 0)")


def test_other_problems_are_refused(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", A)
    b = write_task(tmp_path / "b", B, golds={2: "77"})
    with pytest.raises(
        UserError, match=r"sums: A and B were asked other problems: 1 of 4 .*problem 2 \('3' and '77'\)"
    ):
        of(a, b)


def test_tasks_in_both_are_compared_and_can_be_chosen(tmp_path: Path) -> None:
    for side, rewards in (("a", A), ("b", B)):
        for task in ("sums", "gpqa:diamond", f"only-{side}"):
            write_task(tmp_path / side, rewards, task=task)
    a, b = tmp_path / "a", tmp_path / "b"
    assert [one.task for one in of(a, b)] == ["gpqa:diamond", "sums"]
    assert [one.task for one in of(a, b, "sums", "gpqa:diamond")] == ["sums", "gpqa:diamond"]
    with pytest.raises(
        UserError, match=r"--tasks sumz: not in both; did you mean sums\? \(both have: gpqa-diamond, sums\)"
    ):
        of(a, b, "sumz")


def test_a_task_may_be_named_by_its_folder_or_its_file(tmp_path: Path) -> None:
    a, b = write_task(tmp_path / "a", A), write_task(tmp_path / "b", B, task="renamed")
    write_task(tmp_path / "b", B, task="another")
    for one, other in (
        (a / "sums", b / "renamed"),
        (a / "sums" / "generations.parquet", b / "another" / "generations.parquet"),
        (a / "sums", b / "another" / "generations.parquet"),
        (a, b / "another" / "generations.parquet"),
    ):
        assert only(one, other).scores.difference.mean == 0.125
    with pytest.raises(UserError, match=r"a has sums and .*b has another, renamed: no task is in both"):
        of(a, b)


def break_file(path: Path, how: str) -> None:
    rows = pq.read_table(path)
    if how == "short":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "rows":
        pq.write_table(SCHEMA.empty_table(), path)
    elif how == "columns":
        pq.write_table(rows.drop_columns(["gold"]), path)
    else:
        pq.write_table(rows.set_column(7, "reward", pa.array(["?"] * rows.num_rows)), path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("short", r"generations.parquet cannot be read as Parquet \(cut short"),
        ("empty", r"generations.parquet cannot be read as Parquet \(cut short"),
        ("rows", "generations.parquet holds no answers"),
        ("columns", "generations.parquet has no column 'gold'"),
        ("types", "generations.parquet cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(how: str, message: str, tmp_path: Path) -> None:
    a, b = write_task(tmp_path / "a", A), write_task(tmp_path / "b", B)
    break_file(b / "sums" / "generations.parquet", how)
    with pytest.raises(UserError, match=message) as caught:
        of(a, b)
    assert "\n" not in str(caught.value)


def test_folders_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    a = write_task(tmp_path / "runs" / "a", A)
    write_task(tmp_path / "stopped", B, finished=False)
    (tmp_path / "nothing").mkdir()
    for b, message in (
        ("missing", "missing does not exist"),
        ("nothing", "nothing holds no generations.parquet of open-r1 evaluate"),
        ("stopped", "stopped is not finished: run the same evaluate command to its end"),
        ("runs", r"did you mean .*runs/a\?"),
    ):
        with pytest.raises(UserError, match=message):
            of(a, tmp_path / b)


def test_no_problem_in_common_is_one_line(tmp_path: Path) -> None:
    a, b = write_task(tmp_path / "a", {0: [1]}), write_task(tmp_path / "b", {1: [1]})
    with pytest.raises(UserError, match=r"sums: .* have no problem in common"):
        of(a, b)
