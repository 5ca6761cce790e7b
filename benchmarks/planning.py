"""What a plan predicts beside what the run takes: `open-r1 sft` and `open-r1 grpo` as they are, a few steps each.

    python benchmarks/planning.py --json planning.json
    python benchmarks/planning.py --cases 1.5b-16k-8bit grpo-0.5b
    python benchmarks/planning.py --tiny --device cpu                   (does it still run?)

Weights are random, in Qwen2.5's shapes, and made on the device (those under 4 bits are stored first, and loaded).
Several cases of one shape share a process, one after the other; one with vLLM has its own. A case that takes too long
is given up, and the next goes on in a new process.

``predicted`` is `open_r1.planning.memory.step_memory`, from the settings and config.json alone, before anything is
loaded; ``allocated`` and ``reserved`` are PyTorch's peaks over training steps, without what was there before the case.
``device`` is what the driver says is in use at the end, against what the plan says that nvidia-smi will show; what
earlier cases of the process left behind is in it. A GB is 1e9 bytes.
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distributed import roomy_folder
from grpo import environment_of_case
from markdown_table import table_row
from sft import ROOT, TOKENIZER, any_left, read_case, write_model

from open_r1.files import write_json

SIDE = ROOT / "benchmarks" / "planning_side.py"
LAST_LINES = 12
COLUMNS = ("case", "run", "predicted", "allocated", "off", "reserved", "shown", "device", "seconds")


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        program: "sft" or "grpo".
        shape: of `sft.SHAPES`.
        settings: of the program.
        stored: whether the weights are loaded from a checkpoint instead of being made.
        alone: whether it has a process of its own.
    """

    program: str
    shape: str
    settings: dict[str, Any] = field(default_factory=dict)
    stored: bool = False
    alone: bool = False

    @property
    def process(self) -> tuple[str, ...]:
        """Cases of one process have the same."""
        return (self.program, self.shape, *(["alone"] if self.alone else []))


BF16 = {"torch_dtype": "bfloat16"}
LORA = {"use_peft": True, "bf16": True}


def sft(shape: str, length: int, level: str, *, batch: int = 1, stored: bool = False, **settings: Any) -> Case:
    """A case of SFT: micro-batches of ``batch`` × ``length`` tokens, two of them a step."""
    more = {
        "max_length": length,
        "gradient_checkpointing": level,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 2,
    }
    return Case("sft", shape, more | settings, stored)


def grpo(shape: str, level: str, *, alone: bool = False, **settings: Any) -> Case:
    """A case of GRPO: 128 answers of 256 tokens, packs of 8,192."""
    more = {
        "prompts_per_step": 16,
        "num_generations": 8,
        "max_completion_length": 256,
        "pack_length": 8192,
        "gradient_checkpointing": level,
    }
    return Case("grpo", shape, more | settings, stored=alone, alone=alone)


