"""Every token of every epoch is trained once, whoever takes it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from fake_runtime import FakeRuntime

from open_r1.config import SFTConfig
from open_r1.data.bad_rows import BadRows
from open_r1.data.pack import Pack
from open_r1.data.tokens import TokenStore
from open_r1.errors import UserError
from open_r1.training.sft_source import SFTSource
from open_r1.training.signals import StopSignal

PROMPT = 2


def store(lengths: list[int]) -> TokenStore:
    """Sequences of two prompt tokens and then targets; no token occurs twice."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    mask = np.ones(offsets[-1], np.uint8)
    for start, length in zip(offsets, lengths, strict=False):
        mask[start : start + min(PROMPT, length)] = 0
    return TokenStore(
        input_ids=np.arange(offsets[-1], dtype=np.int32),
        loss_mask=mask,
        offsets=offsets,
        rows=np.arange(len(lengths)),
        targets=np.array([[PROMPT, length] for length in lengths]),
        bad_rows=BadRows(False, 5),
        cached=False,
    )


LENGTHS = np.random.default_rng(0).integers(3, 30, 41).tolist()
STORE = store(LENGTHS)
TARGETS = np.flatnonzero(STORE.loss_mask).tolist()


def config(**settings: Any) -> SFTConfig:
    return SFTConfig(**{"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "max_length": 32} | settings)


def sources(world_size: int, **settings: Any) -> list[SFTSource]:
    return [SFTSource(STORE, config(**settings), FakeRuntime(rank, world_size)) for rank in range(world_size)]


def targets_of(pack: Pack) -> list[int]:
    return pack.input_ids[pack.target_index].tolist()


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("overlong", ["split", "truncate"])
def test_each_target_once_an_epoch(
    world_size: int, batch: int, accumulation: int, packing: bool, overlong: str
) -> None:
    settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "packing": packing}
    ranks = sources(world_size, num_train_epochs=3, overlong=overlong, max_length=24, **settings)
    steps = ranks[0].steps(3)
    seen: Counter[int] = Counter()
    for step in range(steps):
        batches = [rank.batch(step, StopSignal()) for rank in ranks]
        assert {len(each.packs) for each in batches} == {accumulation}
        trained = [target for each in batches for pack in each.packs for target in targets_of(pack)]
        assert trained, f"step {step} of {steps} trains nothing"
        seen.update(trained)
        for each in batches:
            assert all(len(pack) <= 24 * batch for pack in each.packs)
    lost = {
        int(start) + place
        for start, length in zip(STORE.offsets, LENGTHS, strict=False)
        for place in range(24, length)
        if overlong == "truncate"
    }
    assert seen == {target: 3 for target in TARGETS if target not in lost}


def test_the_same_tokens_however_a_step_is_shared_out() -> None:
    def step_sets(world_size: int, **settings: int) -> list[list[int]]:
        ranks = sources(world_size, max_steps=9, **settings)
        batches = [[rank.batch(step, StopSignal()) for rank in ranks] for step in range(9)]
        return [sorted(t for each in step for pack in each.packs for t in targets_of(pack)) for step in batches]

    whole = step_sets(1, per_device_train_batch_size=4)
    assert step_sets(1, gradient_accumulation_steps=4) == whole
    assert step_sets(2, gradient_accumulation_steps=2) == whole
    assert step_sets(4) == whole


def test_the_denominator_counts_the_targets() -> None:
    (source,) = sources(1, gradient_accumulation_steps=3)
    batch = source.batch(0, StopSignal())
    assert batch.denominator == sum(len(targets_of(pack)) for pack in batch.packs)


def test_steps_may_be_asked_for_in_any_order() -> None:
    (forwards,), (backwards,) = sources(1, max_steps=50), sources(1, max_steps=50)
    expected = {step: forwards.batch(step, StopSignal()).packs[0].input_ids.tolist() for step in range(50)}
    for step in (49, 3, 20, 0):
        assert backwards.batch(step, StopSignal()).packs[0].input_ids.tolist() == expected[step]


def test_epochs_and_seeds_differ() -> None:
    (source,) = sources(1, num_train_epochs=2)
    (other,) = sources(1, num_train_epochs=2, seed=1)
    first, second = (source.epoch_plan(epoch).segments.tolist() for epoch in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)
    assert other.epoch_plan(0).segments.tolist() != first


def test_part_of_an_epoch() -> None:
    (source,) = sources(1, num_train_epochs=1.5)
    packs = [len(source.epoch_plan(epoch)) for epoch in (0, 1)]
    assert source.steps(1.5) == packs[0] + -(-packs[1] // 2)
    assert source.steps(0.01) == 1


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"max_length": 31}, {"packing": False}, {"overlong": "drop"}, {"gradient_accumulation_steps": 2}],
)
def test_the_fingerprint_tells_runs_of_another_order(other: dict[str, Any]) -> None:
    (source,) = sources(1)
    assert source.fingerprint == sources(1, learning_rate=1.0)[0].fingerprint
    assert source.fingerprint != sources(1, **other)[0].fingerprint
    assert source.fingerprint != SFTSource(store(LENGTHS[1:]), config(), FakeRuntime()).fingerprint


def test_nothing_to_train_on() -> None:
    with pytest.raises(UserError, match="within max_length 2"):
        SFTSource(store([5, 9]), config(max_length=2, overlong="truncate"), FakeRuntime())
