"""Two ways to clip and to keep a poisoned step out: by the optimizer's kernel, and by the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_runtime import FakeRuntime
from small_loop import run_small
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from training_runs import assert_close_weights, assert_different_weights, assert_same_weights

from open_r1.errors import UserError
from open_r1.training.sft_source import sft_objective
from open_r1.training.update import FusedUpdate, HostUpdate, choose_update

YES, NO = torch.tensor(True), torch.tensor(False)
UPDATES = {"fused": FusedUpdate, "host": HostUpdate}


class OneRank(FakeRuntime):
    """Clips and steps as one process does."""

    def clip_gradients(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else float("inf"))

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    def zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def updated(kind: str, max_norm: float, scales: list[float], healthy: Tensor = YES) -> tuple[nn.Module, AdamW, list]:
    """A module after steps with gradients times ``scales``; its optimizer; norms, and whether it stepped."""
    module = layers()
    optimizer = AdamW(module.parameters(), lr=0.1, fused=True)
    update = UPDATES[kind](OneRank(), optimizer, list(module.parameters()), max_norm)
    told = []
    for step, scale in enumerate(scales):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        (module(torch.randn(4, 5, generator=generator)).square().mean() * scale).backward()
        norm = update.measure()
        told.append((float(norm), bool(update.apply(step, healthy))))
    return module, optimizer, told


@pytest.mark.parametrize("max_norm", [0.0, 0.05, 100.0])
def test_both_ways_are_one(max_norm: float) -> None:
    one, _, told = updated("fused", max_norm, [1, 10, 1e-3, 5])
    other, _, also_told = updated("host", max_norm, [1, 10, 1e-3, 5])
    assert_close_weights(one.state_dict(), other.state_dict(), 1e-5)
    assert [norm for norm, _ in told] == pytest.approx([norm for norm, _ in also_told])
    assert all(taken for _, taken in told + also_told)


def test_clipping_is_at_work() -> None:
    """What the other test compares differs from what is not clipped."""
    clipped, _, _ = updated("fused", 0.05, [1, 10, 1e-3, 5])
    free, _, _ = updated("fused", 0.0, [1, 10, 1e-3, 5])
    assert_different_weights(clipped.state_dict(), free.state_dict())


@pytest.mark.parametrize("kind", ["fused", "host"])
@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_poisoned_gradient_changes_nothing(kind: str, scale: float) -> None:
    before, clean, _ = updated(kind, 1.0, [1, 2])
    after, poisoned, told = updated(kind, 1.0, [1, 2, scale])
    assert [taken for _, taken in told] == [True, True, False]
    assert_same_weights(dict(before.state_dict()), dict(after.state_dict()))
    for one, other in zip(clean.state.values(), poisoned.state.values(), strict=True):
        assert_same_weights(one, other)


@pytest.mark.parametrize("kind", ["fused", "host"])
def test_a_poisoned_loss_or_a_batch_without_targets_changes_nothing(kind: str) -> None:
    after, _, told = updated(kind, 1.0, [1], NO)
    assert told[0][1] is False
    assert_same_weights(dict(after.state_dict()), dict(layers().state_dict()))


@pytest.mark.parametrize(
    ("make", "attributes", "expected"),
    [
        (lambda p: AdamW(p, fused=True), {}, FusedUpdate),
        (lambda p: AdamW(p, fused=True), {"kind": "ddp"}, FusedUpdate),
        (AdamW, {}, HostUpdate),
        (SGD, {}, HostUpdate),
        (lambda p: AdamW(p, fused=True), {"kind": "fsdp"}, HostUpdate),
        (lambda p: AdamW(p, fused=True), {"loss_scaler": object()}, HostUpdate),
        (lambda p: AdamW(p, fused=True), {"autocast_dtype": torch.float16}, HostUpdate),
    ],
)
def test_the_way_is_chosen(make: Callable, attributes: dict[str, Any], expected: type) -> None:
    runtime = OneRank()
    vars(runtime).update(attributes)
    parameters = list(layers().parameters())
    assert type(choose_update(runtime, make(parameters), parameters, 1.0)) is expected


class Short(AdamW):
    """Runs out of memory in the first ``failures`` attempts at a step, before it has updated a weight, or after."""

    def __init__(self, parameters: Any, failures: int, after: bool) -> None:
        super().__init__(parameters, fused=True)
        self.failures, self.after, self.attempts = failures, after, 0

    def step(self, closure: None = None) -> None:
        self.attempts += 1
        if self.attempts > self.failures:
            super().step()
            return
        first = self.param_groups[0]["params"][0]
        self.state[first] = {"step": torch.tensor(float(self.after))}  # and no moments
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("failures", "after", "attempts"), [(1, False, 2), (2, False, 2), (1, True, 1)])
def test_no_memory_for_the_optimizer(failures: int, after: bool, attempts: int) -> None:
    """Tried once more if no weight has changed."""
    module = layers()
    optimizer = Short(module.parameters(), failures, after)
    module(torch.ones(1, 5)).sum().backward()
    update = HostUpdate(OneRank(), optimizer, list(module.parameters()), 1.0)
    update.measure()
    if failures == 1 and not after:
        assert bool(update.apply(0, YES))
        assert len(optimizer.state) == 4
    else:
        with pytest.raises(UserError, match=r"adamw_8bit or paged_adamw_8bit.*zero2"):
            update.apply(0, YES)
    assert optimizer.attempts == attempts


def poisoned_at(steps: set[int]) -> Callable:
    """An objective that is not finite in these packs, counted from 1."""
    packs = []

    def objective(nll: Tensor, pack: Any) -> tuple[Tensor, dict[str, Tensor]]:
        packs.append(pack)
        loss, metrics = sft_objective(nll, pack)
        return (loss * torch.nan if len(packs) in steps else loss), metrics

    return objective


@pytest.mark.parametrize("fused", [False, True])
def test_a_poisoned_step_in_a_run(fused: bool, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Fourth of five steps of two packs; read at once, or a step later."""
    runs = [
        run_small(
            tiny_checkpoint,
            tmp_path / f"ahead-{ahead}",
            fused=fused,
            objective=poisoned_at({8}),
            prepare=lambda trainer, ahead=ahead: setattr(trainer, "steps_ahead", ahead),
        )
        for ahead in (0, 1)
    ]
    for run in runs:
        assert [line.get("skipped") for line in run.metrics] == [None, None, None, 1, None]
        assert run.result.metrics["skipped_steps"] == 1
        assert all(tensor.isfinite().all() for tensor in run.weights.values())
        saved = torch.load(run.folder / "nonfinite-step-4.pt", weights_only=False)
        assert [pack.lengths for pack in saved["packs"]] == [(12, 6, 2, 3)]
    assert_same_weights(runs[0].weights, runs[1].weights)
    assert runs[0].metrics == runs[1].metrics
    clean = run_small(tiny_checkpoint, tmp_path / "clean", fused=fused)
    assert_different_weights(clean.weights, runs[0].weights)
