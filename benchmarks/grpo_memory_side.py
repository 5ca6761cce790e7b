"""One case of `benchmarks/grpo_memory.py`, in a process of its own: a recipe's first steps, and what memory they took.

python benchmarks/grpo_memory_side.py CASE.json RESULT.json     (started by benchmarks/grpo_memory.py)
python benchmarks/grpo_memory_side.py model FOLDER SHAPE DEVICE        (random weights of a shape)
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from distributed_inputs import write_model
from memory_sides import predicting

import open_r1.grpo
from open_r1.files import write_json
from open_r1.training import rollout_engine
from open_r1.training.step import TrainingStep


class Steps:
    """What the engine and each training step take, of a run whose functions these stand for.

    Attributes:
        engine: bytes of the allocator that are the engine's. It counts what vLLM lets go of when it sleeps as taken.
        peaks: bytes that the allocator held at most in each training step, without these.
        phases: when ("load", "engine", "draw", "train") began, in seconds of the monotonic clock.
    """

    def __init__(self, report: Callable[[], None]) -> None:
        self._report = report  # after each step: what comes after it may take too long
        self.engine = 0
        self.peaks: list[int] = []
        self.phases: list[tuple[float, str]] = [(time.monotonic(), "load")]

    @contextmanager
    def _during(self, phase: str) -> Iterator[None]:
        """What is within is of ``phase``, and what follows is drawing."""
        self.phases.append((time.monotonic(), phase))
        try:
            yield
        finally:
            self.phases.append((time.monotonic(), "draw"))

    def patch(self, stack: ExitStack) -> None:
        """Until ``stack`` is closed."""
        build, take = open_r1.grpo.build_engine, TrainingStep.__call__

        def built(*arguments: Any) -> Any:
            allocated = torch.cuda.memory_allocated()
            with self._during("engine"):
                engine = build(*arguments)
            self.engine = torch.cuda.memory_allocated() - allocated
            return engine

        def taken(step: TrainingStep, *arguments: Any) -> Any:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            with self._during("train"):
                reading = take(step, *arguments)
            self.peaks.append(torch.cuda.max_memory_allocated() - self.engine)
            self._report()
            return reading

        stack.enter_context(mock.patch.object(open_r1.grpo, "build_engine", built))
        stack.enter_context(mock.patch.object(TrainingStep, "__call__", taken))


def run(case: dict[str, Any], written: Path) -> None:
    """Trains, and writes what it took and what it was expected to take, or ``error``; after each step what is known."""
    began = time.perf_counter()
    result: dict[str, Any] = {}
    share = rollout_engine.colocated_share

    def shared(*arguments: Any, **more: Any) -> Any:
        got, training = share(*arguments, **more)
        result["engine_gb"] = {"all": got.engine / 1e9, "cache": got.cache / 1e9}
        result["sleeps"] = got.sleeps
        return got, training

    def report() -> None:
        told = result | {"phases": steps.phases, "side_s": round(time.perf_counter() - began, 1)}
        if torch.cuda.is_available():
            told |= {
                "allocated_gb": [peak / 1e9 for peak in steps.peaks],
                "retries": torch.cuda.memory_stats()["num_alloc_retries"],
                "device": torch.cuda.get_device_name(),
            }
        write_json(written, told | rates(Path(case["folder"], "run", "metrics.jsonl"), case["answers"]))

    steps = Steps(report)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(rollout_engine, "colocated_share", shared))
        stack.enter_context(predicting(result, open_r1.grpo))
        steps.patch(stack)
        try:
            open_r1.grpo.main(["--config", case["config"]])
        except BaseException as error:
            traceback.print_exc()
            result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    report()


def rates(metrics: Path, answers: int) -> dict[str, Any]:
    """Steps, and tokens drawn a second of those after the first, which compiles; of the only one where there is one."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    timed = lines[1:] or lines
    if not timed:
        return {"steps": 0}
    seconds = sum(value for line in timed for name, value in line.items() if name.startswith("seconds_"))
    tokens = sum(line["completion_length"] for line in timed) * answers
    return {
        "steps": len(lines),
        "losses": [line["loss"] for line in lines],
        "seconds": seconds / len(timed),
        "tokens_per_second": tokens / max(seconds, 1e-9),
    }


def main() -> None:
    """Reads a case, runs it, writes the result."""
    if sys.argv[1] == "model":
        write_model(Path(sys.argv[2]), *sys.argv[3:])
        return
    run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # engines leave threads behind


if __name__ == "__main__":
    here = str(Path(__file__).resolve().parent)
    sys.path = [entry for entry in sys.path if entry != here]  # files here would shadow libraries (`evaluate`)
    main()
