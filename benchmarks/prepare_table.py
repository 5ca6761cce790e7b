"""The tables of `benchmarks/prepare.py`, as Markdown."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]


def table(result: Result) -> str:
    """Seconds, rates, memory and packs of each side, and below it what only ours does."""
    rows, lines = result["rows"], []
    lines += ["| side | rows | seconds | rows/s | M tokens/s | peak GB | packs | fill | all rows |", "|---" * 9 + "|"]
    rivals = sorted(name for name in result if name.startswith("trl-"))
    for name in ["ours", "ours_on_rival_rows", *rivals]:
        if name in result:
            lines.append(_line(name.replace("_", " "), result[name], rows))
    if "ours" in result and rivals:
        best = max(result[name]["rows"] / result[name]["seconds"] for name in rivals)
        theirs = rows / best
        lines += [
            "",
            f"TRL's best: {best:,.0f} rows/s, extrapolated from {result['rival_rows']:,} rows to {theirs / 60:.1f} "
            f"minutes for {rows:,}: {theirs / result['ours']['seconds']:.1f} × ours.",
        ]
    if "compared" in result:
        lines.append(
            "Of {rows} rows compared {equal_ids} have equal ids, {equal_masks} equal masks, "
            "{equal_masks_but_for_the_last_token} equal masks but for the last token.".format(**result["compared"])
        )
    if "ours" in result:
        lines += ["", *_only_ours(result["ours"])]
    return "\n".join(lines)


def _line(name: str, side: Result, all_rows: int) -> str:
    rate = side["rows"] / side["seconds"]
    cells = [
        name,
        f"{side['rows']:,}",
        f"{side['seconds']:.1f}",
        f"{rate:,.0f}",
        f"{side['tokens'] / side['seconds'] / 1e6:.2f}",
        f"{side['peak_bytes'] / 1e9:.2f}",
        f"{side['packs']:,}",
        f"{side['fill']:.2%}",
        f"{side['seconds'] if side['rows'] == all_rows else all_rows / rate:,.0f} s"
        + ("" if side["rows"] == all_rows else " (extrapolated)"),
    ]
    return "| " + " | ".join(cells) + " |"


def _only_ours(ours: Result) -> list[str]:
    warm, read = ours["warm"], ours["warm"].get("read")
    lines = [
        f"- announced (a sample measured) after {ours['announced_seconds']:.2f} s; others used "
        + ", ".join(f"{turn['others']:.0%}" for turn in ours["turns"])
        + " of the cores in the turns of "
        + ", ".join(f"{turn['seconds']:.1f}" for turn in ours["turns"])
        + " s",
        f"- packing alone: {ours['packing_seconds']:.2f} s, {ours['packs']:,} packs, {ours['fill']:.2%} full",
        f"- a second start, from the cache: {warm['seconds']:.2f} s",
        *(
            f"- packs of {int(length):,} from the cache: {found['seconds']:.2f} s, {found['packs']:,} packs, "
            f"{found['fill']:.2%} full"
            for length, found in warm["repack"].items()
        ),
    ]
    if resumed := ours["resumed"]:
        same = "the same" if resumed["the_same"] else "NOT the same"
        lines.append(
            f"- killed at {resumed['killed_at_rows']:,} rows, the next start took {resumed['seconds']:.1f} s; "
            f"its files are {same}"
        )
    if read:
        lines.append(f"- packs read for training: {read['tokens'] / read['seconds'] / 1e6:,.0f} M tokens/s, one thread")
    return lines
