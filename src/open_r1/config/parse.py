"""A command line and a YAML file become one checked configuration, with the origin of every value."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from open_r1.config.convert import convert, show
from open_r1.config.settings import PublishedSettings, Settings, did_you_mean, names_of, type_hints
from open_r1.config.sources import FLAG, Given, Words, from_flags, from_mapping, from_yaml, split_words
from open_r1.errors import UserError

Config = TypeVar("Config", bound=Settings)
DEFAULT = "default"


@dataclass(frozen=True)
class Parsed(Generic[Config]):
    """A configuration and where each setting comes from: "default", "recipe.yaml:12" or "flag"."""

    config: Config
    origins: dict[str, str]


def parse(cls: type[Config], argv: Sequence[str] | None = None, *, prog: str) -> Parsed[Config]:
    """The configuration that a command line asks for.

    ``--config file.yaml`` is read first, and flags override it. ``--help`` and ``--print_config`` print and exit.

    Args:
        cls: the configuration class.
        argv: the words after the command; None takes those of this process.
        prog: the command as the person typed it, for the help.

    Raises:
        UserError: one line that names the setting, where it stands, and what to do.
        SystemExit: with status 0 after ``--help`` or ``--print_config``.
    """
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        from open_r1.config.help import print_help

        print_help(cls, prog)
        raise SystemExit(0)
    words, controls = _take_controls(split_words(argv))
    recipe = from_yaml(controls["config"]) if "config" in controls else []
    parsed = build(cls, recipe, from_flags(words, cls))
    if "print_config" in controls:
        from open_r1.config.show import print_config

        print_config(parsed)
        raise SystemExit(0)
    return parsed


def parse_mapping(cls: type[Config], values: Mapping[str, Any], *, where: str) -> Parsed[Config]:
    """The configuration that plain data asks for, such as a stage of a pipeline that stands at ``where``.

    Raises:
        UserError: as :func:`parse`.
    """
    return build(cls, from_mapping(values, where))


def build(cls: type[Config], *sources: Iterable[Given]) -> Parsed[Config]:
    """One configuration from several sources, each overriding those before it.

    Raises:
        UserError: as :func:`parse`.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(names_of(cls).settings, DEFAULT)
    no_effect: dict[str, str] = {}
    for source in sources:
        for name, given in _named(cls, source).items():
            if name in cls.NO_EFFECT:
                no_effect[name] = given.where
            elif name in cls.NOT_OFFERED:
                _hold_to_harmless(given, cls.NOT_OFFERED[name])
            else:
                values[name] = convert(given.value, type_hints(cls)[name], str(given))
                origins[name] = given.where
    missing = [name for name in names_of(cls).required if name not in values]
    if missing:
        flags = " ".join(f"--{name} …" for name in missing)
        raise UserError(f"{' and '.join(missing)} must be given: add {flags}, or set it in the --config file")
    if issubclass(cls, PublishedSettings):
        values["no_effect"] = tuple(no_effect)
    try:
        config = cls(**values)
    except UserError as error:
        raise UserError(f"{error}{_standing(str(error), origins)}") from None
    return Parsed(config, origins | no_effect)


def _take_controls(words: Words) -> tuple[Words, dict[str, str]]:
    """Takes ``--config`` and ``--print_config`` out of a command line; further words after them belong to no flag."""
    controls: dict[str, str] = {}
    kept, loose = [], words.loose
    for flag, values in words.flags:
        key = flag.replace("-", "_")
        if key == "config":
            if not values or key in controls:
                raise UserError("--config takes one YAML file")
            controls[key], loose = values[0], loose + values[1:]
        elif key == "print_config":
            controls[key], loose = "", loose + values
        else:
            kept.append((flag, values))
    return Words(tuple(kept), loose), controls


def _named(cls: type[Settings], source: Iterable[Given]) -> dict[str, Given]:
    """The entries of one source under the names of the settings.

    Raises:
        UserError: an unknown key, or one setting under two names.
    """
    canonical = names_of(cls).canonical
    named: dict[str, Given] = {}
    for given in source:
        key = given.key.replace("-", "_")
        if key not in canonical and key not in cls.NO_EFFECT and key not in cls.NOT_OFFERED:
            hint = _owners(key) or did_you_mean(key, canonical) or "; --help lists those there are"
            raise UserError(f"{given}: unknown setting{hint}")
        name = canonical.get(key, key)
        if name in named:
            raise UserError(f"{given} and {named[name]} are the same setting: keep one of them")
        named[name] = given
    return named


def _owners(key: str) -> str:
    """Says which other commands have the setting, if any."""
    from open_r1.config import EvaluateConfig, GenerateConfig, GRPOConfig, RunConfig, SFTConfig

    commands = {"sft": SFTConfig, "grpo": GRPOConfig, "generate": GenerateConfig, "evaluate": EvaluateConfig}
    owners = [name for name, cls in {**commands, "run": RunConfig}.items() if key in names_of(cls).canonical]
    return f" here; it belongs to open-r1 {', '.join(owners)}" if owners else ""


def _hold_to_harmless(given: Given, harmless: tuple[Any, ...]) -> None:
    value = None if given.value in ("none", "None", "null") else given.value
    if not any(value == accepted and isinstance(value, bool) == isinstance(accepted, bool) for accepted in harmless):
        accepted = ", ".join(show(entry) for entry in harmless)
        raise UserError(f"{given}: {show(given.value)} is not offered here (accepted: {accepted}): take it out")


def _standing(message: str, origins: Mapping[str, str]) -> str:
    """Where the settings that a message names were given, in brackets; nothing where none was."""
    named = [word for word in dict.fromkeys(re.findall(r"\w+", message)) if origins.get(word, DEFAULT) != DEFAULT]
    places = (f"--{name}" if origins[name] == FLAG else f"{name} at {origins[name]}" for name in named)
    return f" ({', '.join(places)})" if named else ""
