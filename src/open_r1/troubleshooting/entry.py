"""What the catalogue is made of."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_PIECE = re.compile(r"\[\[(.*?)\]\]")
_GAP = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Entry:
    """Something that goes wrong, how it is recognised, and what to do.

    In ``happened``, ``{name}`` stands for a named group of a pattern, and ``[[…]]`` is left out where one of the groups
    in it was not found. In ``change`` and ``see``, ``{words}`` stands for the command that was run and its settings.

    Attributes:
        name: the anchor of the entry's page; it stays what it is.
        title: a few words for a list.
        says: what libraries print, word for word, as people paste it into a search engine.
        patterns: regular expressions, any of which recognises it in ``module.Type: message`` of the exceptions, or in
            what was pasted.
        happened: one or two sentences.
        change: settings and commands to choose from, the best first, each followed by ``# why`` where that helps.
        see: commands and pages that say more.
        details: further regular expressions, which recognise nothing: their groups are looked for.
        where: a regular expression for the files and functions of the trace, which must match too.
        signals: names of signals that a process which is ended by one of them has this entry for.
    """

    name: str
    title: str
    says: tuple[str, ...]
    patterns: tuple[str, ...]
    happened: str
    change: tuple[str, ...]
    see: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    where: str = ""
    signals: tuple[str, ...] = ()

    def recognise(self, text: str, frames: str) -> dict[str, str] | None:
        """The groups that were found; None where this entry is about something else.

        Args:
            text: messages of exceptions, a line or more each.
            frames: ``file:function`` of the trace, a line each.
        """
        if self.where and not re.search(self.where, frames):
            return None
        patterns = (*self.patterns, *(pattern for name in self.signals for pattern in signal_patterns(name)))
        found = _matches(patterns, text)
        if not found:
            return None
        found += _matches(self.details, text)
        groups: dict[str, str] = {}
        for match in reversed(found):
            groups |= {name: value for name, value in match.groupdict().items() if value}
        return groups


def _matches(patterns: Iterable[str], text: str) -> list[re.Match[str]]:
    return [match for pattern in patterns if (match := re.search(pattern, text, re.MULTILINE))]


@dataclass(frozen=True)
class Solved:
    """Something that hurts elsewhere, and that is taken care of here.

    Attributes:
        elsewhere: what one would see.
        here: what happens instead.
        see: commands and pages that say more.
    """

    name: str
    title: str
    elsewhere: str
    here: str
    see: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """A chapter of the catalogue."""

    title: str
    entries: tuple[Entry, ...]


def fill(text: str, groups: Mapping[str, str]) -> str:
    """``text`` with its gaps filled; ``[[…]]`` with a gap that cannot be is left out."""

    def piece(match: re.Match[str]) -> str:
        return match[1] if all(name in groups for name in _GAP.findall(match[1])) else ""

    return _GAP.sub(lambda gap: groups.get(gap[1], "…"), _PIECE.sub(piece, text))


def signal_patterns(name: str) -> tuple[str, ...]:
    """How launchers, libraries and shells say that a process was ended by the signal ``name``."""
    number = int(getattr(signal, name, 0))
    words = re.escape((signal.strsignal(number) or name).partition(":")[0])  # macOS says "Killed: 9"
    return (
        rf"\b[Ss]ignal {number} \({name}\)",
        rf"\bSignals\.{name}\b",
        rf"\b[Ee]xit(?:ed with)? ?(?:[Cc]ode|status) *[:=]? *(?:-{number}|{128 + number})\b",
        rf"\bExited \({128 + number}\)",  # as docker ps has it
        rf"\b(?:ended|killed|terminated|died) (?:by|with) (?:signal )?{name}\b",
        rf"\bkilled by signal: {words}",
        rf"\b{words} \(core dumped\)",
        rf"^\S+: line \d+: +\d+ {words}\b",  # of a script
        rf"^\[\d+\][+-]? +(?:\d+ +)?{words}\b",  # of a job of a shell
    )
