"""A policy's objective reaches the head where it may be called with some targets at a time; the step is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.model import attention
from open_r1.model import pack_model as pack_model_module
from open_r1.model.attention import NAME, attention_arguments
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.training.grpo_objective import GRPOObjective
from open_r1.training.step import loss_of

FORWARD = {"temperature": 0.8, "entropy": True}


def pack_of(*lengths: int) -> Pack:
    chance = np.random.default_rng(sum(lengths))
    names = ("advantage", "behaviour_logprob", "reference_logprob")
    return make_pack(
        [
            TrainingSequence(
                chance.integers(0, 200, length),
                (np.arange(length) >= 4) / length,
                **{name: chance.normal(-2, 1, length) for name in names},
            )
            for length in lengths
        ]
    )


@pytest.fixture
def module(tiny_checkpoint: Path) -> PackModel:
    return PackModel(load_model(str(tiny_checkpoint))).train()


def step(module: PackModel, pack: Pack, objective: Any) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    module.zero_grad()
    loss, metrics = loss_of(module, pack, objective, FORWARD)
    loss.backward()
    return loss.detach(), metrics, [parameter.grad for parameter in module.parameters()]


@pytest.mark.parametrize(
    "more", [{}, {"beta": 0.1}, {"loss_type": "cispo"}, {"num_iterations": 2}, {"entropy_coef": 0.01}], ids=str
)
def test_in_one_pass_and_in_two(more: dict[str, Any], module: PackModel, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GRPOConfig(
        model_name_or_path="m", dataset_name="d", output_dir="o", reward_funcs=["accuracy"], max_prompt_length=8, **more
    )
    objective, pack = GRPOObjective(config), pack_of(21, 34, 9)
    monkeypatch.setattr("open_r1.model.policy_head.chunk_targets", lambda *_: 16)
    assert objective.pointwise
    loss, metrics, gradients = step(module, pack, objective)
    monkeypatch.setattr(objective, "pointwise", False)
    expected = step(module, pack, objective)
    torch.testing.assert_close(loss, expected[0], rtol=1e-5, atol=1e-6)
    assert metrics.keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert not value.requires_grad
        torch.testing.assert_close(metrics[name], value, rtol=1e-4, atol=1e-5)
    for gradient, value in zip(gradients, expected[2], strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-4, atol=1e-5 * max(1.0, float(value.abs().max())))


def test_only_a_pointwise_objective_is_given_to_the_model(module: PackModel) -> None:
    seen = []

    class Whole:
        def __call__(self, predicted: Any, of: Any) -> tuple[Tensor, dict[str, Tensor]]:
            seen.append(type(of))
            return predicted.logprobs.sum(), {"entropy": predicted.entropy.sum()}

    _, metrics = loss_of(module, pack_of(9, 12), Whole(), FORWARD)
    assert seen == [Pack]
    assert not metrics["entropy"].requires_grad  # it would keep the whole graph alive


def test_packs_of_completions_have_one_shape(module: PackModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many completions they hold and however long those are; with gradients or, as in a reference, without."""
    torch._dynamo.reset()
    seen = set()

    def record(config: Any, pack: Pack, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with monkeypatch.context() as patched:
            patched.setattr(attention, "choose_kernel", lambda *_: "varlen")
            longest = attention_arguments(config, pack, *args, **kwargs)["documents"].max_length
        seen.add((len(pack), len(pack.cu_seqlens), longest))
        return attention_arguments(config, pack, *args, **kwargs)

    monkeypatch.setattr(pack_model_module, "attention_arguments", record)
    module.causal_lm.set_attn_implementation(NAME)
    reference = PackModel(load_model(str(module.causal_lm.config._name_or_path))).eval()
    packs = [pack_of(40, 40, 40), pack_of(*[5] * 22), pack_of(16, 30, 50, 4, 20), pack_of(128)]
    expected = [reference(pack).logprobs.detach() for pack in packs]
    seen.clear()
    module.full, module.sequences, module.longest = 128, 32, 128
    module.layers.compile(backend="eager")
    reference.run_like(module)
    for pack, logprobs in zip(packs, expected, strict=True):
        torch.testing.assert_close(module(pack).logprobs, logprobs, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(reference(pack).logprobs, logprobs, rtol=1e-4, atol=1e-4)
    assert seen == {(128, 33, 128)}
