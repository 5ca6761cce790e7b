"""The loop on the tiny checkpoint and made-up packs, without data or command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import AutoTokenizer

from open_r1.config import SFTConfig
from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.training.batches import StepBatch
from open_r1.training.checkpoint import Checkpoints
from open_r1.training.loop import Trainer, TrainResult
from open_r1.training.sft_source import SFT_FORWARD, sft_objective

LENGTHS = ((9, 5, 7, 4), (12, 6, 2, 3))
"""Of the sequences of a step's packs, unless a test has others."""


class PackSource:
    """The packs of a step are a function of it; ``lengths`` are those of the sequences of each."""

    steps_per_epoch, fingerprint = 4.0, "packs"

    def __init__(self, lengths: tuple[tuple[int, ...], ...] = LENGTHS, *, ahead: bool = True) -> None:
        self.lengths, self.ahead = lengths, ahead

    def steps(self, epochs: float) -> int:
        return round(epochs * self.steps_per_epoch)

    def batch(self, step: int, _stop: object) -> StepBatch:
        chance = np.random.default_rng(step)
        packs = [
            make_pack([TrainingSequence(chance.integers(0, 40, length), np.ones(length)) for length in lengths])
            for lengths in self.lengths
        ]
        return StepBatch(packs, float(sum(len(pack.target_index) for pack in packs)))

    def state_dict(self, step: int) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def adopt(self, states: list[dict[str, Any]]) -> str:
        return ""


@dataclass(frozen=True)
class SmallRun:
    """What a run leaves."""

    folder: Path
    weights: dict[str, Tensor]
    result: TrainResult

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl without what depends on the clock."""
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics]


@contextmanager
def small_trainer(checkpoint: Path, folder: Path, **settings: Any) -> Iterator[Trainer]:
    """A `Trainer` over `PackSource`, whose optimizer is fused AdamW with ``fused``.

    ``source``, ``objective``, ``evaluate`` and ``change`` (of the module before it is wrapped) may be given.
    """
    source = settings.pop("source", None) or PackSource()
    objective = settings.pop("objective", sft_objective)
    evaluate, change = settings.pop("evaluate", None), settings.pop("change", None)
    fused = settings.pop("fused", False)
    defaults = {"max_steps": 5, "learning_rate": 1e-2, "adam_epsilon": 1e-4, "save_strategy": "no"}
    config = SFTConfig(
        model_name_or_path=str(checkpoint), dataset_name="d", output_dir=str(folder), **defaults | settings
    )
    folder.mkdir(exist_ok=True)
    runtime = Runtime(cpu_threads=1)
    try:
        module = PackModel(load_model(str(checkpoint)))
        if change is not None:
            change(module)
        optimizer = AdamW(module.parameters(), lr=1e-2, eps=config.adam_epsilon, weight_decay=0.1, fused=fused)
        wrapped, optimizer = runtime.prepare(module, optimizer)
        checkpoints = Checkpoints(config, runtime, AutoTokenizer.from_pretrained(checkpoint), (0,))
        yield Trainer(
            config, runtime, wrapped, optimizer, source, objective, checkpoints, forward=SFT_FORWARD, evaluate=evaluate
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def run_small(
    checkpoint: Path, folder: Path, *, prepare: Callable[[Trainer], None] | None = None, **settings: Any
) -> SmallRun:
    """A whole run; ``prepare`` may change the trainer before it starts."""
    with small_trainer(checkpoint, folder, **settings) as trainer:
        if prepare is not None:
            prepare(trainer)
        result = trainer.train()
        return SmallRun(folder, weights_of(trainer.runtime.unwrap(trainer.module)), result)
