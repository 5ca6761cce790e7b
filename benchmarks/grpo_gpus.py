"""`open-r1 grpo` on several GPUs, an engine on each or a server on some, beside one GPU; the same global batch.

    python benchmarks/grpo_gpus.py --model CHECKPOINT --data gsm8k_train.jsonl --json grpo_gpus.json
    python benchmarks/grpo_gpus.py --model CHECKPOINT --data gsm8k_train.jsonl --ways one ddp server+async
    python benchmarks/grpo_gpus.py --tiny --device cpu                         (does it still run? two processes)

* ``one``: training and vLLM on the first GPU.
* ``ddp``, ``zero2``, ``fsdp``, ``zero3``: a process for each GPU with an engine of its own, by the launcher file of
  that name; ``fsdp`` and ``zero3`` gather the weights layer by layer for it. On a CPU the last two ask a server.
* ``server``: trains on the first GPU, draws on the others, which get the weights by NCCL (Gloo on a CPU).
  For all: ``+async`` (the next answers are drawn while this step trains).

Prompts, their order and seeds are the same everywhere; what vLLM draws depends on what it decodes side by side, so
answers differ and rewards agree as means do. Seconds are those between lines of metrics.jsonl, after --warmup steps;
``first`` is from the command to the first of them. Phases are the run's own, and overlap with ``async``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from distributed import LAST_LINES, ROOT, WAYS, gpus, launcher, roomy_folder
from grpo import TINY_DATA, TINY_MODEL, environment_of_case, write_rows
from grpo_job import Job
from markdown_table import table_row
from sft import wait_for

from open_r1.files import write_json
from open_r1.generation.server_port import free_port

SCRIPT = ROOT / "src" / "open_r1" / "grpo.py"
KINDS = ("one", *WAYS, "server")
PHASES = ("generate", "reward_wait", "reference", "train", "sync", "idle")
COLUMNS = ("way", "GPUs", "s/step", "×", *PHASES, "answer tok/s", "reward", "tokens an answer", "mismatch", "GiB")
COLUMNS = (*COLUMNS, "first")
LOOK = 0.02  # seconds between looks at the metrics


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a transformers checkpoint")
    parser.add_argument("--data", type=Path, help="JSON lines of question and answer, as GSM8K has them")
    parser.add_argument("--ways", nargs="+", default=["one", "ddp", "fsdp", "server", "server+async"])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--answers", type=int, default=16, help="to each prompt")
    parser.add_argument("--tokens", type=int, default=512, help="of the longest answer")
    parser.add_argument("--steps", type=int, default=8, help="under the clock")
    parser.add_argument("--warmup", type=int, default=2, help="steps before it: compiling, allocating")
    parser.add_argument("--processes", type=int, help="GPUs to use; all by default")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one way")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short answers")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="the results, rewritten after each way")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.model, arguments.data = TINY_MODEL, TINY_DATA
        arguments.prompts, arguments.answers, arguments.tokens, arguments.steps = 4, 4, 16, 2
    if not (arguments.model and arguments.data):
        parser.error("--model and --data are needed (but for --tiny)")
    for way in arguments.ways:
        if way.removesuffix("+async") not in KINDS:
            parser.error(f"{way!r} is not a way; there are {' '.join(KINDS)}, each with +async or without")
    arguments.processes = arguments.processes or (gpus() if arguments.device == "cuda" else 2)
    if arguments.processes < 2:
        parser.error(f"{arguments.processes} GPU: there is nothing to compare; --tiny --device cpu runs two processes")
    folder = Path(tempfile.mkdtemp(prefix="grpo-gpus-", dir=roomy_folder()))
    results: list[dict[str, Any]] = []
    try:
        for way in arguments.ways:
            results.append({"way": way} | run(way, folder, arguments))
            print(json.dumps({k: v for k, v in results[-1].items() if k != "steps"}), file=sys.stderr, flush=True)
            if arguments.json:
                write_json(arguments.json, results)
        print(table(results, arguments), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(way: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One way: seconds of each step and what the run wrote down of it, or ``error`` with its last lines."""
    kind, training = way.removesuffix("+async"), 1
    if kind in WAYS:
        training = arguments.processes
    output = folder / "side" / "run"
    shutil.rmtree(output.parent, ignore_errors=True)
    output.mkdir(parents=True)
    command = [*launcher("one" if training == 1 else kind, training, arguments), str(SCRIPT)]
    command += job(way, kind, training, folder, arguments).arguments()
    log, begin, seen = output.parent / "log", time.monotonic(), [0.0]
    environment = environment_of_case(arguments.device)
    if kind == "one" and arguments.device == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = "0"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=environment, start_new_session=True)
        while process.poll() is None and time.monotonic() - begin < arguments.timeout:
            written = steps_of(output)
            seen += [time.monotonic() - begin] * (len(written) + 1 - len(seen))
            time.sleep(LOOK)
        error = wait_for(process, max(1.0, begin + arguments.timeout - time.monotonic()))
    steps = steps_of(output)
    if error or len(steps) < arguments.warmup + arguments.steps:
        lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
        return {"error": error or "fewer steps than asked", "said": [line for line in lines if line][-LAST_LINES:]}
    seen += [time.monotonic() - begin] * (len(steps) + 1 - len(seen))
    seconds = [after - before for before, after in pairwise(seen)]
    gpus_used = arguments.processes if kind == "server" else training
    return {"gpus": gpus_used, "first": seconds[0], "seconds": seconds[arguments.warmup :], "steps": steps}


