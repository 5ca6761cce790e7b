from __future__ import annotations

from typing import Any

import pytest

from open_r1.config import GRPOConfig, parse
from open_r1.config.settings import choices_of, type_hints
from open_r1.rl.advantages import RewardScale
from open_r1.rl.importance import ImportanceMode
from open_r1.rl.losses import LossType, RatioLevel


def make(**settings: Any) -> GRPOConfig:
    return GRPOConfig(model_name_or_path="m", dataset_name="d", output_dir="o", **settings)


def test_choices_are_those_that_are_built():
    hints = type_hints(GRPOConfig)
    built = {
        "loss_type": LossType,
        "importance_sampling_level": RatioLevel,
        "vllm_importance_sampling_mode": ImportanceMode,
        "scale_rewards": RewardScale,
    }
    for name, literal in built.items():
        assert choices_of(hints[name]) == choices_of(literal), name


def test_published_names():
    words = "--model_name_or_path m --dataset_name d --output_dir o --vllm_importance_sampling_clip_max 3"
    assert parse(GRPOConfig, words.split(), prog="open-r1 grpo").config.vllm_importance_sampling_cap == 3


@pytest.mark.parametrize(
    ("settings", "off_policy"), [({}, False), ({"num_iterations": 2}, True), ({"async_steps": 1}, True)]
)
def test_what_is_off_policy(settings, off_policy):
    assert make(**settings).off_policy is off_policy


def test_rewards_that_are_normalised_first_are_scaled_by_the_batch():
    assert make().advantage_scale == "group"
    assert make(scale_rewards=False).advantage_scale == "none"
    assert make(multi_objective_aggregation="normalize_then_sum").advantage_scale == "batch"


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"loss_type": "cispo", "epsilon_high": 5.0}, "caps the weight of cispo at 6"),
        ({"loss_type": "gspo", "num_iterations": 2}, "epsilon 0.2 hardly ever clips the ratio of a sequence"),
        ({"importance_sampling_level": "sequence", "async_steps": 1}, "epsilon 0.2 hardly ever clips"),
        ({"num_iterations": 2, "vllm_importance_sampling_correction": False}, "changes nothing with num_iterations"),
    ],
)
def test_notes(settings, part):
    assert part in " ".join(make(**settings).notes())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss_type": "gspo"},
        {"loss_type": "gspo", "num_iterations": 2, "epsilon": 3e-4, "epsilon_high": 4e-4},
        {"loss_type": "cispo"},
        {"num_iterations": 2},
        {"epsilon_high": 0.28, "delta": 4.0},
    ],
)
def test_no_notes(settings):
    assert make(**settings).notes() == []
