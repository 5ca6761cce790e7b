"""DDP, FSDP, ZeRO 2 and ZeRO 3 on two processes, with LoRA and without, are one process, and continue one another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_cases import ENVIRONMENTS
from test_ranks import GENTLE, TORCHRUN, assert_same_run
from training_runs import SOURCE, Run, assert_close_weights, assert_same_weights, finish, flags, start, train
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
WAYS = ("ddp", "fsdp", "zero2", "zero3")
LORA = {"use_peft": "true", "lora_r": 4}
ONE, TWO = {"per_device_train_batch_size": 6}, {"gradient_accumulation_steps": 3}  # the same packs in a step
REFERENCE = LORA | {"beta": 0.1, "pack_length": 40, "max_resample_rounds": 0, "max_steps": 3}
UNEVEN = """
def odd_problems(completion_ids, problem, **columns):
    shares = [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]
    return [share * (len(text) % 2) for share, text in zip(shares, problem)]
"""
CONSTANT = {"lr_scheduler_type": "constant"}
TOLERANCE = 1e-5
OWN_GROUP = "import os, sys; os.setsid(); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


def launcher(way: str) -> list[str]:
    """Words of ``accelerate launch`` with a file of this repository, for two processes of one thread."""
    words = ["-m", "accelerate.commands.launch", "--config_file", str(ENVIRONMENTS[way]), "--num_processes", "2"]
    return [*words, "--main_process_port", "0", "--num_cpu_threads_per_process", "1", str(SOURCE / "sft.py")]


@pytest.fixture(scope="module")
def sft(sft_settings: dict[str, Any]) -> dict[str, Any]:
    return sft_settings | GENTLE | {"save_strategy": "steps", "save_steps": 3}


@pytest.fixture(scope="module")
def grpo(grpo_settings: dict[str, Any]) -> dict[str, Any]:
    return grpo_settings | GENTLE | {"max_steps": 2, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ways")


@pytest.fixture(scope="module")
def uneven(grpo: dict[str, Any], folder: Path) -> dict[str, Any]:
    """GRPO with LoRA and a reference, in whose last step only the first of two ranks has anything to train on."""
    (folder / "uneven.py").write_text(UNEVEN)
    return grpo | REFERENCE | {"reward_funcs": [f"{folder / 'uneven.py'}:odd_problems"]}


@pytest.fixture(scope="module")
def one(sft: dict[str, Any], grpo: dict[str, Any], uneven: dict[str, Any], folder: Path) -> dict[str, Run]:
    """The runs of one process."""
    return {
        "full": train("sft", folder / "one-full", **sft | ONE),
        "lora": train("sft", folder / "one-lora", **sft | ONE | LORA),
        "poisoned": train("sft", folder / "one-poisoned", **sft | ONE | CONSTANT | {"max_steps": 1}),
        "grpo": train("grpo", folder / "one-grpo", **grpo | {"per_device_train_batch_size": 16}),
        "grpo-own-lora": train("grpo", folder / "one-uneven", **uneven | {"per_device_train_batch_size": 16}),
    }


@pytest.fixture(scope="module")
def two(
    one: dict[str, Run], sft: dict[str, Any], grpo: dict[str, Any], uneven: dict[str, Any], folder: Path
) -> dict[tuple[str, str], Run]:
    """Many short runs of two processes, by way and name."""
    settings: dict[tuple[str, str], dict[str, Any]] = {}
    for way in WAYS:
        settings[way, "lora"] = sft | TWO | LORA
        lora = folder / f"{way}-lora" / "checkpoint-3"
        settings[way, "lora-continued"] = sft | TWO | LORA | {"resume_from_checkpoint": lora}
        settings[way, "continued"] = sft | TWO | {"resume_from_checkpoint": one["full"].folder / "checkpoint-3"}
        settings[way, "poisoned"] = sft | TWO | CONSTANT | {"max_steps": 2}
        settings[way, "grpo"] = grpo
        settings[way, "grpo-own"] = grpo
        settings[way, "grpo-own-lora"] = uneven
        settings[way, "no-room"] = sft | TWO
    for way in ("ddp", "fsdp"):
        settings[way, "grpo-own-lost"] = grpo
        settings[way, "told"] = sft | TWO | CONSTANT | {"max_steps": 1}
    for way in ("fsdp", "zero2"):
        settings[way, "uncompiled"] = sft | TWO | {"torch_compile": "true"}
    runs = {key: Run(folder / "-".join(key)) for key in settings}
    cases = []
    for (way, name), values in settings.items():
        case = {"kind": way, "command": "grpo" if "grpo" in name else "sft", "own_engine": "own" in name}
        case["words"] = flags(values | {"output_dir": runs[way, name].folder})
        case |= {"poison": 4} if name == "poisoned" else {}  # the first micro-batch of its second step
        case |= {"refused": True} if name == "grpo" and way in ("fsdp", "zero3") else {}
        case |= {"refused": True, "full_disk": True} if name == "no-room" else {}
        case |= {"refused": True, "lost": True} if name == "grpo-own-lost" else {}
        case |= {"told": True} if name == "told" else {}
        cases.append(case)
    (folder / "cases.json").write_text(json.dumps(cases))
    program([HERE / "ranks_cases.py", folder / "cases.json"], folder / "cases.log")
    return runs


def program(words: list[Any], log: Path) -> str:
    """Runs a program in two processes; what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{SOURCE.parent}", "COLUMNS": "300"}
    environment |= {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(log.with_suffix(".compiled"))}
    with log.open("w") as file:
        command = [sys.executable, *TORCHRUN, *map(str, words)]
        code = subprocess.run(command, env=environment, stdout=file, stderr=file, timeout=300, check=False).returncode
    assert code == 0, log.read_text()[-6000:]
    return log.read_text()


