"""The fused gate: right in value and gradient, and put only where the block computes just that."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Gemma2Config, LlamaConfig, Qwen2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from open_r1.model import swiglu as module
from open_r1.model.swiglu import has_swiglu, swiglu, swiglu_block

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(5, 7, dtype=dtype, requires_grad=True) for _ in range(2))
    grad = torch.randn(5, 7, dtype=dtype)
    swiglu(gate, up).backward(grad)
    exact_gate, exact_up = (part.detach().double().requires_grad_() for part in (gate, up))
    exact = F.silu(exact_gate) * exact_up
    exact.backward(grad.double())
    tolerance = 1e-6 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(swiglu(gate, up).double(), exact, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(gate.grad.double(), exact_gate.grad, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(up.grad.double(), exact_up.grad, atol=tolerance, rtol=tolerance)


def test_the_operator_keeps_to_the_compilers_rules() -> None:
    gate, up = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    torch.library.opcheck(module._swiglu, (gate, up))
    torch.library.opcheck(module._swiglu_backward, (gate.detach(), gate.detach(), up.detach()))


@pytest.mark.parametrize("block", [Qwen2MLP(Qwen2Config(**SIZES)), LlamaMLP(LlamaConfig(**SIZES))])
def test_blocks_that_have_it(block: nn.Module) -> None:
    assert has_swiglu(block)
    x = torch.randn(3, 8)
    torch.testing.assert_close(swiglu_block(block, x), block(x))


def test_blocks_that_have_not() -> None:
    assert not has_swiglu(Gemma2MLP(Gemma2Config(**SIZES)))  # another activation
    assert not has_swiglu(Qwen2MLP(Qwen2Config(**SIZES, hidden_act="relu")))
    assert not has_swiglu(nn.Linear(2, 2))

    class ScaledWithin(Qwen2MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x) * 0.5)

    class ScaledAfter(Qwen2MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
            return down_proj * 0.5

    for kind in (ScaledWithin, ScaledAfter):
        assert not has_swiglu(kind(Qwen2Config(**SIZES)))
