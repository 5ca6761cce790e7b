"""What a run will take, before it takes it: ``open-r1 plan sft …``, ``open-r1 plan grpo …``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from open_r1.config import PlanGRPOConfig, PlanSFTConfig, parse
from open_r1.machine.rates import load_rates
from open_r1.planning.plan import plan_run
from open_r1.planning.reading import read_data, read_machine, read_model
from open_r1.planning.screen import NAME, as_json, rendered


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
        console.print(folded(line, console) if console.is_terminal else line, soft_wrap=True)


def folded(line: RenderableType, console: Console) -> RenderableType:
    """A line that is wider than the screen, broken between words and going on below where its text begins.

    Commands, which are to be pasted, have their own breaks.
    """
    if not isinstance(line, Text) or line.cell_len <= console.width or "\\" in line.plain:
        return line
    begins = re.match(rf"\n? {{{NAME + 4}}}|  .{{{NAME}}}  |[✓✗!•] |\s*", line.plain).end()
    head, body = line.divide([begins])
    below = Text("\n" + " " * len(head.plain.lstrip("\n")))
    return Text.assemble(head, below.join(body.wrap(console, console.width - begins)))
