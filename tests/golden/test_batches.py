"""How a step's batch is cut into micro-batches, packs and groups changes nothing but the time it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_runs import Run, assert_close_weights, assert_different_weights, load_weights, train

GENTLE = {"adam_epsilon": 1e-4}
"""Adam's first steps are signs of gradients, which rounding decides where a gradient is 0; this makes them linear."""

LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo", "cispo"]


def assert_same_run(run: Run, other: Run, steps: int) -> None:
    assert len(run.losses) == len(other.losses) == steps
    assert run.losses == pytest.approx(other.losses, abs=1e-5)
    norms = [[line["grad_norm"] for line in each.metrics] for each in (run, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert_close_weights(run.weights, other.weights, 1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_accumulation_is_batch_size(packing: bool, sft_settings: dict[str, Any], tmp_path: Path) -> None:
    """A whole epoch, whose last step is not full."""
    settings = sft_settings | GENTLE | {"packing": packing}
    whole = train("sft", tmp_path / "whole", **settings, per_device_train_batch_size=6)
    assert whole.metrics[-1]["sequences"] < min(line["sequences"] for line in whole.metrics[:-1])
    assert_different_weights(whole.weights, load_weights(settings["model_name_or_path"]))
    for batch, accumulation in ((1, 6), (2, 3)):
        cut = train(
            "sft",
            tmp_path / f"{batch}x{accumulation}",
            **settings,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )
        assert_same_run(cut, whole, len(whole.losses))


def test_recomputed_activations_change_nothing(sft_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = sft_settings | GENTLE | {"max_steps": 4}
    plain = train("sft", tmp_path / "plain", **settings)
    assert_same_run(train("sft", tmp_path / "recomputed", **settings, gradient_checkpointing=True), plain, 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_cutting_rollouts(loss: str, grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    """Two steps on each set of rollouts, a reference, and truncated completions left out."""
    settings = grpo_settings | GENTLE | {"loss_type": loss, "max_steps": 4, "num_iterations": 2, "beta": 0.1}
    settings |= {"mask_truncated_completions": True, "learning_rate": 3e-3, "per_device_train_batch_size": 16}
    whole = train("grpo", tmp_path / "whole", **settings, pack_length=4096)
    assert any(line["clip_low"] + line["clip_high"] > 0 for line in whole.metrics)
    assert all(0 < line["truncated"] < 1 for line in whole.metrics)
    cut = train(
        "grpo",
        tmp_path / "cut",
        **settings | {"per_device_train_batch_size": 4},
        gradient_accumulation_steps=4,
        pack_length=40,
        generation_batch_size=3,
    )
    assert_same_run(cut, whole, 4)
    assert whole.metrics[0]["tokens"] == cut.metrics[0]["tokens"]


def test_the_engine_agrees_with_the_trainer_at_every_step(grpo_settings: dict[str, Any], tmp_path: Path) -> None:
    run = train("grpo", tmp_path / "run", **grpo_settings, max_steps=4, temperature=0.8, top_p=0.9)
    for line in run.metrics:
        assert 0 < line["mismatch"] < 1e-5
        assert line["ratio"] == pytest.approx(1.0)
