"""The tables of `benchmarks/grpo.py`, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from markdown_table import table_row

PHASES = ("generate", "reward", "logprobs", "train", "sync")
COLUMNS = ("case", "side", "s/step", "×", *PHASES, "idle", "answer tok/s", "trained tok/s", "MFU", "MFU of train")
COLUMNS = (*COLUMNS, "GPU busy", "GiB torch / GPU", "tokens an answer", "reward", "first step s")
CLOSE = {"float32": (1e-3, 0.9999), "bfloat16": (2e-2, 0.98)}
"""By dtype: how far apart losses may be, as a share, and how small the cosine of the gradients may be."""

Result = dict[str, Any]


def table(results: Sequence[Result]) -> str:
    """A line for each side of each case, or why there is none; seconds are means over the timed steps.

    Phases may overlap where generation runs ahead; ``idle`` is what none of them covers. ``logprobs`` is the pass over
    the old policy or the reference. MFU is of training alone, over the whole step and over the phase ``train``.
    """
    lines = [table_row(COLUMNS), table_row(["---", "---", *["---:"] * (len(COLUMNS) - 2)])]
    for result in results:
        if "error" in result:
            lines.append(table_row([result["case"], result["side"], result["error"], *[""] * (len(COLUMNS) - 3)]))
        else:
            lines.append(table_row(_cells(result, results)))
    return "\n".join(lines)


def _cells(result: Result, results: Sequence[Result]) -> list[str]:
    seconds = statistics.fmean(result["seconds"])
    phases = phase_means(result)
    total = sum(result["seconds"])
    drawn, trained = sum(result["completion_tokens"]), sum(result["trained_tokens"])
    peak = (result["peak_tflops"] or 0) * 1e12
    train = phases.get("train", 0.0) * len(result["seconds"])
    rival = _rival(result, results)
    return [
        result["case"],
        f"{result['side']} ({result['micro_batch']})" if result["side"].startswith("trl") else result["side"],
        f"{seconds:.2f} ({min(result['seconds']):.2f} to {max(result['seconds']):.2f})",
        f"{rival / seconds:.2f}" if rival else "",
        *(f"{phases[name]:.2f}" if name in phases else "" for name in PHASES),
        f"{max(0.0, seconds - sum(phases.values())):.2f}",
        f"{drawn / total:,.0f}",
        f"{trained / total:,.0f}",
        f"{result['flops'] / total / peak:.3f}" if peak else "",
        f"{result['flops'] / train / peak:.3f}" if peak and train else "",
        f"{result['busy']:.0%}" if "busy" in result else "",
        f"{result['peak_gib']:.1f} / {result['device_gib']:.1f}" if "peak_gib" in result else "",
        f"{drawn / len(result['seconds']) / result['answers']:.0f}",
        f"{statistics.fmean(result['rewards']):.3f}",
        f"{result['first_step_s']:.0f}",
    ]


def phase_means(result: Result) -> dict[str, float]:
    """Mean seconds of each known phase over the timed steps that know it."""
    rows = result["phases"]
    names = [name for name in PHASES if any(name in row for row in rows)]
    return {name: statistics.fmean(row[name] for row in rows if name in row) for name in names}


def comparison(side: str, theirs: Result, ours: Result) -> list[str]:
    """What TRL and ours learn from the same answers, line by line; says so where it is not the same."""
    for name, result in ((side, theirs), ("ours", ours)):
        if "error" in result:
            return [f"{side}: no comparison, {name}: {result['error']}"]
    tolerance, least = CLOSE["float32" if theirs["dtype"] == "float32" else "bfloat16"]
    names = {"reward": "rewards", "loss": "losses", "norm of the gradient": "grad_norms"}
    pairs = {name: (theirs[key][0], ours[key][0]) for name, key in names.items()}
    apart = {name: abs(a - b) / max(abs(a), abs(b), 1e-6) for name, (a, b) in pairs.items()}
    gradients = ours["gradients"]
    same = apart["reward"] < 1e-6 and apart["norm of the gradient"] < tolerance and gradients["cosine"] > least
    return [
        f"the same {ours['answers']} answers, {theirs['dtype']}, {side} / ours:",
        *(f"    {name}: {a:.6g} / {b:.6g}" for name, (a, b) in pairs.items()),
        f"    log-probabilities from the engine's, mean: {_number(theirs['mismatch'][0])} / "
        f"{_number(ours['mismatch'][0])}",
        f"    gradients of {gradients['parameters']:.0f} tensors: cosine {gradients['cosine']:.6f}, of any that "
        f"matters at least {gradients['lowest_cosine']:.6f}",
        f"    {'the same loss' if same else '**not the same loss**'} (norms within {tolerance:.0e}, cosine > {least})",
    ]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _rival(result: Result, results: Sequence[Result]) -> float:
    """Seconds a step of the fastest trl-tuned of the case, whatever its changes; 0 if there is none."""
    seconds = [
        statistics.fmean(other["seconds"])
        for other in results
        if other["case"] == result["case"] and other["side"].startswith("trl-tuned") and other.get("seconds")
        if "error" not in other
    ]
    return min(seconds, default=0.0)
