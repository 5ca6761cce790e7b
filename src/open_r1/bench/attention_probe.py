"""Child process: one attention kernel over packs of made-up traces, forward and backward."""

from __future__ import annotations

from dataclasses import asdict

import torch

from open_r1.bench.gate import wait_for_gate
from open_r1.bench.packs import MEAN, trace_lengths
from open_r1.bench.timing import Timing, time_calls
from open_r1.doctor.matmul_probe import TYPES
from open_r1.machine.answer import Answer
from open_r1.model.flash import flash_attention_4, varlen_attention
from open_r1.model.kernels import documents_attention, group_sequences
from open_r1.model.published import SHAPES, Shape


def main() -> None:
    """Tells an ``attention`` for each length: FLOPs and timings of the forward pass, and of both."""
    answer = Answer()
    wait_for_gate(answer)
    asked = answer.asked
    device, shape, tokens = torch.device(asked["device"]), SHAPES[asked["shape"]], asked["tokens"]
    for longest in asked["lengths"]:
        answer.begin(f"packs of {longest:,} tokens")
        lengths = document_lengths(tokens, longest)
        forward, both = time_kernel(asked["kernel"], shape, lengths, TYPES[asked["dtype"]], device)
        answer.say(
            attention={
                "kernel": asked["kernel"],
                "length": longest,
                "forward_flops": flops(shape, lengths),
                "forward": asdict(forward),
                "both": asdict(both),
            }
        )
    answer.say(at="")


def document_lengths(tokens: int, longest: int) -> tuple[int, ...]:
    """Of a micro-batch of ``tokens`` tokens: traces one after the other, cut at the end of each pack of ``longest``."""
    mean = MEAN if longest > MEAN // 4 else longest // 3
    lengths: list[int] = []
    left, room = tokens, min(longest, tokens)
    for trace in trace_lengths(tokens, longest, mean).tolist():
        while trace and left:
            part = min(trace, room)
            lengths.append(part)
            trace, left, room = trace - part, left - part, room - part
            if not room:
                room = min(longest, left)
    return tuple(lengths)


def flops(shape: Shape, lengths: tuple[int, ...]) -> int:
    """Of the forward pass, halved for causality; the backward pass has twice as many, without what it recomputes."""
    return sum(2 * shape.hidden * length * length for length in lengths)


def time_kernel(
    kernel: str, shape: Shape, lengths: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Timing, Timing]:
    """The forward pass alone, and with the backward pass after it."""
    torch.manual_seed(0)
    tokens, size = sum(lengths), shape.head_size
    heads = (shape.heads, shape.key_value_heads, shape.key_value_heads)
    inputs = [torch.randn(tokens, count, size, device=device).to(dtype).requires_grad_() for count in heads]
    upstream = torch.randn(tokens, shape.heads, size, device=device).to(dtype)
    ends = torch.tensor((0, *lengths), device=device).cumsum(0).int()
    groups = group_sequences(lengths, device) if kernel == "documents" else ()
    # As `attention_arguments` has it for compiled layers: fa4 takes any bound, for varlen it is work.
    longest = tokens if kernel == "fa4" else min(tokens, 1 << (max(lengths) - 1).bit_length())

    def forward() -> torch.Tensor:
        if kernel == "documents":
            q, k, v = (tensor.transpose(0, 1) for tensor in inputs)
            return documents_attention(q, k, v, groups, size**-0.5, 0.0, None, None)
        run = flash_attention_4 if kernel == "fa4" else varlen_attention
        return run(*inputs, ends, longest, size**-0.5, None)

    def both() -> None:
        torch.autograd.grad(forward(), inputs, upstream)

    with torch.no_grad():
        alone = time_calls(forward, device)
    return alone, time_calls(both, device)


if __name__ == "__main__":
    main()
