"""Which stages run: skipping, changes and what depends on them, ``--from``, torn and stopped stages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny_pipeline import Folder

from open_r1.errors import UserError
from open_r1.pipeline.lock import folder_lock
from open_r1.troubleshooting.matching import explain

Run = Callable[..., list[str]]


@pytest.fixture
def chain(folder: Folder) -> Folder:
    """a → b, and c by itself."""
    write_chain(folder)
    return folder


def write_chain(folder: Folder, text: str = "A", **top: object) -> None:
    folder.write(
        folder.stage("a", text=text),
        folder.stage("b", source=["{a}/out.txt"], text="B"),
        folder.stage("c", text="C", seed="{seed}"),
        **top,
    )


def test_stages_run_in_order_and_only_once(chain: Folder, run: Run) -> None:
    assert run() == ["01-a", "02-b", "03-c"]
    assert (chain.text("02-b"), chain.text("03-c")) == ("BA", "C0")
    assert run() == []


def test_a_changed_setting_redoes_the_stage_and_what_depends_on_it(chain: Folder, run: Run) -> None:
    run()
    write_chain(chain, text="Z")
    assert run() == ["01-a", "02-b"]
    assert chain.text("02-b") == "BZ"
    assert (chain.path / "runs/.replaced/01-a.1/out.txt").read_text() == "A"
    assert run() == []


def test_a_changed_seed_redoes_what_uses_it(chain: Folder, run: Run) -> None:
    run()
    assert run("--seed", "4") == ["03-c"]
    assert chain.text("03-c") == "C4"


def test_a_changed_input_or_script_redoes_the_stage(folder: Folder, run: Run) -> None:
    (folder.path / "in.txt").write_text("one")
    folder.write(folder.stage("a", source=["in.txt"]), folder.stage("b", source=["{a}/out.txt"]))
    run()
    (folder.path / "in.txt").write_text("two")
    assert run() == ["01-a", "02-b"]
    assert folder.text("02-b") == "two"
    with (folder.path / "work.py").open("a") as script:
        script.write("# edited\n")
    assert run() == ["01-a", "02-b"]


def test_a_result_that_was_deleted_is_made_again(chain: Folder, run: Run) -> None:
    run()
    (chain.path / "runs/03-c/out.txt").unlink()
    assert run() == ["03-c"]


def test_from_redoes_and_until_stops(chain: Folder, run: Run) -> None:
    run()
    assert run("--from", "b") == ["02-b", "03-c"]
    assert run("--from", "a", "--until", "a") == ["01-a"]
    assert run() == ["02-b"]  # it had read what a wrote before
    with pytest.raises(UserError, match="no such stage; did you mean a"):
        run("--from", "aa")
    with pytest.raises(UserError, match="comes before"):
        run("--from", "b", "--until", "a")


def test_a_dry_run_says_what_would_run_and_changes_nothing(
    chain: Folder, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dry_run") == []
    assert not (chain.path / "runs").exists()
    run()
    write_chain(chain, text="Z")
    before = sorted(chain.path.rglob("*"))
    capsys.readouterr()
    assert run("--dry-run") == []
    lines = capsys.readouterr().out.splitlines()
    said = {line.split()[1]: " ".join(line.split()[5:]) for line in lines if "script" in line}
    assert said["a"].startswith("run │ text A → Z")
    assert said["b"].startswith("run │ a is done anew")
    assert said["c"].startswith("skip")
    assert sorted(chain.path.rglob("*")) == before


def test_a_torn_manifest_counts_as_not_done(chain: Folder, run: Run) -> None:
    run()
    manifest = chain.path / "runs/01-a/manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    assert run() == ["01-a", "02-b"]


def test_a_stopped_script_starts_anew_in_an_empty_folder(chain: Folder, run: Run) -> None:
    run()
    (chain.path / "runs/02-b/manifest.json").unlink()
    (chain.path / "runs/02-b/half").touch()
    assert run() == ["02-b"]
    assert not (chain.path / "runs/02-b/half").exists()


def test_a_stopped_stage_of_other_settings_is_moved_away(chain: Folder, run: Run) -> None:
    run()
    (chain.path / "runs/01-a/manifest.json").unlink()
    write_chain(chain, text="Z")
    run()
    assert chain.text("01-a") == "Z"
    assert (chain.path / "runs/.replaced/01-a.1/out.txt").read_text() == "A"


def test_what_somebody_else_put_there_is_never_deleted(chain: Folder, run: Run) -> None:
    theirs = chain.path / "runs/01-a/thesis.tex"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    run()
    assert (chain.path / "runs/.replaced/01-a.1/thesis.tex").read_text() == "mine"
    assert not theirs.exists()


def test_inserting_a_stage_or_moving_the_folder_redoes_nothing_else(chain: Folder, run: Run) -> None:
    run()
    chain.write(
        chain.stage("new", text="N"),
        chain.stage("a", text="A"),
        chain.stage("b", source=["{a}/out.txt"], text="B"),
        chain.stage("c", text="C", seed="{seed}"),
    )
    assert run() == ["01-new"]
    assert chain.text("03-b") == "BA"
    (chain.path / "runs").rename(chain.path / "elsewhere")
    assert run("--output_dir", "elsewhere") == []


def test_a_failed_stage_stops_the_pipeline_which_then_goes_on_from_there(folder: Folder, run: Run) -> None:
    folder.write(folder.stage("a", text="A"), folder.stage("b", fail=True, source=["{a}/out.txt"]), folder.stage("c"))
    with pytest.raises(UserError, match=r"stage b failed \(exit status 3\).*open-r1 run pipeline.yaml"):
        run()
    assert folder.ran() == ["01-a", "02-b"]
    assert not (folder.path / "runs/02-b/manifest.json").exists()
    folder.write(folder.stage("a", text="A"), folder.stage("b", source=["{a}/out.txt"]), folder.stage("c"))
    assert run() == ["02-b", "03-c"]


def test_nothing_runs_while_a_later_stage_is_wrong(folder: Folder, run: Run) -> None:
    evaluate = {"name": "e", "kind": "evaluate", "settings": {"model": "m", "tasks": ["gsm8k"], "temprature": 1}}
    folder.write(folder.stage("a"), evaluate)
    with pytest.raises(UserError, match="stage e: temprature: unknown setting; did you mean temperature"):
        run()
    assert folder.ran() == []


def test_one_pipeline_at_a_time_in_a_folder(chain: Folder, run: Run) -> None:
    with folder_lock(chain.path / "runs"), pytest.raises(UserError, match=r"runs is in use .*process \d+") as refused:
        run()
    assert explain(refused.value) is None  # the lock's own error is that of a machine without free processes
    assert run() == ["01-a", "02-b", "03-c"]


def test_a_manifest_says_what_made_the_stage(chain: Folder, run: Run) -> None:
    run()
    manifest = json.loads((chain.path / "runs/02-b/manifest.json").read_text())
    assert (manifest["stage"], manifest["kind"]) == ("b", "script")
    assert manifest["settings"]["source"] == ["runs/01-a/out.txt"]
    assert set(manifest["identity"]["upstream"]) == {"a"}
    assert set(manifest["identity"]["inputs"]) == set(manifest["inputs"]) == {"work.py"}
    assert {"python", "torch", "transformers"} <= set(manifest["versions"])
    assert manifest["outputs"] == {"begun": 0, "out.txt": 2}
    assert manifest["seconds"] > 0
    source, output = "--source runs/01-a/out.txt", "--output runs/02-b/out.txt"
    assert " ".join(manifest["command"][1:]) == f"work.py {output} {source} --text B"
    assert not list(Path("runs").rglob("*.partial"))


def test_each_kind_is_a_command_of_its_own(folder: Folder, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = folder.path / "recorder"
    recorder.write_text('#!/bin/sh\necho "$@" >> commands.log\n')
    recorder.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(recorder))
    (folder.path / "ddp.yaml").write_text("distributed_type: MULTI_GPU\n")
    sft = {"model_name_or_path": "m", "dataset_name": "d"}
    launcher = {"config_file": "ddp.yaml", "num_processes": 2}
    folder.write(
        {"name": "one", "kind": "sft", "settings": sft},
        {"name": "two", "kind": "sft", "settings": sft, "launcher": launcher},
        {"name": "three", "kind": "evaluate", "settings": {"model": "{two}", "tasks": ["gsm8k"]}},
        seed=9,
    )
    run()
    assert Path("commands.log").read_text().splitlines() == [
        "-m open_r1 sft --config runs/01-one/config.yaml",
        "-m accelerate.commands.launch --config_file ddp.yaml --num_processes 2 "
        "-m open_r1 sft --config runs/02-two/config.yaml",
        "-m open_r1 evaluate --config runs/03-three/config.yaml",
    ]
    config = yaml.safe_load(Path("runs/03-three/config.yaml").read_text())
    assert config == {"seed": 9, "output_dir": "runs/03-three", "model": "runs/02-two", "tasks": ["gsm8k"]}


def test_more_answers_are_drawn_beside_those_that_are_there(
    folder: Folder, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = folder.path / "recorder"  # in the place of open-r1 generate
    recorder.write_text("#!/bin/sh\necho answer >> runs/01-g/generations.jsonl\nexit ${STATUS:-0}\n")
    recorder.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(recorder))

    def write(**settings: int) -> None:
        folder.write({"name": "g", "kind": "generate", "settings": {"model": "m", "dataset": "d", **settings}})

    write(limit=10)
    run()
    write(limit=20, num_generations=2)
    monkeypatch.setenv("STATUS", "1")  # killed in the middle
    with pytest.raises(UserError, match="stage g failed"):
        run()
    assert not Path("runs/01-g/manifest.json").exists()
    monkeypatch.delenv("STATUS")
    run()
    assert Path("runs/01-g/generations.jsonl").read_text() == "answer\n" * 3
    said = " ".join(capsys.readouterr().out.split())
    assert "resume, limit 10 → 20, num_generations unset → 2" in said
    write(limit=5)
    run()
    assert Path("runs/01-g/generations.jsonl").read_text() == "answer\n"
    assert Path("runs/.replaced/01-g.1/generations.jsonl").exists()
