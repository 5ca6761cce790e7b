"""What one side of `benchmarks/sft.py` is to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PROFILER_WARMUP, PROFILED_STEPS = 3, 3  # compiled code is compiled anew when a profiler first runs
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Job:
    """One side of one case.

    Attributes:
        system: "ours" or "trl".
        shape: the model's configuration, as in its config.json.
        length: tokens of a pack; ``packs`` of them make a step, ``batch`` of them a micro-batch.
        warmup, steps: optimizer steps before the clock starts, and under it.
        mean: mean length of the sequences before they are split to fit.
        settings: further settings, by the names that the system has for them.
        folder: where the side may write; holds ``model/`` with configuration and tokenizer, without weights.
        tokens: file of `trace_tokens`, or "" for made-up sequences.
        gate: a file; the side imports and makes its packs, and uses the GPU once the file is there.
    """

    system: str
    shape: dict[str, Any]
    length: int
    packs: int
    batch: int
    warmup: int
    steps: int
    profile: bool
    device: str
    dtype: str
    mean: int
    settings: dict[str, Any]
    folder: str
    gate: str
    tokens: str = ""

    @property
    def total_steps(self) -> int:
        """Steps with warm-up and profile, and one more: a side is stopped, it does not end."""
        return self.warmup + self.steps + PROFILER_WARMUP + PROFILED_STEPS + 1

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""
        return self.packs // self.batch

    def arguments(self, **changes: Any) -> list[str]:
        """The command line of `open-r1 sft` for this job."""
        settings = {
            "model_name_or_path": f"{self.folder}/model",
            "dataset_name": f"{self.folder}/unused.jsonl",
            "output_dir": f"{self.folder}/run",
            "overwrite_output_dir": True,
            "max_length": self.length,
            "per_device_train_batch_size": self.batch,
            "gradient_accumulation_steps": self.accumulation,
            "max_steps": self.total_steps,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "torch_dtype": self.dtype,
            "save_strategy": "no",
            **changes,
        }
        return [part for name, value in settings.items() for part in (f"--{name}", str(value))]
