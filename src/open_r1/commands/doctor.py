"""Checks this machine, and says what mends it: ``open-r1 doctor``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext

from rich.console import Console
from rich.text import Text

from open_r1.config.doctor import DoctorConfig
from open_r1.config.parse import parse
from open_r1.doctor.examination import Examination, examine, selected
from open_r1.doctor.screen import WIDTH, closing_lines, finding_lines, running_text
from open_r1.doctor.situation import Situation
from open_r1.errors import UserError
from open_r1.machine.child import kill_children

FAILED_STATUS = 1


def main(argv: Sequence[str]) -> None:
    """Does the checks, printing each as soon as it and those before it are done.

    Raises:
        UserError: no check is left to do.
        SystemExit: with status 1 where a check fails, or with ``--strict`` warns.
    """
    config = parse(DoctorConfig, list(argv), prog="open-r1 doctor").config
    if not selected(config):
        raise UserError("only and skip leave no check to do: take one of them back")
    console = Console(highlight=False, stderr=config.json)
    try:
        examination = _examine(config, console)
    finally:
        kill_children()
    if config.json:
        print(json.dumps(examination.record(), indent=2, ensure_ascii=False))
    else:
        console.print()
        for line in closing_lines(examination):
            console.print(line, soft_wrap=True)
    if examination.failed(strict=config.strict):
        raise SystemExit(FAILED_STATUS)


def _examine(config: DoctorConfig, console: Console) -> Examination:
    started = time.monotonic()
    examination = Examination()
    checks = selected(config)
    waiting = console.status("", spinner_style="cyan") if console.is_terminal else nullcontext()
    shown_group = None
    with waiting as status:
        for check, findings in examine(config, Situation(config), checks):
            examination.seconds = time.monotonic() - started
            if findings is None:
                if status is not None:
                    status.update(Text(running_text(check.name, examination.seconds), style="dim"))
                continue
            examination.groups.append((check.group, findings))
            if config.json:
                continue
            width = min(WIDTH, console.width) if console.is_terminal else WIDTH
            for place, finding in enumerate(findings):
                if check.group != shown_group:
                    console.print(Text(check.group, style="bold"))
                    shown_group = check.group
                for line in finding_lines(finding, width, config.details, named=place == 0):
                    console.print(line, soft_wrap=True)
    return examination