def test_weights_and_moments_go_from_way_to_way(tiny_checkpoint: Path, tmp_path: Path) -> None:
    chains = ["full:ddp,fsdp,zero2,zero3,ddp", "lora:zero2,zero3,fsdp,ddp", "untied:zero3,fsdp,zero2"]
    chains += ["compiled:zero2,fsdp,ddp", "logprobs:zero3,fsdp,zero2,ddp", "pointwise:fsdp,zero3"]
    said = program([HERE / "ranks_states.py", tiny_checkpoint, *chains], tmp_path / "states.log")
    assert all(f"equal: {chain}" in said for chain in chains)


def test_an_engine_of_its_own_gets_the_weights_of_the_policy(tiny_checkpoint: Path, tmp_path: Path) -> None:
    cases = [f"{variant}:{way}" for variant in ("full", "lora") for way in WAYS]
    cases += ["untied:fsdp", "untied:zero3", "compiled:fsdp"]
    said = program([HERE / "ranks_weights.py", tiny_checkpoint, *cases], tmp_path / "weights.log")
    assert all(f"equal: {case}" in said for case in cases)


@pytest.mark.parametrize("way", WAYS)
def test_accelerate_launch_is_one_process(
    way: str,
    sft: dict[str, Any],
    one: dict[str, Run],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """A whole run; then one process goes on from its checkpoint, and what was exported is opened."""
    run = finish(start(launcher(way), folder / way, **sft | TWO), folder / way)
    assert_same_run(run, one["full"])
    model = AutoModelForCausalLM.from_pretrained(run.folder, dtype=torch.float32)
    assert_close_weights(
        {name: tensor for name, tensor in model.state_dict().items() if name in run.weights}, run.weights, 0.0
    )
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

    capsys.readouterr()
    checkpoint = run.folder / "checkpoint-3"
    continued = train("sft", tmp_path / "continued", **sft | ONE, resume_from_checkpoint=checkpoint)
    said = capsys.readouterr().err
    assert "the same course from here on, but no longer bit for bit" in said
    assert "processes: 2 -> 1" in said
    assert f"continuing from {checkpoint} (step 3 of 6)" in said
    assert [line["loss"] for line in continued.metrics] == pytest.approx(one["full"].losses[3:], abs=TOLERANCE)
    assert_close_weights(continued.weights, one["full"].weights, TOLERANCE)


@pytest.mark.parametrize("way", WAYS)
def test_adapters(way: str, one: dict[str, Run], two: dict[tuple[str, str], Run]) -> None:
    assert_same_run(two[way, "lora"], one["lora"])
    assert all("lora_" in name for name in two[way, "lora"].weights)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_way_continues_bit_for_bit(way: str, two: dict[tuple[str, str], Run]) -> None:
    whole, continued = two[way, "lora"], two[way, "lora-continued"]
    assert [line["loss"] for line in continued.metrics] == whole.losses[3:]
    assert_same_weights(continued.weights, whole.weights)
    assert "bit for bit" not in continued.folder.with_suffix(".log").read_text()


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_continue_one(way: str, one: dict[str, Run], two: dict[tuple[str, str], Run]) -> None:
    continued = two[way, "continued"]
    assert [line["loss"] for line in continued.metrics] == pytest.approx(one["full"].losses[3:], abs=TOLERANCE)
    assert_close_weights(continued.weights, one["full"].weights, TOLERANCE)
    said = continued.folder.with_suffix(".log").read_text()
    assert said.count("no longer bit for bit") == 1
    assert "sums are taken in another order" in said
    assert "processes: 1 -> 2" in said


@pytest.mark.parametrize("way", WAYS)
def test_where_the_final_model_has_no_room_the_last_step_is_saved(
    way: str, sft: dict[str, Any], one: dict[str, Run], two: dict[tuple[str, str], Run]
) -> None:
    """By all ranks together, each of which ends with the same words; one process then writes the model."""
    run = two[way, "no-room"]
    errors = [line for line in run.folder.with_suffix(".log").read_text().splitlines() if line.startswith("error:")]
    assert len(errors) == 2 and len(set(errors)) == 1
    assert f"make room; all 6 steps are saved to {run.folder}/checkpoint-6" in errors[0]
    assert not (run.folder / "model.safetensors").exists()
    train("sft", run.folder, **sft | ONE, resume_from_checkpoint="true")
    assert run.results["train_steps"] == 0
    assert_close_weights(run.weights, one["full"].weights, TOLERANCE)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_told_to_stop_after_the_last_step_the_model_is_written_first(way: str, two: dict[tuple[str, str], Run]) -> None:
    """A rank that ended at once would take along those that gather and write."""
    run = two[way, "told"]
    lines = run.folder.with_suffix(".log").read_text().splitlines()
    assert lines.count(f"stopped by SIGTERM after the last step; the model is in {run.folder}") == 2
    assert run.results["steps"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_poisoned_batch_of_one_rank_is_skipped_by_all(
    way: str, one: dict[str, Run], two: dict[tuple[str, str], Run]
) -> None:
    run = two[way, "poisoned"]
    assert [line.get("skipped") for line in run.metrics] == [None, 1]
    assert (run.folder / "nonfinite-step-2-rank-1.pt").exists()
    assert not (run.folder / "nonfinite-step-2-rank-0.pt").exists()
    assert_close_weights(run.weights, one["poisoned"].weights, TOLERANCE)


@pytest.mark.parametrize("way", ["fsdp", "zero2"])
def test_a_compiler_that_fails_leaves_nothing_behind(
    way: str, one: dict[str, Run], two: dict[tuple[str, str], Run]
) -> None:
    """It fails in the middle of a forward pass, with the weights of a layer gathered."""
    run = two[way, "uncompiled"]
    assert "the layers run uncompiled, slower: the compiler failed" in run.folder.with_suffix(".log").read_text()
    assert_same_run(run, one["full"])


@pytest.mark.parametrize("way", ["ddp", "zero2"])
def test_grpo(way: str, one: dict[str, Run], two: dict[tuple[str, str], Run]) -> None:
    assert_same_run(two[way, "grpo"], one["grpo"])


@pytest.mark.parametrize("name", ["grpo-own", "grpo-own-lora"])
@pytest.mark.parametrize("way", WAYS)
def test_grpo_with_an_engine_of_its_own(
    way: str, name: str, one: dict[str, Run], two: dict[tuple[str, str], Run]
) -> None:
    """The reference, too, needs weights gathered, for ranks that have different numbers of packs."""
    alone = one.get(name, one["grpo"])
    assert_same_run(two[way, name], alone)
    values = [[line.get("kl_reference", 0.0) for line in run.metrics] for run in (two[way, name], alone)]
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert (max(values[1]) > 1e-5) == (name == "grpo-own-lora")


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_server_that_one_rank_loses_costs_no_step(
    way: str, one: dict[str, Run], two: dict[tuple[str, str], Run]
) -> None:
    """Not even where it is lost in the middle of weights that all ranks gather."""
    run = two[way, "grpo-own-lost"]
    errors = [line for line in run.folder.with_suffix(".log").read_text().splitlines() if line.startswith("error:")]
    assert errors == [f"error: the server is gone; stopped after step 1 of 2; saved to {run.folder}/checkpoint-1"] * 2
    assert run.losses == pytest.approx(one["grpo"].losses[:1], abs=TOLERANCE)
    assert run.checkpoints == [1]


@pytest.mark.parametrize("way", ["fsdp", "zero3"])
def test_grpo_where_no_process_has_whole_weights(way: str, two: dict[tuple[str, str], Run]) -> None:
    lines = two[way, "grpo"].folder.with_suffix(".log").read_text().splitlines()
    (refusal,) = {line for line in lines if line.startswith("error:")}
    assert "ddp.yaml or zero2.yaml" in refusal


def test_sigterm_stops_all_ranks_at_one_step(sft: dict[str, Any], tmp_path: Path) -> None:
    """All processes are told, as batch systems do it; the launcher then tells the ranks a second time."""
    settings = sft | TWO | {"max_steps": 400, "save_steps": 1000}
    stopped = start(["-c", OWN_GROUP, *launcher("fsdp")], tmp_path / "run", **settings)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert stopped.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGTERM)
    assert stopped.wait(60) != 0
    said = (tmp_path / "run.log").read_text()
    (step,) = Run(tmp_path / "run").checkpoints
    assert step == len(Run(tmp_path / "run").losses) < 400
    assert f"stopped by SIGTERM after step {step} of 400; saved to {tmp_path}/run/checkpoint-{step}" in said
