"""Supervised fine-tuning on one GPU: `open-r1 sft` and TRL's SFTTrainer in one run, on the same packs.

    python benchmarks/sft.py --cases 1.5b:16384 7b:2048 --sides ours trl-tuned trl-tutorial --json sft.json
    python benchmarks/sft.py --merge first.json second.json        (the tables of several runs together)
    python benchmarks/sft.py --tiny --device cpu                   (does it still run?)

A case is SHAPE:LENGTH[:PACKS]: Qwen2.5's shape with random bf16 weights, tokens of a pack, packs of an optimizer step.
A side is a system with changes: ``ours+fp8``, ``trl-tuned+fa4``.

* ``ours``: the command as it is, with bf16 weights. ``fp8``, ``none``, ``selective``, ``full`` (recompute),
  ``nocompile``, ``fa2`` (without flash-attn-4).
* ``trl-tuned``: Liger kernels, FlashAttention-2, no recompute, weights and compute in bf16, two data workers.
* ``trl-tutorial``: Liger kernels, FlashAttention-2, recompute, bf16 autocast: TRL's defaults.
  Changes for both: ``fa4``, ``compile``, ``autocast``, ``noliger``, ``full``, ``none``.
* ``xN`` on any side: micro-batches of N times the packs. A micro-batch is 16,384 tokens, or one pack.

Both have fused AdamW, the same learning rate, clipping at 1.0 and tokens. Every side is a process of its own, one at a
time on the GPU; one that runs out of memory or time says so in the table. The rate is that of the median step. Tokens
are those of sequences, without padding; MFU is by the formula of `open_r1.training.meters`; ``×`` is against the best
trl-tuned of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import flash_attention_2
from sft_job import Job
from sft_table import agreement, profiles, table

from open_r1.files import write_json
from open_r1.model.published import SHAPES as PUBLISHED

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "recipes" / "demo" / "base"
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "initializer_range": 0.02,
    "use_sliding_window": False,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
# hidden, feed-forward, layers, heads, key-value heads, vocabulary, tied: from the models' published config.json.
SHAPES = {name.lower(): astuple(PUBLISHED[name])[1:] for name in ("0.5B", "1.5B", "7B")}
SHAPES |= {"tiny": (64, 128, 2, 4, 2, 512, True)}
CASES = [f"{shape}:{length}" for shape in ("1.5b", "0.5b", "7b") for length in (16384, 2048, 32768)]
SIDES = ["ours", "trl-tuned", "trl-tutorial"]
MEAN_LENGTH = 5500
MICRO_BATCH, STEP = 16384, 32768  # tokens

OUR_CHANGES = {
    "fp8": {"fp8": True},
    **{name: {"gradient_checkpointing": name} for name in ("none", "selective", "full")},
    "nocompile": {"torch_compile": False},
    "fa2": {},
}
TRL_TUNED = {
    "attention": "flash_attention_2",
    "use_liger_kernel": True,
    "gradient_checkpointing": False,
    "bf16": False,
    "dataloader_num_workers": 2,
}
TRL_TUTORIAL = {
    "attention": "flash_attention_2",
    "use_liger_kernel": True,
    "gradient_checkpointing": True,
    "bf16": True,
}
TRL_CHANGES = {
    "fa4": {"attention": "flash_attention_4"},
    "compile": {"torch_compile": True},
    "autocast": {"bf16": True},
    "noliger": {"use_liger_kernel": False},
    "full": {"gradient_checkpointing": True},
    "none": {"gradient_checkpointing": False},
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--sides", nargs="+", default=SIDES)
    parser.add_argument("--steps", type=int, default=8, help="under the clock")
    parser.add_argument("--warmup", type=int, default=10, help="before it: compiling, loading kernels for all packs")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each side; the fastest counts")
    parser.add_argument("--timeout", type=float, default=150, help="seconds for one side")
    parser.add_argument("--tokens", default="", help="file of trace_tokens.py: real text instead of made-up ids")
    parser.add_argument("--profile", action="store_true", help="and three more steps under the profiler")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape and short packs")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="the results, rewritten after each side")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON", help="only print the tables of these files")
    arguments = parser.parse_args()
    if arguments.merge:
        results = [result for path in arguments.merge for result in json.loads(path.read_text())]
    else:
        cases = ["tiny:256:4"] if arguments.tiny else arguments.cases
        if arguments.warmup < arguments.steps:
            parser.error("--warmup must be at least --steps, so that each timed pack was met before")
        sides = [(side, *read_side(side)) for side in arguments.sides]  # a misspelt one stops before any is run
        results = measure([(case, *read_case(case)) for case in cases], sides, arguments)
    print("\n".join([table(results), "", *agreement(results), *profiles(results)]))


def measure(cases: list[Any], sides: list[Any], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All sides of all cases, one after the other; the next one imports its libraries while one runs."""
    results: list[dict[str, Any]] = []
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    rounds = range(arguments.rounds)
    turns = [(case, side) for case in cases for _ in rounds for side in sides]
    waiting: list[Started] = []
    for turn in [*turns, None]:
        if turn is not None:
            waiting.append(start(*turn, arguments))
        if len(waiting) < 2 and turn is not None:
            continue
        started = waiting.pop(0)
        result = finish(started, arguments.timeout)
        job = started.job
        known = {"run": stamp, "case": started.case, "side": started.side, "batch": job.batch, "packs": job.packs}
        results.append(known | result)
        told = {name: value for name, value in result.items() if name not in ("losses", "profile", "step_ms")}
        print(f"{started.case} {started.side}: {json.dumps(told)}", file=sys.stderr, flush=True)
        if arguments.json:
            write_json(arguments.json, results)
    return results


