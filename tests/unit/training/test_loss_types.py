"""Whole runs with losses that look at one target, at whole sequences, or at the rollouts of an older policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import train

from open_r1.data.pack import Pack
from open_r1.model.pack_model import PackModel

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


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "grpo", "beta": 0.1, "num_iterations": 2, "scale_rewards": "none"},
        {"loss_type": "dr_grpo", "gradient_checkpointing": "selective"},
        {"loss_type": "dapo", "use_peft": True, "beta": 0.1, "lora_r": 4},
        {"loss_type": "bnpo", "pack_length": 40, "gradient_checkpointing": "full"},
        {"loss_type": "gspo", **OFF_POLICY},
        {"loss_type": "cispo", "entropy_coef": 0.01, "async_steps": 1},
    ],
    ids=lambda settings: settings["loss_type"],
)
def test_how_often_a_prompt_is_computed_changes_nothing(
    settings: dict[str, Any], grpo_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs: list[Pack] = []
    forward = PackModel.forward

    def record(self: PackModel, pack: Pack, *args: Any, **kwargs: Any) -> Any:
        packs.append(pack)
        return forward(self, pack, *args, **kwargs)

    monkeypatch.setattr(PackModel, "forward", record)
    settings = grpo_settings | settings | {"max_steps": 3, "learning_rate": 1e-3, "adam_epsilon": 1e-3}
    each = train("grpo", tmp_path / "each", **settings, share_prompts=False)
    assert packs and all(pack.shared is None for pack in packs)
    packs.clear()
    once = train("grpo", tmp_path / "once", **settings)
    assert all(pack.shared is not None for pack in packs)
    assert min(pack.computed / len(pack) for pack in packs) < 0.8
    assert once.losses == pytest.approx(each.losses, abs=1e-5)
    for name, weight in each.weights.items():
        torch.testing.assert_close(once.weights[name], weight, atol=1e-5, rtol=1e-4)
    for mine, other in zip(once.metrics, each.metrics, strict=True):
        for name in ("tokens", "sequences", "entropy", "mismatch", "grad_norm", "ratio", "kl_behaviour"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name
