"""Which changed settings lead to other weights, and which only to other last bits."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

import pytest
from fake_runtime import FakeRuntime

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.training.continuity import (
    BATCH,
    CONTENT,
    LAST_BITS,
    NO_MATTER,
    ORDER,
    Changes,
    compare,
    data_fingerprint,
    made_by,
)
from open_r1.training.integrity import Manifest

BASE = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "reward_funcs": ["format"]}


class Ranks(FakeRuntime):
    kind = "ddp"


def config(command: type = SFTConfig, **settings: Any) -> Any:
    known = {entry.name for entry in fields(command)}
    return command(**{name: value for name, value in (BASE | settings).items() if name in known})


def changes(old: Any, new: Any, ranks: tuple[int, int] = (1, 1), prints: tuple[str, str] = ("a", "a")) -> Changes:
    before, now = (Ranks(world_size=number) for number in ranks)
    stored = Manifest(3, prints[0], type(old).__name__, json.loads(json.dumps(asdict(old))), made_by(before), {})
    return compare(stored, new, now, prints[1])


@pytest.mark.parametrize("command", [SFTConfig, GRPOConfig])
def test_nothing_has_changed(command: type) -> None:
    assert changes(config(command), config(command)) == Changes([], [], False, False)


def test_every_name_is_a_setting() -> None:
    known = {entry.name for command in (SFTConfig, GRPOConfig) for entry in fields(command)}
    assert NO_MATTER | LAST_BITS | {*BATCH} <= known
    assert not NO_MATTER & LAST_BITS


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("learning_rate", 1e-5, 2e-5, "learning_rate: 1e-05 -> 2e-05"),
        ("seed", 42, 7, "seed: 42 -> 7"),
        ("lr_scheduler_kwargs", None, {"num_cycles": 2}, "lr_scheduler_kwargs: unset -> {'num_cycles': 2}"),
        (
            "lr_scheduler_kwargs",
            {"num_cycles": 1},
            {"num_cycles": 2},
            "lr_scheduler_kwargs.num_cycles: 1 -> 2",
        ),
        ("bf16", False, True, "bf16: False -> True"),
        (
            "max_steps",
            60,
            80,
            "max_steps: 60 -> 80 (from here on the learning rate follows the schedule of the new length)",
        ),
        (
            "system_prompt",
            "x" * 70,
            "x" * 69 + "\ny",
            f"system_prompt: {'x' * 59}… -> another that begins alike (70 and 71 characters)",
        ),
        (
            "dataset_mixture",
            {"datasets": [{"id": "a", "weight": 0.5}, {"id": "b"}]},
            {"datasets": [{"id": "a", "weight": 0.25}, {"id": "b"}]},
            "dataset_mixture.datasets[0].weight: 0.5 -> 0.25",
        ),
    ],
)
def test_what_leads_to_other_weights_is_one_line(name: str, old: Any, new: Any, line: str) -> None:
    data = {"dataset_name": None} if name == "dataset_mixture" else {}
    found = changes(config(**data, **{name: old}), config(**data, **{name: new}))
    assert found.course == [line]
    assert found.last_bits == []


@pytest.mark.parametrize(
    "other",
    [
        {"output_dir": "elsewhere", "save_steps": 7, "save_total_limit": 1, "logging_steps": 9},
        {"eval_strategy": "steps", "per_device_eval_batch_size": 4, "report_to": "all"},
        {"resume_from_checkpoint": True, "allow_config_change": True, "overwrite_output_dir": True},
        {"push_to_hub": True, "hub_model_id": "a/b", "dataset_num_proc": 3, "token_cache_dir": "c"},
    ],
)
def test_what_leaves_the_weights_alone_is_not_named(other: dict[str, Any]) -> None:
    assert changes(config(), config(**other)) == Changes([], [], False, False)


def test_what_changes_rounding_needs_no_leave() -> None:
    found = changes(config(), config(attn_implementation="eager"), ranks=(4, 2))
    (line,) = found.course
    assert line == f"batch of a step, {BATCH[0]} × {BATCH[1]} × processes: 4 -> 2"
    found = changes(config(), config(attn_implementation="eager", gradient_accumulation_steps=2), ranks=(4, 2))
    assert found.course == []
    assert found.last_bits == [
        "gradient_accumulation_steps: 1 -> 2",
        "attn_implementation: unset -> eager",
        "processes: 4 -> 2",
    ]


def test_the_batch_of_a_step_counts_not_how_it_is_shared_out() -> None:
    old, new = config(per_device_train_batch_size=4), config(gradient_accumulation_steps=4)
    assert changes(old, new).course == []
    assert len(changes(old, new).last_bits) == 2
    # Without packing it says how many sequences lie in one pack.
    old.packing = new.packing = False
    assert changes(old, new).course == ["per_device_train_batch_size: 4 -> 1"]


def test_other_data() -> None:
    found = changes(config(), config(), prints=("a", "b"))
    assert found.order
    (line,) = found.course
    assert line.startswith("data: other rows, lengths or order; ")


@pytest.mark.parametrize(
    ("prints", "differs"),
    [
        ((("a", "x"), ("a", "x")), ""),
        ((("a", "x"), ("a", "y")), CONTENT),
        ((("a", "x"), ("b", "y")), ORDER),
        ((("a", "x"), ("b", "x")), ORDER),
        ((("a", ""), ("a", "y")), ""),  # of a checkpoint made before there were keys
        ((("a", "x"), ("a", "")), ""),
        ((("a", ""), ("b", "y")), ORDER),
    ],
)
def test_other_data_of_the_same_lengths(prints: tuple[tuple[str, str], tuple[str, str]], differs: str) -> None:
    found = changes(config(), config(), prints=(data_fingerprint(*prints[0]), data_fingerprint(*prints[1])))
    assert found.course == ([f"data: {differs}"] if differs else [])
    assert found.order is (differs == ORDER)


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("adamw_torch", "adamw_torch_fused", False),
        ("adamw_8bit", "paged_adamw_8bit", False),
        ("adamw_torch", "adamw_8bit", True),
        ("adamw_8bit", "paged_adamw_32bit", True),
    ],
)
def test_which_optimizers_can_take_over_from_which(old: str, new: str, differs: bool) -> None:
    found = changes(config(optim=old), config(optim=new))
    assert found.optimizer is differs
    assert found.course == [
        f"optim: {old} -> {new} (the optimizer starts without its moments where the new one keeps others)"
    ]


def test_a_setting_that_the_checkpoint_did_not_know_had_its_default() -> None:
    old = config()
    stored = Manifest(3, "a", "SFTConfig", asdict(old), made_by(Ranks()), {})
    del stored.settings["fp8"], stored.settings["torch_compile"]
    assert compare(stored, config(), Ranks(), "a") == Changes([], [], False, False)
    assert compare(stored, config(fp8=True), Ranks(), "a").course == ["fp8: False -> True"]
