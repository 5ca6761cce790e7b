"""The report about a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from open_r1.config.settings import Settings, positional
from open_r1.errors import UserError


@dataclass(kw_only=True)
class ReportConfig(Settings):
    """Report"""

    folders: list[str] = field(metadata=positional())
    """Folders of runs: of a pipeline, or the output_dir of sft, grpo or evaluate. Each gets a report.html."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folders:
            raise UserError("folders is empty: name the folder of a run")
