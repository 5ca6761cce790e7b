"""The gate of a SwiGLU feed-forward block, silu(gate) · up (Shazeer 2020), as one operator.

What the compiler makes of it reads and writes memory at two thirds of the speed that the chip has; these kernels are at
its limit (`docs/performance.md`). To the compiler the operator is opaque, like attention.
"""

from __future__ import annotations

import ast
import inspect
import textwrap

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PRODUCT = "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"
BODIES = (f"return {_PRODUCT}", f"down_proj = {_PRODUCT}; return down_proj")
"""The two ways in which most of `transformers`' models write this block."""


def has_swiglu(block: nn.Module) -> bool:
    """Whether a feed-forward block is ``down_proj(silu(gate_proj(x)) * up_proj(x))`` and nothing else."""
    activation = type(getattr(block, "act_fn", None)).__name__
    if activation not in ("SiLU", "SiLUActivation"):
        return False
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(type(block).forward))).body
    except (OSError, TypeError, SyntaxError):
        return False
    return "; ".join(map(ast.unparse, function.body)) in BODIES


def swiglu_block(block: nn.Module, x: Tensor) -> Tensor:
    """The forward of a block that `has_swiglu`."""
    return block.down_proj(swiglu(block.gate_proj(x), block.up_proj(x)))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, computed in float32 and rounded once; all three of one shape and dtype."""
    return _swiglu(gate, up)


@torch.library.custom_op("open_r1::swiglu", mutates_args=())
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    if gate.is_cuda:
        from open_r1.model.swiglu_kernel import swiglu_forward

        return swiglu_forward(gate.contiguous(), up.contiguous())
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


@_swiglu.register_fake
def _(gate, up):
    return torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)


@torch.library.custom_op("open_r1::swiglu_backward", mutates_args=())
def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    if gate.is_cuda:
        from open_r1.model.swiglu_kernel import swiglu_backward

        return swiglu_backward(grad.contiguous(), gate.contiguous(), up.contiguous())
    wide_grad, wide_gate = grad.float(), gate.float()
    sigmoid = torch.sigmoid(wide_gate)
    slope = sigmoid * (1 + wide_gate * (1 - sigmoid))
    return (wide_grad * up.float() * slope).to(gate.dtype), (wide_grad * wide_gate * sigmoid).to(up.dtype)


@_swiglu_backward.register_fake
def _(grad, gate, up):
    return tuple(torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (gate, up))


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad):
    return _swiglu_backward(grad, *ctx.saved_tensors)


_swiglu.register_autograd(_differentiate, setup_context=_keep)
