"""The tasks by name, and what a person may write after ``--tasks``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_r1.config.settings import did_you_mean
from open_r1.errors import UserError
from open_r1.evaluation.own_task import own_task
from open_r1.evaluation.task import Problem, Row, Task
from open_r1.evaluation.tasks import (
    aime24,
    aime25,
    amc23,
    gpqa,
    gsm8k,
    humaneval,
    livecodebench,
    math_500,
    minerva,
    olympiadbench,
    problems,
)
from open_r1.files import folder_name

_MODULES = (
    aime24,
    aime25,
    amc23,
    math_500,
    gsm8k,
    minerva,
    olympiadbench,
    gpqa,
    livecodebench,
    humaneval,
    problems,
)
TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}

_LOCAL_DATA = re.compile(r"\.(?:jsonl?|parquet|csv|arrow)(?:\.gz)?\Z")


@dataclass(frozen=True)
class TaskSource:
    """A task and where its problems come from: a local file, or (``path`` None) where they are published.

    Attributes:
        own: where a task of the user's own is written (``path/to/file.py:NAME``); None for the tasks of this project.
    """

    task: Task
    path: str | None = None
    own: str | None = None

    @property
    def label(self) -> str:
        """Names the task in the results: its own name, or the file's where the file is all there is to it."""
        return Path(self.path).stem if self.path and self.task is problems.TASK else self.task.name

    @property
    def folder(self) -> str:
        """The label as the name of a folder on any system: ``gpqa:diamond`` is ``gpqa-diamond``."""
        return folder_name(self.label)

    def load(self, limit: int | None = None) -> list[Problem]:
        """The first ``limit`` problems (all of them: None).

        Raises:
            UserError: the data cannot be read, is empty, or lacks a column.
        """
        try:
            rows = self._rows()
        except UserError as error:
            hint = f"; --tasks {self.task.name}=path.jsonl takes a local copy"
            told = self.path is not None or "=" in str(error)
            raise UserError(f"task {self.task.name}: {error}{'' if told else hint}") from error
        names = list(getattr(rows, "column_names", None) or (rows[0] if len(rows) else ()))
        if limit is not None:
            limit = min(limit, len(rows))
            rows = rows.select(range(limit)) if hasattr(rows, "select") else rows[:limit]
        return self.task.problems(rows, names, self.path or self.task.source or self.task.hub_id or "its data")

    def _rows(self) -> Sequence[Row]:
        if self.task.rows is not None:
            return self.task.rows(self.path)
        from open_r1.data.sources import load_rows  # brings the datasets library, which listing the tasks does not need

        if self.path is not None:
            return load_rows(self.path, None, self.task.split)
        return load_rows(self.task.hub_id, self.task.hub_config, self.task.split)


def resolve(specs: Sequence[str]) -> list[TaskSource]:
    """Tasks from a name or an import path (``module:NAME``, ``path/to/file.py:NAME``), each with ``=path of a local
    file`` after it where the problems are not to come from where they are published.

    Raises:
        UserError: an unknown name (the nearest one is named), a task without data, or one given twice.
    """
    if not specs:
        raise UserError(f"no task is given: choose with --tasks from {', '.join(TASKS)}")
    sources = [_resolve_one(spec) for spec in specs]
    labels = [source.folder for source in sources]
    for source in sources:
        if labels.count(source.folder) > 1:
            raise UserError(f"--tasks names {source.label!r} twice; give each once, and files with different names")
    return sources


def _resolve_one(spec: str) -> TaskSource:
    name, equals, path = (part.strip() for part in spec.partition("="))
    task, own = TASKS.get(name) or livecodebench.variant(name), None
    if task is None and ":" in name and not name.startswith(f"{livecodebench.NAME}_"):
        close = did_you_mean(name, [known for known in TASKS if ":" in known])
        try:
            task, own = own_task(name), name
        except UserError as error:
            raise UserError(f"{error}{close}") from error
    if task is None:
        if _LOCAL_DATA.search(name):
            raise UserError(f"task {name!r} is a file: write --tasks problems={name}, or TASK={name} with its task")
        raise UserError(f"task {name!r} is not known{did_you_mean(name, TASKS)} (tasks: {', '.join(TASKS)})")
    if equals and not path:
        raise UserError(f"--tasks {spec}: no file is named after the equals sign")
    if not task.published and not path:
        raise UserError(f"task {name} needs your own file: --tasks {name}=path.jsonl")
    return TaskSource(task, path or None, own)
