"""Prompts, completions, micro-batches and processes: solved for, or refused with sizes that work."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from open_r1.config import GRPOConfig, batch_line, solve_batch
from open_r1.errors import UserError

SIZES = st.integers(1, 24)
MAYBE = st.none() | SIZES
NAMES = ("prompts_per_step", "per_device_train_batch_size", "gradient_accumulation_steps", "num_generations")


def grpo(prompts: int | None, batch: int | None, accumulation: int | None, group: int = 8) -> GRPOConfig:
    given_ones = dict(zip(NAMES, (prompts, batch, accumulation, group), strict=True))
    return GRPOConfig(model_name_or_path="m", dataset_name="d", output_dir="o", **given_ones)


def sizes(config: GRPOConfig) -> tuple[int, ...]:
    return tuple(getattr(config, name) for name in NAMES)


def changes(message: str) -> list[dict[str, int | None]]:
    """What a refusal advises: changes of which each is enough."""
    advice = message.rpartition(": ")[2]
    found = re.findall(rf"({'|'.join(NAMES)}) to (\d+)(?: or (\d+))?", advice)
    leave = dict.fromkeys(NAMES[1:3]) if advice.startswith("leave ") else {}
    if leave and not found:
        return [leave]
    return [leave | {name: int(value)} for name, *values in found for value in values if value]


@settings(max_examples=300, deadline=None)
@given(MAYBE, MAYBE, MAYBE, st.integers(2, 24), st.integers(1, 9))
@example(8, None, None, 8, 3)
@example(None, 16, 8, 7, 1)
@example(4, 6, None, 8, 2)
@example(4, 4, 5, 8, 2)
@example(1, None, 2, 3, 2)
@example(1, 1, 1, 8, 2)
@example(2, 3, 5, 8, 2)
def test_what_is_solved_holds_and_what_is_advised_works(
    prompts: int | None, batch: int | None, accumulation: int | None, group: int, world: int
) -> None:
    config = grpo(prompts, batch, accumulation, group)
    try:
        solved = solve_batch(config, world)
    except UserError as error:
        assert "\n" not in str(error)
        advised = changes(str(error))
        assert advised, error
        for change in advised:
            again = dict(zip(NAMES, (prompts, batch, accumulation, group), strict=True)) | change
            solve_batch(grpo(*again.values()), world)
    else:
        for name, value in zip(NAMES, (prompts, batch, accumulation, group), strict=True):
            assert value in (None, getattr(solved, name)), name
        prompts, batch, accumulation, group = sizes(solved)
        assert batch * accumulation * world == prompts * group
        assert prompts % world == 0  # every process draws whole groups
        assert sizes(solve_batch(solved, world)) == sizes(solved)


@pytest.mark.parametrize(
    ("given_ones", "world", "expected"),
    [
        ((None, None, None), 1, (1, 8, 1, 8)),
        ((None, None, None), 4, (4, 8, 1, 8)),
        ((None, 16, None, 16), 1, (1, 16, 1, 16)),
        ((None, 1, None), 8, (8, 1, 8, 8)),  # where the published trainer spreads one group over eight processes
        ((None, None, 4, 6), 1, (6, 9, 4, 6)),
        ((64, None, None), 2, (64, 8, 32, 8)),
        ((64, 4, None), 2, (64, 4, 64, 8)),
        ((64, None, 16), 2, (64, 16, 16, 8)),
        ((None, 4, 2), 1, (1, 4, 2, 8)),
    ],
)
def test_the_rest_is_solved(given_ones: tuple[Any, ...], world: int, expected: tuple[int, ...]) -> None:
    assert sizes(solve_batch(grpo(*given_ones), world)) == expected


@pytest.mark.parametrize(
    ("given_ones", "world", "expected"),
    [
        (
            (8, None, None),
            3,
            "prompts_per_step 8 cannot be shared evenly by 3 processes: set prompts_per_step to 6 or 9",
        ),
        ((2, None, None), 3, "prompts_per_step 2 cannot be shared evenly by 3 processes: set prompts_per_step to 3"),
        (
            # 16 × 8 = 128 = 2^7 is no multiple of 7: accumulation in steps of 7, or groups that divide 128.
            (None, 16, 8, 7),
            1,
            "128 completions of a process (per_device_train_batch_size 16 × gradient_accumulation_steps 8) are not "
            "whole groups of num_generations 7: set gradient_accumulation_steps to 7 or 14, or num_generations to 4 "
            "or 8",
        ),
        (
            # 16 completions a process: 6 does not divide them; 6 completions a micro-batch need 24, 3 prompts each.
            (4, 6, None),
            2,
            "prompts_per_step 4 × num_generations 8 over 2 processes is 16 completions of each, which "
            "per_device_train_batch_size 6 does not divide: set per_device_train_batch_size to 4 or 8, or "
            "prompts_per_step to 6",
        ),
        (
            (4, 8, 4),
            2,
            "prompts_per_step 4 × num_generations 8 over 2 processes is 16 completions of each, which "
            "per_device_train_batch_size 8 × gradient_accumulation_steps 4 is not: set per_device_train_batch_size to "
            "4, or gradient_accumulation_steps to 2, or prompts_per_step to 8",
        ),
    ],
)
def test_what_does_not_go_together(given_ones: tuple[Any, ...], world: int, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        solve_batch(grpo(*given_ones), world)
    assert str(caught.value) == expected


def test_a_solved_batch_in_words() -> None:
    assert batch_line(solve_batch(grpo(64, None, None), 2), 2) == (
        "64 prompts × 8 completions a step (per_device_train_batch_size 8 × gradient_accumulation_steps 32 × processes "
        "2)"
    )
    assert batch_line(solve_batch(grpo(None, None, None), 1), 1).startswith("1 prompt × 8 completions a step (")
