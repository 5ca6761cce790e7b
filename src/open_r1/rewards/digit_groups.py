r"""Numbers in several pieces: ``12\,345`` and ``10 000``, which math-verify reads as 1 + 234 or as a product, and
``3 1/2``, which it reads as (3 + 1)/2. Of ``16\frac{2}{3}\%`` it reads the fraction alone, of ``1e-05`` e - 5.

What it reads well, or has another meaning, stays: ``1\frac{3}{4}``, ``100,\ 200``, ``\log_2 128``. A plain space
joins too, since LaTeX does not show it and math-verify itself joins ``10 000`` in prose.
"""

from __future__ import annotations

import re
from decimal import Decimal

_THIN = r"[ ]*(?:(?:\\[,;:! ]|\{\\,\}|[~\u00a0\u2009\u202f])[ ]*)+"
_START = r"(?<![0-9._^])(?!(?<=[0-9],)[0-9]{3})"
"""Not within a number, nor the argument of ``\\log_2``; the 234 of ``1,234`` is no start, the 10 of ``(5,10`` is."""

_THIN_GROUPS = re.compile(
    _START + r"(?<![0-9][~\u00a0\u2009\u202f])(?<![0-9]\\[,;:! ])"
    rf"[1-9][0-9]{{0,2}}(?:{_THIN}[0-9]{{3}}){{1,9}}(?![0-9]|{_THIN}[0-9])"
)
_PLAIN_GROUPS = re.compile(
    _START + r"(?<![A-Za-z])(?<![0-9][ ])[1-9][0-9]{0,2}(?:[ ][0-9]{3}){1,9}(?![0-9]|[ ][0-9]|[ ]?[/^])"
)
_SPACED = re.compile(rf"[0-9](?:{_THIN}|[ ])[0-9]{{3}}")  # begins with a digit, so that it is found quickly
_NOT_DIGITS = re.compile(r"[^0-9]+")
_WHOLE = r"(?<![0-9A-Za-z.,/^_])(?<![0-9][ ])([0-9]{1,9})"
_MIXED = re.compile(
    _WHOLE + rf"(?:(?:\\?[ ])+|{_THIN}(?![0-9]{{3}}/))([0-9]{{1,9}})/([0-9]{{1,9}})(?!\.?[0-9]|[A-Za-z/^(])"
)
_MIXED_PERCENT = re.compile(
    rf"{_WHOLE}(?:{_THIN})?[ ]*\\[dt]?frac[ ]*(?=[0-9{{])\{{?([0-9]{{1,9}}?)\}}?[ ]*\{{?([0-9]{{1,9}})\}}?(?=[ ]*\\?%)"
)
_EXPONENT = re.compile(r"(?<![0-9A-Za-z.,_])[0-9]{1,40}(?:\.[0-9]{1,40})?[eE][-+]?[0-9]{1,2}(?![0-9A-Za-z_]|\.[0-9])")
_RAISED = re.compile(r"[0-9][eE][-+0-9]")  # begins with a digit, too


def join_digit_groups(text: str) -> str:
    r"""``text`` with its numbers in groups of three digits (``1\,234\,567``, ``1~234``, ``1 234``) in one piece."""
    if _SPACED.search(text) is None:
        return text
    for groups in (_THIN_GROUPS, _PLAIN_GROUPS):
        text = groups.sub(lambda match: _NOT_DIGITS.sub("", match[0]), text)
    return text


def as_fractions(text: str) -> str:
    r"""``text`` with its mixed numbers (``3 1/2``, ``16\frac{2}{3}\%``) as the fractions that they are.

    ``7/2`` in prose, ``\frac{7}{2}`` in a box, where ``7/2 \pi`` would be 7 divided by 2 and pi.
    """
    form = r"\frac{%d}{%d}" if text.startswith(r"\boxed") else "%d/%d"

    def fraction(mixed: re.Match[str]) -> str:
        whole, part, parts = map(int, mixed.groups())
        return form % (whole * parts + part, parts) if 0 < part < parts else mixed[0]

    if "frac" in text and "%" in text:
        text = _MIXED_PERCENT.sub(fraction, text)
    return _MIXED.sub(fraction, text) if "/" in text else text


def without_exponents(text: str) -> str:
    """``text`` with its numbers as Python prints very large and small ones (``1e-05``) in plain digits."""
    if _RAISED.search(text) is None:
        return text
    return _EXPONENT.sub(lambda number: format(Decimal(number[0]), "f"), text)
