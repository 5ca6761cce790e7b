"""One order, on every rank, in which ZeRO 2 adds up gradients over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def reduce_in_order(shared: Any, parameters: Sequence[nn.Parameter]) -> None:
    """Lets DeepSpeed's ZeRO-2 optimizer take gradients from the last of ``parameters`` to the first.

    It lays them into its buckets as autograd hands them out, and adds up what lies at the same place on all ranks. Of a
    compiled layer all gradients come at once, in an order that depends on the graph, and the graph on the length of the
    pack: ranks whose packs differ would silently add up gradients of different weights. A gradient that comes before
    its turn waits here, at the longest for the rest of its layer.
    """
    process, finish = shared.process_gradients, shared.independent_gradient_partition_epilogue
    turns = {id(parameter): turn for turn, parameter in enumerate(reversed(parameters))}
    waiting: dict[int, tuple[nn.Parameter, int]] = {}
    following = 0

    def process_in_turn(parameter: nn.Parameter, group: int) -> None:
        nonlocal following
        waiting[turns[id(parameter)]] = (parameter, group)
        while following in waiting:
            process(*waiting.pop(following))
            following += 1

    def finish_backward() -> None:
        nonlocal following
        for turn in sorted(waiting):  # behind a parameter that got no gradient
            process(*waiting.pop(turn))
        following = 0
        finish()

    shared.process_gradients, shared.independent_gradient_partition_epilogue = process_in_turn, finish_backward
