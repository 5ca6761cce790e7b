"""A task of the user's own, by where it is written."""

from __future__ import annotations

from open_r1.errors import UserError
from open_r1.evaluation.task import Task
from open_r1.own_code import own_attribute
from open_r1.rewards.spec import RewardSpec


def own_task(target: str) -> Task:
    """The `Task` named ``module:NAME`` or ``path/to/file.py:NAME``.

    Raises:
        UserError: there is no such file, module or name, importing it fails, or it is no Task.
    """
    task = own_attribute(f"task {target}", target)
    if not isinstance(task, Task):
        raise UserError(f"task {target} is a {type(task).__name__}, not a Task of open_r1.evaluation.task")
    if not isinstance(task.reward, str | RewardSpec):
        kind = type(task.reward).__name__
        raise UserError(f"task {target}: its reward is a {kind}: give its name, as 'my_module:my_reward'")
    return task
