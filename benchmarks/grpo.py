"""GRPO on one GPU: `open-r1 grpo` and TRL's GRPOTrainer in one run, on the same prompts, vLLM in process on both sides.

    python benchmarks/grpo.py --model CHECKPOINT --data gsm8k_train.jsonl --json grpo.json
    python benchmarks/grpo.py --model CHECKPOINT --data gsm8k_train.jsonl --check          (is it the same loss?)
    python benchmarks/grpo.py --merge first.json second.json                    (the tables of several runs together)
    python benchmarks/grpo.py --tiny --device cpu                               (does it still run?)

A case is MODEL:PROMPTSxANSWERS:TOKENS[:MICRO]: ``model`` is the checkpoint of --model with the accuracy reward; a shape
of Qwen2.5 (``1.5b``) has random weights, so that nearly every answer runs to its end, and a reward that tosses a coin.
TOKENS is the longest answer, MICRO the answers of TRL's micro-batch. A side is a system with changes: ``ours+async``,
``trl-tuned+sdpa``.

* ``ours``: the command as it is; zero-signal groups are kept, as TRL keeps them. ``async`` (the next batch is drawn
  while this one trains), ``split`` (exact bf16 weights), ``nocompile``, ``full`` (recompute), ``packN`` (tokens).
* ``trl-tuned``: Liger kernels, FlashAttention-2, no recompute, bf16 weights, micro-batches as large as fit, importance
  weights by the token, truncated at 2: the correction that ours makes. ``sdpa``, ``noliger``, ``nois`` (no correction,
  which saves a forward pass), ``full``, ``mbN`` (micro-batches of N answers).
* ``trl-defaults``: SDPA, recompute, bf16 autocast over float32 weights, micro-batches of 8.
  For all: ``autocast``, ``float32``, ``memN`` (N percent of the GPU for vLLM).

Both have dapo's loss, group advantages, no KL, temperature 1, AdamW at 1e-6, clipping at 1.0, the same reward function
and the same prompts in the same order. Each side is a process of its own; one that fails or takes too long says so in
the table. Seconds are those between optimizer steps; phases are told apart by waiting for the GPU on TRL's side, and
by the run's own metrics on ours. ``--check`` records what TRL draws in its first step, has ours learn from the same
answers, and compares rewards, loss and gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import flash_attention_2
from distributed import NO_MULTICAST, roomy_folder
from distributed_inputs import write_model
from grpo_job import LONG, SEED, Job, steps_of
from grpo_record import compare_gradients
from grpo_table import comparison, table
from sft import ROOT, SHAPES, wait_for

from open_r1.data.prompts import PromptSet
from open_r1.evaluation.prompts import math_prompt
from open_r1.files import write_json

CASES = ["model:64x8:512:32", "1.5b:16x8:4096:4"]
SIDES = ["ours", "ours+async", "trl-tuned"]
TINY_MODEL, TINY_DATA = ROOT / "recipes" / "demo" / "base", ROOT / "tests" / "data" / "gsm8k_train_64.jsonl"
LAST_LINES = 40
CPP_FRAME = "frame #"
NOT_TOLD = ("phases", "said", "losses", "rewards", "grad_norms", "mismatch")
OUR_CHANGES: dict[str, dict[str, Any]] = {
    "async": {"async_steps": 1},
    "split": {"optim": "adamw_split"},
    "nocompile": {"torch_compile": False},
    "full": {"gradient_checkpointing": "full"},
}
TRL_TUNED = {"attention": "flash_attention_2", "use_liger_kernel": True, "gradient_checkpointing": False}
TRL_DEFAULTS = {"attention": "sdpa", "gradient_checkpointing": True}
TRL_CHANGES: dict[str, dict[str, Any]] = {
    "sdpa": {"attention": "sdpa"},
    "noliger": {"use_liger_kernel": False},
    "nois": {"vllm_importance_sampling_correction": False},
    "full": {"gradient_checkpointing": True},
}
DTYPES = ("autocast", "float32")
# vLLM as it runs on a machine without network, and inside the trainer's process; FlashInfer compiles when it starts.
VLLM = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a transformers checkpoint")
    parser.add_argument("--data", type=Path, help="JSON lines of question and answer, as GSM8K has them")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--sides", nargs="+", default=SIDES)
    parser.add_argument("--steps", type=int, help=f"under the clock; 8, or 2 with answers of {LONG} tokens and more")
    parser.add_argument("--warmup", type=int, help="before it: compiling, allocating; 3, or 1 with these")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one side")
    parser.add_argument("--budget", type=float, default=540, help="seconds after which no side is started")
    parser.add_argument("--check", action="store_true", help="compare what is learnt from the same answers")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short answers")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="the results, rewritten after each side")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON", help="only print the tables of these files")
    arguments = parser.parse_args()
    if arguments.merge:
        print(table([result for path in arguments.merge for result in json.loads(path.read_text())]))
        return
    if arguments.tiny:
        arguments.model, arguments.data = arguments.model or TINY_MODEL, arguments.data or TINY_DATA
        arguments.cases = ["model:2x4:24:4"]
        arguments.sides = ["ours", "trl-tuned+sdpa+noliger"] if arguments.sides == SIDES else arguments.sides
    if not (arguments.model and arguments.data):
        parser.error("--model and --data are needed (but for --tiny and --merge)")
    folder = Path(tempfile.mkdtemp(prefix="grpo-", dir=roomy_folder()))
    try:
        print((check if arguments.check else measure)(folder, arguments), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, arguments: argparse.Namespace) -> str:
    """All sides of all cases, one after the other; their table."""
    begin = time.monotonic()
    jobs = [
        (case, side, make_job(case, side, folder, arguments)) for case in arguments.cases for side in arguments.sides
    ]
    results: list[dict[str, Any]] = []
    for case, side, job in jobs:
        if time.monotonic() - begin > arguments.budget:
            result: dict[str, Any] = {"error": f"not started: {arguments.budget:.0f} s were over"}
        else:
            result = run(job, arguments)
        results.append({"case": case, "side": side, "answers": job.answers, "micro_batch": job.micro_batch} | result)
        report(results[-1])
        if arguments.json:
            write_json(arguments.json, results)
    return table(results)


def check(folder: Path, arguments: argparse.Namespace) -> str:
    """For each side of TRL and the first case: TRL draws and learns, ours learns from the same; how far apart they are.

    The changes of the first side of ours hold for it; the dtype is that of TRL's side.
    """
    ours = next((side for side in arguments.sides if side.startswith("ours")), "ours")
    lines, results = [], []
    for side in [side for side in arguments.sides if side.startswith("trl")]:
        record = folder / "record.pt"
        theirs = replace(make_job(arguments.cases[0], side, folder, arguments), warmup=0, steps=1, record=str(record))
        same = make_job(arguments.cases[0], ours, folder, arguments)
        same = replace(same, warmup=0, steps=1, record=str(record), dtype=theirs.dtype, vllm=False)
        pair = [
            {"side": name, "answers": job.answers, "dtype": job.dtype} | run(job, arguments)
            for name, job in ((side, theirs), (ours, same))
        ]
        if not any("error" in result for result in pair):
            pair[1]["gradients"] = compare_gradients(str(record))
        for path in folder.glob("record.pt*"):
            path.unlink()
        for result in pair:
            report({"case": arguments.cases[0]} | result)
        results.append({"case": arguments.cases[0], "trl": pair[0], "ours": pair[1]})
        lines += comparison(side, *pair)
        if arguments.json:
            write_json(arguments.json, results)
    return "\n".join(lines)


def report(result: dict[str, Any]) -> None:
    """One line on standard error, and why a side failed."""
    told = {name: value for name, value in result.items() if name not in NOT_TOLD}
    print(json.dumps(told), *result.get("said", []), sep="\n    ", file=sys.stderr, flush=True)


def make_job(case: str, side: str, folder: Path, arguments: argparse.Namespace) -> Job:
    """The job of a side, with its model and rows written down where they are not yet."""
    name, prompts, group, completion, micro_batch = read_case(case)
    system, dtype, micro_batch, settings = read_side(side, micro_batch)
    warmup, steps = steps_of(completion, arguments.warmup, arguments.steps)
    if prompts * group % micro_batch:
        sys.exit(f"{case} {side}: {prompts * group} answers are not whole micro-batches of {micro_batch}")
    model = arguments.model
    if name != "model":
        model = folder / name
        if not model.exists():
            write_model(model, name, arguments.device)
            for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):  # of as many words
                shutil.copy(arguments.model / file, model / file)
    rows = folder / f"rows-{prompts}-{steps}.jsonl"
    if not rows.exists():
        write_rows(arguments.data, rows, prompts * (warmup + steps))
    return Job(
        system=system,
        model=str(model),
        rows=str(rows),
        prompts=prompts,
        group=group,
        completion=completion,
        micro_batch=micro_batch,
        reward="accuracy" if name == "model" and not arguments.tiny else "coin",
        warmup=warmup,
        steps=steps,
        device=arguments.device,
        dtype="float32" if arguments.device == "cpu" else dtype,
        vllm=arguments.device == "cuda",
        settings=settings,
        folder=str(folder / "side"),
    )


def read_case(text: str) -> tuple[str, int, int, int, int]:
    """Model, prompts, answers to each, tokens of the longest, answers of TRL's micro-batch."""
    match = re.fullmatch(r"([^:]+):(\d+)x(\d+):(\d+)(?::(\d+))?", text)
    if match is None or match[1] not in ("model", *SHAPES):
        models = ", ".join(("model", *SHAPES))
        sys.exit(f"{text!r} is not a case; write MODEL:PROMPTSxANSWERS:TOKENS[:MICRO] with a model of {models}")
    prompts, group = int(match[2]), int(match[3])
    return match[1], prompts, group, int(match[4]), int(match[5] or min(64, prompts * group))


