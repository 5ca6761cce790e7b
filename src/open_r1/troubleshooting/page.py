"""The catalogue as a page of Markdown, and an entry as a text."""

from __future__ import annotations

from collections.abc import Iterator

from open_r1.troubleshooting.catalogue import GROUPS
from open_r1.troubleshooting.catalogue.solved import SOLVED
from open_r1.troubleshooting.entry import Entry, fill
from open_r1.troubleshooting.words import aligned, capital

PLACEHOLDER = "sft …"
"""Stands for the command that was run, where none was."""

_HEAD = """# What went wrong, and what to change

Search this page for the message on your screen. A run that fails says the same by itself: `error:`, `change:`, `see:`
are its first lines, and the whole trace goes into `error-rank0.txt` in the run's folder (`$TMPDIR` where there is
none), with versions and the command; keys and tokens are left out. A run that is ended by a signal can say nothing any
more: a small process beside it does (`OPEN_R1_WATCHER=0` switches it off).

What somebody else's log says is looked up by

```bash
python -m open_r1.troubleshooting < train.log
```

In the blocks of what to change, lines that begin with `--` are settings of the command that failed, to choose from; the
best come first.

This page is made from `src/open_r1/troubleshooting/catalogue`, by
`python -m open_r1.troubleshooting --write docs/troubleshooting.md`.
"""

_SOLVED_HEAD = """## What does not happen here

What hurts with other tools, and what is done about it.
"""


def page() -> str:
    """docs/troubleshooting.md."""
    return "\n".join(_parts()).rstrip("\n") + "\n"


def _parts() -> Iterator[str]:
    yield _HEAD
    for group in GROUPS:
        links = ", ".join(f"[{entry.title}](#{entry.name})" for entry in group.entries)
        yield f"- **{group.title}**: {links}"
    for group in GROUPS:
        yield f"\n## {group.title}\n"
        for entry in group.entries:
            yield _section(entry)
    yield f"\n{_SOLVED_HEAD}"
    for solved in SOLVED:
        see = ", ".join(_reference(text) for text in solved.see)
        yield f'### <a id="{solved.name}"></a>{capital(solved.title)}\n'
        yield f"Elsewhere: {solved.elsewhere}\n\nHere: {solved.here}{f' ({see})' if see else ''}\n"


def _section(entry: Entry) -> str:
    gaps = {"words": PLACEHOLDER}
    lines = [f'### <a id="{entry.name}"></a>{capital(entry.title)}', ""]
    if entry.says:
        lines += ["```text", "\n\n".join(entry.says), "```", ""]
    lines += [capital(fill(entry.happened, gaps)), ""]
    lines += ["```sh", *aligned([fill(line, gaps) for line in entry.change]), "```", ""]
    if entry.see:
        lines += [f"See {', '.join(_reference(fill(text, gaps)) for text in entry.see)}.", ""]
    return "\n".join(lines)


def _reference(text: str) -> str:
    if text.startswith("docs/"):
        name = text.removeprefix("docs/")
        return f"[{name}]({name})"
    return text if text.startswith("[") else f"`{text}`"
