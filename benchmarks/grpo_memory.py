"""GRPO on one consumer GPU: the recipes' first steps by `open-r1 grpo` as it is, in as much memory as such a card has.

    python benchmarks/grpo_memory.py --json grpo_memory.json
    python benchmarks/grpo_memory.py --cases 1.5b --set optim=paged_adamw_8bit
    python benchmarks/grpo_memory.py --tiny --device cpu                (does it still run?)

* ``0.5b``, ``1.5b``: recipes/Qwen2.5-{0.5B,1.5B}/grpo/config_24gb.yaml, all weights in 24 GB.
* ``7b``: recipes/Qwen2.5-7B/grpo/config_lora_48gb.yaml, adapters in 48 GB.

A GB is 1e9 bytes, so that 24 of them are what an A10G or an L4 has, and less than an RTX 4090. Another process takes
the rest of the GPU, so the limit holds for all that the run takes: PyTorch's allocator, vLLM's, CUDA graphs, CUDA
itself. Weights are random, so nearly every answer runs to its end, which is the most memory that the recipe can take;
the reward is a random number, so that every group trains. Nothing is evaluated or saved.

``device`` is what was used of the limit at most: while drawing, and while training. ``allocated`` is PyTorch's peak in
a training step without the engine's part, beside what `open_r1.model.memory.estimate_memory` predicts of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ballast import by_phase, leaving
from distributed import roomy_folder
from grpo import LAST_LINES, environment_of_case
from markdown_table import table_row
from memory import SAID
from sft import ROOT, TOKENIZER, wait_for

from open_r1.files import read_json, write_json

DATA = ROOT / "tests" / "data" / "gsm8k_train_64.jsonl"
SIDE = ROOT / "benchmarks" / "grpo_memory_side.py"
MEASURED = {
    "reward_funcs": [f"{ROOT}/benchmarks/grpo_job.py:chance"],
    "gold_check": False,
    "eval_strategy": "no",
    "eval_on_start": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "log_completions": False,
}
LEFT_OUT = ("dataset_config", "prompt_template", "eval_steps", "eval_holdout", "save_steps", "save_total_limit")
"""Settings of a recipe that go with its own data set, and with evaluating and saving."""
TINY = {"use_vllm": False, "prompts_per_step": 2, "num_generations": 4, "max_completion_length": 16}
COLUMNS = ("case", "limit", "run", "vLLM", "device: drawing", "training", "allocated", "predicted", "off", "tokens/s")


@dataclass(frozen=True)
class Case:
    """A recipe, the shape of its model, and the GB of the card that it is for."""

    recipe: str
    shape: str
    limit: float


CASES = {
    "0.5b": Case("recipes/Qwen2.5-0.5B/grpo/config_24gb.yaml", "0.5b", 24),
    "1.5b": Case("recipes/Qwen2.5-1.5B/grpo/config_24gb.yaml", "1.5b", 24),
    "7b": Case("recipes/Qwen2.5-7B/grpo/config_lora_48gb.yaml", "7b", 48),
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--limit", type=float, help="GB, instead of what the case's card has")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="changes of all recipes")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="a folder with another one, for its prompts")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one case")
    parser.add_argument("--budget", type=float, default=400, help="seconds after which no case is started")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short answers")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="the results, rewritten after each case")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device cpu is for --tiny")
    begin, results = time.monotonic(), []
    for name in arguments.cases:
        if time.monotonic() - begin > arguments.budget:
            result = {"error": f"not started: {arguments.budget:.0f} s were over", "notes": []}
        else:
            result = measure(CASES[name], arguments)
        results.append({"case": name, "limit_gb": arguments.limit or CASES[name].limit} | result)
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        if arguments.json:
            write_json(arguments.json, results)
    print(table(results))


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case in a process of its own; its result, or ``error`` and what it said."""
    folder = Path(tempfile.mkdtemp(prefix="grpo-memory-", dir=roomy_folder()))
    try:
        shape = "tiny" if arguments.tiny else case.shape
        making = [sys.executable, str(SIDE), "model", str(folder / "model"), shape, arguments.device]
        variables = environment_of_case(arguments.device)
        made = subprocess.run(making, env=variables, capture_output=True, text=True, check=False)
        if made.returncode:
            return {"error": "the model was not written", "notes": made.stderr.splitlines()[-LAST_LINES:]}
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(arguments.tokenizer / file, folder / "model")
        settings = settings_of(case, folder, arguments)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        on_gpu = arguments.device == "cuda"
        with leaving((arguments.limit or case.limit) * 1e9) if on_gpu else nullcontext([]) as samples:
            result = run(folder, settings["prompts_per_step"] * settings["num_generations"], arguments)
        used, before = by_phase(samples, [(begin, name) for begin, name in result.pop("phases", [])])
        if samples:
            result["device_gb"] = {phase: most / 1e9 for phase, most in used.items()}
            result["before_step_gb"] = [most / 1e9 for most in before]
        return result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settings_of(case: Case, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The recipe's settings with another model, other data and few steps."""
    recipe = yaml.safe_load((ROOT / case.recipe).read_text())
    settings = {name: value for name, value in recipe.items() if name not in LEFT_OUT}
    settings |= {"model_name_or_path": str(folder / "model"), "dataset_name": str(DATA)}
    settings |= MEASURED | {"output_dir": str(folder / "run"), "max_steps": arguments.steps}
    if arguments.tiny:
        settings |= {name: value for name, value in TINY.items() if name != "use_vllm" or arguments.device == "cpu"}
    changes = (change.partition("=") for change in arguments.set)
    return settings | {name: yaml.safe_load(value) for name, _, value in changes}


def run(folder: Path, answers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The case whose settings lie in ``folder``."""
    case = {"config": str(folder / "config.yaml"), "folder": str(folder), "answers": answers}
    (folder / "case.json").write_text(json.dumps(case))
    command = [sys.executable, str(SIDE), folder / "case.json", folder / "result.json"]
    with (folder / "log").open("wb") as log:
        variables = environment_of_case(arguments.device)
        process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, start_new_session=True)
        error = wait_for(process, arguments.timeout)
    result = read_json(folder / "result.json") or {}
    if error or not result:  # of the steps that it took before, all is known
        result.setdefault("error", error or "ended without a result")
    lines = [line.strip() for line in (folder / "log").read_text(errors="replace").splitlines() if line.strip()]
    said = [line[:200] for line in lines if any(part in line for part in (*SAID, "vLLM takes"))]
    engine = sorted(Path(folder, "run").glob("vllm-rank-*.log"))
    kept = [line for log in engine for line in log.read_text(errors="replace").splitlines() if "raph" in line]
    result["notes"] = [*said[:8], *(line[-200:] for line in kept if "GiB" in line)]
    return result | ({"said": lines[-LAST_LINES:]} if "error" in result else {})


def table(results: list[dict[str, Any]]) -> str:
    """A line for each case, sizes in GB; then what each run said, and the prediction's parts."""
    lines = [table_row(COLUMNS), table_row(["---", "---:", "---", *["---:"] * (len(COLUMNS) - 3)])]
    lines += [table_row(_cells(result)) for result in results]
    for result in results:
        lines += ["", f"{result['case']}:"]
        if parts := result.get("parts_gb"):
            lines.append("    predicted: " + ", ".join(f"{name} {value}" for name, value in parts.items()))
        if before := result.get("before_step_gb"):
            lines.append(f"    used before each step: {', '.join(f'{used:.1f}' for used in before)}")
        lines += [f"    {note}" for note in [*result["notes"], *result.get("said", [])]]
    return "\n".join(lines)


def _cells(result: dict[str, Any]) -> list[str]:
    engine, device = result.get("engine_gb"), result.get("device_gb", {})
    drawing = max((device[phase] for phase in ("engine", "draw") if phase in device), default=None)
    allocated, predicted = max(result.get("allocated_gb", []), default=None), result.get("predicted_gb")
    how = [str(result[name]) for name in ("optimizer", "recompute") if name in result]
    if "compiled" in result:
        how.append("compiled" if result["compiled"] else "eager")
    asleep = " asleep" if result.get("sleeps") else ""
    return [
        result["case"],
        f"{result['limit_gb']:g}",
        ", ".join(how),
        f"{engine['all']:.1f} ({engine['cache']:.1f} cache){asleep}" if engine else "",
        _gb(drawing),
        _gb(device.get("train")),
        _gb(allocated),
        _gb(predicted),
        f"{predicted / allocated - 1:+.0%}" if predicted and allocated else "",
        result.get("error", "")[:160] or f"{result['tokens_per_second']:,.0f}",
    ]


def _gb(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
