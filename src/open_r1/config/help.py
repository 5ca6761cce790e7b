"""``--help``: every setting of a command by group, with its type, its default and its docstring."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, Field, fields
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Literal, get_args, get_origin

from open_r1.config.convert import show
from open_r1.config.settings import Settings, choices_of, members, names_of, type_hints

TYPE_NAMES = {bool: "", int: "N", float: "X", str: "TEXT", list: "A B …", dict: "{…}"}
LONGEST_USAGE = 24


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The string literal under each field of a class, its own fields only, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    docs = {}
    for statement, following in pairwise(body):
        described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and described:
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def groups(cls: type[Settings]) -> dict[str, list[tuple[Field, str]]]:
    """The settings of ``cls`` with their docs, under the title of the class that defines them; its own group first."""
    shown = {entry.name: entry for entry in fields(cls) if not entry.metadata.get("hidden")}
    found: dict[str, list[tuple[Field, str]]] = {}
    for owner in cls.__mro__:
        if not (isinstance(owner, type) and issubclass(owner, Settings)):
            continue
        # Popped, so that a setting whose default a class changes is listed there alone.
        own = [(shown.pop(name), doc) for name, doc in field_docs(owner).items() if name in shown]
        if own:
            found[inspect.cleandoc(owner.__doc__ or owner.__name__)] = own
    return found


def print_help(cls: type[Settings], prog: str) -> None:
    """Prints the help of a command to standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    word = names_of(cls).positional
    usage = word.upper() if word else "[--config FILE.yaml]"
    console.print(Text.assemble((prog, "bold"), f" {usage} [--setting VALUE …]"))
    console.print("Flags override the YAML file. --print_config shows the outcome and where each value comes from.")
    for title, entries in groups(cls).items():
        console.print()
        console.print(Text(title, style="bold cyan"))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=False)
        table.add_column(no_wrap=True, min_width=34)
        table.add_column(overflow="fold")
        for entry, doc in entries:
            usage = Text.assemble((f"  --{entry.name}", "green"), f" {_value_name(cls, entry)}")
            table.add_row(usage, Text(doc + _choices(cls, entry) + _default(cls, entry) + _aliases(entry)))
        console.print(table)


def _value_name(cls: type, entry: Field) -> str:
    parts = [part for part in members(type_hints(cls)[entry.name]) if part is not NoneType]
    names = []
    for part in parts:
        kind = get_origin(part) or part
        if kind is Literal:
            names.append("|".join(str(value) for value in get_args(part)))
        else:
            names.append(TYPE_NAMES.get(getattr(part, "__origin__", kind), "{…}"))
    short = "|".join(dict.fromkeys(name for name in names if name))
    return short if len(short) <= LONGEST_USAGE else "NAME"


def _choices(cls: type, entry: Field) -> str:
    return f" ({', '.join(choices_of(type_hints(cls)[entry.name]))})" if _value_name(cls, entry) == "NAME" else ""


def _default(cls: type, entry: Field) -> str:
    if entry.default is MISSING and entry.default_factory is MISSING:
        return " (required)"
    default = entry.default if entry.default_factory is MISSING else entry.default_factory()
    if default is True:
        return f" [true; --no_{entry.name} turns it off]"
    return "" if default is None or default is False or default == [] else f" [{show(default)}]"


def _aliases(entry: Field) -> str:
    aliases = entry.metadata.get("aliases", ())
    return f" (also {', '.join(f'--{name}' for name in aliases)})" if aliases else ""
