"""Rates that ``open-r1 bench`` has measured, kept beside the settings of this machine; ``open-r1 plan`` reads them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from open_r1.errors import UserError
from open_r1.files import write_json
from open_r1.machine.cards import BF16_FROM, Card, card_named
from open_r1.machine.home import home

FILE = "rates.json"
VERSION = 1
Kind = Literal["product", "copy", "host copy", "attention", "sft", "engine", "all-reduce"]

SQUARE, COPY, TRAINED = 0.8, 0.9, 0.5
"""Of a data sheet's FLOP/s and bytes/s, what large products and copies usually reach, and training."""
INTENSITY = 150
"""FLOP/s to bytes/s of a card whose copies were not measured: an A100's."""
SPEED = {"none": 1.0, "selective": 8 / 9, "full": 3 / 4}
"""Of a level of recomputation: an eighth and a third more compute (`open_r1.model.layers`)."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One rate that was measured.

    Attributes:
        kind: what was measured.
        card: the GPU as its driver calls it; of a machine without one, the processor.
        shape: of what was computed, such as ``1.5B``.
        tokens: of a pack or a completion; rows of a product; 0 where there are none.
        settings: what else decides the rate. Of ``sft``: ``parameters``, ``flops_per_token`` (model FLOPs, by
            `open_r1.training.meters.StepMeter`), ``adapters``, ``recompute``.
        value: in ``unit``: FLOP/s, bytes/s or tokens/s.
        versions: of the libraries that computed it.
        date: ISO 8601, UTC.
    """

    kind: Kind
    card: str
    shape: str
    tokens: int
    settings: dict[str, Any]
    value: float
    unit: str
    versions: dict[str, str]
    date: str

    @property
    def key(self) -> str:
        """The same for two measurements of the same thing, of which the newer one counts."""
        plain = asdict(self)
        return json.dumps([plain[name] for name in plain if name not in ("value", "date")], sort_keys=True)


def rates_file() -> Path:
    """Where they are kept."""
    return home() / FILE


def load_rates() -> list[Rate]:
    """All that is kept, the oldest first; [] where nothing is.

    A file that cannot be read, or an entry that is damaged, is left out with a line on standard error.
    """
    path = rates_file()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or stored.get("version") != VERSION or not isinstance(stored["rates"], list):
            raise ValueError("it is of another version, or holds no rates")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError) as error:
        _warn(f"{path} is left out ({error}): open-r1 bench writes it anew")
        return []
    rates = [rate for entry in stored["rates"] if (rate := _read(entry)) is not None]
    if damaged := len(stored["rates"]) - len(rates):
        _warn(f"{path}: {damaged} of {len(stored['rates'])} rates are damaged and left out")
    return sorted(rates, key=lambda rate: rate.date)


def save_rates(rates: Sequence[Rate]) -> None:
    """Adds ``rates`` to what is kept, by one rename; of two with one key the newest stays.

    Raises:
        UserError: the file cannot be written.
    """
    path = rates_file()
    kept = newest([*load_rates(), *rates])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"version": VERSION, "rates": [asdict(rate) for rate in kept]})
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}): mend that, or name another folder in OPEN_R1_HOME"
        ) from None


def newest(rates: Iterable[Rate]) -> list[Rate]:
    """The newest of each key, the oldest of these first; of two of one time, the later in ``rates``."""
    by_key = {rate.key: rate for rate in sorted(rates, key=lambda rate: rate.date)}
    return sorted(by_key.values(), key=lambda rate: rate.date)


def measured_card(name: str, memory: float, capability: tuple[int, int] | None, rates: Sequence[Rate]) -> Card | None:
    """A data sheet for a device that is not in the table, from what was measured on it; None where that is too little.

    Args:
        name: as `Rate.card`.
        memory: bytes of a GPU.
        capability: CUDA's; None for a processor, where rates of training count alone, whose peak is in float32.
    """
    own = [rate for rate in newest(rates) if rate.card == name]
    half = "fp32" if capability is None else "bf16" if capability >= BF16_FROM else "fp16"
    trained = [rate.value * rate.settings["flops_per_token"] / TRAINED for rate in own if rate.kind == "sft"]
    squares = [
        rate.value / SQUARE
        for rate in own
        if rate.kind == "product" and rate.shape == "square" and rate.settings.get("dtype") == half
    ]
    if not (trained if capability is None else [*squares, *trained]):
        return None
    peak = squares[-1] if squares else max(trained)
    copies = [rate.value / COPY for rate in own if rate.kind == "copy"]
    bandwidth = copies[-1] if copies else peak / INTENSITY
    bf16 = peak if half == "bf16" else None
    return Card(name, memory, bf16, peak, None, bandwidth, capability or (0, 0), frozenset())


def measured_on(rate: Rate, card: Card) -> bool:
    """Whether a rate is of this kind of card, or of a device by its own name."""
    return rate.card == card.name or card_named(rate.card) == card


def sft_mfu(
    card: Card, parameters: int, length: int, rates: Sequence[Rate], *, adapters: bool = False
) -> tuple[float | None, str]:
    """The share of the card's bf16 peak that SFT reaches with nothing recomputed, and where that is known from.

    It is that of the measured model whose size is nearest, and of its lengths the nearest, on a logarithmic scale: the
    length hardly moves it (docs/performance.md). The peak is that of fp16 on a card without bf16.

    Args:
        length: tokens of a pack.
        adapters: asks for LoRA instead of all weights.

    Returns:
        (None, "") where nothing like it was measured on such a card.
    """

    def distance(rate: Rate) -> tuple[float, float]:
        size = abs(math.log(rate.settings["parameters"] / parameters))
        return round(size, 6), round(abs(math.log(rate.tokens / length)), 6)

    like = [
        rate
        for rate in rates
        if rate.kind == "sft" and measured_on(rate, card) and rate.settings["adapters"] is adapters
    ]
    if not like:
        return None, ""
    best = min(sorted(like, key=lambda rate: rate.date, reverse=True), key=distance)
    flops = best.value * best.settings["flops_per_token"] / SPEED[best.settings["recompute"]]
    what = f"{'LoRA' if adapters else 'SFT'} of {best.shape} at {best.tokens:,} tokens"
    return flops / (card.bf16 or card.fp16), f"{what}, measured on {card.name} by open-r1 bench on {best.date[:10]}"


def _read(entry: Any) -> Rate | None:
    """A stored rate; None for what is none."""
    hints = get_type_hints(Rate)
    if not isinstance(entry, dict) or set(entry) != set(hints) or entry["kind"] not in get_args(Kind):
        return None
    texts = all(isinstance(entry[name], str) for name in ("card", "shape", "unit", "date"))
    numbers = all(
        isinstance(entry[name], (int, float)) and not isinstance(entry[name], bool) and math.isfinite(entry[name])
        for name in ("tokens", "value")
    )
    tables = all(isinstance(entry[name], dict) for name in ("settings", "versions"))
    if not (texts and numbers and tables) or entry["value"] <= 0:
        return None
    rate = Rate(**entry)
    return rate if rate.kind != "sft" or _describes_sft(rate) else None


def _describes_sft(rate: Rate) -> bool:
    settings = rate.settings
    counts = (rate.tokens, settings.get("parameters"), settings.get("flops_per_token"))
    return (
        all(isinstance(count, (int, float)) and count > 0 for count in counts)
        and settings.get("recompute") in SPEED
        and isinstance(settings.get("adapters"), bool)
    )


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
