"""Does GRPO teach a model? Evaluate, train by a recipe, evaluate again with the same prompt; all by the real commands.

    python benchmarks/grpo_learning.py --model CHECKPOINT --data FOLDER --folder WORK --json learning.json
    python benchmarks/grpo_learning.py … --budget 560          (a machine that is lent for ten minutes at a time)
    python benchmarks/grpo_learning.py … -- --max_steps 150 --learning_rate 3e-6          (changes to the recipe)

--data holds gsm8k_train.jsonl and gsm8k_test.jsonl. Each stage is done once: started again on the same --folder, the
program goes on where it was. When --budget seconds are over, training is told to stop, saves its state, and the next
start resumes it. The evaluations are greedy, on all test problems; --limit takes fewer. A recipe that asks otherwise
than the task gsm8k is evaluated by its own run alone. --json says what came out, also of stages that are done while
others are not; beside it lie the run's report and metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import NO_MULTICAST
from grpo import VLLM
from sft import ROOT

from open_r1.config import GRPOConfig, parse
from open_r1.data.prompts import asked_by
from open_r1.evaluation.prompts import math_prompt
from open_r1.files import read_json, write_json

RECIPE = ROOT / "recipes" / "Qwen2.5-0.5B" / "grpo" / "config.yaml"
ENOUGH = 45  # seconds that a stage must have, to be started at all
GRACE = 60  # seconds in which a run that was told to stop saves its state
CURVES = ("reward", "completion_length", "truncated", "entropy", "mismatch", "grad_norm")
CURVES += ("eval/rewards/accuracy", "eval/rewards/format")


def main() -> None:
    """Runs what is missing, and says what there is."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a transformers checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder of gsm8k_train.jsonl and gsm8k_test.jsonl")
    parser.add_argument("--folder", type=Path, required=True, help="where evaluations and the run are written")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--engine", default="vllm", choices=("vllm", "transformers"), help="of the evaluations")
    parser.add_argument("--limit", type=int, help="test problems; all by default")
    parser.add_argument("--budget", type=float, default=3600, help="seconds of this start")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words[:cut])
    arguments.deadline = time.monotonic() + arguments.budget
    arguments.folder.mkdir(parents=True, exist_ok=True)
    trained, changes = arguments.folder / "run", words[cut + 1 :]
    settings = training_settings(arguments, trained, changes)
    stages = (
        ("before", lambda: evaluate(arguments, arguments.model, "before", settings)),
        ("train", lambda: train(arguments, trained, changes)),
        ("after", lambda: evaluate(arguments, trained, "after", settings)),
    )
    if not asks_as_evaluation(settings):
        print(
            f"{arguments.recipe.name} asks otherwise than the task gsm8k: only its own evaluation is made", flush=True
        )
        stages = stages[1:2]
    for name, stage in stages:
        if arguments.deadline - time.monotonic() < ENOUGH:
            print(f"{name}: not started, the time is over; start again to go on", flush=True)
            break
        if not stage():
            break
    summary = summarize(arguments.folder)
    if arguments.json:
        write_json(arguments.json, summary)
        for file in ("report.html", "metrics.jsonl", "completions.jsonl"):
            if (trained / file).exists():
                shutil.copy(trained / file, arguments.json.with_name(f"{arguments.json.stem}-{file}"))
    print("\n".join(lines(summary)), flush=True)


def training_settings(arguments: argparse.Namespace, trained: Path, changes: list[str]) -> GRPOConfig:
    """The settings of the run, for what evaluation has to have in common with it."""
    return parse(GRPOConfig, training_words(arguments, trained, changes), prog="open-r1 grpo").config


def training_words(arguments: argparse.Namespace, trained: Path, changes: list[str]) -> list[str]:
    """The command line of the run."""
    words = ["--config", arguments.recipe, "--model_name_or_path", arguments.model, "--output_dir", trained]
    words += ["--dataset_name", arguments.data, "--dataset_config", "null"]
    return [*map(str, words), *changes]


