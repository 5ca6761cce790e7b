"""What a part has said, as rates and as a word on what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from open_r1.bench.gpu_state import GpuState
from open_r1.bench.runner import Done
from open_r1.machine.child import Outcome
from open_r1.machine.rates import Kind, Rate

NOISY = 0.1
"""Spread of a sample above which a rate is one among others."""


@dataclass(frozen=True)
class Origin:
    """What all rates of a session have in common: see `Rate`."""

    card: str
    versions: Mapping[str, str]
    date: str


@dataclass(frozen=True)
class Reading:
    """What came of a part.

    Attributes:
        rates: in the order in which they were measured.
        details: beside each rate, what is shown and not kept: ``spread``, ``peak``, ``start``.
        failures: one line each.
        left_out: there was no time for it.
        state: of the GPU while it multiplied.
        devices: FLOP/s of each GPU, in order.
    """

    rates: list[Rate] = field(default_factory=list)
    details: list[dict[str, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left_out: bool = False
    state: GpuState | None = None
    devices: list[float] = field(default_factory=list)


def read_part(done: Done, origin: Origin) -> Reading:
    """Rates that were said stand, even if the process died afterwards."""
    if done.outcome is None:
        return Reading(left_out=True)
    reading = Reading(state=_state(done.outcome), devices=list(done.outcome.facts.get("rates", ())))
    for line in done.outcome.lines:
        for kind, shape, tokens, settings, value, unit, details in _measured(line, done.part.asked):
            versions = dict(origin.versions)
            if kind != "engine":
                versions.pop("vllm", None)
            reading.rates.append(
                Rate(
                    kind=kind,
                    card=origin.card,
                    shape=shape,
                    tokens=tokens,
                    settings=settings,
                    value=value,
                    unit=unit,
                    versions=versions,
                    date=origin.date,
                )
            )
            reading.details.append(details)
        if "failed" in line:
            reading.failures.append(_short(line["failed"]))
    if failure := why_it_ended(done.outcome, done.allowed):
        reading.failures.append(failure)
    return reading


def why_it_ended(outcome: Outcome, allowed: float) -> str:
    """Why a part's process ended before it was through; "" where it was."""
    if outcome.facts.get("at") == "" or (outcome.ended_well and not outcome.facts.get("at")):
        return ""
    where = f" ({outcome.facts['at']})" if outcome.facts.get("at") else ""
    if outcome.timed_out or outcome.signal_name == "SIGALRM":
        return f"not done in {allowed:.0f} s{where}"
    if outcome.signal_name:
        return f"died by {outcome.signal_name}{where}: open-r1 doctor looks into it"
    if "OutOfMemory" in outcome.last_error or "out of memory" in outcome.last_error:
        return f"out of memory{where}"
    if outcome.ended_well:  # it has said why
        return ""
    return _short(f"failed{where}: {outcome.last_error}")


Measured = tuple[Kind, str, int, dict[str, Any], float, str, dict[str, float]]


def _measured(line: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[Measured]:
    """(kind, shape, tokens, settings, value, unit, details) of each rate in a line that a probe said."""
    if product := line.get("product"):
        name, rate = product["shape"], product["flops"] / product["seconds"]
        details = {"spread": product["spread"]}
        yield "product", name, product["rows"], {"dtype": product["dtype"]}, rate, "FLOP/s", details
    if copy := line.get("copy"):
        yield copy["kind"], "", 0, {}, copy["bytes"] / copy["seconds"], "bytes/s", {"spread": copy["spread"]}
    if attention := line.get("attention"):
        forward = attention["forward_flops"]
        for name, flops in (("forward", forward), ("both", 3 * forward)):
            timing = attention[name]
            settings = {"kernel": attention["kernel"], "pass": name, "dtype": asked["dtype"]}
            details = {"spread": timing["spread"]}
            rate = flops / timing["seconds"]
            yield "attention", asked["shape"], attention["length"], settings, rate, "FLOP/s", details
    if sft := line.get("sft"):
        case = sft["case"]
        settings = {name: sft[name] for name in ("parameters", "flops_per_token", "recompute", "compiled")}
        settings |= {"adapters": case["adapters"], "micro_batch": case["batch"] * case["length"]}
        details = {"peak": sft["peak"], "start": sft["start"]}
        yield "sft", case["shape"], case["length"], settings, sft["tokens"] / sft["seconds"], "tokens/s", details
    if engine := line.get("engine"):
        settings = {"engine": "vllm" if asked["vllm"] else "transformers"}
        settings |= {"sequences": asked["sequences"], "prompt": asked["prompt"], "dtype": asked["dtype"]}
        rate = engine["tokens"] / engine["seconds"]
        yield "engine", asked["shape"], asked["tokens"], settings, rate, "tokens/s", {"start": engine["start"]}
    if bandwidth := line.get("bandwidth"):
        yield "all-reduce", f"{asked['ranks']} GPUs", 0, {"backend": asked["backend"]}, bandwidth, "bytes/s", {}


def _state(outcome: Outcome) -> GpuState | None:
    state = outcome.facts.get("state")
    return GpuState(**state) if state else None


def _short(text: str, most: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}…"
