"""Learning-rate schedules as pure functions of the step, so that a resumed run has no scheduler state to restore."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from open_r1.config import TrainingConfig

Decay = Callable[[float, Mapping[str, Any], float], float]


def _linear(progress: float, _kwargs: Mapping[str, Any], _rate: float) -> float:
    return 1.0 - progress


def _cosine(progress: float, kwargs: Mapping[str, Any], _rate: float) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(2.0 * math.pi * kwargs.get("num_cycles", 0.5) * progress)))


def _cosine_with_min_lr(progress: float, kwargs: Mapping[str, Any], rate: float) -> float:
    floor = kwargs["min_lr_rate"] if "min_lr_rate" in kwargs else kwargs["min_lr"] / rate
    return floor + (1.0 - floor) * _cosine(progress, kwargs, rate)


def _polynomial(progress: float, kwargs: Mapping[str, Any], rate: float) -> float:
    floor = kwargs.get("lr_end", 1e-7) / rate
    return floor + (1.0 - floor) * (1.0 - progress) ** kwargs.get("power", 1.0)


def _constant(_progress: float, _kwargs: Mapping[str, Any], _rate: float) -> float:
    return 1.0


DECAYS: dict[str, Decay] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _constant,
}


class Schedule:
    """Linear warm-up to ``config.learning_rate``, then the decay named by ``config.lr_scheduler_type``.

    Names and keyword arguments were checked with the settings.
    """

    def __init__(self, config: TrainingConfig, total_steps: int) -> None:
        self.name = config.lr_scheduler_type
        self.rate = config.learning_rate
        self.total_steps = total_steps
        warmup = config.warmup_steps or config.warmup_ratio
        self.warmup_steps = warmup if warmup >= 1 else math.ceil(total_steps * warmup)
        self.kwargs = dict(config.lr_scheduler_kwargs or {})
        if self.name == "constant":
            self.warmup_steps = 0

    def __call__(self, step: int) -> float:
        """The learning rate of the optimizer step with index ``step``, counted from 0."""
        if not self.rate:
            return 0.0
        if step < self.warmup_steps:
            return self.rate * step / self.warmup_steps
        if self.name == "inverse_sqrt":
            scale = self.kwargs.get("timescale") or self.warmup_steps or 10_000
            return self.rate / math.sqrt((step - self.warmup_steps + scale) / scale)
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.rate * DECAYS[self.name](progress, self.kwargs, self.rate)
