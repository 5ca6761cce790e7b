"""The rates as tables, a part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from open_r1.bench.parts import Part
from open_r1.bench.reading import NOISY, Reading
from open_r1.bench.remarks import share_of_peak
from open_r1.machine.cards import Card
from open_r1.machine.rates import Rate
from open_r1.report.tables import compact_table

ORDER = ("products", "attention", "sft", "engine", "gpus")
KERNELS = {"fa4": "flash-attn-4", "varlen": "torch's varlen", "documents": "documents (SDPA)"}
ENGINES = {"vllm": "vLLM", "transformers": "transformers"}


def show(console: Console, parts: Sequence[tuple[Part, Reading]], card: Card | None, chosen: str) -> None:
    """A table for each kind of part, then what failed and what was left out.

    Args:
        chosen: the attention kernel that training takes.
    """
    by_name = {name: [reading for part, reading in parts if part.name == name] for name in ORDER}
    products = [*_with_details(by_name["products"])]
    if any(rate.kind == "product" for rate, _ in products):
        _print(console, products_table(products, card))
    if any(rate.kind != "product" for rate, _ in products):
        _print(console, copies_table(products, card))
    if attention := [*_with_details(by_name["attention"])]:
        _print(console, attention_table(attention, chosen))
    if training := [*_with_details(by_name["sft"])]:
        _print(console, training_table(training, card))
    if drawing := [*_with_details(by_name["engine"])]:
        _print(console, drawing_table(drawing))
    devices = [rate for reading in by_name["gpus"] for rate in reading.devices]
    links = [rate for reading in by_name["gpus"] for rate in reading.rates]
    if devices or links:
        _print(console, devices_table(devices, links))
    for part, reading in parts:
        for failure in reading.failures:
            console.print(Text.assemble(("✗ ", "bold red"), f"{part.title}: {failure}"), soft_wrap=True)


def products_table(measured: Sequence[tuple[Rate, dict[str, float]]], card: Card | None) -> Table:
    """A row for each shape, a column for each type."""
    rates = [(rate, details) for rate, details in measured if rate.kind == "product"]
    dtypes = list(dict.fromkeys(rate.settings["dtype"] for rate, _ in rates))
    unit = _Unit(rate.value for rate, _ in rates)
    table = compact_table([f"matrix products, {unit.name}"], dtypes)
    for shape, rows in dict.fromkeys((rate.shape, rate.tokens) for rate, _ in rates):
        cells = {
            rate.settings["dtype"]: _cell(unit(rate.value), details, share_of_peak(rate, card))
            for rate, details in rates
            if (rate.shape, rate.tokens) == (shape, rows)
        }
        square = f"{rows:,} × {rows:,} × {rows:,}"
        name = square if shape == "square" else f"a layer of {shape}, {rows:,} rows"
        table.add_row(name, *(cells.get(dtype, "–") for dtype in dtypes))
    return table


def copies_table(measured: Sequence[tuple[Rate, dict[str, float]]], card: Card | None) -> Table:
    names = {"copy": "in memory, read and written", "host copy": "from the host, page-locked"}
    table = compact_table(["copies"], ["GB/s"])
    for rate, details in measured:
        if rate.kind in names:
            table.add_row(names[rate.kind], _cell(f"{rate.value / 1e9:,.1f}", details, share_of_peak(rate, card)))
    return table


def attention_table(measured: Sequence[tuple[Rate, dict[str, float]]], chosen: str) -> Table:
    """A row for each kernel, two columns for each length: the forward pass, and both passes."""
    lengths = sorted({rate.tokens for rate, _ in measured})
    unit = _Unit(rate.value for rate, _ in measured)
    columns = [name for length in lengths for name in (f"{length:,}", "and back")]
    table = compact_table([f"attention, {unit.name}"], columns)
    table.caption, table.caption_justify = "forward, and with the backward pass; * is what training takes", "left"
    for kernel in dict.fromkeys(rate.settings["kernel"] for rate, _ in measured):
        cells = {
            (rate.tokens, rate.settings["pass"]): _cell(unit(rate.value), details)
            for rate, details in measured
            if rate.settings["kernel"] == kernel
        }
        name = f"{KERNELS.get(kernel, kernel)}{' *' if kernel == chosen else ''}"
        table.add_row(name, *(cells.get((length, each), "–") for length in lengths for each in ("forward", "both")))
    return table


def training_table(measured: Sequence[tuple[Rate, dict[str, float]]], card: Card | None) -> Table:
    """With what a step took of the GPU's memory, and how long it was until the layers were compiled."""
    flops = [rate.value * rate.settings["flops_per_token"] for rate, _ in measured]
    unit = _Unit(flops)
    columns = ["tokens/s", unit.name, *(["MFU"] if card else [])]
    on_gpu = any(details["peak"] for _, details in measured)
    table = compact_table(["training, packs of", "recomputes"], [*columns, *(["GiB", "start"] if on_gpu else [])])
    for (rate, details), done in zip(measured, flops, strict=True):
        mfu = share_of_peak(rate, card)
        name = f"{rate.shape}{' LoRA' if rate.settings['adapters'] else ''}, {rate.tokens:,} tokens"
        start = f"{details['start']:.0f} s" if details["start"] else "–"
        table.add_row(
            name,
            rate.settings["recompute"],
            f"{rate.value:,.0f}",
            unit(done),
            *([] if mfu is None else [f"{100 * mfu:.1f} %"]),
            *([f"{details['peak'] / 2**30:.1f}", start] if on_gpu else []),
        )
    return table


def drawing_table(measured: Sequence[tuple[Rate, dict[str, float]]]) -> Table:
    table = compact_table(["drawing completions"], ["at once", "of tokens", "tokens/s", "start"])
    for rate, details in measured:
        table.add_row(
            f"{rate.shape} by {ENGINES[rate.settings['engine']]}",
            str(rate.settings["sequences"]),
            str(rate.tokens),
            f"{rate.value:,.0f}",
            f"{details['start']:.0f} s",
        )
    return table


def devices_table(devices: Sequence[float], links: Sequence[Rate]) -> Table:
    table = compact_table(["all GPUs at once"], ["rate"])
    for number, rate in enumerate(devices):
        table.add_row(f"GPU {number}", flops_text(rate))
    for rate in links:
        table.add_row("sums over all", f"{rate.value / 1e9:,.1f} GB/s")
    return table


class _Unit:
    """TFLOP/s, or GFLOP/s where all of a table is less than one of these."""

    def __init__(self, values: Iterable[float]) -> None:
        self._one, self.name = (1e12, "TFLOP/s") if max(values) >= 1e12 else (1e9, "GFLOP/s")

    def __call__(self, value: float) -> str:
        scaled = value / self._one
        return f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"


def flops_text(value: float) -> str:
    """FLOP/s with three digits and their unit."""
    unit = _Unit([value])
    return f"{unit(value)} {unit.name}"


def _with_details(readings: Iterable[Reading]) -> Iterable[tuple[Rate, dict[str, float]]]:
    return (pair for reading in readings for pair in zip(reading.rates, reading.details, strict=True))


def _cell(text: str, details: dict[str, float], share: float | None = None) -> str:
    """A rate, ``±`` where it varied, and its share of the data sheet's."""
    varied = f" ± {100 * details['spread'] / 2:.0f} %" if details.get("spread", 0.0) > NOISY else ""
    return f"{text}{varied}{'' if share is None else f' ({100 * share:.0f} %)'}"


def _print(console: Console, table: Table) -> None:
    console.print(table)
    console.print()
