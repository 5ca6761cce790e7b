"""Naming a model by the content of its files, without loading it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xxhash

from open_r1.errors import UserError

_PIECE = 1 << 10
_PIECES = 64
"""Of each tensor at most so many pieces of so many bytes are read, evenly spread: naming a 70B model must not read
140 GB."""

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "*.safetensors",
    "*.bin",
)
"""In the order in which transformers looks for them: a repository may hold the weights in several forms."""

_FROM_HUB = (["*.json", "model*.safetensors", "adapter_model.safetensors"], ["*.json", "pytorch_model*.bin"])
_NAMES_NO_WEIGHTS = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Entries of config.json that differ between copies of one model."""


def checkpoint_folder(name: str, revision: str = "main") -> Path:
    """The folder of a local model, or of a hub model's files, which are fetched where they are not there yet.

    Raises:
        UserError: there are no weights, or the hub does not give them.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    try:
        for patterns in _FROM_HUB:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
            files = weight_files(folder)  # of an index, which came with the settings, they need not have come yet
            if files and all(file.is_file() for file in files):
                return folder
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{name}: its files could not be had; is the name right, and the hub reachable (HF_ENDPOINT, HF_TOKEN)? "
            f"[{reason}]"
        ) from error
    raise UserError(f"{name}: revision {revision} holds no weights (model*.safetensors or pytorch_model*.bin)")


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights that are loaded: the one that is there, or those of an index; empty without any."""
    found = next((found for pattern in _WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
    if found and found[0].suffix == ".json":
        named = json.loads(found[0].read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(named))]
    return found


def weights_fingerprint(folder: Path) -> str:
    """A hash of config.json, and of the name, shape, type and (where there are many, some) bytes of every weight.

    It follows the content, so a copied folder keeps it and a checkpoint that was trained further does not.

    Raises:
        UserError: there are no weights, or a file of them is missing or torn.
    """
    files = weight_files(folder)
    if not files:
        raise UserError(f"{folder}: the folder holds no weights (model*.safetensors); is the checkpoint complete?")
    digest = xxhash.xxh3_128()
    for name in ("config.json", "adapter_config.json"):
        digest.update(_settings(folder / name))
    tensors: dict[str, bytes] = {}
    for path in files:
        try:
            tensors |= _tensors(path)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: the file of weights is missing or torn [{error}]") from error
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name])
    return digest.hexdigest()


def _settings(path: Path) -> bytes:
    if not path.is_file():
        return b""
    settings = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in settings.items() if key not in _NAMES_NO_WEIGHTS}
    return json.dumps(kept, sort_keys=True).encode()


def _tensors(path: Path) -> dict[str, bytes]:
    """Each tensor's name, type and shape, with the hash of its bytes; a file of another kind is one tensor."""
    content = np.memmap(path, np.uint8, mode="r")
    if path.suffix != ".safetensors":
        return {path.name: _hash(content)}
    length = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    data = content[8 + length :]
    if max((entry["data_offsets"][1] for entry in header.values()), default=0) > len(data):
        raise ValueError("it ends too soon")
    return {
        f"{name} {entry['dtype']} {entry['shape']}": _hash(data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def _hash(content: np.ndarray) -> bytes:
    if len(content) <= _PIECE * _PIECES:
        return xxhash.xxh3_64(content.tobytes()).digest()
    digest = xxhash.xxh3_64()
    for start in np.linspace(0, len(content) - _PIECE, _PIECES, dtype=np.int64):
        digest.update(content[start : start + _PIECE].tobytes())
    return digest.digest()
