"""``--print_config``: the effective settings and where each comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from open_r1.config.convert import show

if TYPE_CHECKING:
    from open_r1.config.parse import Parsed

DEFAULT = "default"
LEAST, USUAL, WIDEST = 16, 80, 10_000
"""Columns."""


def config_rows(parsed: Parsed) -> list[tuple[str, str, str]]:
    """(setting, value, origin) of every setting: those that were given first, then the defaults."""
    rows = []
    for name, origin in parsed.origins.items():
        value = show(getattr(parsed.config, name)) if hasattr(parsed.config, name) else "(no effect here)"
        rows.append((name, value, origin))
    return sorted(rows, key=lambda row: row[2] == DEFAULT)


def print_config(parsed: Parsed) -> None:
    """Prints the table to standard output, then the notes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("setting", no_wrap=console.width >= USUAL, overflow="fold")
    table.add_column("value", min_width=LEAST, overflow="fold")
    table.add_column("from", min_width=LEAST, overflow="fold")
    for name, value, origin in config_rows(parsed):
        style = "dim" if origin == DEFAULT else ""
        table.add_row(Text(name), Text(value), Text(origin), style=style)
    if not console.is_terminal:  # a file has no width: one line a setting
        console.width = max(console.width, console.measure(table, options=console.options.update(width=WIDEST)).maximum)
    console.print(table)
    for note in parsed.config.notes():
        console.print(Text(f"note: {note}"), soft_wrap=True)
