"""An entry of the catalogue as lines on a screen."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import TextIO

from open_r1.troubleshooting.entry import Entry, fill

PAGE = "docs/troubleshooting.md"
_MIDDLE = 64
"""A longer command does not move the remarks of the others."""

_RESUMES = "--resume_from_checkpoint"
_CHECKPOINTS = (_RESUMES, "--save_total_limit", "--save_strategy")
_WRITES_CHECKPOINTS, _GOES_ON = ("sft", "grpo"), ("evaluate", "generate", "run")

_WIDEST = 102
"""Columns of a command and its remark; eight more stand before them."""

_RED, _BOLD, _DIM, _PLAIN = "\033[1;31m", "\033[1m", "\033[2m", "\033[0m"
_LABEL = re.compile(r"^(error:|change:|see:)?( *)(.*)$", re.DOTALL)


def lines_of(entry: Entry, groups: Mapping[str, str], words: str, *, happened: str | None = None) -> list[str]:
    """``error: …``, ``change: …``, ``see: …``.

    Args:
        words: the command that was run, without ``open-r1``: ``sft --config recipe.yaml``.
        happened: said instead of the entry's own sentence.
    """
    gaps = {**groups, "words": words} if words else groups
    first = happened or fill(entry.happened, gaps)
    changes = aligned([fill(line, gaps) for line in _of_command(entry.change, words)])
    # Plans are of two commands alone.
    plans = words.startswith(("sft", "grpo"))
    see = [fill(line, gaps) for line in entry.see if plans or "{words}" not in line or not words]
    return [
        f"error: {first}",
        *_labelled("change:", changes),
        *_labelled("see:", [*see, f"{PAGE}#{entry.name}"]),
    ]


def _of_command(changes: Sequence[str], words: str) -> list[str]:
    """Without what concerns checkpoints, where the command that was run writes none."""
    command = words.partition(" ")[0]
    if command in ("", *_WRITES_CHECKPOINTS):
        return list(changes)
    kept = [line for line in changes if not line.startswith(_CHECKPOINTS)]
    if any(line.startswith(_RESUMES) for line in changes) and command in _GOES_ON and "--overwrite" not in words:
        kept.append("open-r1 {words}  # the same again goes on where this ended")
    return kept


def capital(text: str) -> str:
    """With a capital, unless it begins with a name that has its own way: vLLM, config.json, wandb."""
    first = text.split()[0]
    named = first.lower() != first or not first.replace("'", "").isalpha() or first.startswith("wandb")
    return text if named else text[:1].upper() + text[1:]


def aligned(commands: Sequence[str]) -> list[str]:
    """``command  # remark`` with the remarks in one column, as far as the lines then fit."""
    parts = [command.partition("  # ") for command in commands]
    widths = sorted({len(command) for command, _, remark in parts if remark and len(command) <= _MIDDLE}, reverse=True)

    def fits(column: int) -> bool:
        return all(
            column + len(mark) + len(remark) <= _WIDEST for command, mark, remark in parts if len(command) <= column
        )

    column = next(filter(fits, widths), 0)
    return [f"{command:<{column}}  # {remark}" if remark else command for command, _, remark in parts]


def words_of(argv: Sequence[str]) -> str:
    """A command line as one would type it, secrets left out."""
    from open_r1.troubleshooting.secrets import redact_words

    return shlex.join(redact_words(argv))


def say(lines: Sequence[str], stream: TextIO) -> None:
    """Writes lines to a terminal, its width and colours considered, or as they are to a file or a pipe."""
    terminal = _is_terminal(stream)
    styled = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for line in lines:
        for part in _wrapped(line, _width(stream)) if terminal else [line]:
            print(_styled(part) if styled else part, file=stream)
    stream.flush()


def _labelled(label: str, lines: Sequence[str]) -> list[str]:
    return [f"{label if number == 0 else '':<8}{line}" for number, line in enumerate(lines)]


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # it was closed
        return False


def _width(stream: TextIO) -> int:
    try:
        return max(40, os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError):
        return 80


def _wrapped(line: str, width: int) -> list[str]:
    """Sentences only: what is to be pasted stays one line."""
    if not line.startswith("error:"):
        return [line]
    return textwrap.wrap(
        line, width, subsequent_indent=" " * 7, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


def _styled(line: str) -> str:
    label, space, rest = _LABEL.match(line).groups()
    if label == "error:":
        return f"{_RED}{label}{_PLAIN}{space}{_BOLD}{rest}{_PLAIN}"
    command, mark, remark = rest.partition("  # ")
    return f"{_BOLD}{label or ''}{_PLAIN}{space}{command}{_DIM}{mark}{remark}{_PLAIN}"