CASES = {
    "0.5b-2k": sft("0.5b", 2048, "none", batch=8, **BF16),
    "0.5b-16k-float32": sft("0.5b", 16384, "none", bf16=True),
    "0.5b-32k-full": sft("0.5b", 32768, "full", **BF16, optim="adamw_split"),
    "1.5b-2k-float32": sft("1.5b", 2048, "none", batch=4, bf16=True),
    "1.5b-16k-8bit": sft("1.5b", 16384, "full", **BF16, optim="adamw_8bit"),
    "1.5b-16k-selective": sft("1.5b", 16384, "selective", **BF16, optim="adamw_split"),
    "1.5b-32k": sft("1.5b", 32768, "none", **BF16),
    "1.5b-lora-16k": sft("1.5b", 16384, "none", **LORA),
    "7b-2k-8bit": sft("7b", 2048, "none", batch=4, **BF16, optim="adamw_8bit"),
    "7b-16k-full": sft("7b", 16384, "full", **BF16, optim="adamw_split"),
    "7b-lora-8k": sft("7b", 8192, "full", **LORA),
    "7b-qlora-16k": sft("7b", 16384, "full", stored=True, **LORA, load_in_4bit=True),
    "grpo-0.5b": grpo("0.5b", "none", **BF16, optim="adamw_split"),
    "grpo-1.5b-lora": grpo("1.5b", "selective", **LORA),
    "grpo-0.5b-vllm": grpo("0.5b", "none", alone=True, **BF16, use_vllm=True),
    "1.5b-qlora-16k": sft("1.5b", 16384, "selective", stored=True, **LORA, load_in_4bit=True),
    "7b-32k-selective": sft("7b", 32768, "selective", **BF16, optim="adamw_8bit"),
    "7b-lora-16k": sft("7b", 16384, "selective", **LORA),
    "grpo-1.5b-8bit": grpo("1.5b", "selective", **BF16, optim="adamw_8bit"),
}
DEFAULT = list(CASES)[:15]
TINY_SFT = {"max_length": 256, "bf16": False, "torch_dtype": "float32", "cpu_threads": 1}
TINY_GRPO = {"prompts_per_step": 2, "num_generations": 4, "max_completion_length": 16, "pack_length": 512}
TINY_GRPO |= {"bf16": False, "torch_dtype": "float32", "use_vllm": False, "cpu_threads": 1}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=DEFAULT, choices=CASES, metavar="CASE")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a case; a step may be less full")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one case")
    parser.add_argument("--budget", type=float, default=460, help="seconds after which nothing goes on")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape and short packs")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="the results, rewritten after each case")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device cpu is for --tiny")
    print(table(measure(arguments)))


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases, one process after the other."""
    end = time.monotonic() + arguments.budget
    results: list[dict[str, Any]] = []
    folder = Path(tempfile.mkdtemp(prefix="planning-", dir=roomy_folder()))

    def note(result: dict[str, Any]) -> None:
        results.append(result)
        print(
            json.dumps({name: value for name, value in result.items() if name != "said"}), file=sys.stderr, flush=True
        )
        if arguments.json:
            write_json(arguments.json, results)

    try:
        for process in dict.fromkeys(CASES[name].process for name in arguments.cases):
            names = [name for name in arguments.cases if CASES[name].process == process]
            while names:
                done = run(names, folder, arguments, end)
                for result in done:
                    note(result)
                names = names[len(done) :]
            for checkpoint in folder.glob("*-stored"):
                shutil.rmtree(checkpoint)  # of a shape that is done with
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def run(names: list[str], folder: Path, arguments: argparse.Namespace, end: float) -> list[dict[str, Any]]:
    """The results of one process, as far as it came; the last one is an error where it did not end well."""
    if time.monotonic() > end:
        return [{"case": name, "error": "not started: the budget was over"} for name in names]
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([job_of(name, folder, arguments) for name in names]))
    written, log = folder / "results.jsonl", folder / "log"
    written.write_text("")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(SIDE), jobs, written],
            stdout=output,
            stderr=output,
            env=environment_of_case(arguments.device),
            start_new_session=True,
        )
        changed, count = time.monotonic(), 0
        while process.poll() is None:
            time.sleep(0.1)
            lines = written.read_text().count("\n")
            changed, count = (time.monotonic(), lines) if lines != count else (changed, count)
            if time.monotonic() - changed > arguments.timeout or time.monotonic() > end:
                break
        if process.poll() is None or any_left(process.pid):
            os.killpg(process.pid, 9)
        code = process.wait()
    results = [json.loads(line) for line in written.read_text().splitlines()]
    if len(results) < len(names):
        over = code < 0
        error = f"not done in {time.monotonic() - changed:.0f} s" if over else f"the process ended with {code}"
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        results.append({"case": names[len(results)], "error": error, "said": lines})
    return results


def job_of(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A case as its side reads it, with a model folder without weights."""
    case = CASES[name]
    shape, _, _ = read_case(f"{'tiny' if arguments.tiny else case.shape}:1")
    model = folder / f"{case.shape}{'-stored' if case.stored else ''}"
    if not model.exists():
        write_model(model, shape | {"dtype": "bfloat16"}, arguments.device)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(TOKENIZER / file, model)
    settings = dict(case.settings)
    stored = case.stored
    if arguments.tiny:
        settings |= TINY_SFT if case.program == "sft" else TINY_GRPO
        settings.pop("load_in_4bit", None)
        stored = False
    told = asdict(case) | {"settings": settings, "stored": stored, "case": name, "model": str(model), "config": shape}
    return told | {"steps": arguments.steps, "device": arguments.device, "folder": str(folder / f"run-{name}")}


def table(results: Sequence[dict[str, Any]]) -> str:
    """A line for each case, then what was said where one failed."""
    lines = [table_row(COLUMNS), table_row(["---", "---", *["---:"] * (len(COLUMNS) - 2)])]
    lines += [table_row(_cells(result)) for result in results]
    off = [abs(result["predicted_gb"] / result["allocated_gb"] - 1) for result in results if result.get("allocated_gb")]
    if off:
        within = sum(share <= 0.1 for share in off)
        lines += [
            "",
            f"{within} of {len(off)} within 10 %, {max(off):.1%} off at most, {sum(off) / len(off):.1%} on average",
        ]
    for result in (result for result in results if "error" in result):
        lines += ["", f"{result['case']}: {result['error']}", *(f"    {line}" for line in result.get("said", []))]
    return "\n".join(lines)


def _cells(result: dict[str, Any]) -> list[str]:
    predicted, allocated = result.get("predicted_gb"), result.get("allocated_gb")
    numbers = [result.get(name) for name in ("reserved_gb", "shown_gb", "device_gb")]
    return [
        result["case"],
        result.get("run", result.get("error", "")[:80]),
        _gb(predicted),
        _gb(allocated),
        f"{predicted / allocated - 1:+.1%}" if predicted and allocated else "",
        *map(_gb, numbers),
        f"{result['seconds']:.0f}" if "seconds" in result else "",
    ]


def _gb(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
