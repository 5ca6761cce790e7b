"""Gradients are taken in one order, whatever the order in which they come."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from open_r1.parallel.zero_order import reduce_in_order


def taken(*backwards: list[int]) -> list[list[tuple[int, int]]]:
    """Which of four parameters are taken, with their groups, in backward passes that hand them out in these orders."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    seen: list[tuple[int, int]] = []
    passes: list[list[tuple[int, int]]] = []
    shared = SimpleNamespace(
        process_gradients=lambda parameter, group: seen.append((numbers[id(parameter)], group)),
        independent_gradient_partition_epilogue=lambda: passes.append(list(seen)),
    )
    reduce_in_order(shared, parameters)
    for order in backwards:
        seen.clear()
        for number in order:
            shared.process_gradients(parameters[number], number % 2)
        shared.independent_gradient_partition_epilogue()
    return passes


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [0, 1, 2, 3], [2, 3, 0, 1]])
def test_from_the_last_to_the_first(order: list[int]) -> None:
    assert taken(order, order) == [[(3, 1), (2, 0), (1, 1), (0, 0)]] * 2


def test_a_parameter_without_gradient_holds_up_none() -> None:
    assert taken([0, 3, 1], [2, 0]) == [[(3, 1), (1, 1), (0, 0)], [(2, 0), (0, 0)]]


def test_nothing_waits_whose_turn_it_is() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    seen: list[nn.Parameter] = []
    shared = SimpleNamespace(
        process_gradients=lambda parameter, _group: seen.append(parameter),
        independent_gradient_partition_epilogue=lambda: None,
    )
    reduce_in_order(shared, parameters)
    shared.process_gradients(parameters[2], 0)
    assert len(seen) == 1
    shared.process_gradients(parameters[0], 0)
    assert len(seen) == 1
    shared.process_gradients(parameters[1], 0)
    assert len(seen) == 3
