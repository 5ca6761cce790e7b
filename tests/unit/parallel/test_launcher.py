"""What the launcher asks for is understood or refused in one line, and no file says how many processes there are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.run import determine_local_world_size

from open_r1.errors import UserError
from open_r1.parallel.launcher import LaunchPlan, take_plan

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "recipes" / "accelerate_configs").glob("*.yaml"))
WAYS = {path.stem: path for path in CONFIGS}


def launch(path: Path, *words: str) -> tuple[dict[str, str], str]:
    """The environment that ``accelerate launch --config_file PATH`` makes, and what it asks `torchrun` to start."""
    command = ["--config_file", str(path), "--main_process_port", "0", *words, "sft.py"]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        made = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        made = prepare_multi_gpu_env(arguments)
    changed = {name: value for name, value in made.items() if os.environ.get(name) != value}
    return changed, arguments.nproc_per_node


def edited(way: str, tmp_path: Path, **section: object) -> Path:
    """A file like a recipe, with other settings in its section for the way."""
    content = yaml.safe_load(WAYS[way].read_text())
    content["deepspeed_config" if way.startswith("zero") else "fsdp_config"] |= section
    path = tmp_path / "edited.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_files() -> None:
    assert list(WAYS) == ["ddp", "fsdp", "zero2", "zero3"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("found", [1, 2, 8])
def test_no_file_says_how_many_processes_there_are(way: str, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, processes = launch(WAYS[way])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    assert determine_local_world_size(processes) == found


@pytest.mark.parametrize("way", WAYS)
def test_without_a_gpu_the_launcher_says_so(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, processes = launch(WAYS[way])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="Cuda is not available"):
        determine_local_world_size(processes)


@pytest.mark.parametrize("way", WAYS)
def test_processes_may_be_named_and_spread_over_nodes(way: str) -> None:
    assert launch(WAYS[way], "--num_processes", "3")[1] == "3"
    nodes = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "10.0.0.1"]
    assert launch(WAYS[way], *nodes, "--num_processes", "16")[1] == "8"


@pytest.mark.parametrize(
    ("way", "plan"),
    [
        ("ddp", LaunchPlan()),
        ("fsdp", LaunchPlan("fsdp")),
        ("zero2", LaunchPlan("deepspeed", zero={"stage": 2})),
        ("zero3", LaunchPlan("deepspeed", zero={"stage": 3})),
    ],
)
def test_the_plan_of_each_file(way: str, plan: LaunchPlan) -> None:
    environment, _ = launch(WAYS[way])
    assert take_plan(environment) == plan
    assert take_plan(environment) == LaunchPlan()  # taken: Accelerate and transformers do not act on it again


def test_without_a_launcher() -> None:
    assert take_plan({}) == LaunchPlan()


def test_accumulation_is_the_loops(tmp_path: Path) -> None:
    environment, _ = launch(edited("zero2", tmp_path, gradient_accumulation_steps=4))
    assert environment["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "4"
    take_plan(environment)
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in environment


@pytest.mark.parametrize(
    ("section", "plan"),
    [
        ({"fsdp_reshard_after_forward": False}, LaunchPlan("fsdp", reshard=False)),
        ({"fsdp_version": 1, "fsdp_reshard_after_forward": "SHARD_GRAD_OP"}, LaunchPlan("fsdp", reshard=False)),
        ({"fsdp_version": 1, "fsdp_reshard_after_forward": "FULL_SHARD"}, LaunchPlan("fsdp")),
        (
            {"fsdp_transformer_layer_cls_to_wrap": "OneLayer, OtherLayer"},
            LaunchPlan("fsdp", layers=("OneLayer", "OtherLayer")),
        ),
    ],
)
def test_settings_of_fsdp(section: dict[str, object], plan: LaunchPlan, tmp_path: Path) -> None:
    assert take_plan(launch(edited("fsdp", tmp_path, **section))[0]) == plan


def test_settings_of_deepspeed(tmp_path: Path) -> None:
    """Its own JSON file: what it says of sharding counts, "auto" is left to DeepSpeed, the rest is the run's own."""
    file = tmp_path / "ds.json"
    zero = {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": 1000}
    file.write_text(json.dumps({"zero_optimization": zero, "train_batch_size": "auto"}))
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    assert take_plan(environment) == LaunchPlan("deepspeed", zero={"stage": 3, "stage3_prefetch_bucket_size": 1000})


@pytest.mark.parametrize("part", ["optimizer", "param"])
def test_deepspeed_may_keep_its_parts_on_the_host(part: str, tmp_path: Path) -> None:
    environment, _ = launch(edited("zero3", tmp_path, **{f"offload_{part}_device": "cpu"}))
    offloaded = {f"offload_{part}": {"device": "cpu", "pin_memory": True}}
    assert take_plan(environment).zero == {"stage": 3, **offloaded}


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM, which is not supported; take a file of recipes/"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config .* is not supported; take a file of"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"},
            "fsdp_offload_params is not supported: set it to false, or use zero3.yaml with offload_optimizer_device",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
            "zero_stage 1 is not supported: choose 2 or 3",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"},
            "zero_stage 0 is not supported: choose 2 or 3, or ddp.yaml",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "/nowhere/ds.json"},
            "deepspeed_config_file /nowhere/ds.json cannot be read",
        ),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(environment: dict[str, str], line: str) -> None:
    with pytest.raises(UserError, match=line) as refusal:
        take_plan(dict(environment))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"zero_optimization": 3}', '{"zero_optimization": {"stage": "two"}}'])
def test_a_deepspeed_file_that_is_none_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(text)
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    with pytest.raises(UserError) as refusal:
        take_plan(environment)
    assert "\n" not in str(refusal.value)
