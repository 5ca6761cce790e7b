"""The table of `benchmarks/distributed.py`, as Markdown.

python benchmarks/distributed_table.py RESULTS.json …
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_table import table_row

COLUMNS = ("way", "GPUs", "tokens/s", "scaling", "MFU", "peak GiB", "loss, first steps → last", "apart", "seconds")
SHOWN_LOSSES = 4

Result = dict[str, Any]


def table(results: Sequence[Result]) -> str:
    """A line for each case. Scaling is tokens a second over those of one GPU times the GPUs; ``apart`` is the largest
    relative difference of a step's loss from the same step on one GPU.
    """
    lines = [table_row(COLUMNS), table_row(["---", "---:", "---:", "---:", "---:", "---:", "---", "---:", "---:"])]
    for result in results:
        reference = _reference(result, results)
        losses = result.get("losses") or {}
        rate, mfu = result.get("tokens_per_second"), result.get("mfu")
        alone = (reference or {}).get("tokens_per_second")
        scaling = rate / (alone * result["processes"]) if rate and alone else None
        shown = " ".join(f"{loss:.4f}" for loss in list(losses.values())[:SHOWN_LOSSES] if loss is not None)
        last = list(losses.values())[-1] if losses else None
        apart = _apart(losses, (reference or {}).get("losses") or {})
        lines.append(
            table_row(
                [
                    _name(result["case"]),
                    str(result["processes"]),
                    f"{rate:,.0f}" if rate else result.get("error", ""),
                    f"{scaling:.2f}" if scaling and reference is not result else "",
                    f"{mfu:.3f}" if mfu else "",
                    f"{result['memory_gib']:.1f}" if result.get("memory_gib") else "",
                    f"{shown} → {last:.4f}" if shown and last is not None else "",
                    f"{apart:.1e}" if apart is not None and reference is not result else "",
                    f"{result['seconds']:.0f}" if "seconds" in result else "",
                ]
            )
        )
    return "\n".join([*lines, "", *_notes(results)])


def _reference(result: Result, results: Sequence[Result]) -> Result | None:
    """The run of one GPU that a case is compared with."""
    wanted = "one+lora" if result["case"].endswith("+lora") else "one"
    return next((other for other in results if other["case"] == wanted), None)


def _apart(losses: dict[str, float | None], reference: dict[str, float | None]) -> float | None:
    pairs = [(loss, reference[step]) for step, loss in losses.items() if loss is not None and reference.get(step)]
    return max((abs(one - other) / abs(other) for one, other in pairs), default=None)


def _notes(results: Sequence[Result]) -> list[str]:
    """Continued runs against the run that wrote their checkpoint, and what failed."""
    lines = []
    for result in results:
        writer = next((other for other in results if other["case"] == result["case"].partition(">")[0]), None)
        if ">" in result["case"] and writer and result.get("losses"):
            apart = _apart(result["losses"], writer.get("losses") or {})
            steps = list(result["losses"])
            told = "" if apart is None else f", at most {apart:.1e} apart from the run that was not stopped"
            lines.append(f"{_name(result['case'])}: steps {steps[0]} to {steps[-1]}{told}")
        if "error" in result:
            lines += [f"{result['case']}: {result['error']}", *[f"    {line}" for line in result.get("said", [])]]
    return lines


def _name(case: str) -> str:
    source, _, way = case.rpartition(">")
    return f"{source}'s checkpoint on {way}" if source else case.replace("one", "one GPU").replace("+lora", ", LoRA")


if __name__ == "__main__":
    print(table([result for path in sys.argv[1:] for result in json.loads(Path(path).read_text())]))
