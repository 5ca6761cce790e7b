"""The checklist as a person reads it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.text import Text

from open_r1.doctor.examination import Examination
from open_r1.doctor.finding import Finding, Level
from open_r1.report.tables import clock

WIDTH = 100
MARKS: dict[Level, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warn": ("!", "yellow"),
    "fail": ("✗", "red"),
    "skip": ("–", "dim"),
}
_INDENT, _NAME = 2, 15
_DETAIL_LINES = 6


def finding_lines(finding: Finding, width: int, details: bool, *, named: bool = True) -> Iterator[Text]:
    """A finding: mark, name and summary; what lies behind it; the command that mends it, on one line of its own.

    Args:
        details: all of the detail, for whatever finding; else the beginning, where something is amiss.
        named: print the name of the check, which several findings can share.
    """
    mark, style = MARKS[finding.level]
    margin = _INDENT + 2 + _NAME
    first, *rest = textwrap.wrap(finding.summary, max(20, width - margin), break_on_hyphens=False) or [""]
    plain = style if finding.level in ("fail", "warn", "skip") else ""
    name = finding.check if named else ""
    yield Text.assemble(
        " " * _INDENT, (mark, style), " ", (f"{name:<{_NAME}}", "dim" if plain == "dim" else ""), (first, plain)
    )
    for line in rest:
        yield Text.assemble(" " * margin, (line, plain))
    if finding.detail and (details or finding.level in ("fail", "warn")):
        lines = [part for line in finding.detail.splitlines() for part in textwrap.wrap(line, max(20, width - margin))]
        shown = lines if details else lines[-_DETAIL_LINES:]
        if len(shown) < len(lines):
            yield Text.assemble(" " * margin, ("… (--details prints all)", "dim"))
        for line in shown:
            yield Text.assemble(" " * margin, (line, "dim"))
    if finding.fix:
        yield Text.assemble(" " * margin, ("→ ", style), (finding.fix, "bold"))


def closing_lines(examination: Examination) -> Iterator[Text]:
    """Counts, time, and the one thing to do first."""
    counts = examination.counts
    words = [f"{counts['ok']} well"]
    if counts["warn"]:
        words.append(f"{counts['warn']} warning{'s' * (counts['warn'] > 1)}")
    if counts["fail"]:
        words.append(f"{counts['fail']} failed")
    if counts["skip"]:
        words.append(f"{counts['skip']} skipped")
    style = MARKS[examination.worst][1]
    yield Text.assemble((f"{', '.join(words)} in {clock(examination.seconds)}", f"bold {style}"))
    first = examination.first
    if first is not None:
        yield Text.assemble(
            ("first of all: ", style), (first.fix or first.summary, "bold"), (f"  ({first.check})", "dim")
        )


def running_text(name: str, seconds: float) -> str:
    """What is being waited for, and how long the whole has taken."""
    return f"{name} ({clock(seconds)})"
