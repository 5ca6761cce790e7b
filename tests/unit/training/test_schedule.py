"""Learning rates by hand, and as transformers computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_scheduler

from open_r1.config import TrainingConfig
from open_r1.training.schedule import Schedule


def schedule(kind: str, total: int = 10, rate: float = 1.0, **settings: Any) -> Schedule:
    config = TrainingConfig(output_dir="out", learning_rate=rate, lr_scheduler_type=kind, **settings)
    return Schedule(config, total)


@pytest.mark.parametrize(
    ("kind", "settings", "rates"),
    [
        ("linear", {}, {0: 1.0, 5: 0.5, 9: 0.1, 10: 0.0}),
        ("linear", {"warmup_steps": 2}, {0: 0.0, 1: 0.5, 2: 1.0, 6: 0.5, 10: 0.0}),
        ("linear", {"warmup_ratio": 0.15}, {1: 0.5, 2: 1.0, 6: 0.5}),  # 1.5 steps are two
        ("linear", {"warmup_steps": 0.15}, {1: 0.5, 2: 1.0, 6: 0.5}),  # as transformers 5 names the share
        ("linear", {"warmup_ratio": 0.5, "warmup_steps": 2}, {1: 0.5, 2: 1.0}),
        ("cosine", {}, {0: 1.0, 5: 0.5, 10: 0.0}),
        ("cosine", {"warmup_steps": 4}, {2: 0.5, 4: 1.0, 7: 0.5, 10: 0.0}),
        ("cosine", {"lr_scheduler_kwargs": {"num_cycles": 1}}, {0: 1.0, 5: 0.0, 10: 1.0}),
        ("cosine_with_min_lr", {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}}, {0: 1.0, 5: 0.55, 10: 0.1}),
        ("cosine_with_min_lr", {"lr_scheduler_kwargs": {"min_lr": 0.2}}, {0: 1.0, 5: 0.6, 10: 0.2, 11: 0.2}),
        ("constant", {"warmup_steps": 4}, {0: 1.0, 9: 1.0}),
        ("constant_with_warmup", {"warmup_steps": 4}, {0: 0.0, 2: 0.5, 4: 1.0, 9: 1.0}),
        ("polynomial", {"lr_scheduler_kwargs": {"power": 2.0, "lr_end": 0.0}}, {0: 1.0, 5: 0.25, 10: 0.0}),
        ("polynomial", {"lr_scheduler_kwargs": {"lr_end": 0.5}}, {0: 1.0, 5: 0.75, 10: 0.5}),
        ("inverse_sqrt", {"warmup_steps": 4}, {2: 0.5, 4: 1.0, 16: 0.5}),
        ("inverse_sqrt", {"lr_scheduler_kwargs": {"timescale": 3}}, {0: 1.0, 9: 0.5}),
    ],
)
def test_by_hand(kind: str, settings: dict[str, Any], rates: dict[int, float]) -> None:
    rate = schedule(kind, **settings)
    assert {step: rate(step) for step in rates} == pytest.approx(rates, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("linear", {}),
        ("cosine", {}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("cosine_with_min_lr", {"min_lr": 1e-6}),
        ("constant_with_warmup", {}),
        ("polynomial", {"power": 1.5}),
        ("inverse_sqrt", {}),
    ],
)
def test_as_transformers(kind: str, kwargs: dict[str, float], warmup: int) -> None:
    rate = schedule(kind, total=50, rate=3e-5, warmup_steps=warmup, lr_scheduler_kwargs=kwargs)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-5)
    reference = get_scheduler(kind, optimizer, warmup, 50, scheduler_specific_kwargs=kwargs)
    for step in range(50):
        assert rate(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9, abs=1e-15), step
        optimizer.step()
        reference.step()
