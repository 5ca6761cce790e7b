"""Numbers and tables as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table


def clock(seconds: float) -> str:
    """A duration: ``8.2 s``, ``4:07`` (minutes), ``1:02:03`` (hours)."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(share: float | None) -> str:
    """A fraction of 1 in per cent with one decimal; a dash for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """The two ends of an interval in per cent; a dash where there is none."""
    return "–" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f} %"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign: ``+1.5``, ``−0.3``, ``0.0``."""
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def numbers_table(names: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """A table whose first columns are names and whose others are numbers, set flush right."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def compact_table(names: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """A `numbers_table` with a line under its head only; on a narrow terminal the names fold and no number is lost."""
    table = numbers_table(names, numbers, title)
    table.box, table.pad_edge, table.show_edge, table.collapse_padding = box.SIMPLE_HEAD, False, False, True
    for column in table.columns[: len(names)]:
        column.no_wrap, column.overflow = False, "fold"
    return table


def number(value: float) -> str:
    """A count or a rate as people read it: 12,345 or 0.4321."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
