"""Where a training step's GPU time goes: the kernels of a `torch.profiler` run, in groups."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first that matches counts.
GROUPS = (
    ("copies", r"^(Memcpy|Memset)|^(CatArray|direct_copy)"),
    ("attention", r"flash|fmha|attention|attn"),
    ("optimizer", r"adam|multi_tensor|foreach|lpnorm|lion"),
    ("head", r"nll|logprob|logit|log_softmax|logsumexp|cross_entropy|^_(forward|backward|grad)\w*_kernel$"),
    ("matrix products", r"gemm|nvjet|xmma|cutlass|cublas|wgmma|scaled_mm|_mm_|matmul|splitK|split_k"),
    (
        "element-wise",
        r"^_forward$|^_backward$|triton|elementwise|vector|reduce|index|scatter|gather|embedding|norm|rope|silu|swiglu|functor",
    ),
)
ORDER = ("matrix products", "attention", "head", "element-wise", "optimizer", "copies", "other", "idle")
MATRIX_OPERATORS = {"aten::mm", "aten::addmm", "aten::_scaled_mm", "aten::bmm"}


def start(device: torch.device) -> profile:
    """A profiler that has started, of kernels and of the shapes that operators were called with."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    profiler = profile(activities=activities, record_shapes=True)
    profiler.start()
    return profiler


def summarize(profiler: profile, steps: int, vocabulary: int, top: int = 24) -> dict[str, Any]:
    """Milliseconds a step of each group, of the ``top`` kernels, and of the host's calls of CUDA that took longest.

    Matrix products with the vocabulary among their sizes are the head's. Idle is the time between the first kernel's
    start and the last one's end in which none ran.
    """
    profiler.stop()
    events = profiler.profiler.kineto_results.events()
    of_head = {
        event.correlation_id()
        for event in events
        if event.name() in MATRIX_OPERATORS and any(vocabulary in (shape or ()) for shape in event.shapes())
    }
    callers = {
        event.correlation_id(): f"{event.name()} {_shapes(event)}"
        for event in events
        if event.name().startswith("aten::")
    }
    groups: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    spans = []
    for event in events:
        if event.device_type().name != "CUDA" or _is_annotation(event):
            if event.name().startswith("cu"):
                calls[event.name()] += event.duration_ns()
            continue
        spans.append((event.start_ns(), event.start_ns() + event.duration_ns()))
        group = group_of(event.name())
        if group == "matrix products" and event.linked_correlation_id() in of_head:
            group = "head"
        groups[group] += event.duration_ns()
        # PyTorch's own element-wise kernels are told apart by who called them, and with what.
        by_caller = "at::native" in event.name()
        name = callers.get(event.linked_correlation_id(), "") if by_caller else ""
        kernels[f"{group}: {name or _short(event.name())}"] += event.duration_ns()
    if spans:
        groups["idle"] = max(end for _, end in spans) - min(begin for begin, _ in spans) - _covered(spans)
    return {
        "steps": steps,
        "groups_ms": {name: round(groups[name] / 1e6 / steps, 2) for name in ORDER if groups[name]},
        "calls_ms": {name: round(time / 1e6 / steps, 2) for name, time in calls.most_common(6)},
        "kernels_ms": {name: round(time / 1e6 / steps, 2) for name, time in kernels.most_common(top)},
    }


def group_of(name: str) -> str:
    """The group of a kernel, by its name."""
    return next((group for group, pattern in GROUPS if re.search(pattern, name, re.IGNORECASE)), "other")


def _is_annotation(event: Any) -> bool:
    """Whether this is a range that somebody named, not a kernel."""
    kind = event.activity_type() if hasattr(event, "activity_type") else ""
    return event.is_user_annotation() or "annotation" in kind


def _covered(spans: list[tuple[int, int]]) -> int:
    """Length of the union of intervals."""
    total, reach = 0, 0
    for begin, end in sorted(spans):
        total += max(0, end - max(begin, reach))
        reach = max(reach, end)
    return total


def _shapes(event: Any) -> str:
    return " ".join("×".join(map(str, shape)) for shape in event.shapes() if shape)[:60]


def _short(name: str) -> str:
    return re.sub(r"[<(].*", "", name.removeprefix("void ")).strip()[:70] or name[:70]
