"""Training runs on the tiny checkpoint, in this process or in others, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

import open_r1
from open_r1 import grpo, sft

SOURCE = Path(open_r1.__file__).parent
HANGS = 150
"""Seconds after which a run of some ten seconds hangs."""
COMMANDS = {"sft": sft.main, "grpo": grpo.main}


@dataclass(frozen=True)
class Run:
    """The folder of a run."""

    folder: Path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        """The loss of each step; every step has exactly one line."""
        metrics = self.metrics
        assert [line["step"] for line in metrics] == list(range(1, len(metrics) + 1))
        return [line["loss"] for line in metrics]

    @property
    def results(self) -> dict[str, Any]:
        """train_results.json."""
        return json.loads((self.folder / "train_results.json").read_text())

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors of the final model, or of a checkpoint."""
        return load_weights(self.folder)

    @property
    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints, torn ones included."""
        return sorted(int(path.name.removeprefix("checkpoint-")) for path in self.folder.glob("checkpoint-*"))


def load_weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    assert weights, f"no weights in {folder}"
    return weights


def flags(settings: dict[str, Any]) -> list[str]:
    """Settings as words of a command line."""
    return [
        word
        for name, value in settings.items()
        for word in (f"--{name}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)]))
    ]


def train(command: str, output_dir: Path, **settings: Any) -> Run:
    """Runs ``open-r1 sft`` or ``open-r1 grpo`` in this process."""
    try:
        COMMANDS[command](flags({"output_dir": output_dir, **settings}))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    return Run(output_dir)


def start(words: Sequence[str], output_dir: Path, **settings: Any) -> subprocess.Popen:
    """Starts ``python WORDS… --setting value …`` with one thread a process; its output goes to ``output_dir``.log."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SOURCE.parent),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "COLUMNS": "300",
        "PYTHONFAULTHANDLER": "1",
    }
    with output_dir.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *words, *flags({"output_dir": output_dir, **settings})],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )


def finish(process: subprocess.Popen, output_dir: Path, status: int = 0) -> Run:
    """Waits for a process that `start` began; shows what it said if it ends otherwise than with ``status``.

    One that hangs is ended with all that it started, each of which says first where it is.
    """
    try:
        code: int | None = process.wait(timeout=HANGS)
    except subprocess.TimeoutExpired:
        code = None
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGABRT)
        process.wait(timeout=60)
    assert code == status, f"exit status {code}:\n{output_dir.with_suffix('.log').read_text()[-9000:]}"
    return Run(output_dir)


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), f"{name} differs by {(tensor - other[name]).abs().max():.3g}"


def assert_close_weights(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        difference = (tensor - other[name]).abs().max().item()
        assert difference <= tolerance, f"{name} differs by {difference:.3g}"


def assert_different_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())
