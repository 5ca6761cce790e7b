"""Compiled layers, with joint projections and the fused gate, give the losses and gradients of the model's own code."""

from __future__ import annotations

import copy

import pytest
import torch
from families import ATTENTION, build, random_sequences
from test_packed_is_padded import take_gradients
from torch import Tensor

from open_r1.data.pack import make_pack
from open_r1.model.attention import NAME
from open_r1.model.layers import LEVELS
from open_r1.model.pack_model import PackModel

TOLERANCE = 1e-5


def loss_and_gradients(module: PackModel) -> tuple[Tensor, dict[str, Tensor]]:
    module.train()
    pack = make_pack(random_sequences())
    loss = module(pack, nll=True) / len(pack)
    loss.backward()
    return loss.detach(), take_gradients(module.model)


@pytest.mark.parametrize("family", [family for family in ATTENTION if "gpt2" not in family])
def test_compiled_at_every_level(family: str) -> None:
    torch._dynamo.reset()
    model = build(family)
    model.set_attn_implementation(NAME)
    expected = loss_and_gradients(PackModel(copy.deepcopy(model)))
    names = [name for name, _ in model.named_parameters()]
    module = PackModel(model)
    module.layers.compile(backend="aot_eager")
    assert [name for name, _ in model.named_parameters()] == names
    for level in LEVELS:
        module.layers.recompute = level
        loss, gradients = loss_and_gradients(module)
        torch.testing.assert_close(loss, expected[0], atol=TOLERANCE, rtol=0)
        assert gradients.keys() == expected[1].keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[1][name], atol=TOLERANCE, rtol=1e-4, msg=f"{name}, {level}")


def test_what_is_compiled_is_what_is_trained() -> None:
    """Weights that change are seen by the next step: none is a constant of the compiled code."""
    torch._dynamo.reset()
    model = build("qwen2")
    model.set_attn_implementation(NAME)
    module = PackModel(model)
    module.layers.compile(backend="aot_eager")
    first, _ = loss_and_gradients(module)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    second, _ = loss_and_gradients(module)
    plain, _ = loss_and_gradients(PackModel(copy.deepcopy(model)))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, plain, atol=TOLERANCE, rtol=0)
