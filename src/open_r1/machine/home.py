"""Open-r1's own settings of this machine: one small file, which every command reads before it imports a library."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from open_r1.errors import UserError

FILE = "settings.json"
VERSION = 1
APPLIED = "OPEN_R1_SETTINGS_APPLIED"
"""Set in the environment of this process and its children: the names, with commas, that came from the file."""


@dataclass(frozen=True)
class DataDisk:
    """What ``open-r1 setup --data-disk`` has written.

    Attributes:
        folder: the folder that all caches lie in; where it is missing, such as on a disk that is not mounted, nothing
            of this is applied.
        environment: variables for every command that the person has not set.
    """

    folder: str
    environment: dict[str, str]


@dataclass(frozen=True)
class MachineSettings:
    """The settings file.

    Attributes:
        other: keys that this version does not know, kept as they are when the file is written.
    """

    data_disk: DataDisk | None = None
    other: dict[str, Any] = field(default_factory=dict)


def home() -> Path:
    """``$OPEN_R1_HOME``, or ``~/.config/open_r1``: what is kept of this machine and cannot be made again by itself."""
    return Path(os.environ.get("OPEN_R1_HOME") or "~/.config/open_r1").expanduser()


def settings_file() -> Path:
    """Where the settings are written; behind a link, if it is one."""
    return Path(os.path.realpath(home() / FILE))


def read_settings() -> MachineSettings:
    """What the settings file says; all defaults where there is none.

    Raises:
        UserError: it cannot be read, is torn, or was written by a newer version.
    """
    import json

    path = settings_file()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return MachineSettings()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): mend its permissions, or remove it") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): mend it, or remove it and run open-r1 setup again") from None
    return _from_plain(values, path)


def write_settings(settings: MachineSettings) -> None:
    """Writes the file by one rename; removes it where nothing is set.

    Raises:
        UserError: it cannot be written.
    """
    from open_r1.files import write_json

    path = settings_file()
    plain = dict(settings.other)
    if settings.data_disk is not None:
        plain["data_disk"] = asdict(settings.data_disk)
    try:
        if plain:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"version": VERSION} | plain)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}): mend that, or name another folder in OPEN_R1_HOME"
        ) from None


def without_data_disk(settings: MachineSettings) -> MachineSettings:
    """The settings as they were before ``open-r1 setup --data-disk``."""
    return replace(settings, data_disk=None)


def apply_settings(environment: MutableMapping[str, str] = os.environ) -> None:
    """Puts the file's variables into the environment where the person has not set them; never raises.

    It comes before any library is imported, since most read their folders once. What cannot be applied is said in one
    line, and by a process whose parent has said it no more.
    """
    try:
        if not os.path.exists(home() / FILE):
            return
        disk = read_settings().data_disk
        if disk is not None and not os.path.isdir(disk.folder):
            raise UserError(
                f"{disk.folder} is not there: mount its disk, or take the caches back with open-r1 setup --undo; "
                "they are in their default places now"
            )
    except (UserError, OSError, RuntimeError) as error:
        if APPLIED not in environment:
            print(f"warning: settings of this machine are left out: {error}", file=sys.stderr)
            environment[APPLIED] = ""
        return
    if disk is not None:
        chosen = to_apply(disk.environment, environment)
        environment.update(chosen)
        environment[APPLIED] = ",".join(dict.fromkeys([*applied(environment), *chosen]))


def to_apply(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the file that nothing in the person's environment outranks."""
    from open_r1.machine.caches import outranked_by

    return {name: value for name, value in settings.items() if outranked_by(name, environment) is None}


def applied(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The variables that stand in the environment because of the file, in this process or one that started it."""
    return [name for name in environment.get(APPLIED, "").split(",") if name in environment]


def _from_plain(values: Any, path: Path) -> MachineSettings:
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings: mend it, or remove it and run open-r1 setup again")
    version = values.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise UserError(f"{path} is of version {version!r} and this open-r1 reads {VERSION}: update open-r1")
    disk = values.get("data_disk")
    if disk is not None:
        variables = disk.get("environment") if isinstance(disk, dict) else None
        texts = isinstance(variables, dict) and all(isinstance(value, str) for value in variables.values())
        if not texts or not isinstance(disk.get("folder"), str):
            raise UserError(
                f"{path}: data_disk is damaged: run open-r1 setup --data-disk DIR again, or remove the file"
            )
        disk = DataDisk(disk["folder"], variables)
    return MachineSettings(disk, {key: value for key, value in values.items() if key not in ("version", "data_disk")})
