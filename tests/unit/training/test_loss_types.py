"""Whole runs with losses that look at one target, at whole sequences, or at the rollouts of an older policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import train

OFF_POLICY = {"num_iterations": 2, "epsilon": 3e-4, "epsilon_high": 4e-4}


@pytest.mark.parametrize(
    ("settings", "watched"),
    [
        ({"loss_type": "cispo", "entropy_coef": 0.01}, {"importance_capped"}),
        ({"loss_type": "gspo", **OFF_POLICY}, {"clip_low", "clip_high", "kl_behaviour"}),
        ({"loss_type": "dr_grpo", "vllm_importance_sampling_mode": "sequence_mask"}, {"importance_capped"}),
    ],
    ids=["cispo", "gspo", "sequence_mask"],
)
def test_how_packs_are_cut_changes_nothing(
    settings: dict[str, Any], watched: set[str], grpo_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = grpo_settings | settings | {"max_steps": 2, "adam_epsilon": 1e-3}
    one = train("grpo", tmp_path / "one", **settings)
    several = train("grpo", tmp_path / "several", **settings, pack_length=40)
    assert min(line["tokens"] for line in several.metrics) > 2 * 40, "else there is one pack"
    assert several.losses == pytest.approx(one.losses, abs=1e-6)
    for name, weight in one.weights.items():
        torch.testing.assert_close(several.weights[name], weight, atol=1e-6, rtol=1e-4)
    assert watched | {"mismatch", "mismatch_kl", "ratio", "entropy"} <= one.metrics[-1].keys()


def test_gspo_clips_on_the_second_step_on_the_same_rollouts(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = grpo_settings | OFF_POLICY | {"loss_type": "gspo", "max_steps": 2, "learning_rate": 1e-2}
    first, second = train("grpo", tmp_path, **settings).metrics
    assert first["clip_low"] == first["clip_high"] == 0
    assert second["clip_low"] + second["clip_high"] > 0
    assert second["kl_behaviour"] > first["kl_behaviour"]
