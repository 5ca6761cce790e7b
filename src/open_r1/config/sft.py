"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from open_r1.config.data import DataConfig
from open_r1.config.model import ModelConfig
from open_r1.config.no_effect import SFT_NO_EFFECT, SFT_NOT_OFFERED, TRAINING_NO_EFFECT, TRAINING_NOT_OFFERED
from open_r1.config.settings import Range, alias
from open_r1.config.training import TrainingConfig


@dataclass(kw_only=True)
class SFTConfig(ModelConfig, DataConfig, TrainingConfig):
    """Supervised fine-tuning"""

    NO_EFFECT: ClassVar[Mapping[str, str]] = {**TRAINING_NO_EFFECT, **SFT_NO_EFFECT}
    NOT_OFFERED: ClassVar[Mapping[str, tuple[Any, ...]]] = {**TRAINING_NOT_OFFERED, **SFT_NOT_OFFERED}

    max_length: Annotated[int, Range(2)] = field(default=2048, metadata=alias("max_seq_length"))
    """Longest sequence in tokens; a pack holds per_device_train_batch_size times as many."""

    packing: bool = True
    """Lay several sequences in one pack; off, one pack holds at most per_device_train_batch_size sequences."""

    overlong: Literal["split", "truncate", "drop"] = "split"
    """What becomes of a sequence longer than max_length: split into pieces, cut, or left out."""
