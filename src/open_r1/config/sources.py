"""Where settings come from: YAML files with line numbers, the words of a command line, plain mappings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from open_r1.config.convert import BOOLEANS, from_words
from open_r1.config.settings import Settings, members, names_of, type_hints
from open_r1.errors import UserError

FLAG = "flag"


@dataclass(frozen=True)
class Given:
    """One setting as somebody wrote it: the key, plain data, and where it stands ("recipe.yaml:12" or "flag")."""

    key: str
    value: Any
    where: str

    def __str__(self) -> str:
        return f"--{self.key}" if self.where == FLAG else f"{self.where}: {self.key}"


@dataclass(frozen=True)
class Words:
    """A command line in pieces: flags in order with the words after them, and the words that belong to none."""

    flags: tuple[tuple[str, tuple[str, ...]], ...]
    loose: tuple[str, ...]


def from_yaml(path: Path | str) -> list[Given]:
    """The top-level keys of a YAML file.

    Raises:
        UserError: no such file, not YAML, not a mapping, or one key with two values.
    """
    from yaml import MappingNode

    from open_r1.config.yaml_text import loader_of

    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--config {path}: is not UTF-8 text") from None
    with loader_of(path, text) as loader:
        node = loader.get_single_node()
        if node is None:
            return []
        if not isinstance(node, MappingNode):
            raise UserError(f"{path}:{node.start_mark.line + 1}: a mapping of settings (key: value) is expected")
        loader.flatten_mapping(node)
        entries = [
            Given(str(loader.construct_object(key)), loader.construct_object(value, deep=True), _at(path, key))
            for key, value in node.value
        ]
    return _without_repeats(entries)


def from_mapping(values: Mapping[str, Any], where: str) -> list[Given]:
    """Settings that are already plain data, such as one stage of a pipeline."""
    return [Given(str(key), value, where) for key, value in values.items()]


def from_flags(words: Words, cls: type[Settings]) -> list[Given]:
    """The settings of a command line; of a flag given twice the last one counts.

    Raises:
        UserError: words that belong to no flag, or a flag with too few or too many.
    """
    names, hints = names_of(cls), type_hints(cls)
    given: dict[str, Given] = {}
    loose = list(words.loose)
    for flag, values in words.flags:
        key = flag.replace("-", "_")
        name = names.canonical.get(key)
        if name is None and _negated(key, cls):
            if values:
                raise UserError(f"--{flag} takes no value, but {' '.join(values)} is given")
            given[key.removeprefix("no_")] = Given(key.removeprefix("no_"), False, FLAG)
        elif name is None:
            given[key] = Given(key, _plain(values), FLAG)
        else:
            own, rest = _own_words(values, hints[name]) if names.positional else (values, ())
            loose += rest
            given[key] = Given(key, from_words(own, hints[name], f"--{key}"), FLAG)
    if loose and names.positional and names.positional not in given:
        takes_all = list in map(get_origin, members(hints[names.positional]))
        words_taken, loose = (loose, []) if takes_all else (loose[0], loose[1:])
        given[names.positional] = Given(names.positional, words_taken, FLAG)
    if loose:
        raise UserError(f"{loose[0]!r} belongs to no flag: settings are written --name value")
    return list(given.values())


def split_words(argv: Sequence[str]) -> Words:
    """A command line as flags with their words; ``--key=value`` is one flag with one word."""
    flags: list[tuple[str, list[str]]] = []
    loose: list[str] = []
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            flags.append((key, [value] if equals else []))
        elif flags:
            flags[-1][1].append(word)
        else:
            loose.append(word)
    return Words(tuple((key, tuple(values)) for key, values in flags), tuple(loose))


def _at(path: Path | str, node: Any) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _without_repeats(entries: Iterable[Given]) -> list[Given]:
    """One entry a key. A key that stands twice with the same value is let pass: published recipes have such."""
    kept: dict[str, Given] = {}
    for entry in entries:
        earlier = kept.setdefault(entry.key, entry)
        if earlier.value != entry.value:
            raise UserError(f"{entry}: has another value at {earlier.where}: keep one of them")
    return list(kept.values())


def _negated(key: str, cls: type[Settings]) -> bool:
    known = key in cls.NO_EFFECT or key in cls.NOT_OFFERED
    name = names_of(cls).canonical.get(key.removeprefix("no_"))
    return key.startswith("no_") and not known and name is not None and bool in members(type_hints(cls)[name])


def _own_words(words: tuple[str, ...], hint: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that the flag itself takes, and those left for the positional setting."""
    kinds = [get_origin(part) or part for part in members(hint)]
    if list in kinds or dict in kinds:
        return words, ()
    count = 1 if bool not in kinds or (words and words[0].lower() in BOOLEANS) else 0
    return words[:count], words[count:]


def _plain(words: tuple[str, ...]) -> Any:
    """Words of a flag that is no setting here, read as YAML reads a value."""
    import yaml

    try:
        return yaml.safe_load(" ".join(words)) if words else True
    except yaml.YAMLError:
        return " ".join(words)
