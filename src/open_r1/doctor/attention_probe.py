"""Child process: one attention kernel over a pack, forward and backward, against plain softmax attention in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from open_r1.machine.answer import Answer
from open_r1.model.flash import flash_attention_4, varlen_attention
from open_r1.model.kernels import documents_attention, group_sequences

LENGTHS = (700, 3, 130, 64, 1, 257, 512)
HEADS = ((14, 2, 64), (28, 4, 128))
"""Heads of queries, of keys, and their size: Qwen2.5 0.5B and 7B."""

SLACK, SLACK_OF_SUMS = 4.0, 64.0
"""Times ε of the type, and of float32 in which sums are kept, that the relative error of a whole tensor may be."""


def main() -> None:
    """Tells ``wrong``: a line for each output or gradient that is off by more than rounding allows."""
    answer = Answer()
    device, kernel = torch.device(answer.asked["device"]), answer.asked["kernel"]
    wrong = []
    for heads, kv_heads, size in HEADS if device.type == "cuda" else HEADS[:1]:
        answer.begin(f"{heads} heads of {size}")
        errors = kernel_errors(kernel, device, heads, kv_heads, size)
        wrong += [
            f"{name} with heads of {size}: off by {error:.2g} of its size"
            for name, error in errors.items()
            if not error <= allowed_error(_dtype(device))
        ]
    answer.say(at="", wrong=wrong)


def kernel_errors(kernel: str, device: torch.device, heads: int, kv_heads: int, size: int) -> dict[str, float]:
    """‖got − wanted‖ / ‖wanted‖ of the output and of the gradients of query, key and value."""
    torch.manual_seed(0)
    tokens, dtype = sum(LENGTHS), _dtype(device)
    shapes = ((tokens, heads, size), (tokens, kv_heads, size), (tokens, kv_heads, size))
    inputs = [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]
    upstream = torch.randn(shapes[0], device=device).to(dtype)
    output = attend(kernel, *inputs)
    got = [output, *torch.autograd.grad(output, inputs, upstream)]
    precise = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = plain_attention(*precise)
    wanted = [expected, *torch.autograd.grad(expected, precise, upstream.double())]
    names = ("output", "gradient of queries", "gradient of keys", "gradient of values")
    return {name: ((a.double() - b).norm() / b.norm()).item() for name, a, b in zip(names, got, wanted, strict=True)}


def allowed_error(dtype: torch.dtype) -> float:
    """The relative error of a whole tensor that rounding explains."""
    return SLACK * torch.finfo(dtype).eps + SLACK_OF_SUMS * torch.finfo(torch.float32).eps


def attend(kernel: str, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
    """[T, H, D] by ``kernel``, one of those of `open_r1.model.kernels`."""
    scale = query_THD.shape[-1] ** -0.5
    if kernel == "documents":
        groups = group_sequences(LENGTHS, query_THD.device)
        q, k, v = (tensor.transpose(0, 1) for tensor in (query_THD, key_THD, value_THD))
        return documents_attention(q, k, v, groups, scale, 0.0, None, None)
    ends = torch.tensor((0, *LENGTHS), device=query_THD.device).cumsum(0).int()
    run = flash_attention_4 if kernel == "fa4" else varlen_attention
    return run(query_THD, key_THD, value_THD, ends, max(LENGTHS), scale, None)


def plain_attention(query_THD: Tensor, key_THD: Tensor, value_THD: Tensor) -> Tensor:
    """[T, H, D]: softmax(q·kᵀ/√D) v, causal, sequence by sequence, written out."""
    repeats = query_THD.shape[1] // key_THD.shape[1]
    outputs = []
    for q, k, v in zip(*(tensor.split(LENGTHS) for tensor in (query_THD, key_THD, value_THD)), strict=True):
        k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
        scores = torch.einsum("thd,uhd->htu", q, k) * q.shape[-1] ** -0.5
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        outputs.append(torch.einsum("htu,uhd->thd", scores.masked_fill(later, float("-inf")).softmax(-1), v))
    return torch.cat(outputs)


def _dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


if __name__ == "__main__":
    main()
