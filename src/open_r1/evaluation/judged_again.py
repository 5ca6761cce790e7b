"""Giving answers on disk to their verifier again: those without a reward, and all where the user's own code changed."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from open_r1.evaluation.answers import Verifiers, verify
from open_r1.evaluation.registry import TaskSource
from open_r1.evaluation.results import stated
from open_r1.evaluation.store import GenerationStore
from open_r1.evaluation.task import Problem
from open_r1.own_code import code_file


def judging_code(source: TaskSource) -> str | None:
    """A hash of the user's own files that judge: the one that holds the task, and the one that holds its reward.

    Of what these files import nothing is known. None where no file is the user's own.
    """
    reward = source.task.reward
    targets = [source.own, reward if isinstance(reward, str) else reward.target]
    files = [file for target in targets if target and (file := _file(target))]
    if not files:
        return None
    total = hashlib.blake2b(digest_size=8)
    for file in dict.fromkeys(files):
        total.update(hashlib.blake2b(Path(file).read_bytes()).digest())
    return total.hexdigest()


def judge_again(
    label: str,
    store: GenerationStore,
    problems: Mapping[int, Problem],
    verifiers: Verifiers,
    extract: Callable[[str], str | None] | None,
    console: Console,
) -> None:
    """Gives answers on disk that have no (valid) reward to the verifiers, appends those that have one now, says so.

    Args:
        label: of the task.
        problems: by index; answers to others stay as they are.
        extract: the task's.
    """
    changed = store.judged_otherwise
    if changed:
        store.forget_rewards()
    rows = {(row.problem, row.sample): row for row in store.unverified() if row.problem in problems}
    if not rows:
        return
    stored = [(key, row.completion, problems[row.problem].columns) for key, row in rows.items()]
    found = 0
    for key, reward in verify(stored, verifiers):
        if reward is not None:
            store.append(replace(rows[key], reward=reward, extracted=stated(extract, rows[key].completion)))
            found += 1
    why = "were judged by code of yours that has changed since" if changed else "had not been verified"
    console.print(
        f"{label}: {len(rows)} answers on disk {why}; verified again, {found} have a reward now",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _file(target: str) -> str | None:
    place = target.rpartition(":")[0]
    if not place or place.startswith("open_r1."):
        return None
    file = code_file(target)
    if file is None and not place.endswith(".py"):  # a module of PYTHONPATH
        try:
            spec = importlib.util.find_spec(place)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec else None
    return file if file and Path(file).is_file() else None
