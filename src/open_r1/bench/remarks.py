"""What of the rates is too low for the card, and what may be the cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from open_r1.bench.gpu_state import GpuState
from open_r1.doctor.gpus import Gpu
from open_r1.machine.cards import Card
from open_r1.machine.rates import Rate

LOW = 0.6
"""Of the data sheet's rate: large products reach 0.7 to 0.9, copies 0.8 to 0.95, on a chip that nothing holds back."""
LAGS = 0.9
"""Of the median of the other GPUs."""
HELD = 0.9
"""Of its highest clock, below which something holds a chip back; of its power limit, above which that is the power."""
HOT = 80.0
"""°C from which on chips begin to slow down."""
BUSY = 10.0
"""Per cent of the time in which something ran before anything was measured."""
TAKEN = 2e9
"""Bytes that others may have on a GPU: a display, a context."""
SLOW_HOST_COPY = 8e9
"""Bytes/s: PCIe 3 with 16 lanes does 12, so it is a link with fewer lanes, or an older one."""


def busy_before(gpu: Gpu, state: GpuState | None) -> list[str]:
    """What uses the GPU before anything is measured; all rates are then too low."""
    found = []
    if state is not None and state.busy >= BUSY:
        found.append(
            f"something else computes on this GPU ({state.busy:.0f} % of the time): stop it first (nvidia-smi)"
        )
    if gpu.memory - gpu.free > TAKEN:
        taken = (gpu.memory - gpu.free) / 2**30
        found.append(f"other processes hold {taken:.1f} GiB of this GPU: less fits, and they may compute (nvidia-smi)")
    return found


def too_low(rates: Iterable[Rate], card: Card | None, state: GpuState | None) -> list[str]:
    """Rates far below the card's data sheet, one line each; and the cause where clock and power tell it."""
    found = []
    for rate in rates:
        share = share_of_peak(rate, card)
        low = share is not None and share < LOW
        if low and rate.kind == "product" and rate.shape == "square":
            dtype = rate.settings["dtype"]
            peak = getattr(card, dtype) / 1e12
            found.append(f"{dtype} products reach {100 * share:.0f} % of this card's {peak:,.0f} TFLOP/s")
        if low and rate.kind == "copy":
            found.append(f"copies in memory reach {100 * share:.0f} % of this card's {card.bandwidth / 1e9:,.0f} GB/s")
        if rate.kind == "host copy" and rate.value < SLOW_HOST_COPY:
            found.append(
                f"copies from the host reach {rate.value / 1e9:.1f} GB/s: is the card in a slot with all lanes "
                "(nvidia-smi -q | grep -A4 'Link Width')?"
            )
    if any("products" in line for line in found):
        found.append(cause(state))
    return found


def cause(state: GpuState | None) -> str:
    """Why products are slow, as far as clock, power and temperature under load tell."""
    ask = "is another process on the GPU (nvidia-smi)?"
    if state is None or not state.clock or not state.most_clock:
        return f"nvidia-smi does not tell clock and power; {ask}"
    said = f"under load: {state.clock:,.0f} of {state.most_clock:,.0f} MHz, {state.power:,.0f} of "
    said += f"{state.power_limit:,.0f} W, {state.temperature:.0f} °C"
    if state.clock >= HELD * state.most_clock:
        return f"{said}; the clock is high, so {ask}"
    if state.power_limit and state.power >= HELD * state.power_limit:
        return f"{said}; power holds the clock down: is its limit lowered (nvidia-smi -q -d POWER)?"
    if state.temperature >= HOT:
        return f"{said}; heat holds the clock down: is the air flow blocked?"
    return f"{said}; something holds the clock down: nvidia-smi -q -d PERFORMANCE says what"


def lagging(devices: Sequence[float]) -> list[str]:
    """GPUs that are slower than the others; a run with several waits for the slowest in each step."""
    found = []
    for number, rate in enumerate(devices):
        others = [other for index, other in enumerate(devices) if index != number]
        if others and rate < LAGS * (usual := float(np.median(others))):
            found.append(
                f"GPU {number} does {rate / 1e12:,.0f} TFLOP/s where the others do {usual / 1e12:,.0f}: training with "
                "several waits for it in every step"
            )
    return found


def share_of_peak(rate: Rate, card: Card | None) -> float | None:
    """Of the data sheet's rate; None where that has none."""
    if card is None:
        return None
    if rate.kind == "copy":
        return rate.value / card.bandwidth
    peak = card.bf16 or card.fp16
    if rate.kind == "product":
        peak = getattr(card, rate.settings["dtype"], None)
        return rate.value / peak if peak else None
    if rate.kind == "sft":
        return rate.value * rate.settings["flops_per_token"] / peak
    return rate.value / peak if rate.kind == "attention" else None
