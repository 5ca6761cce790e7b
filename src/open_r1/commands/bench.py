"""``open-r1 bench``: what this machine does in a second; ``open-r1 plan`` reckons with it from then on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from open_r1 import __version__
from open_r1.config import BenchConfig, parse
from open_r1.errors import UserError
from open_r1.machine.cards import card_named
from open_r1.machine.child import run_child
from open_r1.machine.limits import processor
from open_r1.machine.rates import measured_card, rates_file, save_rates

if TYPE_CHECKING:
    from open_r1.bench.session import Session

FACTS_SECONDS = 150.0
PACKAGES = ("transformers", "flash-attn-4", "vllm")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and keeps the rates; what was measured before an interruption too.

    Raises:
        UserError: torch does not start here.
        SystemExit: with status 1 where nothing could be measured.
    """
    start = time.monotonic()
    config = parse(BenchConfig, argv, prog="open-r1 bench").config
    progress_console = Console(stderr=True, highlight=False)
    with ThreadPoolExecutor(1) as thread:  # its process starts while this one imports
        facts = thread.submit(run_child, "open_r1.doctor.torch_probe", {}, seconds=FACTS_SECONDS)
        from open_r1.bench.progress import BenchProgress
        from open_r1.bench.reading import Origin
        from open_r1.bench.session import Session
        from open_r1.doctor.gpus import torch_from

        torch = torch_from(facts.result())
    if torch.error:
        raise UserError(f"torch does not start here ({torch.error}): open-r1 doctor says what to mend")
    device = torch.gpus[0].name if torch.gpus else processor()
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    origin = Origin(device, versions_of(torch.version), date)
    session = Session(config, torch, origin, card_named(device) if torch.gpus else None)
    progress_console.print(Text(_heading(session), style="bold"), soft_wrap=True)
    try:
        with BenchProgress(config.seconds, console=progress_console) as progress:
            for part, reading in session.measure(start, progress.waiting):
                progress.done(part, reading)
    finally:
        problem = "" if config.no_save else _save(session)
    if config.json:
        print(json.dumps(as_json(session, problem), indent=2, ensure_ascii=False))
    else:
        _show(session, problem)
    if not session.rates and not any(reading.devices for _, reading in session.parts):
        raise SystemExit(1)


def as_json(session: Session, problem: str = "") -> dict[str, Any]:
    """All that is shown, in FLOP/s, bytes/s and tokens/s.

    Args:
        problem: why the rates could not be kept.
    """
    parts = session.parts
    return {
        "card": session.origin.card,
        "versions": dict(session.origin.versions),
        "date": session.origin.date,
        "rates": [
            asdict(rate) | {"details": details}
            for _, reading in parts
            for rate, details in zip(reading.rates, reading.details, strict=True)
        ],
        "gpus": [rate for _, reading in parts for rate in reading.devices],
        "failed": [{"part": part.title, "why": why} for part, reading in parts for why in reading.failures],
        "left_out": [part.title for part in session.left_out],
        "remarks": session.remarks,
        "saved": None if session.config.no_save or problem or not session.rates else str(rates_file()),
    }


def versions_of(torch: str) -> dict[str, str]:
    """Of what decides a rate, torch's as it says itself; what is not installed is left out."""
    versions = {"open-r1": __version__, "torch": torch}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _heading(session: Session) -> str:
    gpus = session.torch.gpus
    memory = f", {gpus[0].memory / 2**30:.0f} GiB" if gpus else ""
    several = f"{len(gpus)} × " if len(gpus) > 1 else ""
    versions = ", ".join(f"{name} {version}" for name, version in session.origin.versions.items() if name != "open-r1")
    return f"{several}{session.origin.card}{memory} ({versions})"


def _save(session: Session) -> str:
    """Keeps the rates; why that was not possible, or ""."""
    if not session.rates:
        return ""
    try:
        save_rates(session.rates)
    except UserError as error:
        return str(error)
    return ""


def _show(session: Session, problem: str) -> None:
    from open_r1.bench.screen import show

    console = Console(highlight=False)
    console.print()
    show(console, session.parts, session.card, session.torch.chosen)
    for remark in session.remarks:
        console.print(Text.assemble(("! ", "bold yellow"), remark), soft_wrap=not console.is_terminal)
    if session.left_out:
        names = ", ".join(part.title for part in session.left_out)
        console.print(f"No time was left for: {names}. What was compiled is kept, so a second call gets further:")
        console.print(f"    {session.command_for_rest()}", soft_wrap=True)
    if problem:
        console.print(Text.assemble(("! ", "bold yellow"), f"the rates are not kept: {problem}"), soft_wrap=True)
    elif session.rates and not session.config.no_save:
        planned = "; open-r1 plan reckons with them from now on" if counts_for_plans(session) else ""
        console.print(f"kept in {rates_file()}{planned}", soft_wrap=True)


def counts_for_plans(session: Session) -> bool:
    """Whether what was measured decides the hours of a plan for this machine."""
    gpus = session.torch.gpus
    if not gpus:
        return any(rate.kind == "sft" for rate in session.rates)
    known = session.card or measured_card(
        session.origin.card, gpus[0].memory, gpus[0].capability or (0, 0), session.rates
    )
    return known is not None and any(rate.kind in ("sft", "engine") for rate in session.rates)
