"""What made a stage's folder: its settings, its inputs by content, the stages it read, the versions, the time.

``stage.json`` is written before the work starts and says whose folder it is; ``manifest.json`` is written last, so a
folder that has one is whole. A stage is done when its manifest says what would be written now. Settings are compared
with their references not filled in, so an ``output_dir`` may be moved and stages may be inserted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from open_r1.files import read_json
from open_r1.own_code import code_file
from open_r1.pipeline.no_matter import NO_MATTER
from open_r1.pipeline.spec import Pipeline, Stage, fill

STARTED = "stage.json"
MANIFEST = "manifest.json"
CONFIG = "config.yaml"

_CHUNK = 1 << 22
_IGNORED_OUTPUTS = ("checkpoint-", "superseded-checkpoint-", ".")
"""Checkpoints may be deleted to save disk; hidden files are nobody's result."""

_FOR_PEOPLE = ("README.md", "model_card.md", "report.html")
"""Edited before a model is published, or written anew: another size is no reason to train again."""


_GROWING = {"limit": math.inf, "num_generations": 1}
"""Of a stage that draws answers: how many, and what unset means."""


@dataclass(frozen=True)
class Identity:
    """All that decides what a stage writes.

    Attributes:
        inputs: digest of each file or folder named in the settings that no stage of the pipeline wrote.
        upstream: digest of the manifest of each stage it refers to; None while that stage is not done.
    """

    kind: str
    run: str | None
    launcher: dict[str, Any] | None
    settings: dict[str, Any]
    inputs: dict[str, str]
    upstream: dict[str, str | None]

    def difference(self, recorded: Mapping[str, Any]) -> str | None:
        """What differs from ``recorded`` (an identity as JSON), in a few words; None where nothing does.

        Settings in `NO_MATTER` may differ.
        """
        for part in ("kind", "run", "launcher"):
            if recorded.get(part) != getattr(self, part):
                return f"{part} changed"
        old = recorded.get("settings") or {}
        different = [name for name in _different_keys(old, self.settings) if name not in NO_MATTER[self.kind]]
        changes = [_change(name, old, self.settings) for name in different]
        changes = changes or [f"{name} changed" for name in _different_keys(recorded.get("inputs") or {}, self.inputs)]
        stale = _different_keys(recorded.get("upstream") or {}, self.upstream)
        changes = changes or [f"{name} was redone" for name in stale]
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        return ", ".join(changes[:3]) + more or None

    def extends(self, recorded: Mapping[str, Any]) -> bool:
        """Whether it asks for all that ``recorded`` did and more, of a stage that goes on from what is there.

        So drawing does: an answer depends on its prompt and its number, not on how many there are.
        """
        old = recorded.get("settings") or {}
        for name, unset in _GROWING.items():
            before, now = old.get(name) or unset, self.settings.get(name) or unset
            if not isinstance(before, int | float) or not isinstance(now, int | float) or now < before:
                return False
        as_large = replace(self, settings=_without_sizes(self.settings))
        return self.kind == "generate" and not as_large.difference({**recorded, "settings": _without_sizes(old)})


@dataclass(frozen=True)
class Seen:
    """An input as it was when it was read: its digest, and the sizes and times of its files as one short text."""

    digest: str
    stamp: str


def look_at(names: Iterable[str], known: Mapping[str, Any]) -> dict[str, Seen]:
    """The inputs as they are; what has the stamp that ``known`` (from a manifest) has is not read again."""
    seen = {}
    for name in names:
        stamp = _stamp(Path(name))
        old = known.get(name) or {}
        seen[name] = Seen(old["digest"] if old.get("stamp") == stamp else digest(Path(name)), stamp)
    return seen


def identity(pipeline: Pipeline, stage: Stage, settings: Mapping[str, Any], seen: Mapping[str, Seen]) -> Identity:
    """The identity that ``stage`` has now.

    Args:
        settings: its own, recipe included, references not filled in.
        seen: its inputs.
    """
    by_name = {other.name: other for other in pipeline.stages}
    return Identity(
        kind=stage.kind,
        run=stage.run,
        launcher=stage.launcher,
        settings=json.loads(json.dumps(fill(settings, {"seed": pipeline.seed}), default=str)),  # as it is read back
        inputs={name: entry.digest for name, entry in seen.items()},
        upstream={name: manifest_digest(pipeline.folder(by_name[name])) for name in stage.needs},
    )


