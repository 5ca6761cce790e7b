"""Fine-tuning within a limit of GPU memory: `open-r1 sft` as it is, each case in a process of its own.

    python benchmarks/memory.py --json memory.json
    python benchmarks/memory.py --cases full-1.5b trl-float32
    python benchmarks/memory.py --tiny --device cpu                (does it still run?)

* ``full-1.5b``: all weights of Qwen2.5-1.5B's shape at 16,384 tokens in 24 GB; ``full-1.5b-paged`` with the optimizer's
  state in the host's memory; ``full-1.5b-batch8`` with micro-batches of 8 × 16,384, as the tutorial's user asked for.
* ``trl-float32``, ``trl-bf16``, ``trl-float32-batch8``: the rival beside it: TRL's SFTTrainer with Liger kernels,
  FlashAttention-2, recompute and bf16 autocast, on weights of either type, with fused AdamW.
* ``lora-7b``: adapters at 8,192 tokens in 24 GB; ``qlora-7b``: over 4-bit weights at 16,384 tokens in 24 GB.
* ``full-7b``: all weights of the 7B shape at 32,768 tokens in 141 GB.

A GB is 1e9 bytes. The limit is that of a card: PyTorch's allocator gets it less what CUDA itself takes. Weights are
random and seeded; adapters load them from a checkpoint, which is written first. ``predicted`` is
`open_r1.model.memory.estimate_memory` for the run as it went, to be compared with the peak that was allocated. Packs,
clock and the rival are those of `benchmarks/sft.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from memory_table import table
from sft import MEAN_LENGTH, ROOT, SHAPES, TRL_TUTORIAL, Started, environment_of, finish, read_case, write_model
from sft_job import Job

from open_r1.files import write_json

CONTEXT = 0.6
"""GB that CUDA takes for itself beside what PyTorch allocates."""
SAID = ("gradient_checkpointing ", "out of memory", "does not fit", "halved", "uncompiled", "OutOfMemoryError")
"""Parts of lines that are about memory."""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        limit: GB of the card.
        batch: packs of a micro-batch; a step has two micro-batches, so that gradients wait while activations are made.
        dtype: of the weights.
        stored: whether the weights are loaded from a checkpoint instead of being made.
    """

    shape: str
    length: int
    limit: float
    settings: dict[str, Any] = field(default_factory=dict)
    system: str = "ours"
    batch: int = 1
    dtype: str = "bfloat16"
    stored: bool = False


ADAPTERS = {"use_peft": True, "bf16": True}
FULL = Case("1.5b", 16384, 24, {"optim": "adamw_8bit"})
RIVAL = replace(FULL, system="trl", settings=TRL_TUTORIAL)
CASES = {
    "full-1.5b": FULL,
    "trl-float32": replace(RIVAL, dtype="float32"),
    "trl-bf16": RIVAL,
    "lora-7b": Case("7b", 8192, 24, ADAPTERS, stored=True),
    "qlora-7b": Case("7b", 16384, 24, ADAPTERS | {"load_in_4bit": True}, stored=True),
    "full-7b": Case("7b", 32768, 141, {"optim": "adamw_8bit"}),
    "full-1.5b-paged": replace(FULL, settings={"optim": "paged_adamw_8bit"}),
    "full-1.5b-batch8": replace(FULL, batch=8),
    "trl-float32-batch8": replace(RIVAL, batch=8, dtype="float32"),
}
DEFAULT = ["full-1.5b", "trl-float32", "trl-bf16", "lora-7b", "qlora-7b", "full-7b"]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=DEFAULT, choices=CASES, metavar="CASE")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="more settings of `open-r1 sft`")
    parser.add_argument("--steps", type=int, default=4, help="under the clock")
    parser.add_argument("--warmup", type=int, default=2, help="before it, 1 or more")
    parser.add_argument("--timeout", type=float, default=150, help="seconds for one case")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape and short packs")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="the results, rewritten after each case")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure(arguments, Path(folder))))


