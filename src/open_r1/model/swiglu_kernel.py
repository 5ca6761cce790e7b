"""silu(gate) · up and its gradients, each in one pass over memory (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
WARPS = 8


@triton.jit
def _forward(gate, up, output, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = tl.load(gate + place, mask=inside).to(tl.float32)
    u = tl.load(up + place, mask=inside).to(tl.float32)
    tl.store(output + place, (g * tl.sigmoid(g) * u).to(output.dtype.element_ty), mask=inside)


@triton.jit
def _backward(grad, gate, up, grad_gate, grad_up, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    d = tl.load(grad + place, mask=inside).to(tl.float32)
    g = tl.load(gate + place, mask=inside).to(tl.float32)
    u = tl.load(up + place, mask=inside).to(tl.float32)
    sigmoid = tl.sigmoid(g)
    tl.store(grad_up + place, (d * g * sigmoid).to(grad_up.dtype.element_ty), mask=inside)
    slope = sigmoid * (1.0 + g * (1.0 - sigmoid))
    tl.store(grad_gate + place, (d * u * slope).to(grad_gate.dtype.element_ty), mask=inside)


def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up of contiguous tensors of one shape."""
    output = torch.empty_like(gate)
    count = gate.numel()
    with torch.cuda.device(gate.device):
        _forward[(triton.cdiv(count, BLOCK),)](gate, up, output, count, BLOCK=BLOCK, num_warps=WARPS)
    return output


def swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients with respect to gate and up."""
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    count = gate.numel()
    with torch.cuda.device(gate.device):
        _backward[(triton.cdiv(count, BLOCK),)](grad, gate, up, grad_gate, grad_up, count, BLOCK=BLOCK, num_warps=WARPS)
    return grad_gate, grad_up
