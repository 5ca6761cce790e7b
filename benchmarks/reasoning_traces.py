"""Seeded data sets of reasoning traces: long, varied, with LaTeX, digits and some Unicode, no two texts alike.

Sentences of the shared problem sets, and sentences of a mathematician who thinks aloud, with fresh numbers, names and
expressions in every trace. Used by benchmarks/prepare.py.
"""

from __future__ import annotations

import json
import os
import random
import re
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SHARD_ROWS, GROUP_ROWS = 10_000, 1_000
THOUGHTS = (
    "Okay, so let me restate the problem: ",
    "Hmm, wait. I should double-check that step, because $A$ might not equal $B$ here. ",
    "So we get $$A = \\frac{B}{C} + \\sqrt{B^2 - 4C}$$ and therefore $x_{1} = A$. ",
    "Substitute $u = x^{2} - A$, so that $du = 2x\\,dx$ and the integral becomes $\\int_{B}^{A} u^{C}\\,du$. ",
    "Let me compute: A × B = C, and A + B − C ≈ 0. ",
    "By Vieta's formulas, the sum of the roots is $-\\frac{A}{B}$ and their product is $\\frac{C}{B}$.\n\n",
    "If $n \\equiv A \\pmod{B}$ then $n^2 \\equiv C \\pmod{B}$, which can't happen.\n",
    "That doesn't look right… let's try the case $k = A$ instead: then $\\binom{A}{B} = C$.\n\n",
    "First, NAME has A marbles and gives B% of them away, so C remain. ",
    "## Step A\n\nWe know that `f(A) = B`, hence |x − A| ≤ B ⇒ x ∈ [A, C].\n\n",
    "- Case A: $a < B$\n- Case B: $a \\ge C$\n\n",
    "So the probability is $\\left(\\frac{A}{B}\\right)^{C}$, i.e. about 0.A. ",
    "The angle ∠NAME is A°, so $\\cos\\theta = \\frac{B}{C}$ and the triangle's area is A.B square units. ",
    "But I'm not sure whether that's what they'll ask for; I've seen “at least A” used where “exactly B” was meant. ",
    "```python\nfor n in range(A, B):\n    if n % C == 0:\n        print(n)\n```\n",
    "Therefore the answer is \\boxed{A}.\n",
)
ASCII_THOUGHTS = tuple(thought for thought in THOUGHTS if thought.isascii())
SYLLABLES = ("ka", "lor", "mi", "ten", "sha", "vo", "ri", "del", "pa", "quin", "zu", "ber", "no", "thi", "ga", "lem")


def sentences(folder: Path) -> list[str]:
    """Those of all questions and answers in the .jsonl files of a folder."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for text in json.loads(line).values():
                if isinstance(text, str):
                    found += [part for part in re.split(r"(?<=[.?!\n])\s", text) if len(part) > 20]
    return found


def write_traces(folder: Path, rows: int, problems: Path, seed: int = 0) -> Path:
    """Writes ``rows`` rows of ``prompt`` and ``completion`` (chat messages) as Parquet shards, once; says where."""
    target = folder / f"traces-{rows}-{seed}"
    if (target / "whole").exists():
        return target
    (target / "data").mkdir(parents=True, exist_ok=True)
    shards = -(-rows // SHARD_ROWS)
    counts = [min(SHARD_ROWS, rows - shard * SHARD_ROWS) for shard in range(shards)]
    names = [target / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet" for shard in range(shards)]
    firsts, several = range(0, rows, SHARD_ROWS), get_context("fork")  # the program itself is not imported again
    with ProcessPoolExecutor(min(shards, os.cpu_count() or 1), mp_context=several) as pool:
        list(pool.map(_write_shard, names, firsts, counts, repeat(sentences(problems)), repeat(seed)))
    (target / "whole").touch()
    return target


def _write_shard(path: Path, first: int, count: int, known: list[str], seed: int) -> None:
    """``count`` rows from number ``first`` on, each by a seed of its own."""
    writer = None
    for group in range(first, first + count, GROUP_ROWS):
        numbers = range(group, min(group + GROUP_ROWS, first + count))
        table = pa.Table.from_pylist([_row(random.Random(f"{seed}/{number}"), known) for number in numbers])
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def _row(rng: random.Random, known: list[str]) -> dict[str, list[dict[str, str]]]:
    characters = min(rng.lognormvariate(9.38, 0.62), 130_000)
    prompt = " ".join(rng.choices(known, k=3))
    thoughts = THOUGHTS if rng.random() < 0.6 else ASCII_THOUGHTS
    parts, size = ["<think>\n"], 0
    while size < characters:
        said = rng.choices(known, k=12)
        for thought in rng.choices(thoughts, k=10):
            numbers = {"A": rng.randrange(2, 40), "B": rng.randrange(2, 200), "C": rng.randrange(-9, 3000)}
            filled = "".join(str(numbers.get(part, part)) for part in re.split(r"\b([ABC])\b", thought))
            said.append(filled.replace("NAME", "".join(rng.choices(SYLLABLES, k=3)).capitalize()))
        rng.shuffle(said)
        parts += said
        size += sum(map(len, said)) + len(said)
    text = (
        " ".join(parts) + "\n</think>\n\n" + rng.choice(known) + f"\n\nThe answer is \\boxed{{{rng.randrange(10**6)}}}."
    )
    return {"prompt": [_message("user", prompt)], "completion": [_message("assistant", text)]}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
