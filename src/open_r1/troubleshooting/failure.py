"""What a person is told when a command ends by an exception."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from open_r1.troubleshooting.matching import find
from open_r1.troubleshooting.speaker import Rank
from open_r1.troubleshooting.trace_file import write_trace
from open_r1.troubleshooting.words import lines_of, say, words_of

DEFECT = (
    "error: this is a defect of open-r1 or of a library: nothing in docs/troubleshooting.md fits it. When you report "
    "it, add the file with the trace; keys and tokens are left out of it."
)


@dataclass
class Situation:
    """What is running, for whoever has to tell of its end.

    Attributes:
        argv: the words after ``open-r1``.
        folder: of the run, for files; None, or one that cannot be written, takes ``$TMPDIR``.
    """

    argv: Sequence[str]
    folder: Path | None = None
    rank: Rank = field(default_factory=Rank)

    def tell_defect(self, error: BaseException, stream: TextIO | None = None) -> None:
        """Says what happened and what to change, and puts the whole trace into a file.

        What the catalogue does not know keeps its trace on the screen too. Of several ranks the first that fails says
        all of it, the others a line.

        Args:
            stream: standard error.
        """
        stream = stream or sys.stderr
        match = find(error)
        words = words_of(self.argv)
        lines = lines_of(match.entry, match.groups, words) if match else [DEFECT]
        path = write_trace(error, lines, words=words, folder=self.folder, rank=self.rank)
        if self.rank.turn(lines[0]) != "first":
            what = match.entry.title if match else type(error).__name__
            say([f"rank {self.rank.number} has failed too ({what}); its trace is in {path}"], stream)
            return
        if match is None or path is None:
            traceback.print_exception(error, file=stream)
        say([*lines, f"the whole trace is in {path}" if path else "the whole trace is above"], stream)

    def tell_user_error(self, error: Exception, stream: TextIO | None = None) -> None:
        """Says a message that was written for the person, and what the catalogue knows of its cause.

        Of several ranks that have the same to say one says it.
        """
        stream = stream or sys.stderr
        turn = self.rank.turn(str(error))
        if turn == "same":
            return
        match = find(error.__cause__) if error.__cause__ is not None else None
        lines = lines_of(match.entry, match.groups, words_of(self.argv))[1:] if match and turn == "first" else []
        say([f"error: {error}" if turn == "first" else f"rank {self.rank.number}: {error}", *lines], stream)
