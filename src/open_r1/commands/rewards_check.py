"""Runs rewards on a data set's own gold answers: ``open-r1 rewards check --dataset D --reward_funcs accuracy``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from open_r1.config.parse import parse
from open_r1.config.rewards_check import RewardsCheckConfig
from open_r1.data.columns import ANSWERS
from open_r1.data.sources import load_rows
from open_r1.errors import UserError
from open_r1.files import write_text
from open_r1.report.tables import compact_table
from open_r1.rewards.check import GoldFailure, GoldReport, check_gold
from open_r1.rewards.registry import reward_specs

FAILED_STATUS = 1


def main(argv: Sequence[str]) -> None:
    """Checks, prints the tables, writes the failures.

    Raises:
        UserError: for anything that is the user's to mend.
        SystemExit: with status 1 where a gold answer is not accepted.
    """
    config = parse(RewardsCheckConfig, list(argv), prog="open-r1 rewards check").config
    console = Console(highlight=False)
    specs = reward_specs(config)
    rows = load_rows(config.dataset_name, config.dataset_config, config.dataset_split)
    _writable(config.output)
    gold_column = config.answer_column or next((name for name in ANSWERS if name in rows.column_names), None)
    with _progress(min(len(rows), config.sample or len(rows))) as progress:
        report = check_gold(
            rows,
            specs,
            gold_column=gold_column,
            completion_column=config.completion_column,
            sample=config.sample,
            seed=config.seed,
            workers=config.reward_workers,
            timeout=config.reward_timeout,
            progress=progress,
        )
    tried = f"the texts of {config.completion_column!r}" if config.completion_column else "gold answers"
    where = f" (column {gold_column!r})" if gold_column else ""
    said = f"{config.dataset_name}: {tried} of {len(report.rows):,} of {len(rows):,} rows{where}"
    console.print(said, markup=False, soft_wrap=True)
    print_report(report, console, config.show)
    if config.output is not None:
        try:
            write_failures(Path(config.output), report.failures)
        except OSError as error:
            raise UserError(f"output {config.output}: cannot be written ({error.strerror})") from None
        console.print(f"{len(report.failures):,} failures in {config.output}", markup=False, soft_wrap=True)
    if report.failures:
        raise SystemExit(FAILED_STATUS)


def print_report(report: GoldReport, console: Console, show: int) -> None:
    """Prints a line a reward, and the first failures."""
    if report.checked:
        console.print()
        console.print(_summary(report))
    for reward, why in report.skipped.items():
        console.print(Text(f"{reward} was not tried: {why}.", style="yellow"))
    if report.failures and show:
        console.print()
        console.print(report.failures_table(show))


def write_failures(path: Path, failures: Sequence[GoldFailure]) -> None:
    """Writes all failures, one row each, as JSON lines or Parquet."""
    if path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in failures))
        return
    import pyarrow
    import pyarrow.parquet

    texts = {name: pyarrow.string() for name in ("reward", "gold", "kind", "reason")}
    types = {"row": pyarrow.int64(), **texts, "value": pyarrow.float64()}
    schema = pyarrow.schema([(name, types[name]) for name in ("row", "reward", "gold", "value", "kind", "reason")])
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(one) for one in failures], schema=schema), partial)
    os.replace(partial, path)


def _summary(report: GoldReport) -> Table:
    table = compact_table(["reward"], ["rows", "accepted", "rejected", "no value", "failed", "timed out"])
    for reward in report.checked:
        counts = report.counts(reward)
        numbers = [len(report.rows), len(report.rows) - counts.total()]
        numbers += [counts["rejected"], counts["no value"], counts["failed"], counts["timed out"]]
        table.add_row(Text(reward), *(f"{number:,}" for number in numbers), style="" if not counts else "red")
    return table


def _writable(output: str | None) -> None:
    """An output that cannot be written is said before the work, not after it."""
    if output is None:
        return
    folder = Path(output).absolute().parent
    if not os.path.isdir(folder):
        raise UserError(f"output {output}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"output {output}: you may not write to {folder}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("gold answers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda tried: bar.update(task, completed=tried)
