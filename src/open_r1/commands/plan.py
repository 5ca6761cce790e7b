"""What a run will take, before it takes it: ``open-r1 plan sft …``, ``open-r1 plan grpo …``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from open_r1.config import PlanGRPOConfig, PlanSFTConfig, parse
from open_r1.machine.rates import load_rates
from open_r1.planning.plan import plan_run
from open_r1.planning.reading import read_data, read_machine, read_model
from open_r1.planning.screen import as_json, rendered


def main_sft(argv: Sequence[str]) -> None:
    """Plans ``open-r1 sft``; see `show`."""
    show(parse(PlanSFTConfig, list(argv), prog="open-r1 plan sft").config)


def main_grpo(argv: Sequence[str]) -> None:
    """Plans ``open-r1 grpo``; see `show`."""
    show(parse(PlanGRPOConfig, list(argv), prog="open-r1 plan grpo").config)


def show(config: PlanSFTConfig | PlanGRPOConfig) -> None:
    """Prints the plan, or with ``--json`` its numbers. That a run does not fit is no failure of the plan.

    Raises:
        UserError: model, data, card or launcher cannot be read, or the settings do not go together.
    """
    rates = load_rates()
    machine = read_machine(config, rates)
    plan = plan_run(config, read_model(config), machine, read_data(config), config.price, rates)
    if config.json:
        print(json.dumps(as_json(plan), indent=2))
        return
    console = Console(highlight=False)
    for line in rendered(plan):
        console.print(line, soft_wrap=True)
