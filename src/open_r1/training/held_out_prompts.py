"""Which prompts a GRPO run is evaluated on: those of a test split, or some of the training prompts kept apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rich.console import Console

from open_r1.config import GRPOConfig
from open_r1.data.prompts import PromptSet
from open_r1.errors import UserError

console = Console(stderr=True, soft_wrap=True, highlight=False)

NO_EPOCH = 2**31 - 1
"""Seeds the choice of held-out prompts; no pass over the data has this number."""


def with_held_out(
    config: GRPOConfig, prompts: PromptSet, read_test: Callable[[], PromptSet] | None, *, is_main: bool
) -> tuple[PromptSet, PromptSet | None]:
    """The prompts to train on and those to evaluate on, None where ``eval_strategy`` asks for no evaluation.

    Args:
        read_test: encodes the prompts of the test split; None where there is none.
        is_main: whether this process says what is held out.

    Raises:
        UserError: nothing can be held out.
    """
    if config.eval_strategy == "no":
        return prompts, None
    if config.eval_holdout:
        prompts, held_out = hold_out(prompts, config.eval_holdout, config.seed)
        source = "kept apart from training"
    elif read_test is not None:
        held_out, source = read_test(), f"of split {config.dataset_test_split}"
    else:
        raise UserError(
            f"eval_strategy {config.eval_strategy} needs held-out prompts and there is no split "
            f"{config.dataset_test_split!r}: name one with --dataset_test_split, keep some training prompts apart with "
            "--eval_holdout 64, or set --eval_strategy no"
        )
    held_out = choose(held_out, config.max_eval_prompts, config.seed)
    if is_main:
        console.print(f"held out: {len(held_out):,} prompts {source}")
        if shared := overlap(prompts, held_out):
            console.print(f"[yellow]{shared:,} of the held-out prompts are trained on too[/]")
    return prompts, held_out


def hold_out(prompts: PromptSet, count: int, seed: int) -> tuple[PromptSet, PromptSet]:
    """Training prompts, and ``count`` prompts kept apart; a prompt that comes twice is on one side only.

    Raises:
        UserError: none would be left to train on.
    """
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for index, ids in enumerate(prompts.token_ids):
        rows_of.setdefault(ids, []).append(index)
    different = list(rows_of.values())
    if count >= len(different):
        raise UserError(
            f"eval_holdout {count} leaves none of {len(different)} different prompts to train on: set a smaller number"
        )
    order = _order(len(different), seed)
    apart = sorted(different[place][0] for place in order[:count])
    kept = sorted(index for place in order[count:] for index in different[place])
    return prompts.subset(kept), prompts.subset(apart)


def choose(prompts: PromptSet, most: int, seed: int) -> PromptSet:
    """At most ``most`` prompts, drawn by the seed, in the data's order."""
    if len(prompts) <= most:
        return prompts
    return prompts.subset(sorted(_order(len(prompts), seed)[:most]))


def overlap(train: PromptSet, held_out: PromptSet) -> int:
    """How many held-out prompts are among those that are trained on."""
    trained = set(train.token_ids)
    return sum(ids in trained for ids in held_out.token_ids)


def _order(size: int, seed: int) -> list[int]:
    return np.random.default_rng((seed, NO_EPOCH)).permutation(size).tolist()
