"""One measurement of `benchmarks/prepare.py`, in a process of its own.

python prepare_sides.py JOB RESULT.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

Job = dict[str, Any]


def ours(job: Job) -> Job:
    """From Parquet to the plan of packs, as `open_r1.sft.prepare_tokens` does it."""
    from rich.console import Console
    from transformers import AutoTokenizer

    from open_r1.config import SFTConfig
    from open_r1.data.chat import ChatFormat
    from open_r1.data.columns import find_columns
    from open_r1.data.loader import sft_packs
    from open_r1.data.packing import announce, plan
    from open_r1.data.rows import file_hash
    from open_r1.data.sft_rows import load_sft_rows
    from open_r1.data.tokens import sample_lengths, tokenize

    chat = ChatFormat(AutoTokenizer.from_pretrained(job["tokenizer"]))
    config = SFTConfig(model_name_or_path="none", dataset_name=job["data"], output_dir=job["scratch"])
    console = Console(stderr=True)

    def packs(length: int) -> tuple[Any, float]:
        began = time.perf_counter()
        made = plan(store.lengths, length, seed=0, epoch=0, targets=store.targets)
        return made, time.perf_counter() - began

    began = time.perf_counter()
    rows = load_sft_rows(config)["train"]
    columns = find_columns(rows.column_names)
    console.print(announce(sample_lengths(rows, chat, columns), job["length"], "split"))
    announced = time.perf_counter() - began
    store = tokenize(rows, chat, columns, cache_dir=job["cache"], console=console)
    tokenized = time.perf_counter() - began
    planned, packing_seconds = packs(job["length"])
    result = {
        "seconds": time.perf_counter() - began,
        "announced_seconds": announced,
        "tokenize_seconds": tokenized - announced,
        "packing_seconds": packing_seconds,
        "rows": len(store),
        "tokens": int(store.offsets[-1]),
        "packs": len(planned),
        "fill": planned.fill,
        "cached": store.cached,
    }
    result["repack"] = {}
    for length in job["other_lengths"]:
        made, seconds = packs(length)
        result["repack"][length] = {"seconds": seconds, "packs": len(made), "fill": made.fill}
    if job.get("packs_read"):
        chosen = range(min(job["packs_read"], len(planned)))
        began = time.perf_counter()
        read = sum(len(pack) for pack in sft_packs(store, planned, chosen))
        result["read"] = {"packs": len(chosen), "tokens": read, "seconds": time.perf_counter() - began}
    (folder,) = [path for path in Path(job["cache"]).iterdir() if path.is_dir() and path.suffix != ".partial"]
    result["hash"] = [file_hash(folder / name) for name in ("input_ids.npy", "loss_mask.npy", "index.npy")]
    if job.get("compared"):
        save_rows(job, [store[number] for number in range(min(job["compared"], len(store)))])
    return result


def trl(job: Job) -> Job:
    """TRL's own preparation, with a model so small that it costs nothing."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from trl import SFTConfig, SFTTrainer, __version__

    result: Job = {"trl": __version__}

    class Timed(SFTTrainer):
        def _prepare_dataset(self, *arguments: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            prepared = super()._prepare_dataset(*arguments, **settings)
            result["seconds"] = time.perf_counter() - began
            return prepared

    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
    processes = job["processes"]
    settings = SFTConfig(
        output_dir=job["scratch"],
        max_length=job["length"],
        packing=True,
        packing_strategy="bfd",
        dataset_num_proc=processes if processes > 1 else None,
        completion_only_loss=True,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    began = time.perf_counter()
    rows = load_dataset(job["data"], split="train")
    result["load_seconds"] = time.perf_counter() - began
    if job.get("rows"):
        rows = rows.select(range(min(job["rows"], len(rows))))
    trainer = Timed(model, settings, train_dataset=rows, processing_class=tokenizer)
    packed = trainer.train_dataset
    lengths = packed.with_format("numpy")["seq_lengths"]
    result["rows"], result["packs"] = len(rows), len(packed)
    result["tokens"] = int(sum(int(np.sum(one)) for one in lengths))
    result["fill"] = result["tokens"] / (len(packed) * job["length"])
    if job.get("compared"):
        whole = replace(settings, max_length=None)
        unpacked = SFTTrainer._prepare_dataset(trainer, rows, tokenizer, whole, False, None, "compared")
        pairs = [(np.array(row["input_ids"]), np.array(row["labels"]) != -100) for row in unpacked]
        save_rows(job, pairs)
    return result


def save_rows(job: Job, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Ids and mask of each row, for `prepare.compare`."""
    arrays = {f"ids{number}": np.asarray(ids, np.int32) for number, (ids, _) in enumerate(pairs)}
    arrays |= {f"mask{number}": np.asarray(mask, np.uint8) for number, (_, mask) in enumerate(pairs)}
    Path(job["scratch"]).mkdir(parents=True, exist_ok=True)
    np.savez(Path(job["scratch"]) / f"{job['side']}.npz", **arrays)


def main() -> None:
    job, target = json.loads(sys.argv[1]), Path(sys.argv[2])
    result = {"ours": ours, "trl": trl}[job["side"]](job)
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    os.replace(partial, target)


if __name__ == "__main__":
    main()
