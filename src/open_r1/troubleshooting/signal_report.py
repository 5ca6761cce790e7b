"""What a person is told when a run was ended by a signal. Runs in the watcher's process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from open_r1.troubleshooting.entry import Entry
from open_r1.troubleshooting.matching import named, of_signal
from open_r1.troubleshooting.speaker import Rank
from open_r1.troubleshooting.trace_file import header, write_somewhere
from open_r1.troubleshooting.words import capital, lines_of, say

_MACHINE = "/proc/vmstat"


def tell_signal(
    facts: Sequence[str],
    name: str | None,
    stacks: str,
    kills: Sequence[str] | None,
    stream: TextIO | None = None,
) -> None:
    """Says which signal it was, what it means and what to change; then writes the stacks, if any, into a file.

    Args:
        facts: process, whether stacks went elsewhere, rank, ranks, launch, start, folder, command.
        name: of the signal; None where it is not known, and so is one that leaves no trace.
        stacks: what `faulthandler` wrote.
        kills: files in which the kernel counts those that it kills for memory and whose count grew during the run;
            None where it does not count.
        stream: standard error.
    """
    stream = stream or sys.stderr
    process, elsewhere, number, of, launch, started, folder, words = facts
    rank = Rank(int(number), int(of), launch, float(started))
    unnamed = name is None and elsewhere == "1"
    entry = of_signal("SIGKILL") if name is None else of_signal(name)
    who = f"the run (process {process}{f', rank {rank.number}' if rank.of > 1 else ''})"
    if unnamed:
        happened = f"{who} was ended by a signal: the one that “Fatal Python error” names above, else SIGKILL."
    elif name in (None, "SIGKILL"):
        how, entry = _killed(entry, kills)
        happened = f"{who} was killed (SIGKILL{'' if name else ', most likely'}): {how}"
    else:
        happened = f"{who} was ended by {name}. {capital(entry.happened) if entry else ''}".strip()
    if rank.turn(happened.replace(process, "").replace(f"rank {rank.number}", "")) != "first":
        say([f"rank {rank.number} was ended by {name or 'SIGKILL'}, after another process had failed"], stream)
    elif entry is None:
        say([f"error: {happened}"], stream)
    else:
        if _at_a_prompt(stream):
            print(file=stream)
        say(lines_of(entry, {}, words, happened=happened), stream)
    if stacks:
        place = Path(folder) if folder else None
        text = "\n".join([happened, "", *header(words, place, rank, int(process)), "", stacks])
        path = write_somewhere(text, f"signal-rank{rank.number}.txt", place)
        if path:
            say([f"where each thread was is in {path}"], stream)


def _killed(entry: Entry, kills: Sequence[str] | None) -> tuple[str, Entry]:
    """By whom, as far as the kernel's counts tell."""
    if kills is None:
        return entry.happened, entry
    if not kills:
        outside = named("killed-from-outside")
        return outside.happened, outside
    of_group = any(name != _MACHINE for name in kills)
    whose = "the container (its control group)" if of_group else "the machine"
    return f"the kernel's out-of-memory killer ended it, because the memory of {whose} was used up.", entry


def _at_a_prompt(stream: TextIO) -> bool:
    """The shell has written its prompt by now."""
    return stream.isatty()
