"""What counts as a change, and what does not."""

from __future__ import annotations

import os
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from open_r1.pipeline.manifest import Identity, changed_output, digest, find_inputs, look_at, outputs_of
from open_r1.pipeline.no_matter import NO_MATTER
from open_r1.pipeline.settings import CLASSES
from open_r1.pipeline.spec import read_pipeline
from open_r1.training import continuity


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
        ({"settings": {"lr": 1, "text": "a" * 50, "save_total_limit": 1, "report_to": ["wandb"]}}, None),
        ({"inputs": {"data.jsonl": "d2"}}, "data.jsonl changed"),
        ({"upstream": {"base": None}}, "base was redone"),
        ({"launcher": {"config_file": "ddp.yaml"}}, "launcher changed"),
        ({"settings": {"a": 1, "b": 2, "c": 3}}, "a unset → 1, b unset → 2, c unset → 3 and 2 more"),
    ],
)
def test_a_difference_is_said_in_a_few_words(change: dict, said: str | None) -> None:
    assert replace(IDENTITY, **change).difference(asdict(IDENTITY)) == said


@pytest.mark.parametrize(
    ("old", "new", "extends"),
    [
        ({"limit": 10}, {"limit": 20}, True),
        ({"limit": 10}, {}, True),
        ({}, {"num_generations": 4}, True),
        ({"limit": 10, "num_generations": 4}, {"limit": 20, "num_generations": 8}, True),
        ({"limit": 20}, {"limit": 10}, False),
        ({}, {"limit": 10}, False),
        ({"limit": 10}, {"limit": 20, "num_generations": 4, "temperature": 1}, False),
        ({"limit": 10, "num_generations": 4}, {"limit": 20}, False),
        ({"limit": 10}, {"limit": "many"}, False),
    ],
)
def test_more_answers_of_the_same_extend_what_is_there(old: dict, new: dict, extends: bool) -> None:
    made = replace(IDENTITY, kind="generate", settings=new)
    assert made.extends(asdict(replace(made, settings=old))) is extends
    assert not made.extends(asdict(replace(made, settings=old, inputs={})))
    assert not replace(made, kind="sft").extends(asdict(replace(made, kind="sft", settings=old)))


def test_a_file_of_the_same_size_and_time_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("one")
    before = look_at([str(path)], {})
    status = path.stat()
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as cp -p and rsync -t do
    known = {name: asdict(seen) for name, seen in before.items()}
    assert look_at([str(path)], known)[str(path)].digest != before[str(path)].digest


def test_the_files_of_a_persons_own_code_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rewards.py", "mine/__init__.py", "mine/tasks.py", "work.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    own = "[rewards:short, rewards.py:long, mine:length, mine.tasks:TASK=a.jsonl, accuracy, gpqa:diamond, absent:one]"
    Path("p.yaml").write_text(f"stages:\n  - {{name: a, kind: script, run: work.py, args: {{own: {own}}}}}\n")
    pipeline = read_pipeline("p.yaml")
    (stage,) = pipeline.stages
    assert find_inputs(pipeline, stage, stage.settings) == [
        "mine/__init__.py",
        "mine/tasks.py",
        "rewards.py",
        "work.py",
    ]


def test_links_that_lead_nowhere_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("123")
    (tmp_path / "latest").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    assert outputs_of(tmp_path) == {"out.txt": 3}
    before = digest(tmp_path)
    (tmp_path / "latest").unlink()
    assert digest(tmp_path) == before


def test_an_edited_readme_is_no_change_and_a_deleted_one_is(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("card")
    recorded = outputs_of(tmp_path)
    (tmp_path / "README.md").write_text("a better card")
    assert changed_output(tmp_path, recorded) is None
    (tmp_path / "README.md").unlink()
    assert changed_output(tmp_path, recorded) == "README.md"


def test_what_does_not_matter_is_a_setting_of_its_kind_and_training_resumes_under_another() -> None:
    known = {kind: {entry.name for entry in fields(settings)} for kind, settings in CLASSES.items()}
    assert NO_MATTER["sft"] == NO_MATTER["grpo"] <= known["grpo"] & continuity.NO_MATTER
    assert NO_MATTER["generate"] == NO_MATTER["evaluate"] <= known["generate"] | known["evaluate"]


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
