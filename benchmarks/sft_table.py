"""The tables of `benchmarks/sft.py`, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from markdown_table import table_row

COLUMNS = ("case", "side", "tokens/s", "×", "ms/step", "TFLOP/s", "MFU", "peak GiB", "first step s", "loss")
COMPARED_STEPS = 4

Result = dict[str, Any]


def table(results: Sequence[Result]) -> str:
    """A line for each side of each case: its fastest turn, or why there is none."""
    lines = [table_row(COLUMNS), table_row(["---", "---", *["---:"] * (len(COLUMNS) - 2)])]
    for result in fastest(results):
        if "seconds" not in result:
            lines.append(table_row([result["case"], result["side"], result["error"], *[""] * (len(COLUMNS) - 3)]))
            continue
        seconds = timed_seconds(result)
        rate = result["tokens"] / seconds
        teraflops = result["flops"] / seconds / 1e12
        peak = result["peak_tflops"]
        rival = _rival(result, results)
        losses = result["losses"]
        lines.append(
            table_row(
                [
                    result["case"],
                    f"{result['side']} ({result['batch']} × {result['packs'] // result['batch']})",
                    f"{rate:,.0f}",
                    f"{rate / rival:.2f}" if rival else "",
                    f"{1e3 * seconds / len(result['step_ms']):,.0f}",
                    f"{teraflops:.3g}",
                    f"{teraflops / peak:.3f}" if peak else "",
                    f"{result['peak_gib']:.1f}" if "peak_gib" in result else "",
                    f"{result['first_step_s']:.0f}",
                    f"{losses[0]:.3f} → {losses[-1]:.3f}" if losses else "",
                ]
            )
        )
    return "\n".join(lines)


def fastest(results: Sequence[Result]) -> list[Result]:
    """The fastest turn of each side of each case, in the order of their first; one that failed only if all did."""
    best: dict[tuple[str, str], Result] = {}
    for result in results:
        key = (result["case"], result["side"])
        known = best.get(key)
        if known is None or _seconds_a_token(result) < _seconds_a_token(known):
            best[key] = result
    return list(best.values())


def agreement(results: Sequence[Result]) -> list[str]:
    """How far the losses of the first steps of each side are from the first side's of the case."""
    lines = []
    first: dict[str, Result] = {}
    for result in fastest(results):
        if not result.get("losses"):
            continue
        reference = first.setdefault(result["case"], result)
        if reference is result:
            continue
        pairs = list(zip(reference["losses"], result["losses"], strict=False))[:COMPARED_STEPS]
        apart = max(abs(a - b) / abs(a) for a, b in pairs)
        shown = " ".join(f"{a:.4f}/{b:.4f}" for a, b in pairs)
        verdict = "" if apart < 1e-2 else ": **they do not agree**"
        lines.append(f"{result['case']}, losses of {reference['side']}/{result['side']}: {shown}{verdict}")
    return lines


def profiles(results: Sequence[Result]) -> list[str]:
    """For each side that was profiled, the groups of kernels and the largest kernels, in ms a step."""
    lines = []
    for result in fastest(results):
        profile = result.get("profile")
        if not profile or not profile["groups_ms"]:
            continue
        total = sum(profile["groups_ms"].values())
        lines += ["", f"{result['case']} {result['side']}: {total:.0f} ms a step under the profiler", ""]
        lines += [table_row(["group", "ms", "share"]), table_row(["---", "---:", "---:"])]
        lines += [table_row([name, f"{ms:.1f}", f"{ms / total:.1%}"]) for name, ms in profile["groups_ms"].items()]
        lines += ["", *(f"    {ms:8.2f}  {name}" for name, ms in profile["kernels_ms"].items())]
        lines += [f"    host: {', '.join(f'{name} {ms} ms' for name, ms in profile['calls_ms'].items())}"]
    return lines


def _rival(result: Result, results: Sequence[Result]) -> float:
    """Tokens a second of the fastest trl-tuned, whatever its changes, in the same run; 0 if there is none."""
    return max(
        (
            other["tokens"] / timed_seconds(other)
            for other in results
            if (other["run"], other["case"]) == (result["run"], result["case"])
            and other["side"].startswith("trl-tuned")
            and "seconds" in other
        ),
        default=0.0,
    )


def _seconds_a_token(result: Result) -> float:
    return timed_seconds(result) / result["tokens"] if "seconds" in result else float("inf")


def timed_seconds(result: Result) -> float:
    """What the timed steps take at the pace of their median; one that loads a kernel for a new shape is an outlier."""
    return statistics.median(result["step_ms"]) * len(result["step_ms"]) / 1e3
