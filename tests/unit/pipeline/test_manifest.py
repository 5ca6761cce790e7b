"""What counts as a change, and what does not."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from open_r1.pipeline.manifest import Identity, changed_output, digest, find_inputs, look_at, outputs_of
from open_r1.pipeline.spec import read_pipeline


def test_a_folder_is_its_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("one")
    before = digest(tmp_path)
    os.utime(tmp_path / "sub" / "a", (1, 1))
    (tmp_path / ".hidden").write_text("x")
    assert digest(tmp_path) == before
    (tmp_path / "sub" / "a").write_text("two")
    changed = digest(tmp_path)
    assert changed != before
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "b")
    assert digest(tmp_path) not in (before, changed)


def test_inputs_are_the_files_that_no_needed_stage_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("work.py", "data.jsonl", "model/weights", "main/x", "runs/01-a/out", "runs/02-b/own"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    args = '{x: data.jsonl, t: ["problems=data.jsonl"], m: ./model, r: main, a: "{a}/out", o: "{stage_dir}/own", n: 3}'
    Path("p.yaml").write_text(
        "output_dir: runs\nstages:\n  - {name: a, kind: script, run: work.py}\n"
        f"  - {{name: b, kind: script, run: work.py, args: {args}}}\n"
    )
    pipeline = read_pipeline("p.yaml")
    stage = pipeline.stages[1]
    assert find_inputs(pipeline, stage, stage.settings) == ["data.jsonl", "model", "work.py"]


def test_an_input_is_read_again_only_when_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("one")
    os.utime(path, ns=(1, 1))
    (seen,) = look_at([str(path)], {}).values()
    assert seen.digest == digest(path)
    known = {str(path): {"digest": "as recorded", "stamp": seen.stamp}}
    assert look_at([str(path)], known)[str(path)].digest == "as recorded"
    path.write_text("two")
    assert look_at([str(path)], known)[str(path)].digest == digest(path)


IDENTITY = Identity("sft", None, None, {"lr": 1, "text": "a" * 50}, {"data.jsonl": "d1"}, {"base": "m1"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"settings": {"lr": 2, "text": "a" * 50}}, "lr 1 → 2"),
        ({"settings": {"lr": 1}}, "text changed"),
        ({"settings": {"lr": 1, "text": "a" * 50, "new": True}}, "new unset → True"),
        ({"inputs": {"data.jsonl": "d2"}}, "data.jsonl changed"),
        ({"upstream": {"base": None}}, "base was redone"),
        ({"launcher": {"config_file": "ddp.yaml"}}, "launcher changed"),
        ({"settings": {"a": 1, "b": 2, "c": 3}}, "a unset → 1, b unset → 2, c unset → 3 and 2 more"),
    ],
)
def test_a_difference_is_said_in_a_few_words(change: dict, said: str | None) -> None:
    assert replace(IDENTITY, **change).difference(asdict(IDENTITY)) == said


def test_outputs_leave_out_checkpoints_and_are_missed_when_gone(tmp_path: Path) -> None:
    for name in (
        "manifest.json",
        "stage.json",
        "model.safetensors",
        "checkpoint-3/model.safetensors",
        "task/g.parquet",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("123")
    recorded = outputs_of(tmp_path)
    assert recorded == {"model.safetensors": 3, "task/g.parquet": 3}
    assert changed_output(tmp_path, recorded) is None
    (tmp_path / "task" / "g.parquet").write_text("12345")
    assert changed_output(tmp_path, recorded) == "task/g.parquet"
    (tmp_path / "model.safetensors").unlink()
    assert changed_output(tmp_path, recorded) == "model.safetensors"
