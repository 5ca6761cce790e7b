"""``open-r1 plan``: what a person reads, what a program reads, and mistakes in one line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from published_shapes import QWEN_1_5B, QWEN_7B
from rich.console import Console

from open_r1.cli import main

CONFIGS = Path(__file__).resolve().parents[3] / "recipes" / "accelerate_configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations without weights."""
    folder = tmp_path_factory.mktemp("models")
    QWEN_1_5B.save_pretrained(folder / "1.5b")
    QWEN_7B.save_pretrained(folder / "7b")
    return folder


@pytest.fixture
def plan(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command in a folder of its own, and gives what it printed."""
    monkeypatch.chdir(folder)

    def run(command: str, *words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(["plan", *command.split(), *words]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


BATCH_8 = ["--bf16", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"]
BATCH_8 += ["--max_seq_length", "16384"]


def test_the_tutorials_case_on_the_screen(plan: Any) -> None:
    data = ["--plan_tokens", "553000000", "--rows", "93733", "--price", "0.5"]
    shown = plan("sft --model_name_or_path 1.5b --gpu 4090", *BATCH_8, *data)
    assert "8 × 16,384 tokens × accumulation 2 = 262,144 tokens a step" in shown
    assert "✗ does not fit\n" in shown
    pasted = " ".join(shown.replace("\\\n", " ").split())
    assert "--gradient_accumulation_steps 16 --torch_dtype bfloat16 --optim adamw_8bit" in pasted
    assert "93,733 rows, 553.0 M tokens" in shown and "costs" in shown and "estimate" in shown
    assert max(len(line) for line in shown.splitlines()) <= 110
    assert "\x1b" not in shown  # no colours in a pipe


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"model_type": "mamba"}, "broken: a model of the type mamba has no attention heads"),
        ({"model_type": "qwen2", "dtype": "float99"}, "broken: its config.json has a value that transformers does not"),
        ({"model_type": "qwen2", "hidden_size": "abc"}, "expected int, got str (value: 'abc')"),
        ({"model_type": "qwen2", "hidden_size": -5}, "negative dimension -5"),
    ],
)
def test_a_model_that_cannot_be_planned(told: dict[str, Any], said: str, plan: Any, folder: Path) -> None:
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "config.json").write_text(json.dumps(told))
    shown = plan("sft --model_name_or_path ./broken --gpu 4090 --plan_tokens 1000 --rows 10", status=2)
    assert said in shown and "pip install -c constraints.txt" not in shown


def test_json_is_for_machines(plan: Any) -> None:
    told = json.loads(plan("sft --model_name_or_path 1.5b --gpu 4090 --plan_tokens 1000000 --json", *BATCH_8))
    assert told["fits"] is False and told["memory"]["verdict"] == "over"
    assert told["memory"]["peak"] == pytest.approx(66.8e9, rel=0.01)
    assert told["changes"][0]["settings"]["optim"] == "adamw_8bit"
    assert told["changes"][0]["memory"]["verdict"] == "fits"
    assert told["steps"] == 4 and told["tokens"] == 1_000_000
    assert sum(mount["need"] for mount in told["disk"]["mounts"]) >= told["disk"]["final_model"]


def test_what_it_proposes_is_accepted_and_then_fits(plan: Any) -> None:
    told = json.loads(plan("sft --model_name_or_path 1.5b --gpu 4090 --json", *BATCH_8))
    flags = told["changes"][0]["flags"].split()
    again = json.loads(plan("sft --model_name_or_path 1.5b --gpu 4090 --json --bf16 --max_seq_length 16384", *flags))
    assert again["fits"] is True and again["changes"] == []
    assert again["memory"]["peak"] == told["changes"][0]["memory"]["peak"]


def test_rows_on_this_machine_are_counted_and_sampled(plan: Any, tiny_checkpoint: Path, sums: Path) -> None:
    words = ["--model_name_or_path", str(tiny_checkpoint), "--dataset_name", str(sums), "--max_length", "96"]
    told = json.loads(plan("sft --gpu H200 --json", *words))
    assert told["rows"] == 47 and 1 < told["steps"] <= 47 and told["tokens"] > 47 * 10
    grpo = json.loads(plan("grpo --gpu H200 --json --prompts_per_step 8 --reward_funcs accuracy", *words[:4]))
    assert (grpo["rows"], grpo["steps"]) == (47, 6)
    recipe = sums.parent / "mixture.yaml"
    recipe.write_text(f"dataset_mixture: {{datasets: [{{id: {sums}}}, {{id: {sums}, weight: 0.5}}]}}\n")
    mixed = ["--config", str(recipe), *words[:2], "--gpu", "H200", "--json"]
    assert json.loads(plan("sft", *mixed))["rows"] == 70
    assert json.loads(plan("grpo", *mixed))["rows"] == 70


def test_a_launcher_is_read_from_its_file(plan: Any) -> None:
    common = "sft --model_name_or_path 7b --bf16 --max_length 4096 --gpu H100 --gpus 8 --json"
    for name in ("ddp", "fsdp", "zero2", "zero3"):
        told = json.loads(plan(common, "--accelerate_config", str(CONFIGS / f"{name}.yaml")))
        assert told["machine"] == {"gpu": "H100", "gpus": 8, "nodes": 1, "launcher": name}
    nodes = json.loads(plan(common, "--nodes", "2", "--launcher", "fsdp"))
    assert (nodes["machine"]["gpus"], nodes["machine"]["nodes"]) == (16, 2)


def test_a_launcher_file_counts_the_processes_of_all_nodes(plan: Any, tmp_path: Path) -> None:
    file = tmp_path / "two_nodes.yaml"
    file.write_text("distributed_type: FSDP\nnum_machines: 2\nnum_processes: 16\n")
    common = f"sft --model_name_or_path 7b --bf16 --gpu H100 --json --accelerate_config {file}"
    assert json.loads(plan(common))["machine"]["gpus"] == 16
    assert json.loads(plan(common, "--nodes", "2"))["machine"]["gpus"] == 16
    assert json.loads(plan(common, "--nodes", "2", "--gpus", "4"))["machine"]["gpus"] == 8


def test_a_narrow_terminal_breaks_lines_between_words(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = partial(Console, force_terminal=True, color_system=None, width=80)
    monkeypatch.setattr("open_r1.commands.plan.Console", terminal)
    for words in (
        "sft --max_length 16384 --gpu H100 --gpus 8",
        "grpo --use_vllm --max_completion_length 4096 --gpu 4090",
    ):
        lines = plan(f"{words} --model_name_or_path 7b --bf16").splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[2].rstrip().endswith("float32 weights,") and lines[3] == " " * 20 + "bfloat16 compute"


@pytest.mark.parametrize(("command", "size"), [("sft", "--plan_tokens"), ("grpo", "--rows")])
def test_what_would_tell_the_steps_is_named(plan: Any, command: str, size: str) -> None:
    """Not a setting that was given, or that this command makes nothing of."""
    given = ["--rows", "100"] if command == "sft" else []
    shown = plan(command, "--model_name_or_path", "1.5b", "--gpu", "H100", *given)
    assert f"unknown: give {size}, or set --max_steps" in shown


def test_without_a_gpu_it_says_what_a_run_takes(plan: Any) -> None:
    shown = plan("sft --model_name_or_path 1.5b --gpu cpu")
    assert "planned for a CPU" in shown and "no data set is given" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sft --model_name_or_path 1.5b --gpu 4091", "did you mean 4090?"),
        ("sft --model_name_or_path gone/away/there --gpu 4090", "no such folder"),
        ("sft --model_name_or_path 1.5b --gpu H100 --gpus 2 --launcher none", "leave --launcher out"),
        ("sft --model_name_or_path 1.5b --launcher ddp --accelerate_config x.yaml", "keep one of them"),
        ("sft --model_name_or_path 1.5b --accelerate_config x.yaml", "cannot be read"),
        ("sft --model_name_or_path 1.5b --gpu H100 --lr 1", "unknown setting"),
        (
            "grpo --model_name_or_path 1.5b --gpu H100 --num_generations 7 --prompts_per_step 3 --gpus 2",
            "shared evenly",
        ),
        ("", "plan needs another word: open-r1 plan sft"),
    ],
)
def test_mistakes_are_one_line(plan: Any, words: str, said: str) -> None:
    shown = plan(words, status=2)
    assert said in shown and shown.count("\n") == 1