def job(way: str, kind: str, training: int, folder: Path, arguments: argparse.Namespace) -> Job:
    """The settings of a way: those of `benchmarks/grpo.py` but for who draws, and how a step is shared."""
    total = arguments.warmup + arguments.steps
    rows = folder / "rows.jsonl"
    if not rows.exists():
        write_rows(arguments.data, rows, arguments.prompts * total)
    on_gpu = arguments.device == "cuda"
    settings: dict[str, Any] = {"async_steps": int(way.endswith("+async")), "gold_check": False}
    settings |= {"gradient_accumulation_steps": 1}  # of whatever each process has
    if not on_gpu:
        settings |= {"cpu_threads": 1}
    if kind == "server" or (kind in ("fsdp", "zero3") and not on_gpu):
        others = ",".join(str(number) for number in range(1, arguments.processes)) if on_gpu else "0"
        settings |= {"use_vllm": True, "vllm_mode": "server", "vllm_server_devices": others}
        settings |= {"vllm_server_port": free_port(), "vllm_group_port": free_port()}
    return Job(
        system="ours",
        model=str(arguments.model),
        rows=str(rows),
        prompts=arguments.prompts,
        group=arguments.answers,
        completion=arguments.tokens,
        micro_batch=arguments.prompts * arguments.answers // training,
        reward="accuracy",
        warmup=arguments.warmup,
        steps=arguments.steps,
        device=arguments.device,
        dtype="autocast" if on_gpu else "float32",
        vllm=on_gpu,
        settings=settings,
        folder=str(folder / "side"),
    )


def steps_of(output: Path) -> list[dict[str, Any]]:
    """The lines of metrics that are whole."""
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def table(results: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """A line for each way, as Markdown; × is how much faster than ``one``."""
    lines = [table_row(COLUMNS), table_row(["---", *["---:"] * (len(COLUMNS) - 1)])]
    alone = next(
        (
            statistics.fmean(result["seconds"])
            for result in results
            if result.get("way") == "one" and "seconds" in result
        ),
        None,
    )
    failed = []
    for result in results:
        if "error" in result:
            lines.append(table_row([result["way"], result["error"], *[""] * (len(COLUMNS) - 2)]))
            failed += [f"{result['way']}: {result['error']}", *[f"    {line}" for line in result["said"]]]
            continue
        steps = result["steps"][arguments.warmup :]
        mean = {
            name: statistics.fmean(step.get(name) or 0.0 for step in steps)
            for name in ("reward", "completion_length", "mismatch", *[f"seconds_{phase}" for phase in PHASES])
        }
        seconds = statistics.fmean(result["seconds"])
        drawn = mean["completion_length"] * arguments.prompts * arguments.answers
        lines.append(
            table_row(
                [
                    result["way"],
                    str(result["gpus"]),
                    f"{seconds:.2f} ({min(result['seconds']):.2f} to {max(result['seconds']):.2f})",
                    f"{alone / seconds:.2f}" if alone else "",
                    *(f"{mean[f'seconds_{phase}']:.2f}" for phase in PHASES),
                    f"{drawn / seconds:,.0f}",
                    f"{mean['reward']:.3f}",
                    f"{mean['completion_length']:.0f}",
                    f"{mean['mismatch']:.4f}",
                    f"{max(step.get('peak_memory_gib') or 0.0 for step in steps):.1f}",
                    f"{result['first']:.0f}",
                ]
            )
        )
    return "\n".join([*lines, "", *failed])


if __name__ == "__main__":
    main()
