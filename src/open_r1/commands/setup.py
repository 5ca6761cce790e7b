"""``open-r1 setup``: where every cache is, how much it takes, and one settings file that moves all to a data disk."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from open_r1.config import SetupConfig, parse
from open_r1.machine.caches import Cache, caches
from open_r1.machine.data_disk import set_up
from open_r1.machine.disks import Disk, size_text
from open_r1.machine.home import (
    APPLIED,
    MachineSettings,
    applied,
    apply_settings,
    read_settings,
    settings_file,
    to_apply,
    without_data_disk,
    write_settings,
)
from open_r1.machine.overview import Measured, Overview, Warned, take_overview
from open_r1.report.tables import compact_table


def main(argv: Sequence[str] | None = None) -> None:
    """Shows the caches, or writes or undoes the settings that move them; no file but the settings file is changed.

    Raises:
        UserError: a data disk that is not fit, or a settings file that cannot be read or written.
    """
    config = parse(SetupConfig, argv, prog="open-r1 setup").config
    console = Console(highlight=False, soft_wrap=True)
    settings = read_settings()
    if config.print_env:
        print_environment(settings)
        return
    said: list[str] = []
    earlier: list[Cache] = []
    warnings: list[str] = []
    if config.data_disk is not None:
        earlier = caches()
        settings, warnings = move(config.data_disk, settings, allow_tmpfs=config.allow_tmpfs)
        said = [f"From now on open-r1 keeps its caches in {settings.data_disk.folder} (written to {settings_file()})."]
    elif config.undo:
        settings, said = undo(settings)
    with Console(stderr=True).status("adding up sizes …"):
        overview = take_overview(settings, seconds=config.size_seconds, earlier=earlier)
    overview = replace(overview, warnings=[*map(Warned, warnings), *overview.warnings])
    if config.json:
        console.print_json(data=as_json(settings, overview))
        return
    show(console, overview)
    for line in said:
        say(console, line, before="\n")
    show_notes(console, settings, overview)


def move(folder: str, settings: MachineSettings, *, allow_tmpfs: bool) -> tuple[MachineSettings, list[str]]:
    """Writes the settings that move every cache below ``folder``, and applies them to this process.

    Returns:
        The new settings, and warnings, one line each.

    Raises:
        UserError: the folder is not fit, or the settings file cannot be written.
    """
    disk, warnings = set_up(folder, allow_tmpfs=allow_tmpfs)
    settings = replace(settings, data_disk=disk)
    write_settings(settings)
    _forget()
    apply_settings()
    return settings, warnings


def undo(settings: MachineSettings) -> tuple[MachineSettings, list[str]]:
    """Takes the data disk out of the settings file and out of this process; once more changes nothing.

    Returns:
        The settings without it, and what to say.

    Raises:
        UserError: the settings file cannot be written.
    """
    if settings.data_disk is None:
        return settings, ["There is nothing to undo: no data disk is set."]
    folder = settings.data_disk.folder
    settings = without_data_disk(settings)
    write_settings(settings)
    _forget()
    said = [f"Caches are in their default places again. What is in {folder} stays there; nothing reads it now."]
    exported = [name for name, value in os.environ.items() if value.startswith(f"{folder}{os.sep}")]
    if exported:
        said.append(f"This shell still has some: unset {' '.join(sorted(exported))}")
    return settings, said


def print_environment(settings: MachineSettings) -> None:
    """``export`` lines for a shell, to standard output; what is left out and why, to standard error."""
    disk = settings.data_disk
    if disk is None or not os.path.isdir(disk.folder):
        why = f"{disk.folder} is not there" if disk else "no data disk is set: open-r1 setup --data-disk DIR"
        print(f"nothing to export: {why}", file=sys.stderr)
        return
    ours = applied()
    theirs = {name: value for name, value in os.environ.items() if name not in ours}
    chosen = to_apply(disk.environment, theirs)
    for name, value in chosen.items():
        print(f"export {name}={shlex.quote(value)}")
    other = [name for name, value in disk.environment.items() if name not in chosen and theirs.get(name) != value]
    if other:
        print(f"left out, since your environment decides: {', '.join(other)}", file=sys.stderr)


def show(console: Console, overview: Overview) -> None:
    """The table of caches and the table of disks; on a narrow terminal without the variables."""
    wide = console.width >= 100
    table = compact_table(["cache"], ["size"])
    for name in ("where", *(["moved by"] if wide else []), "set by"):
        table.add_column(name, overflow="fold")
    for one in overview.measured:
        variable = [one.cache.variable] if wide else []
        table.add_row(one.cache.name, _size(one), Text(short(one.cache.path)), *variable, Text(_set_by(one.cache)))
    console.print(table, soft_wrap=False)
    console.print()
    console.print(_disk_table(overview), soft_wrap=False)


def show_notes(console: Console, settings: MachineSettings, overview: Overview) -> None:
    """Warnings, what was left behind and how to carry it over, and what to do next; each command stands alone."""
    for index, one in enumerate(overview.warnings):
        say(console, Text.assemble(("! ", "bold yellow"), one.problem), before="" if index else "\n")
        if one.command is not None:
            say_command(console, one.command)
    if overview.left_behind:
        say(
            console,
            "Libraries look in the new places only. What they would fetch or make again is carried over by",
            before="\n",
        )
        for left in overview.left_behind:
            say_command(console, left.command, f"{left.cache.name}, {left.size}")
        say(console, "The old folders stay until you remove them, best after a run has found everything.")
    if settings.data_disk is not None and not set(settings.data_disk.environment) <= _exported():
        say(console, "Programs beside open-r1 (pip, wandb, your scripts) follow in a shell that has had", before="\n")
        say_command(console, 'eval "$(open-r1 setup --print-env)"')


def say(console: Console, text: str | Text, *, before: str = "") -> None:
    """Prose: wrapped between words on a terminal, one line elsewhere."""
    console.print(before, end="")
    console.print(text, markup=False, soft_wrap=not console.is_terminal)


def say_command(console: Console, command: str, remark: str = "") -> None:
    """A command on a line of its own, never broken, so that it can be pasted."""
    if remark:
        console.print(Text(f"    # {remark}", style="dim"))
    console.print(f"    {command}", markup=False)


def as_json(settings: MachineSettings, overview: Overview) -> dict[str, Any]:
    """All that is shown, with sizes in bytes."""
    return {
        "settings_file": str(settings_file()),
        "data_disk": settings.data_disk.folder if settings.data_disk else None,
        "caches": [_cache_json(one) for one in overview.measured],
        "disks": [_disk_json(disk) for disk in overview.disks],
        "left_behind": [
            {"name": one.cache.name, "path": str(one.path), "bytes": one.size.bytes, "command": one.command}
            for one in overview.left_behind
        ],
        "warnings": [str(one) for one in overview.warnings],
    }


def short(path: Path) -> str:
    """A path with ``~`` for the home folder."""
    home = Path("~").expanduser()
    return f"~/{path.relative_to(home)}" if home in path.parents and home != Path("/") else str(path)


def _exported() -> set[str]:
    """The variables that the shell has set already."""
    return set(os.environ) - set(applied())


def _forget() -> None:
    """Takes what came from the settings file out of this process."""
    for name in applied():
        del os.environ[name]
    os.environ.pop(APPLIED, None)


def _size(one: Measured) -> str:
    return "–" if one.size is None or (one.size.whole and not one.size.bytes) else str(one.size)


def _set_by(cache: Cache) -> str:
    if cache.set_by == "environment":
        return "your environment" if cache.decided_by == cache.variable else f"your {cache.decided_by}"
    return cache.set_by


def _disk_table(overview: Overview) -> Table:
    table = compact_table(["disk", "kind"], ["size", "free", "caches on it"])
    for disk in overview.disks:
        style = "yellow" if disk.nearly_full else ""
        sizes = [one.size for one in overview.measured if one.disk == disk and one.size is not None]
        on_it = f"{'' if all(size.whole for size in sizes) else '≥ '}{size_text(sum(size.bytes for size in sizes))}"
        table.add_row(
            Text(str(disk.mount)), disk.kind, size_text(disk.total), Text(size_text(disk.free), style=style), on_it
        )
    return table


def _cache_json(one: Measured) -> dict[str, Any]:
    return {
        "name": one.cache.name,
        "variable": one.cache.variable,
        "default": str(one.cache.default),
        "path": str(one.cache.path),
        "set_by": one.cache.set_by,
        "decided_by": one.cache.decided_by,
        "bytes": one.size.bytes if one.size else None,
        "whole": one.size.whole if one.size else False,
        "mount": str(one.disk.mount) if one.disk else None,
    }


def _disk_json(disk: Disk) -> dict[str, Any]:
    return {
        "mount": str(disk.mount),
        "kind": disk.kind,
        "total": disk.total,
        "free": disk.free,
        "inodes_free": disk.inodes_free,
        "nearly_full": disk.nearly_full,
    }
