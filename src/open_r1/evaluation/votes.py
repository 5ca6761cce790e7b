r"""The answer that a completion states, as text in which equal answers are mostly equal, for majority vote.

It is text work alone, in linear time and without a parser: votes are counted over every sample, whatever a model wrote.
Two forms of one value that no spelling rule joins (``1/2`` and ``0.5``) stay two candidates.
"""

from __future__ import annotations

import re

from open_r1.rewards.extract import find_answer, is_bare_math

MAX_VOTE_CHARS = 300
"""A longer statement is no answer that two samples could share."""

_BOXED = re.compile(r"\\boxed\{(.*)\}", re.DOTALL)
_SAME_COMMAND = re.compile(r"\\[dt](?=frac|binom)")
_SIZES = re.compile(r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|displaystyle)(?![A-Za-z])\.?")
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\s+")
_BARE_FRACTION = re.compile(r"\\frac([0-9a-z])([0-9a-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|mathbf|operatorname)\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\{?\\circ\}?")
_ASSIGNED = re.compile(r"[A-Za-z]\w?=(?=.)")
_FORMULA = re.compile(r"(?<!\\)\$([^$\n]{1,300})(?<!\\)\$")
_NUMBER_IN_PROSE = re.compile(r"(?<![\w.])-?[0-9][0-9,]*(?:\.[0-9]+)?(?!\w)")
_INTEGER = re.compile(r"([-+]?)([0-9]{1,40}|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.0*)?")
_DECIMAL = re.compile(r"([-+]?)([0-9]{0,40}|[1-9][0-9]{0,2}(?:,[0-9]{3})+)\.([0-9]{1,40})")


def stated_answer(completion: str) -> str | None:
    r"""The final answer of a mathematical completion in a canonical spelling; None where it states none.

    It is what the box holds; in prose without a box the last formula between dollar signs, or else the last number.

    ``\boxed{1,234}``, ``$1234$`` and ``\boxed{ 1234.0 }`` are ``1234``; ``\dfrac{1}{2}`` is ``\frac{1}{2}``; spaces,
    ``\left`` and ``\right``, dollar signs, a degree sign, a per cent sign and a full stop at the end do not count.
    """
    found = find_answer(completion)
    if found is None:
        return None
    boxed = _BOXED.fullmatch(found)
    if boxed is not None:
        return canonical(boxed[1])
    if is_bare_math(found) and len(found) <= MAX_VOTE_CHARS:
        return canonical(found)
    formulas = _FORMULA.findall(found) or _NUMBER_IN_PROSE.findall(found)
    return canonical(formulas[-1]) if formulas else None


def canonical(answer: str) -> str | None:
    """The canonical spelling of one answer; None where it is empty or too long to be one."""
    if len(answer) > MAX_VOTE_CHARS:
        return None
    text = _TEXT.sub(r"\1", answer)
    text = _SIZES.sub("", _SAME_COMMAND.sub(r"\\", text))
    text = _SPACES.sub("", text).replace(r"\$", "").replace("$", "").replace("−", "-").replace("{,}", ",")
    text = _DEGREES.sub("", text).rstrip(".")
    text = text.removesuffix(r"\%").removesuffix("%")
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", _ASSIGNED.sub("", text, count=1) if _assigns(text) else text)
    return _number(text) or text or None


def _assigns(text: str) -> bool:
    return text.count("=") == 1 and _ASSIGNED.match(text) is not None


def _number(text: str) -> str | None:
    """Plain digits of an integer, the shortest form of a decimal fraction; None for anything else."""
    if whole := _INTEGER.fullmatch(text):
        sign, digits, fraction = whole[1], whole[2].replace(",", "").lstrip("0") or "0", ""
    elif decimal := _DECIMAL.fullmatch(text):
        sign, digits, fraction = (
            decimal[1],
            decimal[2].replace(",", "").lstrip("0") or "0",
            "." + decimal[3].rstrip("0"),
        )
    else:
        return None
    return ("-" if sign == "-" and digits + fraction != "0" else "") + digits + fraction.removesuffix(".")