def asks_as_evaluation(settings: GRPOConfig) -> bool:
    """Whether the run words a problem as the task gsm8k does."""
    (asked,) = asked_by(settings.prompt_template, [{"role": "user", "content": "?"}])
    return [asked] == math_prompt("?")


def evaluate(arguments: argparse.Namespace, model: Path, name: str, settings: GRPOConfig) -> bool:
    """Greedy answers to the test problems, asked as training asks; whether they are there."""
    folder = arguments.folder / name
    if (folder / "results.json").exists():
        return True
    words: list[Any] = ["evaluate", "--model", model, "--tasks", f"gsm8k={arguments.data / 'gsm8k_test.jsonl'}"]
    words += ["--engine", arguments.engine, "--greedy", "--max_new_tokens", settings.max_completion_length]
    words += ["--output_dir", folder, *(["--limit", arguments.limit] if arguments.limit else [])]
    words += ["--system_prompt", settings.system_prompt] if settings.system_prompt else []
    return run(arguments, name, words)


def train(arguments: argparse.Namespace, trained: Path, changes: list[str]) -> bool:
    """The run, from its last checkpoint if there is one; whether it came to its end."""
    if (trained / "train_results.json").exists():
        return True
    resumes = any(trained.glob("checkpoint-*"))
    begun = ["--resume_from_checkpoint", "true"] if resumes else ["--overwrite_output_dir"]
    whole = run(arguments, "train", ["grpo", *training_words(arguments, trained, changes), *begun])
    if (trained / "metrics.jsonl").exists():
        run(arguments, "report", ["report", trained])
    return whole


def run(arguments: argparse.Namespace, name: str, words: list[Any]) -> bool:
    """One command, told to stop when the time is over; whether it succeeded. Its output is kept in NAME.log."""
    begin = time.monotonic()
    log = arguments.folder / f"{name}.log"
    with log.open("ab") as file:
        command = [sys.executable, "-m", "open_r1", *map(str, words)]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment(), start_new_session=True)
        try:
            process.wait(max(1.0, arguments.deadline - begin))
        except subprocess.TimeoutExpired:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - begin
    spent = arguments.folder / "seconds.json"
    write_json(spent, (known := read_json(spent) or {}) | {name: round(known.get(name, 0.0) + seconds, 1)})
    print(f"{name}: {'done' if not process.returncode else process.returncode} in {seconds:.0f} s", flush=True)
    if process.returncode:
        print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)
    return not process.returncode


def environment() -> dict[str, str]:
    """The variables of a command."""
    path = [str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    return NO_MULTICAST | VLLM | os.environ | quiet | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def summarize(folder: Path) -> dict[str, Any]:
    """What the stages that are done have written down."""
    summary: dict[str, Any] = {"seconds": read_json(folder / "seconds.json") or {}}
    for name in ("before", "after"):
        if results := read_json(folder / name / "results.json"):
            summary[name] = results["tasks"][0]
    metrics = folder / "run" / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    summary["steps"] = max((step["step"] for step in steps), default=0)
    summary["curves"] = {
        curve: [[step["step"], step[curve]] for step in steps if step.get(curve) is not None] for curve in CURVES
    }
    summary["train_results"] = read_json(folder / "run" / "train_results.json")
    return summary


def lines(summary: dict[str, Any]) -> list[str]:
    """The summary for people."""
    said = []
    for name in ("before", "after"):
        if task := summary.get(name):
            said.append(
                f"{name}: {task['pass_at_1']:.1%} ({task['low']:.1%} to {task['high']:.1%}) of {task['problems']:,} "
                f"right, {task['truncated']:.1%} cut off, {task['mean_tokens']:.0f} tokens an answer"
            )
    said.append(f"{summary['steps']} steps; seconds of the stages, start-up included: {json.dumps(summary['seconds'])}")
    for curve, points in summary["curves"].items():
        if points:
            chosen = points[:: max(1, len(points) // 8)]
            said.append(f"{curve}: {' '.join(f'{step}:{value:.4g}' for step, value in [*chosen, points[-1]])}")
    return said


if __name__ == "__main__":
    main()
