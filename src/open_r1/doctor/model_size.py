"""How large a model is, without its weights: from the headers of its files, or from the hub's description of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from open_r1.doctor.hub import endpoint, get_json, offline

_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
"""Of an element, by safetensors' names of types; the others have one."""

_LONGEST_HEADER = 100 << 20


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model, bytes of its weights, and how many of those lie on a disk here already."""

    parameters: int
    bytes: int
    here: int


def model_size(
    name: str, hub_cache: Path, get: Callable[[str], Any] = get_json, environment: Mapping[str, str] = os.environ
) -> ModelSize | None:
    """The size of a local folder, of a model in the hub's cache, or of one at the hub; None where nobody knows.

    Args:
        get: fetches JSON from an address; raises OSError or ValueError.
    """
    folder = Path(os.path.expanduser(name))  # leaves ~NOBODY as it is
    cached = sorted((hub_cache / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/"), key=os.path.getmtime)
    for place in [folder, *reversed(cached)]:
        elements = _elements_in(place)
        if elements:
            return _sized(elements, here=True)
    if folder.is_dir() or offline(environment):
        return None
    try:
        facts = get(f"{endpoint(environment)}/api/models/{name}?expand[]=safetensors")
        elements = {kind: int(count) for kind, count in facts["safetensors"]["parameters"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return _sized(elements, here=False)


def _sized(elements: Mapping[str, int], *, here: bool) -> ModelSize:
    size = sum(count * _BYTES.get(kind, 1) for kind, count in elements.items())
    return ModelSize(sum(elements.values()), size, size if here else 0)


def _elements_in(folder: Path) -> dict[str, int]:
    """Elements by type in the safetensors files of a folder; {} where one cannot be read."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        except (OSError, ValueError):
            return {}
        for name, tensor in header.items():
            if name != "__metadata__":
                found[tensor["dtype"]] = found.get(tensor["dtype"], 0) + prod(tensor["shape"])
    return found
