"""Where caches are, and the data disk that they move to."""

from __future__ import annotations

from dataclasses import dataclass, field

from open_r1.config.settings import NonNegativeFloat, Settings, positional
from open_r1.errors import UserError


@dataclass(kw_only=True)
class SetupConfig(Settings):
    """Caches of this machine"""

    data_disk: str | None = field(default=None, metadata=positional())
    """Folder on a large disk: from now on every cache is below it, by one settings file. Nothing is moved or deleted.
    Unset shows what is where and how much."""

    undo: bool = False
    """Take the data disk out of the settings file again; files stay where they are."""

    print_env: bool = False
    """Print export lines, for programs beside open-r1: eval "$(open-r1 setup --print-env)"."""

    json: bool = False
    """Print what is where as JSON."""

    allow_tmpfs: bool = False
    """Accept a data disk that is kept in memory."""

    size_seconds: NonNegativeFloat = 10.0
    """Seconds to spend on adding up sizes; what is not counted by then is shown as ≥."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_disk == "":
            raise UserError("data_disk is empty: name a folder, or use --undo to take it out again")
        given = [name for name in ("data_disk", "undo", "print_env") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]} are two requests: give one of them")
        if self.json and self.print_env:
            raise UserError("json and print_env are two kinds of output: give one of them")
