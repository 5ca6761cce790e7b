"""A loss or gradient that is not finite never reaches the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_runtime import FakeRuntime
from torch import Tensor, nn
from training_runs import Run, assert_different_weights, assert_same_weights, load_weights, train

from open_r1.config import TrainingConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.errors import UserError
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.training.batches import StepBatch
from open_r1.training.checkpoint import Checkpoints
from open_r1.training.guard import FILES, OVERFLOWS, NonFiniteGuard
from open_r1.training.loop import Trainer
from open_r1.training.optimizer import build_optimizer
from open_r1.training.reading import StepBegin, StepReading
from open_r1.training.sft_source import SFT_FORWARD, SFTSource, sft_objective
from open_r1.training.stored_state import read_moments, read_rest

BEGIN = StepBegin(torch.device("cpu"))

Poison = Callable[[Tensor], Tensor]


def loss_is_nan(loss: Tensor) -> Tensor:
    return loss * torch.nan


def loss_is_infinite(loss: Tensor) -> Tensor:
    return loss / 0


def only_the_gradient_is_nan(loss: Tensor) -> Tensor:
    return loss + (loss * 0).sqrt()  # 0, with a slope of 0 · ∞


@pytest.fixture
def run(sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Trains with an objective that is poisoned at the steps (from 1) that are named."""

    def run(name: str, poison: Poison, steps: set[int], **settings: Any) -> Run:
        calls = []

        def objective(predicted: Any, pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
            calls.append(pack)
            loss, metrics = sft_objective(predicted, pack)
            return (poison(loss) if len(calls) in steps else loss), metrics

        monkeypatch.setattr("open_r1.sft.sft_objective", objective)
        decayed = {"weight_decay": 0.1, "lr_scheduler_type": "constant"}
        return train("sft", tmp_path / name, **sft_settings | decayed | settings)

    return run


@pytest.mark.parametrize("poison", [loss_is_nan, loss_is_infinite, only_the_gradient_is_nan])
def test_a_step_is_skipped_and_counted(poison: Poison, run: Callable[..., Run], sft_settings: dict[str, Any]) -> None:
    before = load_weights(sft_settings["model_name_or_path"])
    skipped = run("one", poison, {1}, max_steps=1)
    assert_same_weights(skipped.weights, before)
    assert skipped.results["skipped_steps"] == 1
    (line,) = skipped.metrics
    assert line["skipped"] == 1
    assert line["grad_norm"] is None
    assert (line["loss"] is None) == (poison is not only_the_gradient_is_nan)

    within = run("within", poison, {2, 4}, max_steps=5)
    assert [line.get("skipped") for line in within.metrics] == [None, 1, None, 1, None]
    assert within.results["skipped_steps"] == 2
    assert_different_weights(within.weights, before)
    assert all(tensor.isfinite().all() for tensor in within.weights.values())


def test_a_skipped_step_leaves_weights_and_optimizer_alone(run: Callable[..., Run]) -> None:
    """Checkpoints before and after it are the same but for their step."""
    skipped = run("run", loss_is_nan, {3}, max_steps=4, save_strategy="steps", save_steps=1)
    states = []
    for step in (2, 3):
        folder = skipped.folder / f"checkpoint-{step}"
        moments = read_moments(folder, read_rest(folder)["optimizer"])
        flat = {f"{name}.{key}": value for name, values in moments.items() for key, value in values.items()}
        assert any(name.endswith("exp_avg") for name in flat)
        states.append(load_weights(folder) | flat)
    assert_same_weights(*states)


def test_too_many_in_a_row_stop_the_run(run: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite 3 times in a row; the last step that was taken is 4") as error:
        run("run", loss_is_nan, {2, 3, 5, 6, 7}, max_steps=9, max_nonfinite_steps=3)
    path = tmp_path / "run" / "nonfinite-step-7.pt"
    assert str(path.parent) in str(error.value)
    saved = torch.load(path, weights_only=False)
    assert saved["step"] == 7
    assert saved["loss"] != saved["loss"]
    (pack,) = saved["packs"]
    assert len(pack.target_index) > 0


def look(guard: NonFiniteGuard, step: int, *losses: float, grad_norm: float = 1.0, packs: int = 2) -> None:
    """Shows the guard a step whose micro-batches had these losses."""
    pack = make_pack([TrainingSequence(np.arange(3), np.ones(3))])
    batch = StepBatch([pack] * packs, 1.0, origin=lambda number: f"rows {number}0")
    totals, norm, taken = torch.tensor([sum(losses)]), torch.tensor(grad_norm), torch.tensor(True)
    parts = list(range(len(losses)))
    reading = StepReading(step, batch, 0.1, parts, ["loss"], totals, norm, taken, torch.tensor(losses), BEGIN)
    guard.look(reading, reading.read())


def test_counting_by_hand(tmp_path: Path) -> None:
    guard = NonFiniteGuard(2, tmp_path, FakeRuntime())
    look(guard, 0, 1.0, 2.0)
    look(guard, 1, float("inf"), 2.0)
    look(guard, 2, 1.0, 2.0)
    look(guard, 3, 1.0, 1.0, grad_norm=float("nan"))
    assert guard.skipped == 2
    with pytest.raises(UserError):
        look(guard, 4, float("nan"), 1.0)


def test_with_a_loss_scale_a_gradient_may_overflow(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """That lowers the scale and accuses no batch, but it must come to an end."""
    guard = NonFiniteGuard(2, tmp_path, FakeRuntime(), scaled=True)
    for step in range(OVERFLOWS - 1):
        look(guard, step, 1.0, 2.0, grad_norm=float("inf"))
    look(guard, 50, 1.0, 2.0)
    for step in range(OVERFLOWS - 1):
        look(guard, step, 1.0, 2.0, grad_norm=float("nan"))
    assert (guard.skipped, said(capsys), list(tmp_path.iterdir())) == (0, "", [])
    with pytest.raises(UserError, match="however small the loss scale; train in bf16"):
        look(guard, 99, 1.0, 2.0, grad_norm=float("inf"))
    look(guard, 100, float("nan"), 1.0)
    assert guard.skipped == 1 and "rows 00" in said(capsys)  # a loss that is no number is the batch's fault


def test_what_is_poisoned_is_named_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    guard = NonFiniteGuard(100, tmp_path, FakeRuntime())
    look(guard, 6, 1.0, float("nan"))
    path = tmp_path / "nonfinite-step-7.pt"
    assert f"step 7 skipped: loss nan, gradient norm 1.0, not finite; rows 10; the batch is in {path}" in said(capsys)
    assert len(torch.load(path, weights_only=False)["packs"]) == 1
    look(guard, 7, 1.0, 1.0, grad_norm=float("inf"))  # of a gradient alone any of them may be the cause
    assert "step 8 skipped: loss 2.0, gradient norm inf, not finite; rows 00; rows 10; the batch" in said(capsys)
    for step in range(8, 20):
        look(guard, step, float("nan"))
    assert len(list(tmp_path.iterdir())) == FILES
    assert "step 20 skipped: loss nan, gradient norm 1.0, not finite; rows 00\n" in said(capsys)


def test_each_rank_reports_its_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    guards = [NonFiniteGuard(100, tmp_path, FakeRuntime(rank, 2)) for rank in range(2)]
    poisoned = (1.0, float("nan"))
    for guard, loss in zip(guards, poisoned, strict=True):
        pack = make_pack([TrainingSequence(np.arange(3), np.ones(3))])
        values = torch.tensor([sum(poisoned)]), torch.tensor(1.0), torch.tensor(False), torch.tensor([loss])
        reading = StepReading(0, StepBatch([pack], 1.0), 0.1, [0], ["loss"], *values, BEGIN)
        guard.look(reading, reading.read())
    assert [path.name for path in tmp_path.iterdir()] == ["nonfinite-step-1-rank-1.pt"]
    assert said(capsys).count("skipped") == 1


def test_a_full_disk_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    guard = NonFiniteGuard(100, tmp_path / "no such folder", FakeRuntime())
    look(guard, 0, float("nan"))
    assert "not finite; rows 00\n" in said(capsys)


def said(capsys: pytest.CaptureFixture) -> str:
    return capsys.readouterr().err.replace("\x1b[33m", "").replace("\x1b[0m", "")


def test_the_rows_of_a_poisoned_batch(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """They are those whose tokens are in the pack that was saved."""
    sources = []
    made = SFTSource.__init__
    monkeypatch.setattr(SFTSource, "__init__", lambda self, *args: (made(self, *args), sources.append(self))[0])
    skipped = run("run", loss_is_nan, {5}, max_steps=3, gradient_accumulation_steps=2, max_length=200)
    saved = torch.load(skipped.folder / "nonfinite-step-3.pt", weights_only=False)
    (pack,), (origin,) = saved["packs"], saved["origins"]
    assert f"step 3 skipped: loss nan, gradient norm nan, not finite; {origin}; the batch is in" in said(capsys)
    rows = [int(row) for row in origin.removeprefix("rows ").split(", ")]
    assert len(rows) == len(pack.lengths) > 1
    store = sources[0]._store
    texts = [store[int(np.flatnonzero(store.rows == row)[0])][0].tolist() for row in rows]
    assert sorted(chain.from_iterable(texts)) == sorted(pack.input_ids.tolist())


class ScalingRuntime(FakeRuntime):
    """What Accelerate does in fp16, with the scaler of the CPU, for an optimizer that is to be set."""

    optimizer: torch.optim.Optimizer

    def __init__(self) -> None:
        super().__init__()
        self.loss_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def unwrap(self, module: nn.Module) -> nn.Module:
        return module

    @contextmanager
    def accumulate(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        yield

    def backward(self, loss: Tensor) -> None:
        self.loss_scaler.scale(loss).backward()

    def clip_gradients(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        self.loss_scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    def zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()


class ScaledOptimizer(torch.optim.SGD):
    """Steps through the scaler, as Accelerate's wrapper does."""

    scaler: torch.amp.GradScaler

    def step(self, closure: None = None) -> None:
        self.scaler.step(self.plain)
        self.scaler.update()


class OnePack:
    """The same pack at each step."""

    ahead, steps_per_epoch, fingerprint = False, 1.0, ""

    def batch(self, step: int, stop: object) -> StepBatch:
        ones = torch.ones(6).numpy()
        return StepBatch([make_pack([TrainingSequence(ones, ones)])], 5.0)


@pytest.mark.parametrize("poison", [loss_is_nan, only_the_gradient_is_nan])
def test_with_a_loss_scale_the_next_step_is_taken(poison: Poison, tiny_checkpoint: Path, tmp_path: Path) -> None:
    runtime = ScalingRuntime()
    module = PackModel(load_model(str(tiny_checkpoint)))
    config = TrainingConfig(output_dir=str(tmp_path), max_steps=3, save_strategy="no", learning_rate=1e-3)
    runtime.optimizer = build_optimizer(module, config)
    optimizer = ScaledOptimizer(module.parameters())
    optimizer.plain, optimizer.scaler = runtime.optimizer, runtime.loss_scaler
    calls = []

    def objective(predicted: Any, pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
        calls.append(module.model.lm_head.weight.detach().clone())
        loss, metrics = sft_objective(predicted, pack)
        return (poison(loss) if len(calls) == 2 else loss), metrics

    checkpoints = Checkpoints(config, runtime, None, ())
    Trainer(config, runtime, module, optimizer, OnePack(), objective, checkpoints, forward=SFT_FORWARD).train()
    first, second, third = calls
    assert not torch.equal(first, second)
    assert torch.equal(second, third)
    assert not torch.equal(third, module.model.lm_head.weight)
    assert runtime.loss_scaler.get_scale() == 512.0
