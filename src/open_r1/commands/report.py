"""Writes the page about a run from what lies in its folder, also while it runs: ``open-r1 report FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from open_r1.config import ReportConfig, parse
from open_r1.errors import UserError
from open_r1.report.html import write_report

TRACES = ("summary.json", "metrics.jsonl", "results.json")
"""One of them lies in the folder of every run."""


def main(argv: Sequence[str]) -> None:
    """Writes ``report.html`` into each folder that ``argv`` names, and prints its path.

    Raises:
        UserError: a folder is not there, holds no run, or cannot be written into.
    """
    config = parse(ReportConfig, list(argv), prog="open-r1 report").config
    folders = [_folder_of_a_run(name) for name in config.folders]
    for folder in folders:
        try:
            path = write_report(folder)
        except OSError as error:
            raise UserError(f"the report cannot be written into {folder}: {error.strerror or error}") from error
        Console(highlight=False).print(str(path), markup=False, soft_wrap=True)


def _folder_of_a_run(name: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{name}: no such folder; give the output_dir of a run")
    if any((folder / trace).is_file() for trace in TRACES):
        return folder
    if any(folder.glob("*/parts")):
        raise UserError(f"{name}: the evaluation there is not finished: run the same evaluate command to its end")
    raise UserError(f"{name} holds no run (none of {', '.join(TRACES)}): give the output_dir of one")
