"""Who gets the GPU's memory."""

from __future__ import annotations

from typing import Any

import pytest

from open_r1.errors import UserError
from open_r1.generation.colocated_memory import ENGINE_ROOM, USABLE, cache_bytes_per_token, share_memory

GIB = 2**30


def share(**changes: Any) -> Any:
    sizes = {"memory": 140, "training": 40, "resident": 10, "weights": 1, "wanted": 8, "least": 0.1}
    numbers = {name: changes.pop(name, value) * GIB for name, value in sizes.items()}
    return share_memory(**numbers, **changes)


def test_with_room_for_both_the_engine_gets_all_it_can_use() -> None:
    got = share()
    assert (got.cache, got.sleeps) == (8 * GIB, False)
    assert got.engine == pytest.approx(9 * GIB + ENGINE_ROOM)


def test_beside_a_large_step_it_gets_what_is_left() -> None:
    got = share(training=125)
    assert got.cache == pytest.approx(USABLE * 140 * GIB - 126 * GIB - ENGINE_ROOM, rel=1e-6)
    assert not got.sleeps


def test_where_little_is_left_it_sleeps_and_has_all_that_training_does_not_keep() -> None:
    got = share(memory=24, training=21, resident=10)
    assert got.sleeps
    assert got.cache == pytest.approx(8 * GIB)
    assert not share(memory=24, training=10).sleeps


def test_what_the_person_says_goes_first() -> None:
    assert share(sleeps=True).sleeps
    assert share(share=0.05).cache == pytest.approx(6 * GIB - ENGINE_ROOM, rel=1e-6)
    assert not share(training=125, sleeps=False).sleeps
    assert share(memory=24, training=21, share=0.4).sleeps  # both together do not fit


def test_where_no_completion_fits_the_numbers_are_said() -> None:
    with pytest.raises(UserError, match=r"vLLM has 0\.0 GiB for keys .* needs 0\.1: training keeps 22\.0 of"):
        share(memory=24, training=23, resident=22)


def test_a_token_in_the_cache() -> None:
    assert cache_bytes_per_token(layers=24, key_value=2 * 64, width=2) == 12_288  # Qwen2.5-0.5B in bf16
