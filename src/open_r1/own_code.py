"""A user's own code by where it is written: ``module:name`` or ``path/to/file.py:name``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from open_r1.errors import UserError


def own_attribute(what: str, target: str) -> Any:
    """What ``target`` names.

    Args:
        what: what it is to the user, for the messages: ``reward 'mine.py:short'``.

    Raises:
        UserError: there is no such file, module or name, or importing it fails.
    """
    place, _, name = target.rpartition(":")
    try:
        module = _module_of_file(what, Path(place)) if place.endswith(".py") else _module(place)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise UserError(f"{what}: {place} imports {error.name}, which is not installed") from error
        raise UserError(f"{what}: no module named {error.name!r} here or on PYTHONPATH") from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{what}: importing {place} failed at {frame.filename}:{frame.lineno}: {reason}") from error
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{what}: {place} has no {name!r}{hint}")
    return getattr(module, name)


def code_file(target: str) -> str | None:
    """The file of code that ``target`` names, as `own_attribute` takes it; None where it names none, or none here."""
    place, _, name = target.rpartition(":")
    if not name.isidentifier():
        return None
    stem = place.replace(".", os.sep)
    files = (place,) if place.endswith(".py") else (f"{stem}.py", os.path.join(stem, "__init__.py"))
    try:
        return next((file for file in map(os.path.expanduser, files) if os.path.isfile(file)), None)
    except ValueError:  # a NUL byte
        return None


def _module(name: str) -> ModuleType:
    # A console script does not look for modules in the current folder, where a user's own code lies.
    _search_also(os.getcwd())
    return importlib.import_module(name)


def _module_of_file(what: str, path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    name = f"open_r1_own_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    if not path.is_file():
        raise UserError(f"{what}: no file {path}; name it module:NAME or path/to/file.py:NAME")
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
