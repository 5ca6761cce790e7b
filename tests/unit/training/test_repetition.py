"""Loops are told from answers that only look alike line by line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from open_r1.training.repetition import in_a_loop

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.mark.parametrize("unit", ["a", "ha ", "So the answer is 42. ", "Wait, let me check this again:\n2 + 2 = 4\n\n"])
def test_loops(unit: str) -> None:
    assert in_a_loop(unit * (2000 // len(unit)))
    thought = "First we take half of the eggs, which leaves 8, and sell them at the market for 2 dollars each. "
    assert in_a_loop(thought + "The rest is baked into muffins for her friends. " + unit * (1600 // len(unit)))


def test_what_is_none() -> None:
    rows = [json.loads(line) for line in (DATA / "gsm8k_train_64.jsonl").read_text().splitlines()]
    answers = [row["answer"] for row in rows]
    assert not any(in_a_loop(answer * 2) for answer in answers)
    assert not in_a_loop("\n\n".join(answers[:8]))
    chance = random.Random(0)
    table = "\n".join(f"| {number} | {number * 7} | {chance.randint(0, 99)} |" for number in range(100))
    code = (Path(__file__).parent / "test_repetition.py").read_text()
    for text in ("", "42", "no", "yes " * 20, table, code, "\n".join(f"{a} * {a} = {a * a}" for a in range(60))):
        assert not in_a_loop(text), text[:40]
