r"""Thousands that a space sets apart, ``12\,345`` and ``10 000``, which math-verify reads as 1 + 234 or as a product.

What has another meaning stays: ``1\frac{3}{4}``, ``100,\ 200``, ``\log_2 128``, ``1 125/1000``. A plain space joins
too, since LaTeX does not show it and math-verify itself joins ``10 000`` in prose.
"""

from __future__ import annotations

import re

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


def join_digit_groups(text: str) -> str:
    r"""``text`` with its numbers in groups of three digits (``1\,234\,567``, ``1~234``, ``1 234``) in one piece."""
    if _SPACED.search(text) is None:
        return text
    for groups in (_THIN_GROUPS, _PLAIN_GROUPS):
        text = groups.sub(lambda match: _NOT_DIGITS.sub("", match[0]), text)
    return text
