"""The pipeline file: reading it, and checking its shape and its references between stages.

A stage's folder is ``<output_dir>/<NN>-<name>``. In ``settings`` and ``args``, ``{stage_dir}`` stands for the stage's
own folder, ``{NAME}`` for the folder of the earlier stage NAME, ``{output_dir}`` and ``{seed}`` for those of the run.
Double braces and the text settings (prompts, templates) are left as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yaml import MappingNode

from open_r1.config.settings import did_you_mean
from open_r1.config.yaml_text import loader_of, refuse_repeats
from open_r1.errors import UserError

KINDS = ("script", "generate", "sft", "grpo", "evaluate")
TEXT_SETTINGS = frozenset({"system_prompt", "prompt_template", "chat_template"})
"""Settings whose braces belong to their own language (LaTeX, Jinja)."""

_PIPELINE_KEYS = ("name", "output_dir", "seed", "stages")
_SCRIPT_KEYS = ("name", "kind", "run", "args")
_STAGE_KEYS = ("name", "kind", "config", "settings", "launcher")
_RESERVED = ("stage_dir", "output_dir", "seed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_REFERENCE = re.compile(r"(?<!\{)\{([A-Za-z0-9_-]+)\}(?!\})")


@dataclass(frozen=True)
class Stage:
    """One stage as it is written; its references are not filled in.

    Attributes:
        number: its place, counted from 1.
        settings: what is under ``settings`` (``args`` for a script).
        run: the Python file of a script.
        config: path of a recipe that ``settings`` override.
        launcher: flags of ``accelerate launch``, ``config_file`` among them; None runs in one process.
        needs: names of the earlier stages that it refers to, in their order.
    """

    number: int
    name: str
    kind: str
    settings: dict[str, Any]
    run: str | None = None
    config: str | None = None
    launcher: dict[str, Any] | None = None
    needs: tuple[str, ...] = ()

    @property
    def folder_name(self) -> str:
        return f"{self.number:02d}-{self.name}"


@dataclass(frozen=True)
class Pipeline:
    """A pipeline whose shape has been checked."""

    path: Path
    name: str
    seed: int
    output_dir: Path
    stages: tuple[Stage, ...]

    def folder(self, stage: Stage) -> Path:
        return self.output_dir / stage.folder_name

    def position(self, name: str, flag: str) -> int:
        """Where the stage called ``name`` stands, counted from 0.

        Raises:
            UserError: there is none.
        """
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise UserError(f"{flag} {name}: {self.path} has no such stage{did_you_mean(name, names)}")
        return names.index(name)

    def references(self, stage: Stage) -> dict[str, Any]:
        """What each reference of ``stage`` stands for."""
        folders = {other.name: str(self.folder(other)) for other in self.stages[: stage.number - 1]}
        own = {"stage_dir": str(self.folder(stage)), "output_dir": str(self.output_dir), "seed": self.seed}
        return folders | own


def read_pipeline(path: str | Path, *, seed: int | None = None, output_dir: str | None = None) -> Pipeline:
    """Reads a pipeline file; ``seed`` and ``output_dir`` override what it says.

    Raises:
        UserError: no such file, bad YAML, or an unknown key, kind, name or reference, with its place.
    """
    path = Path(path)
    data = _read_yaml(path)
    _check_keys(data, _PIPELINE_KEYS, str(path))
    name = str(data.get("name", path.stem))
    chosen_seed = data.get("seed", 0) if seed is None else seed
    if not isinstance(chosen_seed, int) or isinstance(chosen_seed, bool):
        raise UserError(f"{path}: seed is {chosen_seed!r}, but it must be a whole number")
    entries = data.get("stages")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: stages must be a list of {{name: …, kind: …, settings: …}}")
    stages: list[Stage] = []
    for entry in entries:
        stages.append(_read_stage(entry, path, stages))
    checked = tuple(_with_needs(stage, stages, path) for stage in stages)
    folder = Path(_from_home(output_dir or str(data.get("output_dir") or f"runs/{name}")))
    return Pipeline(path=path, name=name, seed=chosen_seed, output_dir=folder, stages=checked)


def fill(value: Any, references: Mapping[str, Any]) -> Any:
    """``value`` with its references filled in, at any depth; a string that is only ``{seed}`` becomes a number.

    A leading ``~/`` is the home folder, as in the settings of the commands: no shell sees what is in a file.
    """
    if isinstance(value, Mapping):
        return {key: item if key in TEXT_SETTINGS else fill(item, references) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, references) for item in value]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole and whole[1] in references:
        return references[whole[1]]
    return _from_home(_REFERENCE.sub(lambda match: str(references.get(match[1], match[0])), value))


def _from_home(text: str) -> str:
    return os.path.expanduser(text) if text.startswith("~/") else text


def references_in(value: Any) -> Iterable[str]:
    """Names of the references in ``value``, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in TEXT_SETTINGS:
                yield from references_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from references_in(item)
    elif isinstance(value, str):
        yield from _REFERENCE.findall(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the pipeline file {path} cannot be read: {reason}") from error
    with loader_of(path, text) as loader:
        node = loader.get_single_node()
        if isinstance(node, MappingNode):
            refuse_repeats(node)
            return loader.construct_document(node)
    raise UserError(f"{path}: a mapping with name, output_dir, seed and stages is expected")


def _check_keys(data: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    known = tuple(known)
    for key in data:
        if key not in known:
            raise UserError(f"{place}: unknown key {key!r}{did_you_mean(str(key), known)} (known: {', '.join(known)})")


def _read_stage(entry: Any, path: Path, earlier: list[Stage]) -> Stage:
    number = len(earlier) + 1
    if not isinstance(entry, dict):
        raise UserError(f"{path}: stage {number} must be a mapping with name, kind and settings")
    name = entry.get("name")
    place = f"{path}: stage {name or number}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{path}: stage {number} needs a name of letters, digits, - and _; it has {name!r}")
    if name in _RESERVED or name in (stage.name for stage in earlier):
        raise UserError(f"{place}: the name is taken, choose another")
    kind = entry.get("kind")
    if kind not in KINDS:
        guess = did_you_mean(str(kind), KINDS)
        raise UserError(f"{place}: kind {kind!r} is not one of {', '.join(KINDS)}{guess}")
    is_script = kind == "script"
    _check_keys(entry, _SCRIPT_KEYS if is_script else _STAGE_KEYS, place)
    settings = entry.get("args" if is_script else "settings") or {}
    if not isinstance(settings, dict):
        raise UserError(f"{place}: {'args' if is_script else 'settings'} must be a mapping of names to values")
    if is_script and not isinstance(entry.get("run"), str):
        raise UserError(f"{place}: a script needs run: the path of a Python file")
    for key, value in settings.items():
        _check_quoted(value, f"{place}: {key}")
    return Stage(
        number=number,
        name=name,
        kind=kind,
        settings={str(key): value for key, value in settings.items()},
        run=_from_home(entry["run"]) if is_script else None,
        config=_optional_path(entry.get("config"), f"{place}: config"),
        launcher=_read_launcher(entry.get("launcher"), place),
    )


def _optional_path(value: Any, place: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{place} is {value!r}, but it must be the path of a YAML file")
    return value


def _read_launcher(value: Any, place: str) -> dict[str, Any] | None:
    """A launcher is the path of an Accelerate config, or a mapping of flags of ``accelerate launch``."""
    if value is None:
        return None
    flags = {"config_file": value} if isinstance(value, str) else value
    if not isinstance(flags, dict):
        raise UserError(f"{place}: launcher must be the path of an Accelerate config, or a mapping of its flags")
    return fill(flags, {})


def _check_quoted(value: Any, place: str) -> None:
    """Unquoted, ``key: {base}`` is the YAML mapping ``{base: null}``: nobody means that."""
    if isinstance(value, Mapping) and len(value) == 1 and None in value.values():
        raise UserError(f'{place} is read by YAML as a mapping; write it in quotes: "{{{next(iter(value))}}}"')
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_quoted(item, place)


def _with_needs(stage: Stage, stages: list[Stage], path: Path) -> Stage:
    """``stage`` with the earlier stages that it refers to."""
    names = [other.name for other in stages]
    earlier = names[: stage.number - 1]
    known = [*_RESERVED, *earlier]
    found = set(references_in(stage.settings))
    place = f"{path}: stage {stage.name}"
    for name in sorted(found.difference(known)):
        if name == stage.name:
            raise UserError(f"{place}: {{{name}}} is its own folder; write {{stage_dir}}")
        if name in names:
            raise UserError(f"{place}: {{{name}}} is a later stage; only earlier ones have files to read")
        raise UserError(f"{place}: unknown reference {{{name}}}{did_you_mean(name, known)}")
    return replace(stage, needs=tuple(name for name in earlier if name in found))
