"""What every configuration class shares: number ranges, aliases, choices, and keys that are accepted without effect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from open_r1.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers a setting may take, from ``low`` to ``high``; an open end is not itself among them."""

    low: float
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"{'greater than' if self.open_low else 'at least'} {self.low:g}"
        if self.high == float("inf"):
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
ShareBelowOne = Annotated[float, Range(0, 1, open_high=True)]
PositiveShare = Annotated[float, Range(0, 1, open_low=True)]
Steps = PositiveInt | Annotated[float, Range(0, 1, open_low=True, open_high=True)]
"""An interval in steps, or a share of all steps below 1."""


def alias(*names: str) -> dict[str, Any]:
    """Field metadata: other names under which the setting is accepted."""
    return {"aliases": names}


def positional(*names: str) -> dict[str, Any]:
    """Field metadata: the setting is also the first word of the command line that belongs to no flag."""
    return {"aliases": names, "positional": True}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` abbreviates ("lr") or is spelt most like, or None where nothing is close."""
    known = list(known)
    abbreviated = [entry for entry in known if name == "".join(word[:1] for word in entry.split("_"))]
    if abbreviated:
        return max(abbreviated, key=len)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean x?"``, or nothing."""
    close = nearest(name, known)
    return f"; did you mean {close}?" if close else ""


@dataclass(frozen=True)
class Names:
    """The keys that a configuration class knows.

    Attributes:
        settings: names of the settings, those of the class itself first, then those of its bases in order.
        canonical: every accepted key of a setting, aliases included, to the name of the setting.
        required: names of the settings without a default.
        positional: the setting that a word without a flag belongs to, or None.
    """

    settings: tuple[str, ...]
    canonical: Mapping[str, str]
    required: tuple[str, ...]
    positional: str | None


@cache
def names_of(cls: type[Settings]) -> Names:
    """The keys of a configuration class."""
    by_name = {entry.name: entry for entry in fields(cls) if not entry.metadata.get("hidden")}
    order = dict.fromkeys(name for owner in cls.__mro__ for name in vars(owner).get("__annotations__", ()))
    shown = [by_name[name] for name in order if name in by_name]
    canonical = {key: entry.name for entry in shown for key in (entry.name, *entry.metadata.get("aliases", ()))}
    required = tuple(entry.name for entry in shown if entry.default is MISSING and entry.default_factory is MISSING)
    positionals = [entry.name for entry in shown if entry.metadata.get("positional")]
    return Names(
        settings=tuple(entry.name for entry in shown),
        canonical=MappingProxyType(canonical),
        required=required,
        positional=positionals[0] if positionals else None,
    )


@cache
def type_hints(cls: type) -> Mapping[str, Any]:
    """The annotations of a configuration class, resolved, with their ranges."""
    return MappingProxyType(get_type_hints(cls, include_extras=True))


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union in order; a type that is no union is its own only member."""
    if get_origin(hint) is Annotated or get_origin(hint) is Literal or isinstance(hint, type):
        return (hint,)
    if get_origin(hint) in (list, dict):
        return (hint,)
    return tuple(part for arg in get_args(hint) for part in members(arg)) or (hint,)


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The values of every ``Literal`` in a type."""
    return tuple(value for part in members(hint) if get_origin(part) is Literal for value in get_args(part))


@dataclass(kw_only=True)
class Settings:
    """The root of the configuration classes: values are checked when they are made, whoever makes them.

    Raises:
        UserError: a value out of its range or not among its choices, or an impossible combination.
    """

    NO_EFFECT: ClassVar[Mapping[str, str]] = {}
    NOT_OFFERED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_value(entry.name, getattr(self, entry.name), type_hints(type(self))[entry.name])

    def notes(self) -> list[str]:
        """One line for each published key that was given and is handled differently here; said once at the start."""
        return []


@dataclass(kw_only=True)
class PublishedSettings(Settings):
    """Settings of a published command, whose recipes carry keys without effect here (see ``no_effect.py``)."""

    no_effect: tuple[str, ...] = field(default=(), repr=False, metadata={"hidden": True})
    """Names of the keys without effect that were given; values are not kept, one of them may be a token."""

    def notes(self) -> list[str]:
        lines = super().notes()
        return lines + [f"{name} has no effect here: {self.NO_EFFECT[name]}" for name in self.no_effect]


def check_value(name: str, value: Any, hint: Any) -> None:
    """Holds a value to its type's choices and ranges.

    Raises:
        UserError: naming the setting, the value and what is expected.
    """
    parts = members(hint)
    choices = choices_of(hint)
    if choices and isinstance(value, str) and str not in parts and value not in choices:
        names = [str(choice) for choice in choices]
        raise UserError(f"{name}: {value!r} is not one of {', '.join(names)}{did_you_mean(value, names)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    ranges = [(part.__origin__, limit) for part in parts for limit in getattr(part, "__metadata__", ())]
    if ranges and not any(value in limit for kind, limit in ranges if isinstance(value, int | kind)):
        raise UserError(f"{name}: {value} is given, but it must be {', or '.join(str(limit) for _, limit in ranges)}")