def read_side(text: str, micro_batch: int) -> tuple[str, str, int, dict[str, Any]]:
    """System, dtype, micro-batch and settings of a side."""
    name, *changes = text.split("+")
    bases: dict[str, dict[str, Any]] = {"ours": {}, "trl-tuned": TRL_TUNED, "trl-defaults": TRL_DEFAULTS}
    if name not in bases:
        sys.exit(f"{text!r} is not a side; there are {', '.join(bases)}")
    system = "ours" if name == "ours" else "trl"
    known = OUR_CHANGES if system == "ours" else TRL_CHANGES
    settings = dict(bases[name])
    dtype = "autocast" if name == "trl-defaults" else "bfloat16"
    if name == "trl-defaults":
        micro_batch = min(8, micro_batch)
    for change in changes:
        if change in DTYPES:
            dtype = change
        elif number := re.fullmatch(r"(mb|mem|pack)(\d+)", change):
            kind, value = number[1], int(number[2])
            micro_batch = value if kind == "mb" else micro_batch
            settings |= {"vllm_gpu_memory_utilization": value / 100} if kind == "mem" else {}
            settings |= {"pack_length": value} if kind == "pack" and system == "ours" else {}
        elif change in known:
            settings |= known[change]
        else:
            sys.exit(f"{text!r} is not a side; {name} takes {', '.join([*known, *DTYPES])}, mbN, memN and packN")
    return system, dtype, micro_batch, settings


