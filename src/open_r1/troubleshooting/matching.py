"""From a failure to its entry in the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field

from open_r1.troubleshooting.catalogue import ENTRIES
from open_r1.troubleshooting.entry import Entry
from open_r1.troubleshooting.evidence import evidence_of


@dataclass(frozen=True)
class Match:
    """An entry and what was found in the messages.

    Attributes:
        groups: by name, for the gaps in the entry's sentences.
    """

    entry: Entry
    groups: dict[str, str] = field(default_factory=dict)


def explain(failure: BaseException | str) -> Entry | None:
    """The entry that a failure belongs to: an exception, or text from a screen or a log."""
    found = find(failure)
    return found.entry if found else None


def find(failure: BaseException | str) -> Match | None:
    """As `explain`, with what was found in the messages. Entries come in order: the special before the general."""
    seen = evidence_of(failure)
    for entry in ENTRIES:
        groups = entry.recognise(seen.text, seen.frames)
        if groups is not None:
            return Match(entry, groups)
    return None


def of_signal(name: str) -> Entry | None:
    """The entry of a process that was ended by the signal ``name``, such as ``SIGFPE``."""
    return next((entry for entry in ENTRIES if name in entry.signals), None)


def named(name: str) -> Entry | None:
    """The entry with this name."""
    return next((entry for entry in ENTRIES if entry.name == name), None)
