"""The tasks by name, and what a person may write after ``--tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_r1.config.settings import did_you_mean
from open_r1.errors import UserError
from open_r1.evaluation.task import Problem, Task
from open_r1.evaluation.tasks import aime24, gsm8k, math_500, problems

TASKS: dict[str, Task] = {task.name: task for task in (gsm8k.TASK, math_500.TASK, aime24.TASK, problems.TASK)}


@dataclass(frozen=True)
class TaskSource:
    """A task and where its problems come from: a local file, or (``path`` None) the hub."""

    task: Task
    path: str | None = None

    @property
    def label(self) -> str:
        """Names the task in the results: its own name, or the file's where the file is all there is to it."""
        return Path(self.path).stem if self.path and self.task.hub_id is None else self.task.name

    def load(self, limit: int | None = None) -> list[Problem]:
        """The first ``limit`` problems (all of them: None).

        Raises:
            UserError: the data cannot be read, is empty, or lacks a column.
        """
        from open_r1.data.sources import load_rows  # brings the datasets library, which listing the tasks does not need

        source = self.path or self.task.hub_id
        try:
            rows = load_rows(source, None if self.path else self.task.hub_config, self.task.split)
        except UserError as error:
            hint = "" if self.path else f"; --tasks {self.task.name}=path.jsonl takes a local copy"
            raise UserError(f"task {self.task.name}: {error}{hint}") from error
        if limit is not None:
            rows = rows.select(range(min(limit, len(rows))))
        return self.task.problems(rows, rows.column_names, source)


def resolve(specs: Sequence[str]) -> list[TaskSource]:
    """Tasks from ``name`` or ``name=path of a local file``.

    Raises:
        UserError: an unknown name (the nearest one is named), a task without data, or one given twice.
    """
    if not specs:
        raise UserError(f"no task is given: choose with --tasks from {', '.join(TASKS)}")
    sources = [_resolve_one(spec) for spec in specs]
    labels = [source.label for source in sources]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--tasks names {label!r} twice; give each once, and files with different names")
    return sources


def _resolve_one(spec: str) -> TaskSource:
    name, _, path = (part.strip() for part in spec.partition("="))
    if name not in TASKS:
        raise UserError(f"task {name!r} is not known{did_you_mean(name, TASKS)} (tasks: {', '.join(TASKS)})")
    task = TASKS[name]
    if task.hub_id is None and not path:
        raise UserError(f"task {name} needs your own file: --tasks {name}=path.jsonl")
    return TaskSource(task, path or None)
