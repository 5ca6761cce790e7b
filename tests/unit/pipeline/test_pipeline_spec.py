"""Reading a pipeline file: references, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.pipeline.spec import fill, read_pipeline

GOOD = """
name: demo
output_dir: runs/demo
seed: 7
stages:
  - {name: problems, kind: script, run: make.py, args: {n: 3, out: "{stage_dir}", seed: "{seed}"}}
  - {name: base, kind: evaluate, settings: {model: org/model, tasks: ["problems={problems}/test.jsonl"]}}
  - {name: sft, kind: sft, launcher: ddp.yaml, settings: {dataset_name: "{problems}/t.jsonl", model_name_or_path: m}}
"""


def read(tmp_path: Path, text: str, **overrides: object):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return read_pipeline(path, **overrides)


def test_stages_know_their_folder_their_needs_and_their_references(tmp_path: Path) -> None:
    pipeline = read(tmp_path, GOOD)
    problems, base, sft = pipeline.stages
    assert [stage.folder_name for stage in pipeline.stages] == ["01-problems", "02-base", "03-sft"]
    assert (problems.needs, base.needs, sft.needs) == ((), ("problems",), ("problems",))
    assert sft.launcher == {"config_file": "ddp.yaml"}
    filled = fill(base.settings, pipeline.references(base))
    assert filled["tasks"] == ["problems=runs/demo/01-problems/test.jsonl"]
    assert fill(problems.settings, pipeline.references(problems)) == {"n": 3, "out": "runs/demo/01-problems", "seed": 7}


def test_flags_override_seed_and_folder(tmp_path: Path) -> None:
    pipeline = read(tmp_path, GOOD, seed=11, output_dir="elsewhere")
    assert pipeline.seed == 11
    assert pipeline.references(pipeline.stages[2])["problems"] == "elsewhere/01-problems"


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ("{seed}", 7),
        ("s{seed}", "s7"),
        ("{{ instruction }}", "{{ instruction }}"),
        ({"system_prompt": r"Put it in \boxed{seed}."}, {"system_prompt": r"Put it in \boxed{seed}."}),
        ([["{seed}"], {"a": "{seed}"}, 1.5, None, True], [[7], {"a": 7}, 1.5, None, True]),
    ],
)
def test_fill_leaves_alone_what_is_not_its_own(value: object, filled: object) -> None:
    assert fill(value, {"seed": 7}) == filled


def test_anchors_and_merge_keys_are_no_repeated_keys(tmp_path: Path) -> None:
    text = """
stages:
  - {name: a, kind: evaluate, settings: &e {model: x, tasks: [gsm8k]}}
  - {name: b, kind: evaluate, settings: &f {<<: *e, model: y}}
  - {name: c, kind: evaluate, settings: {<<: *f, limit: 3}}
"""
    a, b, c = read(tmp_path, text).stages
    assert (a.settings["model"], b.settings["model"]) == ("x", "y")
    assert c.settings == {"model": "y", "tasks": ["gsm8k"], "limit": 3}


def stages(*lines: str) -> str:
    return "stages:\n" + "".join(f"  - {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "p.yaml:1: not YAML"),
        ("stages:\n  - name: a\n    kind: sft\n    kind: grpo\n", "p.yaml:4: not YAML: kind is given twice"),
        ("- 1", "a mapping with name"),
        ("stage: []", "unknown key 'stage'; did you mean stages?"),
        ("stages: []", "stages must be a list"),
        ("seed: zero\nstages: [{}]", "seed is 'zero', but it must be a whole number"),
        (stages("{kind: sft}"), "stage 1 needs a name"),
        (stages("{name: 'a/b', kind: sft}"), "it has 'a/b'"),
        (stages("{name: seed, kind: sft}"), "the name is taken"),
        (stages("{name: a, kind: sft}", "{name: a, kind: sft}"), "stage a: the name is taken"),
        (stages("{name: a, kind: stf}"), "not one of script, generate, sft, grpo, evaluate; did you mean sft?"),
        (stages("{name: a, kind: sft, setting: {}}"), "unknown key 'setting'; did you mean settings?"),
        (stages("{name: a, kind: sft, run: x.py}"), "unknown key 'run'"),
        (stages("{name: a, kind: script}"), "a script needs run"),
        (stages("{name: a, kind: sft, settings: 3}"), "settings must be a mapping"),
        (stages("{name: a, kind: sft, launcher: 3}"), "launcher must be the path"),
        (
            stages("{name: a, kind: script, run: x, args: {out: {stage_dir}}}"),
            'read by YAML as a mapping; write it in quotes: "{stage_dir}"',
        ),
        (
            stages("{name: base, kind: script, run: x}", '{name: b, kind: sft, settings: {m: "{bse}"}}'),
            "stage b: unknown reference {bse}; did you mean base?",
        ),
        (stages('{name: a, kind: sft, settings: {m: "{b}"}}', "{name: b, kind: sft}"), "stage a: {b} is a later stage"),
        (stages('{name: a, kind: sft, settings: {m: "{a}"}}'), "{a} is its own folder; write {stage_dir}"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "p.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml cannot be read: No such file"):
        read_pipeline(tmp_path / "none.yaml")
