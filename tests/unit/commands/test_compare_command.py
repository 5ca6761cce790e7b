from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_folders import write_task

from open_r1.cli import main

A = {problem: [problem % 2, 0, 0, 0] for problem in range(60)}
B = {problem: [1, problem % 3 == 0, 0, 0] for problem in range(60)}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for task in ("lcb:codegeneration", "sums"):
        write_task(tmp_path / "before", A, task=task)
        write_task(tmp_path / "after", B if task == "sums" else A, task=task)
    return tmp_path


def test_the_tables_say_what_differs_and_what_does_not(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "before", "after"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    flat = " ".join(shown.split())
    assert "sums: B is better than A; better on 40 problems, worse on 0, alike on 20" in flat
    assert "lcb:codegeneration: the interval contains 0, so neither is shown to be better" in flat
    (row,) = [line for line in shown.splitlines() if line.startswith("sums  ")]
    assert row.split()[:7] == ["sums", "60", "12.5", "%", "33.3", "%", "+20.8"]
    assert row.split()[-1] == "<0.001"
    assert "changed most (5 of 40)" in shown and "problem 0" in shown and "+50.0" in shown


def test_four_problems_that_turned_right_show_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path / "a", {problem: [0] for problem in range(30)})
    write_task(tmp_path / "b", {problem: [problem < 4] for problem in range(30)})
    output = tmp_path / "diff.json"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)]) == 0
    flat = " ".join(capsys.readouterr().out.split())
    assert "sums: p is 0.125, so neither is shown to be better; B is better on 4 problems, worse on 0" in flat
    (task,) = json.loads(output.read_text())["tasks"]
    assert (task["contains_0"], task["p_value"]) == (False, 0.125)  # each as it is


def test_the_output_holds_every_problem_that_changed(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "before", "after", "--tasks", "sums", "--output", "new/diff.json"]) == 0
    assert "new/diff.json" in capsys.readouterr().out
    written = json.loads((folders / "new" / "diff.json").read_text())
    (task,) = written["tasks"]
    assert (written["a"], written["b"], task["task"]) == ("before", "after", "sums")
    assert len(task["changed"]) == task["better"] == 40
    assert task["changed"][0] == {"problem": 0, "a": 0.0, "b": 0.5}
    assert task["low"] < task["difference"] < task["high"]
    assert task["contains_0"] is False


def test_the_same_command_says_the_same(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for _ in range(2):
        assert main(["compare", "before", "after"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "results"),
        (["before"], "two folders of results, A and B, not 1"),
        (["before", "after", "later"], "two folders of results, A and B, not 3"),
        (["before", "gone"], "gone does not exist"),
        (["before", "after", "--tasks", "gsm8k"], "--tasks gsm8k: not in both"),
        (["before", "after", "--output", "before/sums/generations.parquet/x.json"], "cannot be written"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    words: list[str], message: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
