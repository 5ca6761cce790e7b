"""Prompts that are computed once, in steps: what is counted, out of memory, old checkpoints, models that cannot."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_runtime import FakeRuntime
from small_card import TOO_MUCH, said
from training_runs import assert_close_weights, train
from transformers import AutoModelForCausalLM

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.data.shared_prompts import SharedPrompts
from open_r1.errors import UserError
from open_r1.model.pack_model import PackModel
from open_r1.training.batches import StepBatch
from open_r1.training.meters import StepMeter
from open_r1.training.rollout_packs import level_packs, shares_prompts
from open_r1.training.step import TrainingStep
from open_r1.training.warm_up import full_policy_pack


def settings(**more: Any) -> GRPOConfig:
    return GRPOConfig(model_name_or_path="m", dataset_name="d", output_dir="o", reward_funcs=["accuracy"], **more)


def fake_model(separable: bool) -> Any:
    return SimpleNamespace(separable=separable, causal_lm=object())


def test_where_prompts_are_shared() -> None:
    assert shares_prompts(settings(), fake_model(True)) and shares_prompts(
        settings(share_prompts=True), fake_model(True)
    )
    assert not shares_prompts(settings(share_prompts=False), fake_model(True))
    assert not shares_prompts(settings(), fake_model(False))
    with pytest.raises(UserError, match=r"object carries more than attention .* leave share_prompts out"):
        shares_prompts(settings(share_prompts=True), fake_model(False))


def test_all_packs_of_a_run_are_of_one_kind() -> None:
    for share in (False, True):
        for pack in (
            *level_packs(FakeRuntime(), [], logprobs=True, share_prompts=share),
            full_policy_pack(100, 40, reference=False, share_prompts=share),
        ):
            assert (pack.shared is not None) is share and pack.computed == len(pack)


def test_tokens_count_whole_and_operations_as_computed(tiny_checkpoint: Path) -> None:
    meter = StepMeter(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), 1)
    sequence = TrainingSequence(torch.ones(9).numpy(), (torch.arange(9) > 6).float().numpy())

    def totals(shared: list[int] | None) -> list[float]:
        step = SimpleNamespace(_meter=meter, _runtime=FakeRuntime())
        batch = StepBatch([make_pack([sequence] * 3, shared)], 1.0)
        return TrainingStep._totals(step, {"loss": torch.zeros(())}, batch).tolist()[1:]

    each, once = totals(None), totals([0, 7, 7])
    assert (each[:2], each[3]) == (once[:2], once[3]) == ([3, 27], 6)
    square = meter.flops_of([2]) - 2 * meter.flops_of([1])  # twice that of one token
    # 9 + 2 + 2 tokens; the queries of the last 2 see 9 keys: 9² − 7² in place of 9².
    assert once[2] == pytest.approx(13 * (meter.flops_of([1]) - square / 2) + (81 + 2 * (81 - 49)) * square / 2)


def test_halved_where_memory_is_short(
    grpo_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    more = grpo_settings | {"max_steps": 2, "learning_rate": 1e-3, "adam_epsilon": 1e-3}
    plain = train("grpo", tmp_path / "plain", **more)
    forward, computed = PackModel.forward, []

    def limited(self: PackModel, pack: Pack, *args: Any, **kwargs: Any) -> Any:
        if len(pack.lengths) > 3:
            raise torch.OutOfMemoryError(TOO_MUCH)
        computed.append((pack.computed, len(pack)))
        return forward(self, pack, *args, **kwargs)

    monkeypatch.setattr(PackModel, "forward", limited)
    capsys.readouterr()
    run = train("grpo", tmp_path / "run", **more)
    assert said(capsys) and any(less < tokens for less, tokens in computed)
    assert run.losses == pytest.approx(plain.losses, abs=1e-5)
    assert [line["tokens"] for line in run.metrics] == [line["tokens"] for line in plain.metrics]
    assert_close_weights(run.weights, plain.weights, 1e-5)


def test_rollouts_in_hand_of_an_older_checkpoint() -> None:
    """Their packs know nothing of sharing."""
    pack = make_pack([TrainingSequence(torch.ones(4).numpy(), torch.ones(4).numpy())])
    object.__delattr__(pack, "shared")
    stored = io.BytesIO()
    torch.save(pack, stored)
    stored.seek(0)
    with torch.serialization.safe_globals([Pack, SharedPrompts]):
        again = torch.load(stored, weights_only=True)
    assert "shared" not in vars(again)
    assert again.shared is None and again.computed == 4 and replace(again, padding=0).to("cpu").shared is None
