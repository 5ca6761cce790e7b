from __future__ import annotations

import json
from pathlib import Path

import pytest

from open_r1.commands.rewards_check import main
from open_r1.errors import UserError

ROWS = (
    {"problem": "p", "answer": "18"},
    {"problem": "p", "answer": "forty two apples"},
    {"problem": "p", "answer": "9 + 9 = <<9+9=18>>18\n#### 18"},
)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def write(path: Path, *rows: dict[str, str]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def check(*argv: str) -> int:
    """The status of the command."""
    try:
        main(argv)
    except SystemExit as leave:
        return leave.code
    return 0


def test_all_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "good.jsonl", ROWS[0], ROWS[2])
    assert check("--dataset", data, "--reward_funcs", "accuracy", "format") == 0
    out = capsys.readouterr().out
    assert "gold answers of 2 of 2 rows (column 'answer')" in out
    assert "accuracy     2         2         0         0       0          0" in out
    assert "format was not tried: it takes no gold answer." in out
    assert "not rewarded" not in out


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_failures_are_shown_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    data, output = write(tmp_path / "bad.jsonl", *ROWS), tmp_path / f"failures.{suffix}"
    assert check("--dataset", data, "--reward_funcs", "accuracy", "--output", str(output)) == 1
    out = capsys.readouterr().out
    assert "accuracy     3         2         0         1       0          0" in out
    assert "forty two apples" in out and "cannot be parsed as mathematics" in out
    assert max(map(len, out.replace(str(tmp_path), "").splitlines())) <= 80
    expected = {
        "row": 1,
        "reward": "accuracy",
        "gold": "forty two apples",
        "value": None,
        "kind": "no value",
        "reason": "cannot be parsed as mathematics",
    }
    if suffix == "jsonl":
        assert [json.loads(line) for line in output.read_text().splitlines()] == [expected]
    else:
        import pyarrow.parquet

        assert pyarrow.parquet.read_table(output).to_pylist() == [expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["bad.jsonl", output.name])


def test_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "many.jsonl", *[{"answer": str(number)} for number in range(50)])
    assert check("--dataset", data, "--reward_funcs", "accuracy", "--sample", "7") == 0
    assert "gold answers of 7 of 50 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--answer_column", "gold"], r"the data has none; its columns are problem, answer"),
        (["--completion_column", "worked"], r"no column 'worked'"),
        (["--reward_funcs", "code"], r"reward 'code' needs the column 'verification_info'"),
        (["--output", "failures.txt"], r"must end in \.jsonl or \.parquet"),
        (["--output", "/no/such/folder/failures.jsonl"], r"there is no folder /no/such/folder"),
        (["--output", "/dev/fd/failures.jsonl"], r"output /dev/fd/failures\.jsonl: (cannot be written|you may not)"),
        (["--reward_funcs", "acuracy"], r"unknown reward 'acuracy'"),
    ],
)
def test_what_the_user_can_mend(tmp_path: Path, argv: list[str], message: str) -> None:
    data = write(tmp_path / "rows.jsonl", ROWS[0])
    with pytest.raises(UserError, match=message):
        main(["--dataset", data, *argv])
