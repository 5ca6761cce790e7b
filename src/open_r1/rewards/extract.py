r"""Where the answer stands in a text: one pass over the text, before anything slow looks at it.

The order is that of how explicit the writer was: what follows ``</think>``; in it the last ``<answer>…</answer>``; in
that the last ``\boxed{…}``; else GSM8K's ``#### 18``; else the end of the text. So a completion of a megabyte costs
math-verify no more than its answer does.
"""

from __future__ import annotations

import re

from open_r1.rewards.digit_groups import as_fractions, join_digit_groups, without_exponents
from open_r1.rewards.notation import as_latex, plain_minus, without_ties

MAX_ANSWER_CHARS = 4096
"""A longer answer is not read: no gold answer is near it, and parsing time grows faster than length."""

MAX_TAIL_CHARS = 2000
"""How much of the end of a text is searched when nothing in it marks the answer."""

MAX_BOXES_TRIED = 16

_BOX = re.compile(r"\\boxed\s*\{")
_BOLD_BOX = re.compile(r"\\boxed\{\\(?:mathbf|boldsymbol|bm)\s*\{")
_OPTION = re.compile(
    r"\\boxed\s*\{\s*(?:\\(?:text(?:bf)?|math(?:bf|rm)|mbox)\s*\{\s*)?(?:\(\s*)?([A-J])\s*\}?\s*[).]\s*\}?"
    r"(?:\\[ ,;:]|\\q?quad|[\s~:])*(?=[^\s}])"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN_BOXES = re.compile(
    r"(?:\$|\\\)|\\\])?\s*(?:,?\s*(?:and|or)|,?\s*\\text\{,?\s*(?:and|or)\s*\}|,)\s*(?:\$|\\\(|\\\[)?\s*"
)
_GSM8K = re.compile(r"####[ \t]*(\$?[-+]?[0-9][0-9.,/]*%?)[ \t]*$", re.MULTILINE)

_NAMED = re.compile(r"\\[A-Za-z]+|sqrt|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|exp|frac")
_TEXT_COMMAND = re.compile(r"\\(?:begin|end|text|mbox|mathrm|textbf|mathbf|operatorname)\s*\{[^{}]*\}")
_WORD = re.compile(r"[^\W\d_]{4,}")
_MATH_DELIMITER = re.compile(r"(?<!\\)\$|\\\(|\\\[")
_SINGLE_WORD = re.compile(r"[^\W\d_]+")


def find_answer(text: str) -> str | None:
    r"""Returns the part of a completion that states its final answer, in a form that math-verify reads.

    A text that opens ``<think>`` and never closes it was cut while still thinking: only a ``\boxed{…}`` counts there,
    not whatever number happens to stand last. None when the text states nothing. Numbers are in one piece
    (``12345`` for ``12\,345``, ``7/2`` for ``3 1/2``).
    """
    thought, closed, rest = text.rpartition("</think>")
    if closed:
        found = _from_section(rest) or last_boxes(thought)
    else:
        found = last_boxes(text) if "<think>" in text else _from_section(text)
    return found and _readable(found)


def find_gold(text: str) -> str | None:
    r"""Returns the part of a gold answer that states it.

    Gold may be bare LaTeX, a plain number, a text that ends in ``#### 18``, or a worked solution with ``\boxed{…}``.
    Numbers are in one piece (``12345`` for ``12\,345``, ``7/2`` for ``3 1/2``).
    """
    found = _marked(text) or _unmarked(text.strip())
    return found and _readable(found)


def last_boxes(text: str) -> str | None:
    r"""Returns the last ``\boxed{…}`` of ``text``; boxes joined by a comma, "and" or "or" count as one answer.

    Boxes that are empty, never closed, or longer than ``MAX_ANSWER_CHARS`` are passed over.
    """
    found: list[str] = []
    start = end = len(text)
    for _ in range(MAX_BOXES_TRIED):
        at = text.rfind(r"\boxed", 0, end)
        if at < 0:
            break
        content, stop = _box_content(text, at)
        if found and (content is None or not _BETWEEN_BOXES.fullmatch(text[stop:start][:64])):
            break
        if content is not None:
            found.append(content)
            start = at
        end = at
    return r"\boxed{" + ", ".join(reversed(found)) + "}" if found else None


def option(text: str) -> str | None:
    r"""The letter before the value in the last box, as in ``\boxed{\textbf{(C)}\ 5}`` or ``C) 5``; None for none."""
    found = _OPTION.match(last_boxes(text) or "")
    return found and found[1]


def _box_content(text: str, at: int) -> tuple[str | None, int]:
    r"""Returns the content of the ``\boxed{…}`` at ``at`` (None when empty or not closed) and where it ends."""
    opening = _BOX.match(text, at)
    end = None if opening is None else _closing_brace(text, opening.end())
    if end is None:
        return None, at
    return text[opening.end() : end].strip() or None, end + 1


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace that was opened before ``start`` closes; None where it does not, or too far away."""
    depth = 1
    for brace in _BRACE.finditer(text, start, start + MAX_ANSWER_CHARS):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def _from_section(section: str) -> str | None:
    _before, opened, after = section.rpartition("<answer>")
    if opened and "</answer>" in after:
        answer = after.partition("</answer>")[0].strip()
        if answer:
            return _marked(answer) or _unmarked(answer)
    return _marked(section) or section[-MAX_TAIL_CHARS:].strip() or None


def _marked(text: str) -> str | None:
    boxes = last_boxes(text)
    if boxes is not None:
        return boxes
    lines = _GSM8K.findall(text)
    return _boxed(lines[-1].rstrip(".,")) if lines else None


def _unmarked(text: str) -> str | None:
    """Boxes a bare formula, so that all of it is read; leaves prose as it is, in which math-verify finds the answer."""
    if not text or len(text) > MAX_ANSWER_CHARS:
        return text[-MAX_TAIL_CHARS:] or None
    return _boxed(text) if is_bare_math(text) else text


def is_bare_math(text: str) -> bool:
    r"""True for a formula or a word without delimiters (``\frac{1}{2}``, ``p - q``, ``Evelyn``), not for prose."""
    if _MATH_DELIMITER.search(text) or "\n\n" in text:
        return False
    if _SINGLE_WORD.fullmatch(text):
        return True
    return not _WORD.search(_NAMED.sub(" ", _TEXT_COMMAND.sub(" ", text)))


def _boxed(text: str) -> str:
    return r"\boxed{" + text + "}"


def _readable(found: str) -> str:
    found = plain_minus(found)
    if not found.startswith(r"\boxed"):  # in prose math-verify passes over signs and bold
        return join_digit_groups(as_fractions(without_exponents(found)))
    latex = as_latex(_OPTION.sub(r"\\boxed{", found, count=1))
    found = latex if len(latex) <= MAX_ANSWER_CHARS else found
    bold = _BOLD_BOX.match(found)
    if bold and _closing_brace(found, bold.end()) == len(found) - 2:
        found = _boxed(found[bold.end() : -2])
    return without_ties(join_digit_groups(as_fractions(without_exponents(found))))
