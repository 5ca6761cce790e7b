r"""Mathematical answers judged against gold answers by math-verify, and the ``accuracy`` reward.

math-verify parses with ANTLR and compares with sympy, which take milliseconds for an ordinary answer and for ever for
``9^{9^{9^9}}``. Integers, most answers of most data sets, are compared without them. Its own time limits are signals of
whole seconds, one for each step, and refuse to work in threads, so they are switched off: :class:`RewardPool` kills a
process that takes too long, and outside a pool one alarm an answer does what a signal can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from math_verify import verify
from sympy import Eq, Expr, Integer

from open_r1.rewards.call import reads
from open_r1.rewards.expressions import read_expressions
from open_r1.rewards.extract import find_answer, find_gold
from open_r1.rewards.text import Completion, completion_texts
from open_r1.rewards.time_limit import OutOfTime, time_limit
from open_r1.rewards.worded import contradicts, states_quantities, wording

SECONDS_PER_ANSWER = 5.0

_TINY, _TINY_TOLERANCE = 1e-3, 1e-3
"""math-verify compares six decimal places: below the first, numbers have to be as close as the second, relatively."""

_INTEGER = re.compile(r"\\boxed\{\s*([-+]?)(?:\\?\$)?((?:[0-9]{1,30})|(?:[1-9][0-9]{0,2}(?:,[0-9]{3}){1,9}))\s*\}")


@dataclass(frozen=True)
class MathAnswer:
    """A stated answer: its text, its value where it is a plain integer, and else what math-verify parses it to."""

    text: str

    @cached_property
    def integer(self) -> int | None:
        """The value where it is a plain integer: ``"1,234"`` and ``"01234"`` in a box, "It is 1,234." in prose."""
        match = _INTEGER.fullmatch(self.text)
        if match is not None:
            return int(match[1] + match[2].replace(",", ""))
        first = self.expressions[0] if self.expressions else None
        return int(first) if isinstance(first, Integer) else None

    @cached_property
    def expressions(self) -> list[Any]:
        """What math-verify reads in the text: a sympy expression, then the text as a string; empty if nothing."""
        return read_expressions(self.text)

    @property
    def parsable(self) -> bool:
        """True where there is a value to compare with, not only a string that could not be read."""
        return self.integer is not None or any(not isinstance(part, str) for part in self.expressions)


@lru_cache(maxsize=16_384)
def parse_gold(gold: str) -> MathAnswer | None:
    r"""Returns the gold answer, or None where it cannot be parsed.

    Args:
        gold: bare LaTeX, a plain number, a text that ends in ``#### 18``, or a worked solution with ``\boxed{…}``.
    """
    text = find_gold(gold)
    if text is None:
        return None
    answer = MathAnswer(text)
    return answer if answer.parsable else None


def verify_answer(text: str, gold: object) -> float | None:
    """Judges the final answer of ``text``.

    Args:
        text: a whole completion; ``open_r1.rewards.extract`` says which part of it is the answer.
        gold: the gold answer, in any of the forms of :func:`parse_gold`; a number is taken as its text.

    Returns:
        1.0 where the answer equals gold, 0.0 where it does not or there is none, None where the gold answer cannot be
        parsed or the time limit of an answer ran out.
    """
    if gold is None or (isinstance(gold, float) and gold != gold):  # not a number: a missing one in a table
        return None
    try:
        with time_limit(SECONDS_PER_ANSWER):
            gold_answer = parse_gold(str(gold))
            return None if gold_answer is None else float(_equal(gold_answer, text))
    except OutOfTime:
        return None


@reads("solution")
def accuracy_reward(completions: Sequence[Completion], solution: Sequence[object], **kwargs: Any) -> list[float | None]:
    """1.0 where the answer equals the gold answer by math-verify, 0.0 where not, None where gold cannot be parsed.

    Args:
        completions: chat messages or strings, [N].
        solution: the gold answers, [N].
    """
    texts = completion_texts(completions)
    return [verify_answer(text, gold) for text, gold in zip(texts, solution, strict=True)]


def _equal(gold: MathAnswer, text: str) -> bool:
    found = find_answer(text)
    return found is not None and _same(gold, MathAnswer(found))


@lru_cache(maxsize=16_384)  # the answers to one prompt are often the same few
def _same(gold: MathAnswer, answer: MathAnswer) -> bool:
    words = wording(gold.text), wording(answer.text)
    if gold.text == answer.text or words[0] == words[1]:
        return True
    if contradicts(*words):
        return False
    if (quantities := states_quantities(gold.text, answer.text)) is not None:
        return quantities
    if gold.integer is not None and answer.integer is not None:
        return gold.integer == answer.integer
    # The order matters: verify() is not symmetric, gold goes first.
    return verify(gold.expressions, answer.expressions, timeout_seconds=None) and not _tiny_and_apart(gold, answer)


def _tiny_and_apart(gold: MathAnswer, answer: MathAnswer) -> bool:
    """Whether both are numbers that six decimal places do not tell apart (``10^{-19}``, ``10^{-34}``), and differ."""
    wanted, stated = _number(gold), _number(answer)
    if wanted is None or stated is None or "%" in gold.text + answer.text:  # a per cent sign may be left out
        return False
    if not (0 < abs(wanted) < _TINY and 0 < abs(stated) < _TINY):
        return False
    return bool(abs(stated - wanted) > _TINY_TOLERANCE * abs(wanted))


def _number(answer: MathAnswer) -> Expr | None:
    """The real number that an answer is, or sets something equal to."""
    read = answer.expressions[0] if answer.expressions else None
    read = read.rhs if isinstance(read, Eq) else read
    if not (isinstance(read, Expr) and read.is_number):
        return None
    value = read.evalf()
    return value if value.is_Float else None
