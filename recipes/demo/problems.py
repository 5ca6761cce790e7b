"""Word problems of two to four steps of arithmetic, with their worked solutions, drawn by a seed.

    python recipes/demo/problems.py --train 2000 --test 500 --seed 0 --output runs/demo/problems

writes ``train.jsonl`` and ``held-out.jsonl`` (fields: problem, answer); no problem of one is in the other, nor in the
corpus that the demo's base model was trained on, because the three are told apart by a hash of the problem's text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAMES = (
    "Ana",
    "Ben",
    "Chloe",
    "Dan",
    "Eva",
    "Finn",
    "Grace",
    "Hugo",
    "Iris",
    "Jack",
    "Kim",
    "Leo",
    "Mia",
    "Nils",
    "Olga",
)
ITEMS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "stickers")
MORE = ("buys {n} more", "finds {n} more", "gets {n} from a friend", "wins {n}")
LESS = ("gives away {n}", "loses {n}", "sells {n}", "breaks {n}")
TIMES = {2: "doubles what is there", 3: "triples what is there"}
LARGEST = 999
# Shares of a hash's range that belong to each set; the rest is the base corpus.
SPLITS = {"test": (0.0, 0.1), "train": (0.1, 0.4), "corpus": (0.4, 1.0)}


@dataclass(frozen=True)
class Problem:
    """One problem: its text, the lines that solve it, and its answer."""

    text: str
    lines: tuple[str, ...]
    answer: int


def draw(rng: random.Random) -> Problem:
    """One problem of two to four steps whose numbers stay between 0 and 999."""
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    value = rng.randint(10, 99)
    sentences = [f"{name} has {value} {item}."]
    lines = []
    multiplied = False
    for _ in range(rng.randint(2, 4)):
        kind = rng.choice(("more", "more", "less", "less", "times"))
        if kind == "times" and not multiplied and value * 3 <= LARGEST:
            factor = rng.choice((2, 3))
            sentence, result, sign, number = TIMES[factor], value * factor, "*", factor
            multiplied = True
        elif kind == "less" and value > 10:
            number = rng.randint(2, min(99, value - 1))
            sentence, result, sign = rng.choice(LESS).format(n=number), value - number, "-"
        else:
            number = rng.randint(2, 99)
            sentence, result, sign = rng.choice(MORE).format(n=number), value + number, "+"
        sentences.append(f"{name} {sentence}.")
        lines.append(f"{value} {sign} {number} = {result}")
        value = result
    sentences.append(f"How many {item} does {name} have now?")
    return Problem(" ".join(sentences), tuple(lines), value)


def belongs(text: str, split: str) -> bool:
    """Whether a problem of this text is one of the split's, by its hash."""
    low, high = SPLITS[split]
    place = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
    return low <= place < high


def problems(split: str, seed: int) -> Iterator[Problem]:
    """Endless different problems of a split."""
    rng = random.Random(f"{split}/{seed}")
    seen = set()
    while True:
        problem = draw(rng)
        if problem.text not in seen and belongs(problem.text, split):
            seen.add(problem.text)
            yield problem


def main() -> None:
    """Writes the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=2000, help="problems to learn from")
    parser.add_argument("--test", type=int, default=500, help="held-out problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder of the two files")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for split, name, count in (("train", "train", arguments.train), ("test", "held-out", arguments.test)):
        with (arguments.output / f"{name}.jsonl").open("w") as file:
            for _, problem in zip(range(count), problems(split, arguments.seed), strict=False):
                file.write(json.dumps({"problem": problem.text, "answer": str(problem.answer)}) + "\n")


if __name__ == "__main__":
    main()
