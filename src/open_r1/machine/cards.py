"""Known GPUs: what a plan needs to know of one that is not here.

Memory is what torch reports as a device's total, which is less than the data sheet's. Rates are the vendors' data
sheets': dense, with sums in float32 (on GeForce cards half of what is printed on the box), in FLOP/s and bytes/s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from open_r1.config.settings import did_you_mean
from open_r1.errors import UserError

GB, T = 1e9, 1e12
BF16_FROM, FP16_FROM, FP8_FROM = (8, 0), (7, 0), (8, 9)
"""Compute capability of the first chips that multiply these types on tensor cores."""


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet.

    Attributes:
        name: as ``--gpu`` takes it.
        memory: bytes.
        bf16, fp16, fp8: dense FLOP/s; None where the chip has no such unit.
        bandwidth: of its memory, bytes/s.
        capability: CUDA's compute capability.
        words: all of them are in what the driver calls it.
    """

    name: str
    memory: float
    bf16: float | None
    fp16: float
    fp8: float | None
    bandwidth: float
    capability: tuple[int, int]
    words: frozenset[str]


def _card(
    name: str,
    memory: float,
    half: float,
    fp8: float | None,
    bandwidth: float,
    capability: tuple[int, int],
    words: str = "",
) -> Card:
    """From GB, TFLOP/s and GB/s; chips before Ampere have no bf16."""
    bf16 = half * T if capability >= BF16_FROM else None
    named = frozenset((words or name).upper().split())
    return Card(name, memory * GB, bf16, half * T, fp8 and fp8 * T, bandwidth * GB, capability, named)


CARDS: tuple[Card, ...] = (
    _card("T4", 15.6, 65, None, 320, (7, 5)),
    _card("V100-16", 16.9, 125, None, 900, (7, 0), "V100 16GB"),
    _card("V100-32", 34.1, 125, None, 900, (7, 0), "V100 32GB"),
    _card("3090", 25.3, 71, None, 936, (8, 6)),
    _card("4090", 25.3, 165, 330, 1008, (8, 9)),
    _card("5090", 33.7, 210, 419, 1792, (12, 0)),
    _card("A10", 23.7, 125, None, 600, (8, 6)),
    _card("A10G", 23.7, 70, None, 600, (8, 6)),
    _card("A40", 47.6, 150, None, 696, (8, 6)),
    _card("L4", 23.6, 121, 242, 300, (8, 9)),
    _card("L40", 47.7, 181, 362, 864, (8, 9)),
    _card("L40S", 47.7, 362, 733, 864, (8, 9)),
    _card("A5000", 25.3, 111, None, 768, (8, 6)),
    _card("A6000", 50.9, 155, None, 768, (8, 6)),
    _card("6000-Ada", 50.9, 364, 728, 960, (8, 9), "6000 Ada"),
    _card("A100-40", 42.4, 312, None, 1555, (8, 0), "A100 40GB"),
    _card("A100-80", 85.1, 312, None, 2039, (8, 0), "A100 80GB"),
    _card("A800-80", 85.1, 312, None, 2039, (8, 0), "A800 80GB"),
    _card("H20", 102.1, 148, 296, 4000, (9, 0)),
    _card("H100", 85.0, 989, 1979, 3350, (9, 0)),
    _card("H800", 85.0, 989, 1979, 3350, (9, 0)),
    _card("H100-PCIe", 85.0, 756, 1513, 2000, (9, 0), "H100 PCIe"),
    _card("H100-NVL", 100.0, 835, 1671, 3900, (9, 0), "H100 NVL"),
    _card("H200", 150.1, 989, 1979, 4800, (9, 0)),
    _card("B200", 191.5, 2250, 4500, 8000, (10, 0)),
    _card("RTX-PRO-6000", 102.0, 504, 1007, 1792, (12, 0), "RTX PRO 6000"),
)
"""The smallest first within a family."""

ADORNMENTS = re.compile(r"nvidia|geforce|tesla|sxm\d?|gb|[^a-z0-9]")


def find_card(name: str) -> Card:
    """The card that a person means: ``4090``, ``RTX 4090``, ``a100-80gb``.

    Names of the driver count too, where the memory in them is the card's.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    known = {_plain(card.name): card for card in CARDS}
    wanted = _plain(name)
    for spelling in (wanted, wanted.removeprefix("rtx")):
        if spelling in known:
            return known[spelling]
    sizes = [card.name for card in CARDS if _plain(card.name).startswith(wanted)] if wanted else []
    if len(sizes) > 1:
        raise UserError(f"gpu: {name} comes in several kinds: choose {', '.join(sizes[:-1])} or {sizes[-1]}")
    named = card_named(name)
    if named is not None and _has_memory(named, name):
        return named
    names = [card.name for card in CARDS]
    meant = f"; did you mean {named.name}?" if named else did_you_mean(name.upper(), names)
    raise UserError(f"gpu: {name!r} is not in the table{meant} (known: {', '.join(names)}, cpu)")


def card_named(device_name: str) -> Card | None:
    """The card that the driver calls ``NVIDIA A100-SXM4-80GB``; None for one that is not in the table."""
    words = set(re.split(r"[^A-Z0-9]+", device_name.upper()))
    if "LAPTOP" in words:
        return None
    return max((card for card in CARDS if card.words <= words), key=lambda card: len(card.words), default=None)


def _has_memory(card: Card, name: str) -> bool:
    """Whether a name says no other number of gigabytes than the card has, to a tenth (vendors count them otherwise)."""
    sizes = [float(size) * GB for size in re.findall(r"(\d+) ?GI?B?\b", name.upper())]
    return all(abs(size / card.memory - 1) < 0.1 for size in sizes)


def _plain(name: str) -> str:
    return ADORNMENTS.sub("", name.lower())
