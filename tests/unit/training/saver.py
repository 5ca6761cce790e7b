"""A model with its optimizer, and the checkpoints of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from open_r1.config import TrainingConfig
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.training.checkpoint import Checkpoints, TrainingState
from open_r1.training.optimizer import build_optimizer


class Saver:
    """A model with its optimizer, and the checkpoints of its run."""

    def __init__(self, source: Path, folder: Path, runtime: Runtime, **settings: Any) -> None:
        self.config = TrainingConfig(output_dir=str(folder), **settings)
        self.runtime = runtime
        self.model = load_model(str(source))
        self.module = PackModel(self.model)
        self.optimizer = build_optimizer(self.module, self.config)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.checkpoints = Checkpoints(self.config, runtime, self.tokenizer, (self.tokenizer.eos_token_id, 7))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.tensor([[1, 2, 3]])).logits.logsumexp(-1).sum().backward()
        self.optimizer.step()

    def save(self, *steps: int) -> Path | None:
        for step in steps:
            path = self.checkpoints.save(TrainingState(step, [{"cursor": step}], "print"), self.module, self.optimizer)
        return path

    def load(self, wanted: bool | str = True, **how: Any) -> TrainingState:
        return self.checkpoints.load(self.checkpoints.find(wanted), self.module, self.optimizer, **how)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.folder.iterdir())


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
