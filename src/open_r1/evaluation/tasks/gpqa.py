"""GPQA-Diamond (Rein et al. 2023, arXiv 2311.12022): 198 questions of physics, chemistry and biology, four choices."""

from __future__ import annotations

import hashlib
import random

from open_r1.evaluation.fields import optional_text, text
from open_r1.evaluation.prompts import LETTERS, Messages, choice_prompt
from open_r1.evaluation.task import Row, Task
from open_r1.rewards.choice import choice_letter
from open_r1.rewards.spec import RewardSpec

WRONG = ("wrong_1", "wrong_2", "wrong_3")


def choices(row: Row) -> tuple[list[str], str]:
    """The four choices in the order in which they are asked, and the letter of the right one.

    The order is drawn by a seed made of the question and its choices, so it is the same in every run and every copy.
    """
    drawn = [_choice(row, name) for name in ("correct_answer", *WRONG)]
    seed = hashlib.sha256("\n".join([text(row, "question").strip(), *drawn]).encode()).digest()
    order = random.Random(int.from_bytes(seed[:8], "big")).sample(range(len(drawn)), len(drawn))
    return [drawn[place] for place in order], LETTERS[order.index(0)]


def _choice(row: Row, name: str) -> str:
    """A choice as text; of a file in which all of them are numbers, the number."""
    value = row[name]
    return str(value) if isinstance(value, int | float) else text(row, name).strip()


def prompt(row: Row) -> Messages:
    """The published preamble, the question, the choices."""
    return choice_prompt(text(row, "question").strip(), choices(row)[0])


TASK = Task(
    name="gpqa:diamond",
    description="198 questions of natural science, four choices",
    prompt=prompt,
    gold=lambda row: choices(row)[1],
    needs=(
        ("question", "problem"),
        ("correct_answer", "correct_choice", "answer"),
        *((name, f"incorrect_answer_{place}") for place, name in enumerate(WRONG, start=1)),
    ),
    may_have=(("domain", "high-level domain", "subdomain", "subject"),),
    subject=lambda row: optional_text(row, "domain"),
    solution=lambda row: f"Answer: {choices(row)[1]}",
    extract=choice_letter,
    source="Idavidrein/gpqa gpqa_diamond (gated: set HF_TOKEN)",
    hub_id="Idavidrein/gpqa",
    hub_config="gpqa_diamond",
    split="train",
    num_samples=8,
    reward=RewardSpec("choice", "open_r1.rewards.choice:choice_reward", scope="answer"),
)
