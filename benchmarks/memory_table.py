"""The table of `benchmarks/memory.py`, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markdown_table import table_row
from sft_table import timed_seconds

COLUMNS = ("case", "limit", "run", "allocated", "reserved", "CUDA", "predicted", "off", "tokens/s", "loss")

Result = dict[str, Any]


def table(results: Sequence[Result]) -> str:
    """A line for each case, sizes in GB (1e9 bytes); then what the runs said, and the prediction's parts.

    ``allocated`` and ``reserved`` are PyTorch's peaks after loading, ``CUDA`` what the process holds beside them.
    """
    lines = [table_row(COLUMNS), table_row(["---", "---:", "---", *["---:"] * (len(COLUMNS) - 3)])]
    lines += [table_row(_cells(result)) for result in results]
    for result in results:
        lines += ["", f"{result['case']}:"]
        if "parts_gb" in result:
            parts = ", ".join(f"{name} {value}" for name, value in result["parts_gb"].items())
            lines.append(f"    predicted: {parts}")
        if "loaded_gb" in result:
            lines.append(f"    loaded: {result['loaded_gb']:.2f} GB, {result['loading_gb']:.2f} at the peak of loading")
        if result.get("retries"):
            lines.append(f"    the allocator emptied its cache {result['retries']} times")
        lines += [f"    {note}" for note in result["notes"]]
    return "\n".join(lines)


def _cells(result: Result) -> list[str]:
    timed = "seconds" in result
    predicted, allocated = result.get("predicted_gb"), result.get("allocated_gb")
    losses = result.get("losses")
    how = [result[name] for name in ("optimizer", "recompute") if name in result]
    if "compiled" in result:
        how.append("compiled" if result["compiled"] else "eager")
    return [
        f"{result['case']} ({result['batch']} × {result['length']:,})",
        f"{result['limit_gb']:g}",
        ", ".join(how),
        _gb(allocated),
        _gb(result.get("reserved_gb")),
        _gb(result.get("outside_gb")),
        _gb(predicted),
        f"{predicted / allocated - 1:+.0%}" if predicted and allocated and timed else "",
        f"{result['tokens'] / timed_seconds(result):,.0f}" if timed else result.get("error", "")[:160],
        f"{losses[0]:.3f} → {losses[-1]:.3f}" if timed and losses else "",
    ]


def _gb(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
