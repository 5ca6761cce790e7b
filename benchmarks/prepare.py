"""Data preparation on the CPU: `open-r1 sft` and TRL's SFTTrainer in one run, from Parquet to packs.

    python benchmarks/prepare.py --rows 2000 --sides ours                               (does it still run?)
    python benchmarks/prepare.py --tokenizer ../models/qwen/model.gguf --trl /tmp/trlsite --json prepare.json

Rows are reasoning traces as a prompt and a completion (`reasoning_traces`), written once as Parquet. Measured are

* ``ours``: Parquet to tokens and masks in the cache, and the plan of packs of 16,384; then a second start, re-packing
  for other lengths, reading packs, and a run that is killed half-way with its second start.
* ``trl-N``: `SFTTrainer._prepare_dataset` with packing "bfd", completion-only loss and N processes, on ``--rival-rows``
  rows, from which its time for all rows is extrapolated. Loading (the copy of Parquet into Arrow) is told apart.

Every measurement is a process of its own. Seconds are those of the work, without imports and without loading the
tokenizer. Memory is the sum over all its processes of what each has to itself plus its share of what they share (PSS),
sampled. ``others`` is the share of the cores that other programs used meanwhile: above a few per cent, run it again.

--tokenizer takes a checkpoint, a hub id or a .gguf file; --trl the folder of ``pip install --target FOLDER --no-deps
trl==1.16.0``, where TRL is not in this environment.
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
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from prepare_table import table
from prepare_watch import Watch, quiet_enough
from reasoning_traces import write_traces

from open_r1.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
SIDES = ROOT / "benchmarks" / "prepare_sides.py"
LENGTH, OTHER_LENGTHS = 16_384, (2_048, 32_768)
COMPARED_ROWS = 500
KILLED_FROM = 20_000
"""Below so many rows a run is over before its journal says anything."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share: folders, and the limit that waiting for quiet cores has."""

    work: Path
    tokenizer: Path
    trl: str | None
    patience: int

    def job(self, side: str, data: Path, **settings: Any) -> dict[str, Any]:
        """What `prepare_sides` is asked to do."""
        caches = {"cache": str(self.work / "tokens"), "scratch": str(self.work / "scratch")}
        common = {"side": side, "data": str(data), "tokenizer": str(self.tokenizer), "length": LENGTH}
        return {**common, **caches, "other_lengths": OTHER_LENGTHS, **settings}

    def clear(self) -> None:
        """Forgets all tokens and copies."""
        for name in ("tokens", "scratch"):
            shutil.rmtree(self.work / name, ignore_errors=True)

    def run(self, job: dict[str, Any], kill_at_rows: int | None = None, timed: bool = True) -> dict[str, Any]:
        """Runs a job in a process of its own and adds its memory, and what else ran.

        Args:
            timed: it waits for quiet cores first.
            kill_at_rows: it is killed when its journal says so many rows; the result is then the seconds until that.
        """
        load = quiet_enough(self.patience) if timed else None
        paths = [str(ROOT / "src"), *([self.trl] if job["side"] == "trl" and self.trl else [])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "HF_HOME": str(self.work / "scratch" / "hf"),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false" if job.get("processes", 1) > 1 else "true",
        }
        written = self.work / "result.json"
        written.unlink(missing_ok=True)
        with (self.work / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(SIDES), json.dumps(job), str(written)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            with Watch(process.pid) as watch:
                if kill_at_rows is not None:
                    return _kill(process, self.work / "tokens", kill_at_rows)
                process.wait()
        result = read_json(written)
        if result is None:
            sys.exit((self.work / "log").read_text()[-4000:] + f"\n{job['side']} ended with {process.returncode}")
        return {**result, "peak_bytes": watch.peak, "others": watch.others, "load_before": load}


def _kill(process: subprocess.Popen[bytes], tokens: Path, rows: int) -> dict[str, Any]:
    """Kills a run that tokenizes once it has ``rows`` rows, all its processes at once."""
    while process.poll() is None:
        done = max((read_json(path) or {}).get("rows", 0) for path in [tokens, *tokens.glob("*.partial/journal.json")])
        if done >= rows:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"killed_at_rows": done}
        time.sleep(0.05)
    sys.exit("the run to be killed ended before")


