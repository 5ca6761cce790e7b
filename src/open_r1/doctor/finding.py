"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One line of the checklist.

    Attributes:
        level: ``fail`` where a run would die, or compute something wrong; ``warn`` where it would be slower or could
            surprise; ``skip`` where there was nothing to check.
        check: the name of the check, for ``--only`` and ``--skip``.
        summary: one line for a person; for ``skip`` the reason.
        detail: what lies behind it.
        fix: the command, or the setting, that mends it.
    """

    level: Level
    check: str
    summary: str
    detail: str = ""
    fix: str = ""
