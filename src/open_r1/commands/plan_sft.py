"""``open-r1 plan sft …``."""

from __future__ import annotations

from open_r1.commands.plan import main_sft as main

__all__ = ["main"]