def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All cases, one after the other; the next one imports its libraries while one runs."""
    results: list[dict[str, Any]] = []
    waiting: list[Started] = []
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    for turn in [*turns(arguments), None]:
        if turn is not None:
            waiting.append(start(*turn, arguments, folder))
        if len(waiting) < 2 and turn is not None:
            continue
        started = waiting.pop(0)
        result = finish(started, arguments.timeout)
        result["notes"] = notes(folder / f"{started.case}.log")
        told = {name: value for name, value in result.items() if name not in ("losses", "step_ms", "versions")}
        print(f"{started.case}: {json.dumps(told)}", file=sys.stderr, flush=True)
        if started.case not in CASES:
            continue
        case = CASES[started.case]
        known = {"run": stamp, "case": started.case, "limit_gb": case.limit, "length": started.job.length}
        results.append(known | {"batch": case.batch} | result)
        if arguments.json:
            write_json(arguments.json, results)
    return results


def notes(log: Path) -> list[str]:
    """What a run said about memory."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return [line[:200] for line in lines if any(part in line for part in SAID)][:8]


def turns(arguments: argparse.Namespace) -> list[tuple[str, Case]]:
    """The cases by name, and before the first that loads a checkpoint the making of it."""
    made: list[tuple[str, Case]] = []
    for name in arguments.cases:
        case = CASES[name]
        if case.stored and not any(earlier.system == "checkpoint" for _, earlier in made):
            made.append((f"checkpoint-{case.shape}", replace(case, system="checkpoint", settings={})))
        made.append((name, case))
    return made


def start(name: str, case: Case, arguments: argparse.Namespace, shared: Path) -> Started:
    """Starts the process of one case, which waits at its gate."""
    on_gpu = arguments.device == "cuda"
    length = 256 if arguments.tiny else case.length
    shape, _, _ = read_case(f"{'tiny' if arguments.tiny else case.shape}:{length}")
    folder, checkpoint = Path(tempfile.mkdtemp()), shared / f"checkpoint-{case.shape}"
    model = checkpoint if case.system == "checkpoint" else folder / "model"
    write_model(model, shape, arguments.device)
    settings = dict(case.settings)
    if case.system == "ours":
        settings |= dict(pair.split("=", 1) for pair in arguments.set)
        settings |= {"model_name_or_path": str(checkpoint)} if case.stored else {}
        settings |= {} if on_gpu else {"bf16": False}
    job = Job(
        system=case.system,
        shape=shape,
        length=length,
        packs=2 * case.batch,
        batch=case.batch,
        warmup=arguments.warmup,
        steps=arguments.steps,
        profile=False,
        device=arguments.device,
        dtype=case.dtype if on_gpu else "float32",
        mean=length // 3 if arguments.tiny else MEAN_LENGTH,
        settings=settings,
        folder=str(folder),
        gate=str(folder / "gate"),
    )
    more = {"allowed": (case.limit - CONTEXT) * 1e9, "checkpoint": str(checkpoint) if case.stored else None}
    (folder / "job.json").write_text(json.dumps({"job": asdict(job), **more}))
    script = ROOT / "benchmarks" / "memory_sides.py"
    command = [sys.executable, str(script), folder / "job.json", folder / "result.json"]
    (folder / "log").symlink_to(shared / f"{name}.log")  # `finish` removes the folder
    with (folder / "log").open("wb") as log:
        environment = environment_of(job, case.system, folder)
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    return Started(name, case.system, job, process)


if __name__ == "__main__":
    assert all(case.shape in SHAPES for case in CASES.values())
    if "PYTORCH_CUDA_ALLOC_CONF" in os.environ:
        print(f"PYTORCH_CUDA_ALLOC_CONF={os.environ['PYTORCH_CUDA_ALLOC_CONF']}", file=sys.stderr)
    main()