def measure_ours(bench: Bench, data: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Cold starts, the fastest counts; a warm one; one that is killed at half of the rows, and the next after it."""
    turns = []
    for turn in range(repeats):
        bench.clear()
        turns.append(bench.run(bench.job("ours", data)))
        say("ours", rows, turn + 1, turns[-1])
    best = min(turns, key=lambda turn: turn["seconds"])
    warm = bench.run(bench.job("ours", data, packs_read=200))
    assert warm["cached"]
    resumed = {}
    if rows >= KILLED_FROM:
        bench.clear()
        killed = bench.run(bench.job("ours", data), kill_at_rows=rows // 2, timed=False)
        again = bench.run(bench.job("ours", data))
        resumed = {**killed, "seconds": again["seconds"], "the_same": again["hash"] == best["hash"]}
    return {
        **best,
        "turns": [{name: turn[name] for name in ("seconds", "others", "load_before")} for turn in turns],
        "peak_bytes": max(turn["peak_bytes"] for turn in turns),
        "warm": {name: warm[name] for name in ("seconds", "repack", "read", "peak_bytes")},
        "resumed": resumed,
    }


def compare(bench: Bench, data: Path) -> dict[str, int]:
    """Tokens and masks of the first rows, ours and TRL's."""
    bench.clear()
    rows = {}
    for side in ("ours", "trl"):
        bench.run(bench.job(side, data, processes=1, compared=COMPARED_ROWS, rows=COMPARED_ROWS), timed=False)
        rows[side] = np.load(bench.work / "scratch" / f"{side}.npz")
    counts = {"rows": 0, "equal_ids": 0, "equal_masks": 0, "equal_masks_but_for_the_last_token": 0}
    for number in range(COMPARED_ROWS):
        if f"ids{number}" not in rows["ours"]:
            break
        (ids, mask), (their_ids, their_mask) = (
            (found[f"ids{number}"], found[f"mask{number}"]) for found in (rows["ours"], rows["trl"])
        )
        counts["rows"] += 1
        counts["equal_ids"] += np.array_equal(ids, their_ids)
        counts["equal_masks"] += np.array_equal(mask, their_mask)
        counts["equal_masks_but_for_the_last_token"] += np.array_equal(mask[:-1], their_mask[:-1])
    return counts


def say(side: str, rows: int, turn: int, result: dict[str, Any]) -> None:
    """One line of what a measurement gave."""
    print(
        f"{side}, {rows:,} rows, turn {turn}: {result['seconds']:.1f} s, {result['tokens']:,} tokens, "
        f"peak {result['peak_bytes'] / 1e9:.2f} GB, others used {result['others']:.0%} of the cores",
        file=sys.stderr,
        flush=True,
    )


def save_tokenizer(name: str, target: Path) -> Path:
    """The tokenizer of a checkpoint or a .gguf file, as files that both sides load."""
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    path = Path(name)
    if path.suffix != ".gguf":
        AutoTokenizer.from_pretrained(name).save_pretrained(target)
        return target
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()  # as Qwen publishes it; a GGUF file has no place for it
    tokenizer.save_pretrained(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=93_733, help="rows that ours prepares")
    parser.add_argument("--rival-rows", type=int, default=5_000, help="rows that TRL prepares, the first of them")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="dataset_num_proc of TRL")
    parser.add_argument("--repeats", type=int, default=3, help="cold starts of ours; the fastest counts")
    parser.add_argument("--sides", nargs="+", choices=["ours", "trl"], default=["ours", "trl"])
    parser.add_argument("--tokenizer", default=str(ROOT / "recipes" / "demo" / "base"))
    parser.add_argument("--trl", help="folder that TRL is installed in, if not in this environment")
    parser.add_argument("--problems", type=Path, default=SHARED if SHARED.exists() else ROOT / "tests" / "data")
    parser.add_argument("--work", type=Path, help="folder for data and caches (some 5 GB); unset is a temporary one")
    parser.add_argument(
        "--patience", type=int, default=0, help="seconds to wait for quiet cores before each measurement"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(work, save_tokenizer(arguments.tokenizer, work / "tokenizer"), arguments.trl, arguments.patience)
        result: dict[str, Any] = {
            "date": date.today().isoformat(),
            "cores": len(os.sched_getaffinity(0)),
            "rows": arguments.rows,
            "rival_rows": arguments.rival_rows,
            "tokenizer": arguments.tokenizer,
        }
        if "ours" in arguments.sides:
            data = write_traces(work, arguments.rows, arguments.problems)
            result["parquet_bytes"] = sum(path.stat().st_size for path in data.rglob("*.parquet"))
            result["ours"] = measure_ours(bench, data, arguments.rows, arguments.repeats)
        if "trl" in arguments.sides:
            data = write_traces(work, arguments.rival_rows, arguments.problems)
            for processes in arguments.processes:
                bench.clear()
                result[f"trl-{processes}"] = bench.run(bench.job("trl", data, processes=processes))
                say(f"trl-{processes}", arguments.rival_rows, 1, result[f"trl-{processes}"])
            if "ours" in arguments.sides:
                bench.clear()
                result["ours_on_rival_rows"] = bench.run(bench.job("ours", data))
                say("ours", arguments.rival_rows, 1, result["ours_on_rival_rows"])
                result["compared"] = compare(bench, data)
        bench.clear()
    print(table(result))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
