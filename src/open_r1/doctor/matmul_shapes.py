"""The matrix products of training and decoding, by the published shapes of Qwen2.5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from open_r1.model.published import SHAPES

Layout = Literal["forward", "gradient of inputs", "gradient of weights", "batched scores", "batched values"]

MODELS = {
    name: (shape.hidden, shape.intermediate, shape.keys, shape.vocabulary)
    for name, shape in SHAPES.items()
    if name in ("0.5B", "1.5B", "7B")
}
"""Hidden size, intermediate size, size of keys, vocabulary."""

LAYOUTS: tuple[Layout, ...] = ("forward", "gradient of inputs", "gradient of weights")
GPU_ROWS = (1, 2, 64, 1024, 16_384)
"""Tokens: of decoding alone and together, of a short pack, and of a long one."""

CPU_ROWS = (2, 16)
CPU_VOCABULARY = MODELS["0.5B"][-1] // 32
"""Making the numbers for a whole one takes a CPU longer than all else."""

HEADS = {name: (SHAPES[name].heads, SHAPES[name].head_size) for name in ("0.5B", "7B")}
"""Heads of queries, and their size."""


@dataclass(frozen=True)
class Product:
    """One product, [M, K] · [K, N], or ``batch`` of them.

    ``forward`` is X·Wᵀ with W [N, K]; ``gradient of inputs`` is dY·W with W [K, N]; ``gradient of weights`` is dYᵀ·X
    with dY [K, M]; the batched ones are Q·Kᵀ and P·V of attention.
    """

    model: str
    layout: Layout
    m: int
    k: int
    n: int
    batch: int = 1

    def __str__(self) -> str:
        batch = f"{self.batch} × " if self.batch > 1 else ""
        return f"{batch}[{self.m} × {self.k}]·[{self.k} × {self.n}] ({self.model}, {self.layout})"


def products(on_gpu: bool, layouts: tuple[Layout, ...] = LAYOUTS) -> Iterator[Product]:
    """All that are tried, small ones first; a CPU gets those that take it no time."""
    rows = GPU_ROWS if on_gpu else CPU_ROWS
    models = MODELS if on_gpu else {"0.5B": (*MODELS["0.5B"][:-1], CPU_VOCABULARY)}
    for tokens in rows:
        for model, (hidden, intermediate, keys, vocabulary) in models.items():
            for ins, outs in (
                (hidden, hidden),
                (hidden, keys),
                (hidden, intermediate),
                (intermediate, hidden),
                (hidden, vocabulary),
            ):
                yield from (_product(model, layout, tokens, ins, outs) for layout in layouts)
    if layouts == LAYOUTS:
        yield from _batched(1024 if on_gpu else 64)


def _product(model: str, layout: Layout, tokens: int, ins: int, outs: int) -> Product:
    if layout == "forward":
        return Product(model, layout, tokens, ins, outs)
    if layout == "gradient of inputs":
        return Product(model, layout, tokens, outs, ins)
    return Product(model, layout, outs, tokens, ins)


def _batched(tokens: int) -> Iterator[Product]:
    for model, (heads, size) in HEADS.items():
        for length in (tokens - 1, tokens):
            yield Product(model, "batched scores", length, size, length, heads)
            yield Product(model, "batched values", length, length, size, heads)
