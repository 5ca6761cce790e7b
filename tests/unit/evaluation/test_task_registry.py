from __future__ import annotations

import json
from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.evaluation.registry import resolve


def test_names_and_files() -> None:
    sources = resolve(["gsm8k", "math_500=copy/math.jsonl", "problems=own/hard.jsonl"])
    assert [(source.label, source.path) for source in sources] == [
        ("gsm8k", None),
        ("math_500", "copy/math.jsonl"),
        ("hard", "own/hard.jsonl"),
    ]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["math500"], "task 'math500' is not known; did you mean math_500"),
        (["problems"], "problems=path.jsonl"),
        (["gsm8k", "gsm8k=a.jsonl"], "names 'gsm8k' twice"),
        (["problems=a/x.jsonl", "problems=b/x.jsonl"], "names 'x' twice"),
        ([], "no task is given"),
    ],
)
def test_bad_names_are_one_clear_line(specs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(specs)


def test_a_file_is_loaded_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(5)))
    (source,) = resolve([f"problems={path}"])
    assert [problem.gold for problem in source.load()] == ["1", "2", "3", "4", "5"]
    assert [(problem.index, problem.gold) for problem in source.load(limit=2)] == [(0, "1"), (1, "2")]
    assert len(source.load(limit=50)) == 5
