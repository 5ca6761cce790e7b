"""Whether a checkpoint is still the one that was written: size and hash of each file, in a manifest that seals itself.

The manifest is written last, so a folder without one was never finished; a file that was cut, lost or altered since
does not match its entry, and an altered manifest does not match its own hash.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

MANIFEST = "checkpoint.json"
FORMAT = 2
CHUNK = 1 << 24


class Torn(Exception):  # noqa: N818 - says what a folder is
    """A folder that is not a whole checkpoint; the message says why."""


def checkpoints_by_step(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of everything in ``folder`` that is called a checkpoint, oldest first."""
    named = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*"))
    return sorted((int(match[1]), path) for match, path in named if match)


@dataclass(frozen=True)
class FileRecord:
    """What was written: bytes, and their xxh3-128 as hexadecimal digits."""

    size: int
    xxh3: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself.

    Attributes:
        step: optimizer steps taken.
        fingerprint: of the settings and data that decide the order of batches, and of what is in them.
        command: the class of the settings.
        settings: all settings of the run that wrote it.
        made_by: what the last bits of a result depend on beside the settings: processes, how they share, device, torch.
        files: by path within the checkpoint.
    """

    step: int
    fingerprint: str
    command: str
    settings: dict[str, Any]
    made_by: dict[str, Any]
    files: dict[str, FileRecord]


def seal(path: Path) -> FileRecord:
    """Brings a file that has been written onto the disk, and returns what a reader finds in it."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        size = _hash_into(digest, file)
    return FileRecord(size, digest.hexdigest())


def sync_folder(path: Path) -> None:
    """Brings a folder's list of names onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Completes a checkpoint whose files are on the disk already."""
    # default=str: what is no JSON is compared by what it is written as
    body = json.loads(json.dumps({"format": FORMAT, **asdict(manifest)}, default=str))
    path = folder / MANIFEST
    path.write_text(json.dumps({**body, "seal": _digest(body)}, indent=1), encoding="utf-8")
    seal(path)
    for inner in (path for path in folder.rglob("*") if path.is_dir()):
        sync_folder(inner)
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """What a checkpoint says about itself.

    Raises:
        Torn: there is no manifest, it was altered, or it is of another format.
    """
    try:
        body = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Torn(f"{MANIFEST} is missing") from None
    except (OSError, ValueError):
        raise Torn(f"{MANIFEST} cannot be read") from None
    if not isinstance(body, dict) or body.pop("seal", None) != _digest(body):
        if isinstance(body, dict) and body.keys() == {"step", "files"}:
            raise Torn("it was written by an earlier version of open-r1, in a format that is no longer read")
        raise Torn(f"{MANIFEST} was altered after it was written")
    if body.pop("format") != FORMAT:
        raise Torn("it was written by another version of open-r1, in a format that this one does not read")
    files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
    return Manifest(files=files, **body)


def check(folder: Path, *, contents: bool) -> Manifest:
    """The manifest of a whole checkpoint.

    Args:
        contents: compare every byte by its hash, not the sizes alone.

    Raises:
        Torn: a file is missing, shorter or longer than written, or altered.
    """
    manifest = read_manifest(folder)
    for name, record in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            raise Torn(f"{name} is missing") from None
        if size != record.size:
            raise Torn(f"{name} has {size} bytes where {record.size} were written")
    for name, record in manifest.files.items() if contents else ():
        digest = xxhash.xxh3_128()
        try:
            with (folder / name).open("rb", buffering=0) as file:
                _hash_into(digest, file)
        except OSError as error:
            raise Torn(f"{name} cannot be read ({error.strerror})") from None
        if digest.hexdigest() != record.xxh3:
            raise Torn(f"{name} was altered after it was written: its hash is another")
    return manifest


def _hash_into(digest: xxhash.xxh3_128, file: Any) -> int:
    buffer, size = bytearray(CHUNK), 0
    view = memoryview(buffer)
    while count := file.readinto(buffer):
        digest.update(view[:count])
        size += count
    return size


def _digest(body: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(body, sort_keys=True).encode())
