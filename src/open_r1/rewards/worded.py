"""What math-verify does not read of an answer: words (``March 5``, ``1 hour 30 minutes``), halves of a day, bases."""

from __future__ import annotations

import re

_MAX_NESTED = 4
_TEXT = re.compile(r"\\(?:boxed|mbox|emph|text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|it|rm|sf|tt))\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?:\\[,;:! ]|~|\s)+")
_QUANTITY = r"(?<![0-9])([0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?)\s*([^\W\d_])[^\W\d_]*"
_QUANTITIES = re.compile(rf"{_QUANTITY}(?:,?\s+(?:and\s+)?{_QUANTITY})+")
_ONE_QUANTITY = re.compile(_QUANTITY)
_TIME = re.compile(r"(?<=[0-9])\s?([ap])\.?\s?m\b\.?", re.IGNORECASE)
_HALF_OF_DAY = re.compile(r"[0-9]\s*([ap])\.?\s?m\b")
_BASE = re.compile(r"[0-9a-f]_\{?\s*([0-9]+)\s*\}?$")


def wording(text: str) -> str:
    r"""The words of an answer: without ``\boxed``, ``\text`` and the like, dollar signs and a full stop at the end.

    Times of day are in one form: ``2:30 pm`` of ``2:30 P.M.``
    """
    words = text.removeprefix(r"\boxed{").removesuffix("}") if text.startswith(r"\boxed{") else text
    for _ in range(_MAX_NESTED):
        words = _TEXT.sub(r"\1", words)
    words = words.replace(r"\$", "").replace("$", "").replace(r"\%", "%")
    return _TIME.sub(lambda half: f" {half[1].lower()}m", _SPACE.sub(" ", words)).strip(" *").rstrip(".")


def same_words(first: str, second: str) -> bool:
    """Whether two wordings are the same, in words whatever their case."""
    if first == second:
        return True
    return first.casefold() == second.casefold() and first.replace(" ", "").isalpha()


def contradicts(gold: str, answer: str) -> bool:
    """Whether two wordings differ in what math-verify passes over, said last: a.m. or p.m., the base of a number."""
    for pattern in (_HALF_OF_DAY, _BASE):
        wanted = pattern.findall(gold.lower())  # first, as an answer is longer
        stated = pattern.findall(answer.lower()) if wanted else []
        if stated and stated[-1] != wanted[-1]:
            return True
    return False


def states_quantities(gold: str, answer: str) -> bool | None:
    """Whether ``answer`` states the quantities of a gold answer in prose that is nothing but several of them.

    ``1 hour 30 minutes`` is not 30. Units are held against each other by their first letter: ``1 hr 30 min`` is equal.
    A box holds the quantities alone; a sentence ends in them. None where gold is anything else.
    """
    if gold.startswith(r"\boxed{") or _QUANTITIES.fullmatch(wording(gold)) is None:
        return None
    wanted, stated = _quantities(gold), _quantities(answer)
    return wanted == (stated if answer.startswith(r"\boxed{") else stated[-len(wanted) :])


def _quantities(text: str) -> list[tuple[str, str]]:
    found = _ONE_QUANTITY.findall(wording(text))
    return [(number.replace(",", ""), unit.lower()) for number, unit in found]
