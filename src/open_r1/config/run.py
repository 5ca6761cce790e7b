"""A pipeline of stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from open_r1.config.settings import NonNegativeInt, Settings, alias, positional


@dataclass(kw_only=True)
class RunConfig(Settings):
    """Pipeline"""

    pipeline: str = field(metadata=positional())
    """YAML file of the stages."""

    seed: NonNegativeInt | None = None
    """Seed of every stage; unset keeps the pipeline's."""

    output_dir: str | None = None
    """Folder of the stages' results; unset keeps the pipeline's."""

    from_stage: str | None = field(default=None, metadata=alias("from"))
    """Redo this stage and those after it."""

    until: str | None = None
    """Stop after this stage."""

    dry_run: bool = False
    """Show which stages would run, and stop."""
