"""What a reward is before it is a function: small, picklable, and built anew in each worker process."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from open_r1.errors import UserError

Scope = Literal["answer", "batch", "group"]
"""How a reward function may be called: "answer", on one answer at a time, so that each has its own time limit; "batch",
on all answers to a prompt at once, or on one where one of them hangs; "group", on all of them or not at all, because
the value of one depends on the others. A user's function is a "batch" unless it has an attribute ``scope``."""


@dataclass(frozen=True)
class RewardSpec:
    """A reward function by where it is found.

    Attributes:
        name: as the recipe names it.
        target: ``module:function`` or ``path/to/file.py:function``.
        options: None where the target is the reward itself; else the target returns it when called with these.
        scope: on how many answers it may be called.
    """

    name: str
    target: str
    options: Mapping[str, Any] | None = None
    scope: Scope = "batch"

    def build(self) -> Callable[..., Any]:
        """Imports and returns the reward function, which has a ``__name__``.

        Raises:
            UserError: the module or the function is not there, or cannot be imported or called.
        """
        function = _attribute(self.name, self.target)
        if self.options is not None:
            function = function(**self.options)
        if not callable(function):
            raise UserError(f"reward {self.name!r}: {self.target} is not a function but {type(function).__name__}")
        if not hasattr(function, "__name__"):
            function.__name__ = self.target.rpartition(":")[2]
        return function

    def scope_of(self, function: Callable[..., Any]) -> Scope:
        """The scope that the function itself declares, or else that of the spec."""
        return getattr(function, "scope", self.scope)


def _attribute(name: str, target: str) -> Any:
    place, _, attribute = target.rpartition(":")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise UserError(f"reward {name!r}: {place} imports {error.name}, which is not installed") from error
        raise UserError(
            f"reward {name!r}: no module named {error.name!r} here or on PYTHONPATH; "
            "name it module:function or path/to/file.py:function"
        ) from error
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
        raise UserError(f"reward {name!r}: importing {place} failed at {where}: {_one_line(error)}") from error
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"reward {name!r}: {place} has no function {attribute!r}{hint}")
    return getattr(module, attribute)


def _module(name: str) -> ModuleType:
    # A console script does not look for modules in the current folder, where a user's own rewards lie.
    _search_also(os.getcwd())
    return importlib.import_module(name)


def _module_of_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    name = f"open_r1_reward_file_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    if not path.is_file():
        raise UserError(f"no file {path}: a reward of your own is named path/to/file.py:function")
    _search_also(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _search_also(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
