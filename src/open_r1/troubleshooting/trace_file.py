"""The file that a whole trace goes into."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from open_r1.files import write_text
from open_r1.troubleshooting.secrets import redact
from open_r1.troubleshooting.speaker import Rank

PACKAGES = (
    *("open-r1", "torch", "transformers", "accelerate", "datasets", "huggingface-hub", "tokenizers", "safetensors"),
    *("peft", "triton", "vllm", "deepspeed", "bitsandbytes", "torchao", "flash-attn-4", "numpy", "pyarrow"),
)
_METRICS = "metrics.jsonl"
_TAIL = 1 << 14


def write_trace(
    error: BaseException, lines: Sequence[str], *, words: str, folder: Path | None, rank: Rank
) -> Path | None:
    """Writes what happened into ``error-rank0.txt``, by one rename.

    Args:
        lines: what the person was told.
        words: the command and its settings, secrets left out.
        folder: of the run; where it is not there, or cannot be written, the file goes into ``$TMPDIR``.

    Returns:
        The file; None where it can be written nowhere.
    """
    trace = "".join(traceback.format_exception(error))
    parts = [*lines, "", *header(words, folder, rank, os.getpid()), "", trace]
    return write_somewhere("\n".join(parts), f"error-rank{rank.number}.txt", folder)


def write_somewhere(text: str, name: str, folder: Path | None) -> Path | None:
    """Writes ``text``, with secrets hidden, into the run's folder or, where that cannot be, into ``$TMPDIR``."""
    candidates = [folder / name] if folder is not None and os.path.isdir(folder) else []
    with suppress(OSError):  # no folder for temporary files either
        candidates.append(Path(tempfile.gettempdir()) / f"open-r1-{os.getpid()}-{name}")
    for path in candidates:
        try:
            write_text(path, redact(text) + "\n")
        except OSError:
            with suppress(OSError):
                path.with_name(f".{path.name}.{os.getpid()}.partial").unlink()
        else:
            return path
    return None


def header(words: str, folder: Path | None, rank: Rank, process: int) -> list[str]:
    """When, what, with which versions, and how far the run had come."""
    import platform

    return [
        f"time:     {datetime.now().astimezone().isoformat(timespec='seconds')}",
        f"command:  open-r1 {words}",
        f"process:  {process}, rank {rank.number} of {rank.of}",
        f"python:   {platform.python_version()} ({sys.executable}), {platform.platform()}",
        f"versions: {', '.join(_versions())}",
        *(f"GPU:      {name}" for name in _gpus()),
        *(f"metrics:  {line}" for line in _last_metrics(folder)),
    ]


def _versions() -> Iterator[str]:
    from importlib import metadata  # only now: it takes longer than all else here

    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"


def _gpus() -> Iterator[str]:
    """Of a process that uses one already; nothing is imported and nothing is started for this."""
    torch = sys.modules.get("torch")
    with suppress(Exception):  # after an error of CUDA nothing is sure
        if torch is not None and torch.cuda.is_initialized():
            yield torch.cuda.get_device_name()


def _last_metrics(folder: Path | None) -> Iterator[str]:
    with suppress(OSError):
        if folder is not None:
            with (folder / _METRICS).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                lines = file.read().decode(errors="replace").strip().splitlines()
            if lines:
                yield lines[-1]