def find_inputs(pipeline: Pipeline, stage: Stage, settings: Mapping[str, Any]) -> list[str]:
    """Files and folders that the stage names and that exist, but for those under its own folder or an upstream one.

    Of the person's own code (``mine.py:short`` or ``mine:short``) it is the file in which the name is looked up.
    """
    by_name = {other.name: other for other in pipeline.stages}
    covered = [pipeline.folder(stage), *(pipeline.folder(by_name[name]) for name in stage.needs)]
    launcher = (stage.launcher or {}).get("config_file")
    named = [*_strings(fill(settings, pipeline.references(stage))), stage.run, launcher]
    found = set()
    for text in filter(None, named):
        task, equals, rest = text.partition("=")  # a task may be name=path, and its name that of own code
        for name in (code_file(task) if equals else None, code_file(rest or task) or rest or task):
            if name and _is_path(name) and not any(_is_inside(Path(name), folder) for folder in covered):
                found.add(str(Path(name)))
    return sorted(found)


def _is_path(name: str) -> bool:
    """A bare word is a path only where it is a file: ``main`` may be a revision although a folder is called so."""
    try:
        return os.path.isfile(name) or (os.sep in name and os.path.isdir(name))
    except ValueError:  # a NUL byte
        return False


def digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, or of a folder's names and bytes in order, hidden files left out."""
    total = hashlib.blake2b(digest_size=20)
    if path.is_file():
        return _digest_file(path)
    for file in sorted(_files(path)):
        total.update(f"{file.relative_to(path).as_posix()}\0{_digest_file(file)}\n".encode())
    return total.hexdigest()


def _stamp(path: Path) -> str:
    """Changes whenever a file is written, added, renamed or removed; costs no reading.

    The time is that of the last change, which nobody sets: ``cp -p`` and ``rsync -t`` give a file another's time of
    modification.
    """
    files = [path] if path.is_file() else sorted(_files(path))
    states = [(str(file), status.st_size, status.st_ctime_ns) for file in files for status in (file.stat(),)]
    return hashlib.blake2b(repr(states).encode(), digest_size=10).hexdigest()


def manifest_digest(folder: Path) -> str | None:
    """Digest of a stage's manifest, which changes whenever the stage is done anew; None where it is not done."""
    return _digest_file(folder / MANIFEST) if read_json(folder / MANIFEST) else None


def outputs_of(folder: Path) -> dict[str, int]:
    """Size in bytes of each file that the stage left, by its path inside the folder."""
    found = {}
    for file in sorted(_files(folder)):
        name = file.relative_to(folder)
        if not name.parts[0].startswith(_IGNORED_OUTPUTS) and str(name) not in (MANIFEST, STARTED):
            found[name.as_posix()] = file.stat().st_size
    return found


def changed_output(folder: Path, recorded: Mapping[str, int]) -> str | None:
    """The first recorded file that is missing or, unless it is there for people to read, has another size; or None."""
    for name, size in recorded.items():
        file = folder / name
        if not file.is_file() or (file.stat().st_size != size and name not in _FOR_PEOPLE):
            return name
    return None


@cache
def versions() -> dict[str, str]:
    """Versions of what ran, and the commit of the code where it is a git checkout."""
    import platform
    import subprocess
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in ("open-r1", "torch", "transformers", "accelerate", "datasets"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        found["commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass  # not a checkout, or no git: the versions above say enough
    return found


def _without_sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _GROWING}


def _different_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*old, *new} if old.get(key, ...) != new.get(key, ...))


def _change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = (str(values.get(name, "unset")) for values in (old, new))
    return f"{name} {before} → {after}" if len(before) + len(after) <= 40 else f"{name} changed"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if "," in value:
            yield from (part.strip() for part in value.split(","))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _strings(item)


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _files(folder: Path) -> Iterator[Path]:
    """All in ``folder`` but what is hidden, links that lead nowhere, and what is no file."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        yield from (path for path in (Path(root, name) for name in names if name[0] != ".") if path.is_file())


def _digest_file(path: Path) -> str:
    status = path.stat()
    return _digest_unchanged(path, status.st_size, status.st_ctime_ns)


@cache
def _digest_unchanged(path: Path, size: int, ctime_ns: int) -> str:
    """Keyed by size and time too, so that a file is read once a run, and again when it was rewritten."""
    total = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()
