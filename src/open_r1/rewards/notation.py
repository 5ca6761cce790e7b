r"""Signs of formulas that math-verify does not read (``√2``, ``x²``, ``½``, ``∅``, ``\langle``), as LaTeX that it does.

Repeating decimals (``0.1\overline{6}``, ``0.\dot{3}``) become the fractions that they are. All of this is for boxed
answers; of prose only the minus sign is changed, as the rest is not read there either way.
"""

from __future__ import annotations

import re
import unicodedata

_HALVES = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"


def _frac(over: int | str, under: int | str) -> str:
    return rf"\frac{{{over}}}{{{under}}}"


_SIGNS = {"°": r"^\circ ", "∞": r"\infty ", "∅": r"\emptyset ", "·": r"\cdot ", **dict.fromkeys("€£¥₹")}
_TABLE = str.maketrans(_SIGNS | {sign: _frac(*unicodedata.normalize("NFKC", sign).split("\u2044")) for sign in _HALVES})
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_POWER = re.compile(f"[{''.join(_RAISED)}]+")
_ROOT = re.compile(r"√\s*(?:\{([^{}]*)\}|\(([^()]*)\)|([0-9.]+|[A-Za-z]))")
_LEADING_DASH = re.compile(r"(?<=[{(\[,=])(\s*)–(?=\s*[0-9.\\])")
_DEGREES = re.compile(r"(\^\s*\{?\s*\\circ\s*\}?)\s*[CF](?![A-Za-z])")
_BRACKET = re.compile(r"\\([lr])angle(?![A-Za-z])")
_EMPTY_SET = re.compile(r"\\varnothing(?![A-Za-z])")
_HALF_OF_DAY = re.compile(r"(?<=:[0-9]{2})\s?([ap])\.?\s?m\b\.?", re.IGNORECASE)
_TIE = re.compile(r"(?<!\\)~")
_WHOLE = r"(?<![0-9.])([0-9]{0,20})\.([0-9]{0,20})"
_REPEATING = re.compile(_WHOLE + r"\\(?:overline|bar)\s*(?:\{\s*([0-9]{1,20})\s*\}|([0-9]))(?![0-9])")
_DOTTED = re.compile(_WHOLE + r"\\dot\s*\{?([0-9])\}?(?:([0-9]{0,20})\\dot\s*\{?([0-9])\}?)?(?![0-9])")


def plain_minus(text: str) -> str:
    """``text`` with the minus sign of typography as a hyphen."""
    return text.replace("−", "-")


def as_latex(box: str) -> str:
    r"""A boxed answer with its signs in LaTeX, and its repeating decimals as fractions."""
    if not box.isascii():
        box = _ROOT.sub(lambda root: rf"\sqrt{{{next(filter(None, root.groups()), '')}}}", box)
        box = _POWER.sub(lambda power: f"^{{{''.join(map(_RAISED.get, power[0]))}}}", box)
        box = _LEADING_DASH.sub(r"\1-", box).translate(_TABLE)
    if ":" in box:
        box = _HALF_OF_DAY.sub(lambda half: rf"\text{{ {half[1].lower()}m}}", box)
    if "circ" in box:
        box = _DEGREES.sub(r"\1", box)
    if "angle" in box or "varnothing" in box:
        box = _EMPTY_SET.sub(r"\\emptyset", _BRACKET.sub(lambda side: "(" if side[1] == "l" else ")", box))
    if "." in box and "\\" in box:
        box = _REPEATING.sub(lambda found: _fraction(found[1], found[2], found[3] or found[4]), box)
        box = _DOTTED.sub(lambda found: _fraction(found[1], found[2], "".join(filter(None, found.groups()[2:]))), box)
    return box


def without_ties(box: str) -> str:
    r"""A boxed answer whose unbreakable spaces are plain ones: of ``12~\mathrm{cm}`` math-verify reads nothing."""
    return _TIE.sub(" ", box)


def _fraction(whole: str, before: str, repeated: str) -> str:
    """``whole.before`` and then ``repeated`` without end."""
    head = int(whole + before or "0")
    numerator = int(whole + before + repeated) - head
    return _frac(numerator, (10 ** len(repeated) - 1) * 10 ** len(before))