def write_rows(data: Path, path: Path, number: int) -> None:
    """Prompts worded as evaluation words them, and their answers, in the order in which `open-r1 grpo` draws them."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    order = PromptSet([[]] * len(rows), [()] * len(rows), [{}] * len(rows))
    asked = [{"prompt": math_prompt(row["question"]), "solution": row["answer"].rpartition("#### ")[2]} for row in rows]
    drawn = [order.draw(SEED, place) for place in range(min(number, len(rows)))]
    path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    path.with_suffix(".order").write_text(json.dumps(drawn))


def run(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own; its result, or ``error`` and what it said."""
    folder = Path(job.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    command = [sys.executable, str(ROOT / "benchmarks" / "grpo_sides.py"), folder / "job.json", folder / "result.json"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(job), start_new_session=True)
        error = wait_for(process, arguments.timeout) or "ended without a result"
    written = folder / "result.json"
    result = json.loads(written.read_text()) if written.exists() else {"error": error}
    if "error" in result:
        lines = (folder / "log").read_text(errors="replace").replace("\r", "\n").splitlines()
        told = [line.rstrip()[:300] for line in lines if line.strip() and not line.startswith(CPP_FRAME)]
        result["said"] = told[-LAST_LINES:]
    return result


def environment_of_case(device: str) -> dict[str, str]:
    """The variables of a process that trains with our side alone."""
    path = [str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return _variables(path, device)


def _variables(path: list[str], device: str) -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    quiet |= {"NO_COLOR": "1", "COLUMNS": "300", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONUNBUFFERED": "1"}
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return NO_MULTICAST | VLLM | os.environ | {"PYTHONPATH": os.pathsep.join(path)} | quiet | no_gpu


def environment(job: Job) -> dict[str, str]:
    """The variables of a side's process; flash-attn-4 hides what stands for FlashAttention-2."""
    path = [str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if job.settings.get("attention") == "flash_attention_2":
        hidden = [Path(entry) for entry in path if Path(entry, "flash_attn").exists()]
        path = [entry for entry in path if not any(Path(entry).is_relative_to(folder) for folder in hidden)]
        flash_attention_2.install(Path(job.folder) / "site")
        path.insert(0, f"{job.folder}/site")
    return _variables(path, job.device)


if __name__ == "__main__":
    main()
