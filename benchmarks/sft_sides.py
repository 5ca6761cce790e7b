"""One side of `benchmarks/sft.py`, in a process of its own: trains some steps and writes as JSON what they cost.

    python benchmarks/sft_sides.py JOB.json RESULT.json        (started by benchmarks/sft.py)

Each side gets a model of the same random weights, made on the device, and the same packs in the same order. One hook
after each optimizer step takes the time on both; how a side reads, computes or logs in between is its own.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import sft_kernels
import torch
import transformers
from sft_job import LEARNING_RATE, PROFILED_STEPS, PROFILER_WARMUP, Job
from sft_packs import JobPacks, repeating, row_of
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from open_r1.machine.cards import card_named
from open_r1.training.meters import StepMeter


class Finished(Exception):  # noqa: N818 - no error: it ends a trainer that would go on to save
    """All steps that were asked for have been timed."""


@dataclass
class Clock:
    """Called after each optimizer step, whoever's optimizer it is."""

    job: Job
    result: dict[str, Any]
    opened: float = 0.0
    count: int = 0
    marks: list[Any] = field(default_factory=list)
    profiler: Any = None

    def __call__(self, *_: Any) -> None:
        last = self.job.warmup + self.job.steps
        self.count += 1
        profiled = last + PROFILER_WARMUP
        if self.count in (1, self.job.warmup, last, profiled, profiled + PROFILED_STEPS):
            self._synchronize()
        now = time.perf_counter()
        if self.count == 1:
            self.result["first_step_s"] = now - self.opened
        if self.job.warmup <= self.count <= last:
            self.marks.append(self._mark())
        if self.count == self.job.warmup:
            self.begin = now
        if self.count == last:
            self._synchronize()  # the last mark has to have been passed
            pairs = zip(self.marks, self.marks[1:], strict=False)
            self.result["seconds"] = now - self.begin
            self.result["step_ms"] = [round(self._milliseconds(*pair), 1) for pair in pairs]
            if self._on_gpu:
                self.result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            if not self.job.profile:
                raise Finished
            self.profiler = sft_kernels.start(torch.device(self.job.device))
        if self.count == profiled:
            self.profiler.stop()
            self.profiler = sft_kernels.start(torch.device(self.job.device))
        if self.count == profiled + PROFILED_STEPS:
            self.result["profile"] = sft_kernels.summarize(self.profiler, PROFILED_STEPS, self.job.shape["vocab_size"])
            raise Finished

    @property
    def _on_gpu(self) -> bool:
        return self.job.device == "cuda"

    def _synchronize(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _milliseconds(self, earlier: Any, later: Any) -> float:
        return earlier.elapsed_time(later) if self._on_gpu else (later - earlier) * 1e3


def run(job: Job) -> dict[str, Any]:
    """Trains; what it cost, or ``error``."""
    result: dict[str, Any] = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    clock = Clock(job, result)
    register_optimizer_step_post_hook(clock)
    packs = JobPacks(job)
    lengths = packs.timed_lengths()
    result |= {"tokens": sum(lengths), "fill": sum(lengths) / (job.steps * job.packs * job.length)}
    importlib.import_module("open_r1.sft" if job.system == "ours" else "trl.trainer.sft_trainer")
    parent = os.getppid()
    while not Path(job.gate).exists():
        if os.getppid() != parent:
            sys.exit("the benchmark has ended")
        time.sleep(0.02)
    clock.opened = time.perf_counter()
    device = torch.cuda.get_device_name() if job.device == "cuda" else "cpu"
    result |= {
        "device": device,
        "peak_tflops": (card := card_named(device)) and card.bf16 / 1e12,
    }

    def make_model(dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
        model = random_model(job, dtype, attention)
        result["flops"] = StepMeter(model, 1).flops_of(lengths)
        return model

    try:
        (train_ours if job.system == "ours" else train_trl)(job, packs, make_model, result)
        result["error"] = "the trainer ended before the last step that was to be timed"
    except Finished:
        pass
    except torch.OutOfMemoryError:
        result["error"] = "out of memory"
    except Exception as error:
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    result["losses"] = result["losses"][: job.warmup + job.steps - 1] if "losses" in result else []
    return result


def train_ours(job: Job, packs: JobPacks, make_model: Any, result: dict[str, Any]) -> None:
    """`open-r1 sft` as it is, but for where its tokens and weights come from."""
    import open_r1.sft

    def from_pretrained(_name: str, *, dtype: torch.dtype, attn_implementation: str | None = None, **_: Any) -> Any:
        return make_model(dtype, attn_implementation)

    try:
        with (
            mock.patch.object(open_r1.sft, "prepare_tokens", lambda *_, **__: (packs.store, None)),
            mock.patch.object(open_r1.sft, "SFTSource", repeating(job)),
            mock.patch.object(AutoModelForCausalLM, "from_pretrained", from_pretrained),
        ):
            open_r1.sft.main(job.arguments(**job.settings))
    finally:
        metrics = Path(job.folder, "run", "metrics.jsonl")
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        result["losses"] = [json.loads(line)["loss"] for line in lines]


def train_trl(job: Job, packs: JobPacks, make_model: Any, result: dict[str, Any]) -> None:
    """TRL's SFTTrainer on rows such as its own packing makes, read in their order."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl import __version__ as trl_version

    micro_losses: list[torch.Tensor] = []

    class Recording(SFTTrainer):
        """Keeps each micro-batch's loss on the device."""

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            micro_losses.append(super().training_step(*args, **kwargs))
            return micro_losses[-1]

    result["versions"]["trl"] = trl_version
    settings = dict(job.settings)
    attention = settings.pop("attention")
    if job.device == "cpu":  # where neither exists
        attention, settings["use_liger_kernel"] = "sdpa", False
    model = make_model(getattr(torch, job.dtype), attention)
    trainer = Recording(
        model,
        SFTConfig(
            output_dir=f"{job.folder}/run",
            max_length=job.length,
            packing=True,
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="sequential",
            per_device_train_batch_size=job.batch,
            gradient_accumulation_steps=job.accumulation,
            max_steps=job.total_steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=job.device == "cpu",
            **settings,
        ),
        train_dataset=Dataset.from_list([row_of(pack) for step in range(job.total_steps) for pack in packs.step(step)]),
        processing_class=AutoTokenizer.from_pretrained(f"{job.folder}/model"),
    )
    try:
        trainer.train()
    finally:
        losses = [float(loss) for loss in micro_losses]
        starts = range(0, len(losses) - job.accumulation + 1, job.accumulation)
        result["losses"] = [sum(losses[start : start + job.accumulation]) for start in starts]


def random_model(job: Job, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
    """The job's shape with seeded random weights, made on its device."""
    config = AutoConfig.from_pretrained(f"{job.folder}/model")
    torch.manual_seed(0)
    with torch.device(job.device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


if __name__ == "__main__":
    here = str(Path(__file__).resolve().parent)
    sys.path = [entry for entry in sys.path if entry != here]  # files here would shadow libraries (`evaluate`)
    answer = run(Job(**json.loads(Path(sys.argv[1]).read_text())))
    Path(sys.argv[2]).write_text(json.dumps(answer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no final save, no waiting for data loaders
