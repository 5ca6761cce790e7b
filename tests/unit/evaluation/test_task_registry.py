from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets.exceptions
import pytest

from open_r1.data import sources as data_sources
from open_r1.errors import UserError
from open_r1.evaluation.registry import TASKS, resolve

OWN = """
from open_r1.evaluation.prompts import user_turn
from open_r1.evaluation.task import Task

SUMS = Task(
    name="sums{number}",
    description="sums",
    prompt=lambda row: user_turn(row["sum"]),
    gold=lambda row: row["value"],
    needs=("sum", "value"),
    rows=lambda path: [{{"sum": "1+1?", "value": "2"}}] if path is None else [{{"sum": path, "value": "0"}}],
)
NUMBER = 5
SHORT = Task(name="short", description="", prompt=SUMS.prompt, gold=SUMS.gold, reward=lambda completions, **_: [])
"""


def test_the_tasks_of_the_issue_are_there() -> None:
    names = "aime24 aime25 amc23 math_500 gsm8k minerva olympiadbench gpqa:diamond lcb:codegeneration humaneval"
    assert set(names.split()) <= set(TASKS)


def test_names_and_files() -> None:
    sources = resolve(["gsm8k", "math_500=copy/math.jsonl", "problems=own/hard.jsonl", "gpqa:diamond=a=b.jsonl"])
    assert [(source.label, source.path, source.folder) for source in sources] == [
        ("gsm8k", None, "gsm8k"),
        ("math_500", "copy/math.jsonl", "math_500"),
        ("hard", "own/hard.jsonl", "hard"),
        ("gpqa:diamond", "a=b.jsonl", "gpqa-diamond"),
    ]


def test_other_releases_of_livecodebench_have_names_of_their_own() -> None:
    sources = resolve(["lcb:codegeneration", "lcb:codegeneration_v6", "lcb:codegeneration_release_v5=folder"])
    assert [source.label for source in sources] == [
        "lcb:codegeneration",
        "lcb:codegeneration_v6",
        "lcb:codegeneration_release_v5",
    ]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["math500"], "task 'math500' is not known; did you mean math_500"),
        (["gpqa:diamnd"], "no module named 'gpqa' here or on PYTHONPATH; did you mean gpqa:diamond"),
        (["lcb:codegeneration_v9"], "is not known; did you mean lcb:codegeneration"),
        (["own/hard.jsonl"], "is a file: write --tasks problems=own/hard.jsonl"),
        (["gsm8k="], "no file is named after the equals sign"),
        (["problems"], "problems=path.jsonl"),
        (["gsm8k", "gsm8k=a.jsonl"], "names 'gsm8k' twice"),
        (["problems=a/x.jsonl", "problems=b/x.jsonl"], "names 'x' twice"),
        ([], "no task is given"),
    ],
)
def test_bad_names_are_one_clear_line(specs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve(specs)
    assert "\n" not in str(error.value)


def test_a_task_of_ones_own_by_the_path_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "by_path.py"
    file.write_text(OWN.format(number=1))
    (source,) = resolve([f"{file}:SUMS"])
    assert source.label == "sums1"
    assert [problem.gold for problem in source.load()] == ["2"]
    (source,) = resolve([f"{file}:SUMS=mine.jsonl"])
    assert [problem.messages[0]["content"] for problem in source.load()] == ["mine.jsonl"]


def test_a_task_of_ones_own_by_its_module_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_tasks_by_module.py").write_text(OWN.format(number=2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (source,) = resolve(["own_tasks_by_module:SUMS"])
    assert source.label == "sums2"


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "SUMS", "no file .*own.py; name it module:NAME or path/to/file.py:NAME"),
        (OWN, "SUM", "has no 'SUM'; did you mean SUMS"),
        (OWN, "NUMBER", "is a int, not a Task of"),
        (OWN, "SHORT", "its reward is a function: give its name, as 'my_module:my_reward'"),
        ("import no_such_library\n", "SUMS", "imports no_such_library, which is not installed"),
        ("x = 1\ny = x / 0\n", "SUMS", "importing .* failed at .*own.py:2: ZeroDivisionError"),
    ],
)
def test_a_bad_task_of_ones_own_is_one_clear_line(text: str | None, name: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text.format(number=3))
    with pytest.raises(UserError, match=message) as error:
        resolve([f"{file}:{name}"])
    assert "\n" not in str(error.value)


def test_a_file_is_loaded_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(5)))
    (source,) = resolve([f"problems={path}"])
    assert [problem.gold for problem in source.load()] == ["1", "2", "3", "4", "5"]
    assert [(problem.index, problem.gold) for problem in source.load(limit=2)] == [(0, "1"), (1, "2")]
    assert len(source.load(limit=50)) == 5


def test_an_empty_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "aime.jsonl"
    path.write_text("")
    with pytest.raises(UserError, match=r"task aime24: .*aime\.jsonl is empty"):
        resolve([f"aime24={path}"])[0].load()


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ConnectionError("no route"), "hub cannot be reached.*--tasks gpqa:diamond=path.jsonl takes a local copy"),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub."),
            "HF_TOKEN.*--tasks gpqa:diamond=path.jsonl takes a local copy",
        ),
    ],
)
def test_a_hub_that_does_not_give_the_data_is_one_clear_line(
    raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_settings: object) -> None:
        raise raised

    monkeypatch.setattr(data_sources, "load_dataset", refuse)
    with pytest.raises(UserError, match=f"task gpqa:diamond: Idavidrein/gpqa: .*{message}") as error:
        resolve(["gpqa:diamond"])[0].load()
    assert "\n" not in str(error.value)
