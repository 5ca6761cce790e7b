"""Looks up a log, an entry, or writes the page of all entries.

python -m open_r1.troubleshooting < train.log
python -m open_r1.troubleshooting nccl-timeout
python -m open_r1.troubleshooting --write docs/troubleshooting.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from open_r1.files import write_text
from open_r1.troubleshooting.catalogue import GROUPS
from open_r1.troubleshooting.matching import Match, find, named
from open_r1.troubleshooting.page import PLACEHOLDER, page
from open_r1.troubleshooting.words import lines_of, say


def main(argv: Sequence[str]) -> int:
    """Returns 0; 1 where nothing is found, 2 for words that mean nothing here."""
    if len(argv) == 2 and argv[0] == "--write":
        write_text(Path(argv[1]), page())
        return 0
    if len(argv) > 1 or (argv and argv[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    if not argv and sys.stdin.isatty():
        for group in GROUPS:
            say([group.title, *(f"  {entry.name:<22}{entry.title}" for entry in group.entries)], sys.stdout)
        return 0
    entry = named(argv[0]) if argv else None
    match = Match(entry) if entry else find(argv[0] if argv else sys.stdin.buffer.read().decode(errors="replace"))
    if match is None:
        print("nothing in the catalogue fits this", file=sys.stderr)
        return 1
    say(lines_of(match.entry, match.groups, PLACEHOLDER), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
