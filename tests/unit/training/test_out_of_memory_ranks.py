"""Out of memory on one of two ranks: both repeat the step, and neither is left waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import FakeRuntime
from small_card import ROUNDING, Card, said, up_to
from small_loop import PackSource
from torch import Tensor, nn
from torch.optim import SGD
from training_runs import assert_close_weights

from open_r1.config import SFTConfig
from open_r1.data.pack import Pack
from open_r1.errors import UserError
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.training.meters import StepMeter
from open_r1.training.out_of_memory import MicroBatches
from open_r1.training.sft_source import SFT_FORWARD, sft_objective
from open_r1.training.signals import StopSignal
from open_r1.training.step import TrainingStep


def packs_of(lengths: tuple[tuple[int, ...], ...]) -> list[Pack]:
    return PackSource(lengths).batch(0, None).packs


class TwoRanks(FakeRuntime):
    """This rank of two; ``others`` answers `max` for the other one, call by call; says what it was led through."""

    def __init__(self, rank: int, others: Iterator[float] | None = None) -> None:
        super().__init__(rank, world_size=2)
        self.others, self.exchanges = others or iter(()), 0
        self._last = False

    def max(self, value: float) -> float:
        return max(value, next(self.others, 0.0))

    def unwrap(self, module: nn.Module) -> nn.Module:
        return module

    @contextmanager
    def accumulate(self, _module: nn.Module, *, last: bool) -> Iterator[None]:
        self._last = last
        yield

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        self.exchanges += self._last

    def zero_grad(self, optimizer: Any) -> None:
        optimizer.zero_grad()

    def clip_gradients(self, parameters: Any, max_norm: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def optimizer_step(self, optimizer: Any) -> None:
        optimizer.step()


def test_a_rank_that_fits_halves_with_one_that_does_not(capsys: Any) -> None:
    """And has as many micro-batches, with nothing in those that it lacks."""
    runtime = TwoRanks(rank=1, others=iter([0.0, 24.0, 5.0]))
    micro_batches = MicroBatches(runtime, nn.Module())
    packs = packs_of(((9, 5, 7, 4), (6, 2)))
    assert [number for number, _ in micro_batches.of(packs)] == [0, 1]
    micro_batches.shrink(0, None)
    parts = micro_batches.of(packs)
    assert [number for number, _ in parts] == [0, 0, 0, 1, 1]
    assert [part.lengths for _, part in parts] == [(9,), (5,), (7, 4), (6, 2), (1,)]
    assert len(parts[-1][1].target_index) == 0
    assert said(capsys) == []  # the main rank speaks


def test_ranks_raise_recomputation_together(tiny_checkpoint: Path) -> None:
    module = PackModel(load_model(str(tiny_checkpoint)))
    MicroBatches(TwoRanks(rank=1, others=iter([1.0, 9.0])), module).shrink(0, None)
    assert module.layers.recompute == "selective"


def two_rank_step(
    checkpoint: Path, change: Callable[[PackModel], None] | None, others: list[float], steps: int = 1
) -> tuple[dict[str, Tensor], TwoRanks]:
    """Weights after ``steps`` steps as the first of two ranks, and its runtime."""
    runtime = TwoRanks(rank=0, others=iter(others))
    module = PackModel(load_model(str(checkpoint)))
    if change is not None:
        change(module)
    config = SFTConfig(model_name_or_path="m", dataset_name="d", output_dir="o")
    optimizer = SGD(module.parameters(), lr=0.1)
    meter = StepMeter(module.causal_lm, 2)
    take = TrainingStep(config, runtime, module, optimizer, sft_objective, SFT_FORWARD, meter)
    for step in range(steps):
        take(step, PackSource().batch(step, None), 0.1, StopSignal())
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}, runtime


@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_a_rank_that_fails_keeps_its_part_of_the_exchange(late: bool, tiny_checkpoint: Path) -> None:
    """Once in the attempt that failed, once in the one that did not: the other rank waits there."""
    expected, plain = two_rank_step(tiny_checkpoint, None, [0.0])
    weights, runtime = two_rank_step(tiny_checkpoint, Card(up_to(20), late).install, [0.0] * 9)
    assert (plain.exchanges, runtime.exchanges) == (1, 2)
    assert_close_weights(weights, expected, ROUNDING)


def test_the_other_ranks_failure_repeats_the_step_here(tiny_checkpoint: Path) -> None:
    """In turn `max` is asked: has anyone failed; one sequence; its tokens; how many parts; has anyone failed."""
    expected, _ = two_rank_step(tiny_checkpoint, None, [0.0])
    weights, runtime = two_rank_step(tiny_checkpoint, None, [1000.0, 0.0, 24.0, 7.0, 0.0])
    assert runtime.exchanges == 2
    assert_close_weights(weights, expected, ROUNDING)


def test_what_cannot_be_repeated_says_so(tiny_checkpoint: Path) -> None:
    """Memory runs out in the exchange itself, long after the start."""
    seen: list[Pack] = []

    def fits(pack: Pack, _level: str) -> bool:
        seen.append(pack)
        return len(seen) <= 8 or len(pack) != 23  # three packs in each of two careful steps, two in the third

    with pytest.raises(UserError, match=r"step 4: .*cannot be repeated.*--resume_from_checkpoint true") as caught:
        two_rank_step(tiny_checkpoint, Card(fits, late=True).install, [], steps=9)
    assert "\n" not in str(caught.value)
