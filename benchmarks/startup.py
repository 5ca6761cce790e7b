"""How long `open-r1 sft` takes from the command to the end of its first optimizer step, with everything that is in it.

    python benchmarks/startup.py --json startup.json
    python benchmarks/startup.py --rows 200 --shape tiny --length 256 --device cpu     (does it still run?)

The command is started as a person starts it, on ``--rows`` rows of reasoning traces in Parquet and a model of random
weights, and stopped when its first step is in metrics.jsonl. The first start makes the tokens and compiles; the second
finds the tokens, and compiles; those after it find both. Writing the rows and the model is not counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from distributed_inputs import write_model
from reasoning_traces import write_traces
from sft import ROOT, SHAPES

from open_r1.files import write_json

PROBLEMS = ROOT / "tests" / "data"
POLL = 0.05
STARTS = ("nothing is there", "tokens are there", "tokens and compiled layers are there")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=93_733)
    parser.add_argument("--shape", default="1.5b", choices=sorted(SHAPES))
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one start")
    parser.add_argument("--folder", type=Path, help="where rows, model and caches go; a temporary one by default")
    parser.add_argument("--prepare_only", action="store_true", help="write the rows and the model into --folder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="startup-"))
    try:
        data = write_traces(folder, arguments.rows, PROBLEMS)
        if not (folder / "model" / "model.safetensors.index.json").exists() and not any(
            folder.glob("model/*.safetensors")
        ):
            write_model(folder / "model", arguments.shape, arguments.device)
        if not arguments.prepare_only:
            measure(folder, data, arguments)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, data: Path, arguments: argparse.Namespace) -> None:
    """Three starts, one after the other."""
    results = []
    for number, found in enumerate(STARTS):
        if number == 1:
            shutil.rmtree(folder / "compiled", ignore_errors=True)
        results.append({"found": found} | start(folder, data, arguments))
        print(f"{found}: {results[-1].get('error', results[-1].get('seconds'))} s", flush=True)
        if arguments.json:
            write_json(arguments.json, results)


def start(folder: Path, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One start: seconds until the first step is written down, or what it said at its end."""
    output = folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, ROOT / "src" / "open_r1" / "sft.py", "--model_name_or_path", folder / "model"]
    words += ["--dataset_name", data, "--token_cache_dir", folder / "tokens", "--output_dir", output]
    words += ["--max_length", arguments.length, "--learning_rate", 1e-5, "--logging_steps", 1, "--save_strategy", "no"]
    words += ["--bf16"] if arguments.device == "cuda" else []
    with (folder / "log").open("wb") as log:
        begin = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in words], stdout=log, stderr=log, env=environment(folder), start_new_session=True
        )
        try:
            while not (output / "metrics.jsonl").exists() or not (output / "metrics.jsonl").read_text().strip():
                if process.poll() is not None or time.monotonic() - begin > arguments.timeout:
                    return {"error": f"no step: {(folder / 'log').read_text(errors='replace')[-2000:]}"}
                time.sleep(POLL)
            return {"seconds": round(time.monotonic() - begin, 2)}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def environment(folder: Path) -> dict[str, str]:
    """The variables of a start, with caches of its own for what is compiled."""
    path = [str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    compiled = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "OPEN_R1_CACHE": "open_r1"}
    kept = {name: str(folder / "compiled" / place) for name, place in compiled.items()}
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1"}
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"} | kept | quiet


if __name__ == "__main__":
    main()
