"""The program in a completion: the last fenced block of its language."""

from __future__ import annotations

import re

_SAME = (
    {"python", "python3", "python 3", "py", "pypy", "pypy3", "pypy 3"},
    {"cpp", "c++", "cc", "cxx", "c++11", "c++14", "c++17"},
    {"javascript", "js"},
    {"bash", "sh", "shell"},
)
_KNOWN_AS = ("python", "cpp", "javascript", "bash")


def find_code(text: str, language: str) -> str:
    """Returns the content of the last closed fenced block of ``language``; "" where there is none.

    A block opens with three backticks and the language (or another name of it: py, c++) at the end of a line, and
    closes with the next three backticks.
    """
    openings = [match.end() for match in _opening(language).finditer(text)]
    for start in reversed(openings):
        end = text.find("```", start)
        if end >= 0:
            return text[start:end]
    return ""


def language_names(language: str) -> set[str]:
    """All names of a language that is known by several, in lower case."""
    name = language.strip().lower()
    return next((names for names in _SAME if name in names), {name})


def sandbox_language(language: str) -> str:
    """The name under which sandboxes know a language (``cpp`` for ``c++17``); its own where it has no other."""
    names = language_names(language)
    return next((known for known in _KNOWN_AS if known in names), language)


def _opening(language: str) -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(language_names(language), key=len, reverse=True)))
    return re.compile(rf"```(?:{names})[ \t]*\r?\n", re.IGNORECASE)
