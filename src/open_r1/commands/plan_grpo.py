"""``open-r1 plan grpo …``."""

from __future__ import annotations

from open_r1.commands.plan import main_grpo as main

__all__ = ["main"]
