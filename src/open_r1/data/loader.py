"""Packs of a plan, read from the token store one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.data.packing import PackPlan
from open_r1.data.tokens import TokenStore


def sft_packs(store: TokenStore, plan: PackPlan, indices: Iterable[int]) -> Iterator[Pack]:
    """Yields the packs ``indices`` of ``plan``; every token of the assistant is a target of weight 1."""
    for index in indices:
        yield make_pack([_segment(store, *segment) for segment in plan[index].tolist()])


def _segment(store: TokenStore, sequence: int, start: int, end: int) -> TrainingSequence:
    ids, mask = store[sequence]
    return TrainingSequence(ids=ids[start:end], loss_weight=mask[start:end].astype(np.float32))
