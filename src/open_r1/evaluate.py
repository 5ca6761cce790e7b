"""Measures a model on tasks: ``open-r1 evaluate --model … --tasks gsm8k,math_500``."""

from __future__ import annotations

if __package__ in (None, ""):  # run as a script: its own folder would shadow the library called evaluate
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import sys
from collections.abc import Sequence
from contextlib import closing

from rich.console import Console

from open_r1.cli import main as command_line
from open_r1.config import EvaluateConfig, parse
from open_r1.config.engine import without_effect
from open_r1.evaluation.registry import resolve
from open_r1.files import make_output_folder


def main(argv: Sequence[str]) -> None:
    """Runs the tasks that ``argv`` (without the program's name) names, and prints a table.

    Raises:
        UserError: settings, data or a model that cannot be used.
        StopRequested: SIGTERM or Ctrl-C; what was drawn is kept, and the same command goes on from there.
    """
    parsed = parse(EvaluateConfig, list(argv), prog="open-r1 evaluate")
    config = parsed.config
    console = Console()
    for note in [*config.notes(), *without_effect(config.engine, parsed.origins)]:
        console.print(note, markup=False)
    tasks = resolve(config.tasks)

    # Only now, as torch and transformers take seconds to import.
    from open_r1.evaluation.opening import open_to_evaluate
    from open_r1.evaluation.results import results_table
    from open_r1.evaluation.runner import evaluate, output_folder
    from open_r1.evaluation.stopping import resumable

    folder = output_folder(config)
    make_output_folder(folder, "output_dir")
    overwrite = "overwrite_output_dir" if config.overwrite_output_dir else None
    with closing(open_to_evaluate(config, log=folder / "vllm.log")) as model, resumable(overwrite):
        results = evaluate(model, tasks, config, console=console)
    console.print(results_table(results))
    console.print(str(folder / "results.json"), markup=False, highlight=False, soft_wrap=True)


def __getattr__(name: str) -> object:
    """``TASKS_TABLE``, for ``lighteval --custom-tasks src/open_r1/evaluate.py``; built only where it is asked for."""
    if name != "TASKS_TABLE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from open_r1.evaluation.lighteval_tasks import tasks_table

    return tasks_table()


if __name__ == "__main__":
    sys.exit(command_line(["evaluate", *sys.argv[1:]]))