@dataclass(frozen=True)
class Started:
    """A side whose process waits at its gate."""

    case: str
    side: str
    job: Job
    process: subprocess.Popen[bytes]


def start(case: Any, side: Any, arguments: argparse.Namespace) -> Started:
    """Starts the process of one side of one case."""
    (case_name, shape, length, packs), (side_name, system, settings, share) = case, side
    folder = Path(tempfile.mkdtemp())
    write_model(folder / "model", shape, arguments.device)
    micro_batch = 2 * length if arguments.tiny else MICRO_BATCH
    job = Job(
        system=system,
        shape=shape,
        length=length,
        packs=packs,
        batch=min(packs, max(1, micro_batch // length) * share),
        warmup=arguments.warmup,
        steps=arguments.steps,
        profile=arguments.profile,
        device=arguments.device,
        dtype="bfloat16" if arguments.device == "cuda" else "float32",
        mean=length // 3 if arguments.tiny else MEAN_LENGTH,
        settings=settings,
        folder=str(folder),
        gate=str(folder / "gate"),
        tokens=arguments.tokens,
    )
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    command = [sys.executable, str(ROOT / "benchmarks" / "sft_sides.py"), folder / "job.json", folder / "result.json"]
    with (folder / "log").open("wb") as log:
        environment = environment_of(job, side_name, folder)
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    return Started(case_name, side_name, job, process)


def read_case(text: str) -> tuple[dict[str, Any], int, int]:
    """The model's configuration, the length and the packs of a step."""
    name, _, rest = text.partition(":")
    length, _, packs = rest.partition(":")
    if name not in SHAPES or not length.isdigit():
        sys.exit(f"{text!r} is not a case; write SHAPE:LENGTH[:PACKS] with a shape of {', '.join(SHAPES)}")
    hidden, forward, layers, heads, kv_heads, vocabulary, tied = SHAPES[name]
    shape = QWEN2 | {
        "hidden_size": hidden,
        "intermediate_size": forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }
    return shape, int(length), int(packs or max(2, STEP // int(length)))


def read_side(text: str) -> tuple[str, dict[str, Any], int]:
    """The system, its settings, and by how much its micro-batches are enlarged."""
    name, *changes = text.split("+")
    bases = {"ours": {}, "trl-tuned": TRL_TUNED, "trl-tutorial": TRL_TUTORIAL}
    known = OUR_CHANGES if name == "ours" else TRL_CHANGES
    share, settings = 1, dict(bases.get(name, {}))
    for change in changes:
        if change[:1] == "x" and change[1:].isdigit():
            share = int(change[1:])
        elif name in bases and change in known:
            settings |= known[change]
        else:
            sys.exit(f"{text!r} is not a side; {name} takes {', '.join(known)} and xN")
    if name not in bases:
        sys.exit(f"{text!r} is not a side; there are {', '.join(bases)}")
    return ("ours" if name == "ours" else "trl"), settings, share


def write_model(folder: Path, shape: dict[str, Any], device: str) -> None:
    """A model folder without weights."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder)
    dtype = "bfloat16" if device == "cuda" else "float32"
    (folder / "config.json").write_text(json.dumps(shape | {"dtype": dtype}))


def finish(started: Started, timeout: float) -> dict[str, Any]:
    """Opens a side's gate and waits for its end; its result, or ``error``."""
    folder = Path(started.job.folder)
    Path(started.job.gate).touch()
    error = wait_for(started.process, timeout) or "ended without a result"
    written = folder / "result.json"
    result = json.loads(written.read_text()) if written.exists() else {"error": error}
    lines = (folder / "log").read_text(errors="replace").splitlines()
    if "error" in result and result["error"] != "out of memory":
        print("\n".join(lines[-25:]), file=sys.stderr)
    told = ("recompute", "compil", "fp8", "halved", "memory", "kernel", "checkpointing")
    result["notes"] = [line.strip()[:200] for line in lines if any(word in line.lower() for word in told)][:8]
    shutil.rmtree(folder, ignore_errors=True)
    return result


def wait_for(process: subprocess.Popen[bytes], timeout: float) -> str:
    """Waits for a process that leads a group, and ends what is left of the group; why it failed, or ""."""
    try:
        code = process.wait(timeout)
        return f"ended with {code}" if code else ""
    except subprocess.TimeoutExpired:
        return f"not done in {timeout:.0f} s"
    finally:
        if process.poll() is None or any_left(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def any_left(group: int) -> bool:
    """Whether a process of the group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def environment_of(job: Job, side: str, folder: Path) -> dict[str, str]:
    """The variables of a side's process.

    flash-attn-4 and flash-attn are both the package flash_attn: a side that is to have FlashAttention-2 finds no other.
    """
    path = [str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if "fa2" in side.split("+") or job.settings.get("attention") == "flash_attention_2":
        path = [entry for entry in path if not Path(entry, "flash_attn").exists()]
        if job.system == "trl":
            flash_attention_2.install(folder / "site")
            path.insert(0, str(folder / "site"))
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if job.device == "cpu" else {}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", **quiet, **hidden}


if __name__ == "__main__":
    main()
