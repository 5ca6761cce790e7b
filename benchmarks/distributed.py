"""`open-r1 sft` on several GPUs: every launcher file at one global batch, against one GPU, with losses compared.

    python benchmarks/distributed.py --json distributed.json              (all GPUs that are found)
    python benchmarks/distributed.py --cases one ddp fsdp --shape 7b
    python benchmarks/distributed.py --tiny --device cpu                  (does it still run? two processes with gloo)

Cases are ways, ``+lora`` for adapters, and two that continue a checkpoint of another number of GPUs: ``fsdp>one``
(what FSDP wrote, on one GPU) and ``one>fsdp``. Each is a run of its own by ``accelerate launch --config_file
recipes/accelerate_configs/WAY.yaml src/open_r1/sft.py`` on the same rows, from the same random weights; the global
batch is the same everywhere. Rates are those of the run's own train_results.json after its first steps, of tokens that
belong to sequences; memory is that of rank 0. Losses are compared step by step with the run on one GPU.

A case that fails or takes too long says its last lines, and the others go on; ``--json`` is rewritten after each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from distributed_table import table
from sft import ROOT, SHAPES, wait_for

from open_r1.files import write_json

WAYS = ("ddp", "fsdp", "zero2", "zero3")
CASES = ["one", *WAYS, "fsdp>one", "one>fsdp", "one+lora", *[f"{way}+lora" for way in WAYS]]
CONFIGS = ROOT / "recipes" / "accelerate_configs"
SCRIPT = ROOT / "src" / "open_r1" / "sft.py"
LAST_LINES = 12
# NVLink multicast: on shared machines a program that uses it can put the host's GPUs out of service.
NO_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--shape", default="1.5b", choices=sorted(SHAPES))
    parser.add_argument("--length", type=int, default=16384, help="tokens of a pack, which is a micro-batch")
    parser.add_argument("--packs", type=int, default=2, help="packs of a step for each GPU of the whole machine")
    parser.add_argument("--processes", type=int, help="GPUs to use; all by default")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--lora_steps", type=int, default=7)
    parser.add_argument("--recompute", default="none", choices=("none", "selective", "full", "auto"))
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one case")
    parser.add_argument("--budget", type=float, default=300, help="seconds after which no case is started")
    parser.add_argument("--folder", type=Path, help="where models and runs are written; a temporary one by default")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape and short packs")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="the results, rewritten after each case")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.shape, arguments.length = "tiny", 256
    for case in arguments.cases:
        if case not in CASES:
            sys.exit(f"{case!r} is not a case; there are {' '.join(CASES)}")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="distributed-", dir=roomy_folder()))
    try:
        print(table(measure(folder, arguments)), flush=True)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases, one after the other."""
    begin = time.monotonic()
    processes = arguments.processes or (gpus() if arguments.device == "cuda" else 2)
    if processes < 2:
        sys.exit(f"{processes} GPU: there is nothing to compare; --tiny --device cpu runs two processes on a CPU")
    packs = arguments.packs * processes
    prepare = [sys.executable, ROOT / "benchmarks" / "distributed_inputs.py", folder, arguments.shape, arguments.device]
    prepare += [arguments.length, packs * max(arguments.steps, arguments.lora_steps)]
    subprocess.run([str(word) for word in prepare], check=True, env=environment(arguments.device))
    print(f"model and tokens: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    results: list[dict[str, Any]] = []
    for case in arguments.cases:
        if time.monotonic() - begin > arguments.budget:
            result: dict[str, Any] = {"error": f"not started: {arguments.budget:.0f} s were over"}
        else:
            result = run(case, folder, processes, packs, arguments)
        results.append({"case": case, "processes": processes_of(case, processes), "packs": packs} | result)
        told = {name: value for name, value in results[-1].items() if name not in ("losses", "said")}
        print(json.dumps(told), *result.get("said", []), sep="\n    ", file=sys.stderr, flush=True)
        if arguments.json:
            write_json(arguments.json, results)
    return results


def processes_of(case: str, processes: int) -> int:
    """1 for what runs on one GPU."""
    return 1 if way_of(case) == "one" else processes


def way_of(case: str) -> str:
    """The way in which a case trains: the last of those it names."""
    return case.removesuffix("+lora").rpartition(">")[2]


def run(case: str, folder: Path, processes: int, packs: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case; what it cost, or ``error``."""
    way, lora, source = way_of(case), case.endswith("+lora"), case.partition(">")[0] if ">" in case else None
    output = folder / case.replace(">", "-to-")
    steps = arguments.lora_steps if lora else arguments.steps
    settings: dict[str, Any] = {
        "model_name_or_path": folder / "model",
        "dataset_name": folder / "rows.jsonl",
        "token_cache_dir": folder / "tokens",
        "output_dir": output,
        "max_length": arguments.length,
        "gradient_accumulation_steps": packs // processes_of(case, processes),
        "max_steps": steps,
        "learning_rate": 1e-4 if lora else 3e-5,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
    }
    if arguments.recompute != "auto":
        settings["gradient_checkpointing"] = arguments.recompute
    if any(other.startswith(f"{case}>") for other in arguments.cases):  # which goes on from there
        settings |= {"save_strategy": "steps", "save_steps": steps // 2}
    if source:
        checkpoint = folder / source / f"checkpoint-{steps // 2}"
        if not checkpoint.is_dir():
            return {"error": f"there is no {checkpoint.name} of {source}"}
        settings["resume_from_checkpoint"] = checkpoint
    words = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    words += ["--bf16"] if arguments.device == "cuda" else ["--cpu_threads", "1"]
    words += ["--use_peft"] if lora else []
    seconds, status, lines = start([*launcher(way, processes, arguments), str(SCRIPT), *words], folder, arguments)
    result = {"seconds": round(seconds, 1)} | read(output)
    if status:
        result |= {"error": status, "said": lines[-LAST_LINES:]}
    else:
        keys = ("no longer bit for bit", "uncompiled", "halved", "gradient_checkpointing ")
        result["notes"] = [line[:300] for line in lines if any(key in line for key in keys)]
    keep = folder / "kept"
    for checkpoint in output.glob("checkpoint-*"):  # weights of a finished run are of no use here
        shutil.move(checkpoint, keep / case / checkpoint.name)
    shutil.rmtree(output, ignore_errors=True)
    if (keep / case).is_dir():
        shutil.move(keep / case, output)
    return result


def launcher(way: str, processes: int, arguments: argparse.Namespace) -> list[str]:
    """The words before the script. The number of processes is named only where it is not that of the GPUs."""
    if way == "one":
        return [sys.executable]
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{way}.yaml")]
    if arguments.device == "cpu" or processes != gpus():
        words += ["--num_processes", str(processes)]
    return [*words, "--main_process_port", "0"]


def start(words: list[str], folder: Path, arguments: argparse.Namespace) -> tuple[float, str, list[str]]:
    """Runs a command: its seconds, why it failed or "", and what it said."""
    log, begin = folder / "log", time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=file, cwd=ROOT, env=environment(arguments.device), start_new_session=True
        )
        status = wait_for(process, arguments.timeout)
    lines = [line.rstrip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines()]
    return time.monotonic() - begin, status, [line for line in lines if line.strip()]


def read(output: Path) -> dict[str, Any]:
    """What a run has written down: the loss of each step, and its rates if it came to its end."""
    result: dict[str, Any] = {}
    if (metrics := output / "metrics.jsonl").exists():
        steps = [json.loads(line) for line in metrics.read_text().splitlines()]
        result["losses"] = {str(step["step"]): step["loss"] for step in steps}
        result["memory_gib"] = max((step.get("peak_memory_gib", 0.0) for step in steps), default=0.0)
    if (written := output / "train_results.json").exists():
        numbers = json.loads(written.read_text())
        names = [name for name in ("tokens_per_second", "mfu") if f"train_steady_{name}" in numbers]
        result |= {name: numbers[f"train_steady_{name}"] for name in names}
    return result


def environment(device: str) -> dict[str, str]:
    """The variables of a run; what torch compiles is kept for the next."""
    path = [str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1", "COLUMNS": "300"}
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if device == "cpu" else {}
    return NO_MULTICAST | os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"} | quiet | hidden


@cache
def gpus() -> int:
    """How many GPUs this machine shows, without opening one here."""
    code = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def roomy_folder() -> str | None:
    """Memory that is a file system, where it has room for models and checkpoints; None for the usual place."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 80 * 2**30 else None


if __name__ == "__main__":
    main()
