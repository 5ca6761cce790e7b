"""A run that was stopped at any moment and started again ends bit for bit where the run that never stopped ends."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import save_tiny_moe, save_tiny_prefixed
from training_runs import Run, assert_same_weights, finish, start, train

from open_r1.errors import StopRequested, UserError
from open_r1.training.continuity import CONTENT
from open_r1.training.integrity import read_manifest, write_manifest
from open_r1.training.rollouts import RolloutCollector

STEPS = 60
CLOCKS = ("seconds", "tokens_per_second")


@pytest.fixture(scope="module")
def runs(sft_settings: dict[str, Any], grpo_settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of runs whose every step or two leaves a checkpoint; GRPO takes two steps on each set of rollouts, so
    that every other checkpoint holds rollouts.
    """
    common = {"max_steps": STEPS, "save_strategy": "steps", "save_total_limit": 3, "warmup_ratio": 0.1}
    return {
        "sft": sft_settings | common | {"save_steps": 2, "gradient_accumulation_steps": 2},
        "grpo": grpo_settings | common | {"save_steps": 1, "num_iterations": 2, "beta": 0.05, "learning_rate": 3e-3},
    }


@pytest.fixture(scope="module")
def unstopped(runs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The runs that were never stopped."""
    folder = tmp_path_factory.mktemp("unstopped")
    return {command: train(command, folder / command, **settings) for command, settings in runs.items()}


def seeded() -> random.Random:
    """A generator whose seed is printed, and may be set to see a failure again."""
    seed = int(os.environ.get("OPEN_R1_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"again with OPEN_R1_TEST_SEED={seed}")
    return random.Random(seed)


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, f"ended with status {process.returncode} before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    metrics = folder / "metrics.jsonl"
    wait_for(process, lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= step)


def without_clocks(run: Run) -> list[dict[str, Any]]:
    """The metrics of each step, one line each, but for those that depend on the time."""
    assert len(run.losses) == STEPS
    return [{name: value for name, value in line.items() if not name.startswith(CLOCKS)} for line in run.metrics]


def assert_same_run(resumed: Run, unstopped: Run) -> None:
    assert_same_weights(resumed.weights, unstopped.weights)
    assert without_clocks(resumed) == without_clocks(unstopped)


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_killed_at_a_random_moment(
    command: str, runs: dict[str, dict[str, Any]], unstopped: dict[str, Run], tmp_path: Path
) -> None:
    chance = seeded()
    folder = tmp_path / "killed"
    process = start(["-m", "open_r1", command], folder, **runs[command])
    wait_for_step(process, folder, chance.randint(3, STEPS // 2))
    time.sleep(chance.uniform(0, 0.1))  # into a step, or into the writing of a checkpoint
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert Run(folder).checkpoints
    assert not (folder / "model.safetensors").exists()
    print(f"killed after step {len(Run(folder).metrics)}, with checkpoints {Run(folder).checkpoints}")
    resumed = train(command, folder, **runs[command], resume_from_checkpoint="true")
    assert resumed.results["train_steps"] < STEPS
    assert_same_run(resumed, unstopped[command])
    assert len(resumed.checkpoints) == 3
    assert not list(folder.glob(".*"))


def test_sigterm_saves_first(runs: dict[str, dict[str, Any]], unstopped: dict[str, Run], tmp_path: Path) -> None:
    chance = seeded()
    folder = tmp_path / "stopped"
    settings = runs["sft"] | {"save_steps": 1000}
    process = start(["-m", "open_r1", "sft"], folder, **settings)
    wait_for_step(process, folder, chance.randint(1, STEPS // 2))
    process.terminate()
    stopped = finish(process, folder, status=128 + signal.SIGTERM)
    (step,) = stopped.checkpoints
    assert step == len(stopped.losses) < STEPS
    said = folder.with_suffix(".log").read_text()
    assert f"stopped by SIGTERM after step {step} of {STEPS}; saved to {folder}/checkpoint-{step}" in said
    assert "Traceback" not in said
    resumed = train("sft", folder, **settings, resume_from_checkpoint="true")
    assert resumed.results["train_steps"] == STEPS - step
    assert_same_run(resumed, unstopped["sft"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_among_the_rollouts_saves_the_step_before(
    number: signal.Signals,
    runs: dict[str, dict[str, Any]],
    unstopped: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit = RolloutCollector._submit
    groups = []

    def submit_then_signal(*args: Any) -> tuple[str, ...]:
        groups.append(submit(*args))
        if len(groups) == 7:  # of two groups a set: the first one of the fourth set
            os.kill(os.getpid(), number)
        return groups[-1]

    monkeypatch.setattr(RolloutCollector, "_submit", submit_then_signal)
    settings = runs["grpo"] | {"save_steps": 1000}
    with pytest.raises(StopRequested, match="after step 6 of 60") as stop:
        train("grpo", tmp_path, **settings)
    assert stop.value.signal_number == number
    assert len(groups) == 7
    assert Run(tmp_path).checkpoints == [6]
    assert_same_run(train("grpo", tmp_path, **settings, resume_from_checkpoint="true"), unstopped["grpo"])


def test_torn_checkpoints_are_passed_over(
    runs: dict[str, dict[str, Any]], unstopped: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(shutil.copytree(unstopped["sft"].folder, tmp_path / "torn"))
    assert Run(folder).checkpoints == [54, 56, 58]
    (folder / "checkpoint-58" / "model.safetensors").unlink()
    os.truncate(folder / "checkpoint-56" / "training_state" / "rest.pt", 100)
    (folder / ".checkpoint-60.tmp").mkdir()
    resumed = train("sft", folder, **runs["sft"], resume_from_checkpoint="true")
    said = capsys.readouterr().err
    assert "checkpoint-58 is passed over: model.safetensors is missing" in said
    assert "checkpoint-56 is passed over: training_state/rest.pt has 100 bytes" in said
    assert resumed.results["train_steps"] == 6
    assert_same_run(resumed, unstopped["sft"])
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("step", [57, 58])
def test_a_checkpoint_by_its_path(
    step: int, runs: dict[str, dict[str, Any]], unstopped: dict[str, Run], tmp_path: Path
) -> None:
    """Between two steps on the same rollouts, and between two sets of them."""
    checkpoint = unstopped["grpo"].folder / f"checkpoint-{step}"
    resumed = train("grpo", tmp_path / "on", **runs["grpo"], resume_from_checkpoint=checkpoint)
    assert [line["step"] for line in resumed.metrics] == list(range(step + 1, STEPS + 1))
    assert_same_weights(resumed.weights, unstopped["grpo"].weights)


def test_adapters(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = sft_settings | {"use_peft": True, "lora_dropout": 0.2, "max_steps": 6, "save_strategy": "steps"}
    whole = train("sft", tmp_path / "whole", **settings, save_steps=3)
    checkpoint = whole.folder / "checkpoint-3"
    resumed = train("sft", tmp_path / "resumed", **settings, resume_from_checkpoint=checkpoint)
    assert_same_weights(resumed.weights, whole.weights)


@pytest.mark.parametrize("save_model", [save_tiny_moe, save_tiny_prefixed])
@pytest.mark.parametrize("stored", [{}, {"torch_dtype": "bfloat16", "optim": "adamw_split"}], ids=["float32", "split"])
def test_models_whose_files_have_other_names(
    save_model: Callable[[Path], Path], stored: dict[str, Any], sft_settings: dict[str, Any], tmp_path: Path
) -> None:
    """Experts lie apart in a file and are one tensor in memory; some names have a prefix."""
    settings = sft_settings | stored | {"model_name_or_path": save_model(tmp_path / "model"), "max_steps": 4}
    settings |= {"save_strategy": "steps", "save_steps": 2}
    whole = train("sft", tmp_path / "whole", **settings)
    resumed = train("sft", tmp_path / "on", **settings, resume_from_checkpoint=whole.folder / "checkpoint-2")
    assert [line["loss"] for line in resumed.metrics] == whole.losses[2:]
    assert_same_weights(resumed.weights, whole.weights)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 7}, "seed, data"),
        ({"gradient_accumulation_steps": 3}, "batch of a step.*, data"),
        ({"max_length": 80}, "max_length, data"),
        ({"packing": False}, "packing, data"),
    ],
)
def test_a_run_that_would_not_continue_is_refused(
    other: dict[str, Any], named: str, runs: dict[str, dict[str, Any]], unstopped: dict[str, Run], tmp_path: Path
) -> None:
    checkpoint = unstopped["sft"].folder / f"checkpoint-{STEPS - 2}"
    with pytest.raises(UserError, match=rf"made with other settings \({named}\).*add --allow_config_change"):
        train("sft", tmp_path / "other", **runs["sft"] | other, resume_from_checkpoint=checkpoint)


MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("edited", ["rows", "template"])
def test_other_data_of_the_same_lengths_is_refused(
    edited: str, sft_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows, template = tmp_path / "sums.jsonl", tmp_path / "chat.jinja"
    rows.write_text(Path(sft_settings["dataset_name"]).read_text())
    template.write_text(MARKED)
    settings = sft_settings | {"dataset_name": rows, "chat_template": template, "max_steps": 4}
    settings |= {"save_strategy": "steps", "save_steps": 2}
    checkpoint = train("sft", tmp_path / "run", **settings).folder / "checkpoint-2"
    if edited == "rows":
        rows.write_text(rows.read_text().replace("It is ", "It's  "))
    else:
        template.write_text(
            MARKED.replace("{% generation %}{{ message['content'] }}", "{{ message['content'] }}{% generation %}")
        )
    settings["resume_from_checkpoint"] = checkpoint
    capsys.readouterr()
    with pytest.raises(UserError, match=r"made with other settings \(data\).*add --allow_config_change"):
        train("sft", tmp_path / "other", **settings)
    assert f"  data: {CONTENT}\n" in capsys.readouterr().err
    assert len(train("sft", tmp_path / "allowed", **settings, allow_config_change="true").metrics) == 2
    manifest = read_manifest(checkpoint)  # as it was before it had the key of the tokens
    write_manifest(checkpoint, replace(manifest, fingerprint=manifest.fingerprint.partition("/")[0]))
    assert len(train("sft", tmp_path / "old", **settings).metrics) == 2


def test_a_run_goes_on_with_changed_settings_when_that_is_allowed(
    sft_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The differences are listed either way. The steps before are those of the old settings, those after of the new."""
    settings = sft_settings | {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": "constant",
    }
    first = train("sft", tmp_path / "run", **settings)
    (first.folder / "train_results.json").unlink()
    other = settings | {"learning_rate": 5e-3, "weight_decay": 0.1, "resume_from_checkpoint": "true"}
    capsys.readouterr()
    with pytest.raises(
        UserError, match=r"\(learning_rate, weight_decay\): set them back, or add --allow_config_change"
    ):
        train("sft", tmp_path / "run", **other)
    said = capsys.readouterr().err
    assert "  learning_rate: 0.01 -> 0.005\n" in said and "  weight_decay: 0.0 -> 0.1\n" in said
    went_on = train("sft", tmp_path / "run", **other, allow_config_change="true")
    said = capsys.readouterr().err
    assert "continuing with changed settings: learning_rate: 0.01 -> 0.005; weight_decay: 0.0 -> 0.1" in said
    assert went_on.losses[:3] == first.losses[:3]
    assert [line["learning_rate"] for line in went_on.metrics] == [1e-2, 1e-2, 5e-3, 5e-3]
