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
from math_verify.grader import get_pct_val
from sympy import And, Eq, Expr, FiniteSet, Integer, Intersection, Union
from sympy.core.relational import Relational

from open_r1.rewards.call import reads
from open_r1.rewards.choice import choice_letter
from open_r1.rewards.expressions import read_expressions
from open_r1.rewards.extract import find_answer, find_gold, option
from open_r1.rewards.text import Completion, completion_texts
from open_r1.rewards.time_limit import OutOfTime, time_limit
from open_r1.rewards.worded import contradicts, same_words, states_quantities, wording

SECONDS_PER_ANSWER = 5.0

_TINY, _TINY_TOLERANCE = 1e-3, 1e-3
"""math-verify compares six decimal places: below the first, numbers have to be as close as the second, relatively."""

_WORD = re.compile(r"\\boxed\{[A-Za-z]+\}")
_JOINED = re.compile(r"\b(?:or|and)\b")
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
        """True where there is a value or a word to compare with, not only a string that could not be read."""
        if self.integer is not None or _WORD.fullmatch(self.text):
            return True
        return any(not isinstance(part, str) for part in self.expressions)


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
            return None if gold_answer is None else float(_equal(gold_answer, text, _gold_letter(str(gold))))
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


@lru_cache(maxsize=16_384)
def _gold_letter(gold: str) -> str | None:
    r"""The letter of a gold answer of multiple choice, ``C`` or ``\textbf{(C)}\ 5``; None where it is none."""
    found = find_gold(gold) or ""
    words = wording(found).strip("()")
    if re.fullmatch("[A-J]", words):
        return words
    bare = found.startswith(r"\boxed") and r"\boxed" not in gold
    return option(rf"\boxed{{{gold}}}" if bare else gold)


def _equal(gold: MathAnswer, text: str, letter: str | None) -> bool:
    found = find_answer(text)
    stated = None if letter is None else option(text.rpartition("</think>")[2])
    if stated is not None and stated != letter:
        return False
    if found is not None and _same(gold, MathAnswer(found)):
        return True
    return letter is not None and choice_letter(text) == letter


@lru_cache(maxsize=16_384)  # the answers to one prompt are often the same few
def _same(gold: MathAnswer, answer: MathAnswer) -> bool:
    words = wording(gold.text), wording(answer.text)
    if gold.text == answer.text or same_words(*words):
        return True
    if contradicts(*words):
        return False
    if (quantities := states_quantities(gold.text, answer.text)) is not None:
        return quantities
    if gold.integer is not None and answer.integer is not None:
        return gold.integer == answer.integer
    # The order matters: verify() is not symmetric, gold goes first.
    if verify(_regions(gold), _regions(answer), timeout_seconds=None):
        return not _tiny_and_apart(gold, answer)
    return _equal_without_percent(gold, answer)


def _equal_without_percent(gold: MathAnswer, answer: MathAnswer) -> bool:
    """Whether a per cent sign that one of them leaves out is all the difference; of whole numbers it is none anyway.

    A gold answer below 1 without the sign is a share, and 0.5 % is another number.
    """
    if ("%" in gold.text) == ("%" in answer.text) or not (gold.expressions and answer.expressions):
        return False
    wanted, stated = (get_pct_val(read.expressions[0], read.expressions[0]) for read in (gold, answer))
    if isinstance(wanted, str) or ("%" in answer.text and (_number(gold) or 0) < 1):
        return False
    return verify([wanted], [stated], timeout_seconds=None)


def _regions(answer: MathAnswer) -> list[Any]:
    """What math-verify reads, with bounds that are joined by words as the set of numbers that they describe."""
    read = answer.expressions
    parts = read[0].args if read and isinstance(read[0], FiniteSet) else ()
    words = set(_JOINED.findall(answer.text))
    if len(parts) < 2 or len(words) != 1 or not all(map(_is_bound, parts)):
        return read
    if len({symbol for part in parts for symbol in part.free_symbols}) != 1:
        return read
    return [(Union if words == {"or"} else Intersection)(*(part.as_set() for part in parts)), *read[1:]]


def _is_bound(part: Any) -> bool:
    """True for ``x < 2`` and ``1 < x < 2``, whose sets are found at once."""
    if isinstance(part, And):
        return all(map(_is_bound, part.args))
    if not isinstance(part, Relational) or isinstance(part, Eq):
        return False
    return {part.lhs.is_Symbol, part.rhs.is_Symbol} == {True, False} and (part.lhs.is_number or part.rhs.is_number)


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
