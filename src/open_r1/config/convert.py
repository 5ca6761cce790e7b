"""From what stands in a YAML file or on the command line to the type of a setting."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from open_r1.config.settings import Settings, check_value, choices_of, did_you_mean, members, names_of, type_hints
from open_r1.errors import UserError

BOOLEANS = dict.fromkeys(("true", "yes", "on", "1", "t", "y"), True) | dict.fromkeys(
    ("false", "no", "off", "0", "f", "n"), False
)
"""What transformers reads as true or false, and YAML's ``on`` and ``off``."""
NULLS = ("null", "none", "~")
_UNFIT = object()


def convert(value: Any, hint: Any, name: str) -> Any:
    """``value`` as the type ``hint``; text is read as a number, a list or a mapping where the type asks for one.

    Raises:
        UserError: ``name``, what is given and what is expected.
    """
    for read in (_choice, _null, _boolean, _number, _text, _list, _mapping):
        converted = read(value, hint, name)
        if converted is not _UNFIT:
            check_value(name, converted, hint)
            return converted
    if choices_of(hint) and isinstance(value, str):
        check_value(name, value, hint)
    quoting = "; write it in quotes" if str in members(hint) and not isinstance(value, list | dict | NoneType) else ""
    given = repr(show(value)) if isinstance(value, str) else show(value)
    raise UserError(f"{name}: {given} is given, but {describe(hint)} is expected{quoting}")


def convert_fields(cls: type[Settings], values: Mapping[str, Any], name: str) -> Settings:
    """A nested settings object from a mapping.

    Raises:
        UserError: an unknown key, a missing one, or a value of the wrong type, under the path ``name``.
    """
    hints, known = type_hints(cls), names_of(cls)
    for key in values:
        if key not in known.canonical:
            raise UserError(f"{name}: unknown key {key!r}{did_you_mean(str(key), known.canonical)}")
    for key in known.required:
        if key not in values:
            raise UserError(f"{name}: {key} is missing")
    converted = {key: convert(value, hints[key], f"{name}.{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def from_words(words: Sequence[str], hint: Any, name: str) -> Any:
    """What the words after a flag say, as plain data for :func:`convert`.

    No word is true for a switch. A list is several words, one with commas, or YAML's ``[a, b]``.

    Raises:
        UserError: no word where one is needed, or several where one is.
    """
    kinds = [get_origin(part) or part for part in members(hint)]
    if not words:
        if bool in kinds:
            return True
        raise UserError(f"{name}: nothing is given, but {describe(hint)} is expected")
    if dict in kinds or any(is_dataclass(kind) for kind in kinds):
        return _flow(" ".join(words), name)
    if list in kinds and len(words) > 1:
        return [word for given in words for word in given.split(",") if word]
    if len(words) > 1:
        raise UserError(f"{name}: {len(words)} values are given ({' '.join(words)}), but {describe(hint)} is expected")
    return words[0]


def describe(hint: Any) -> str:
    """A type in words, for messages and help."""
    texts = list(dict.fromkeys(_describe_one(part) for part in members(hint) if part is not NoneType))
    return " or ".join(texts)


def show(value: Any, limit: int = 60) -> str:
    """A value on one line as YAML would write it, shortened to ``limit`` characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        text = f"[{', '.join(show(entry) for entry in value)}]"
    elif is_dataclass(value):
        given = ((field.name, getattr(value, field.name)) for field in fields(value) if _is_set(value, field))
        text = f"{{{', '.join(f'{key}: {show(entry)}' for key, entry in given)}}}"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key}: {show(entry)}' for key, entry in value.items())}}}"
    else:
        text = str(value).replace("\n", "\\n")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_set(owner: Any, field: Any) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return getattr(owner, field.name) != default


def _describe_one(part: Any) -> str:
    kind = get_origin(part) or part
    if kind is Literal:
        return f"one of {', '.join(str(value) for value in get_args(part))}"
    if kind is Annotated:
        limits = " ".join(str(limit) for limit in part.__metadata__)
        return f"{_describe_one(part.__origin__)} ({limits})"
    if kind is list:
        return f"a list ({describe(get_args(part)[0])} each)"
    if is_dataclass(kind) or kind is dict:
        return "a mapping"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]


def _choice(value: Any, hint: Any, name: str) -> Any:
    choices = choices_of(hint)
    if isinstance(value, str) and value in choices:
        return value
    if value is False and bool not in members(hint):  # YAML reads a bare `no` as false
        return next((choice for choice in ("no", "none") if choice in choices), _UNFIT)
    return _UNFIT


def _null(value: Any, hint: Any, name: str) -> Any:
    given = value is None or (isinstance(value, str) and value.lower() in NULLS)
    return None if given and NoneType in members(hint) else _UNFIT


def _boolean(value: Any, hint: Any, name: str) -> Any:
    if bool not in members(hint):
        return _UNFIT
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return BOOLEANS.get(value.lower(), _UNFIT)
    return bool(value) if isinstance(value, int) and value in (0, 1) else _UNFIT


def _number(value: Any, hint: Any, name: str) -> Any:
    kinds = [getattr(part, "__origin__", part) for part in members(hint)]
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not {int, float} & set(kinds):
        return _UNFIT
    try:
        number = int(value) if isinstance(value, str | int) and float not in kinds else float(value)
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            return _UNFIT
    if math.isnan(number):
        return _UNFIT
    if int in kinds and math.isfinite(number) and number == int(number):
        return int(number)
    return number if float in kinds else _UNFIT


def _text(value: Any, hint: Any, name: str) -> Any:
    parts = members(hint)
    lists = any(get_origin(part) is list for part in parts)
    if not isinstance(value, str) or str not in parts or (lists and ("," in value or value.startswith("["))):
        return _UNFIT
    return os.path.expanduser(value) if value.startswith("~/") else value  # no shell does so in YAML or after a "="


def _list(value: Any, hint: Any, name: str) -> Any:
    entry_hint = next((get_args(part)[0] for part in members(hint) if get_origin(part) is list), None)
    if entry_hint is None:
        return _UNFIT
    if isinstance(value, str):
        flow = value.strip().startswith("[")
        value = _flow(value, name) if flow else [entry.strip() for entry in value.split(",") if entry.strip()]
    if not isinstance(value, list | tuple):
        value = [value] if isinstance(value, int | float) and not isinstance(value, bool) else None
    if value is None:
        return _UNFIT
    return [convert(entry, entry_hint, f"{name}[{index}]") for index, entry in enumerate(value)]


def _mapping(value: Any, hint: Any, name: str) -> Any:
    parts = members(hint)
    nested = next((part for part in parts if is_dataclass(part)), None)
    if nested is None and not any(get_origin(part) is dict for part in parts):
        return _UNFIT
    if nested is not None and isinstance(value, nested):
        return value
    if isinstance(value, str):
        value = _flow(value, name)
    if not isinstance(value, Mapping):
        return _UNFIT
    return convert_fields(nested, value, name) if nested is not None else _numbers(dict(value))


def _numbers(value: Any) -> Any:
    """Free-form data with YAML 1.1's oversight mended: ``1e-5`` is a number there too."""
    if isinstance(value, dict):
        return {key: _numbers(entry) for key, entry in value.items()}
    if isinstance(value, str):
        number = _number(value, int | float, "")
        return value if number is _UNFIT else number
    return value


def _flow(text: str, name: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{name}: {show(text)} is neither JSON nor YAML") from None
