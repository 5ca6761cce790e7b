"""A step that does not fit into memory is taken all the same, in smaller parts, and nothing before it is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_runtime import FakeRuntime
from small_loop import PackSource, SmallRun, run_small
from torch import Tensor, nn
from torch.optim import SGD
from training_runs import assert_close_weights, assert_same_weights, train

from open_r1.config import SFTConfig
from open_r1.data.pack import Pack
from open_r1.errors import UserError
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel
from open_r1.training.meters import StepMeter
from open_r1.training.out_of_memory import MicroBatches, is_out_of_memory
from open_r1.training.sft_source import SFT_FORWARD, sft_objective
from open_r1.training.signals import StopSignal
from open_r1.training.step import TrainingStep

ROUNDING = 2e-5
TOO_MUCH = "CUDA out of memory. Tried to allocate 2.00 GiB"


@dataclass
class Card:
    """A device without room for some packs; `install` on a `PackModel`.

    Attributes:
        fits: of a pack and the recomputation.
        late: fails in the backward pass, when gradients of some weights have been added already.
        tried: tokens and recomputation of each pack.
    """

    fits: Callable[[Pack, str], bool]
    late: bool = False
    tried: list[tuple[int, str]] = field(default_factory=list)

    def install(self, module: PackModel) -> None:
        forward = module.forward

        def limited(pack: Pack, **kwargs: Any) -> Any:
            level = module.layers.recompute
            self.tried.append((len(pack), level))
            if self.fits(pack, level):
                return forward(pack, **kwargs)
            if not self.late:
                raise torch.OutOfMemoryError(TOO_MUCH)
            embedding = module.causal_lm.get_input_embeddings()
            handle = embedding.register_forward_hook(_fail_in_backward)
            try:
                return forward(pack, **kwargs)
            finally:
                handle.remove()

        module.forward = limited


def _fail_in_backward(_module: nn.Module, _input: Any, output: Tensor) -> None:
    output.register_hook(_raise)


def _raise(_gradient: Tensor) -> None:
    raise torch.OutOfMemoryError(TOO_MUCH)


def up_to(tokens: int) -> Callable[[Pack, str], bool]:
    return lambda pack, _level: len(pack) <= tokens


@pytest.fixture
def plain(tiny_checkpoint: Path, tmp_path: Path) -> SmallRun:
    """The run that nothing disturbs."""
    return run_small(tiny_checkpoint, tmp_path / "plain")


def said(capsys: Any) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]


def assert_same_run(run: SmallRun, plain: SmallRun) -> None:
    """To rounding; the batch of each step is the same."""
    assert_close_weights(run.weights, plain.weights, ROUNDING)
    assert run.losses == pytest.approx(plain.losses, rel=1e-5)
    for name in ("tokens", "sequences", "learning_rate", "epoch", "step"):
        assert [line[name] for line in run.metrics] == [line[name] for line in plain.metrics]
    assert run.result.step == plain.result.step and run.result.metrics["skipped_steps"] == 0


@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_halved_once_and_for_all(late: bool, plain: SmallRun, tiny_checkpoint: Path, tmp_path: Path, capsys: Any):
    """Packs of 25 and 23 tokens."""
    card = Card(up_to(20), late)
    capsys.readouterr()
    run = run_small(tiny_checkpoint, tmp_path / "run", change=card.install)
    assert said(capsys) == [
        "out of memory in step 1: micro-batches of 25 tokens are halved to 12 from here on; "
        "the batch of a step stays the same"
    ]
    assert [tokens for tokens, _ in card.tried if tokens > 12] == [25]
    assert {level for _, level in card.tried} == {"none"}
    assert_same_run(run, plain)


def test_in_the_second_micro_batch_of_a_later_step(
    plain: SmallRun, tiny_checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    """The gradient of the first one has been added: it must not count twice."""
    packs: list[Pack] = []

    def fits(pack: Pack, _level: str) -> bool:
        packs.append(pack)
        return len(packs) != 6  # two of each step

    run = run_small(tiny_checkpoint, tmp_path / "run", change=Card(fits, late=True).install)
    assert [line.split(":")[0] for line in said(capsys)] == ["out of memory in step 3"]
    assert run.losses[:2] == plain.losses[:2]
    assert_same_run(run, plain)


def test_halved_again(plain: SmallRun, tiny_checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    """25 → 12 → 5 → 2, which leaves every sequence by itself."""
    card = Card(lambda pack, _level: len(pack.lengths) == 1)
    run = run_small(tiny_checkpoint, tmp_path / "run", change=card.install)
    assert [line.split(" tokens")[0].split()[-1] for line in said(capsys)] == ["25", "11", "5"]
    assert_same_run(run, plain)


def test_a_single_sequence_raises_recomputation(
    plain: SmallRun, tiny_checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    """The longest one, of 12 tokens, needs all of it."""
    room = {"none": 8, "selective": 10, "full": 12}
    card = Card(lambda pack, level: len(pack) <= room[level])
    run = run_small(tiny_checkpoint, tmp_path / "run", change=card.install)
    lines = said(capsys)
    assert [line for line in lines if "one sequence" in line] == [
        "out of memory in step 1: one sequence of 9 tokens does not fit; gradient_checkpointing is selective from "
        "here on",
        "out of memory in step 1: one sequence of 12 tokens does not fit; gradient_checkpointing is full from here on",
    ]
    assert card.tried[-1][1] == "full"
    assert_same_run(run, plain)


def test_what_never_fits_ends_in_one_line_and_earlier_steps_stay(
    plain: SmallRun, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """From the fourth step on there is no room, as when another process takes it; the person makes room, goes on."""
    full = {"now": False}

    def prepare(trainer: Any) -> None:
        take = trainer.take_step

        def step(number: int, *rest: Any) -> Any:
            full["now"] = number == 3
            return take(number, *rest)

        trainer.take_step = step

    def fits(_pack: Pack, _level: str) -> bool:
        return not full["now"]

    saving = {"save_strategy": "steps", "save_steps": 1}
    folder = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        run_small(tiny_checkpoint, folder, change=Card(fits).install, prepare=prepare, **saving)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("out of memory in step 4: one sequence of ")
    for advice in ("--max_length", "--use_peft", "--optim adamw_8bit", "zero3.yaml"):
        assert advice in line
    assert (folder / "checkpoint-3").is_dir() and not (folder / "checkpoint-4").exists()
    resumed = run_small(tiny_checkpoint, folder, resume_from_checkpoint=True, **saving)
    assert_same_weights(resumed.weights, plain.weights)
    assert resumed.losses == plain.losses


def test_other_errors_are_not_taken_for_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def change(module: PackModel) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("shapes cannot be multiplied")

        module.forward = broken

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run_small(tiny_checkpoint, tmp_path / "run", change=change)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_is_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


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


def test_in_a_run(sft_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """From the command line to the exported model."""
    settings = sft_settings | {"max_steps": 4, "learning_rate": 1e-3, "adam_epsilon": 1e-4}
    settings |= {"per_device_train_batch_size": 4}
    plain = train("sft", tmp_path / "plain", **settings)
    forward, tried = PackModel.forward, []

    def limited(self: PackModel, pack: Pack, *args: Any, **kwargs: Any) -> Any:
        tried.append(len(pack))
        if len(pack) > 200:
            raise torch.OutOfMemoryError(TOO_MUCH)
        return forward(self, pack, *args, **kwargs)

    monkeypatch.setattr(PackModel, "forward", limited)
    capsys.readouterr()
    run = train("sft", tmp_path / "run", **settings)
    assert len(said(capsys)) == 1
    assert sum(tokens > 200 for tokens in tried) == 1 and max(tried) > 250
    assert run.losses == pytest.approx(plain.losses, rel=1e-4)
    assert [line["tokens"] for line in run.metrics] == [line["tokens"] for line in plain.metrics]
    assert_close_weights(run.weights, plain.weights, 1e-4)
