"""A step that does not fit into memory is taken all the same, in smaller parts, and nothing before it is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_card import ROUNDING, TOO_MUCH, Card, said, up_to
from small_loop import SmallRun, run_small
from training_runs import assert_close_weights, assert_same_weights, train

from open_r1.data.pack import Pack
from open_r1.errors import UserError
from open_r1.model.pack_model import PackModel
from open_r1.training.out_of_memory import is_out_of_memory


@pytest.fixture
def plain(tiny_checkpoint: Path, tmp_path: Path) -> SmallRun:
    """The run that nothing disturbs."""
    return run_small(tiny_checkpoint, tmp_path / "plain")


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
