"""Writing a safetensors file tensor by tensor, hashed on the way.

The library's own writer wants all tensors in host memory first, which an optimizer's state on a GPU would double.
Format: 8 bytes little-endian length of the header, the header as JSON, the tensors' bytes without gaps
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from open_r1.training.integrity import FileRecord

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Writes ``tensors``, on whatever device they are, brings them onto the disk, and returns size and hash."""
    # Wide types first, so that each tensor begins at a multiple of its element's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = xxhash.xxh3_128(head)
    with path.open("wb") as file:
        file.write(head)
        for name in order:
            data = _bytes(tensors[name])
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(len(head) + end, digest.hexdigest())


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
