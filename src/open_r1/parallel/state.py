"""Weights and optimizer state as whole tensors by name: the same for one rank and for many, whole or sharded.

Everything here is collective: every rank calls it, and rank 0 holds what is gathered, or gives what is loaded. One
tensor at a time is whole on a rank, so that sharded training needs no more memory to be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from open_r1.errors import UserError


class Shards(Protocol):
    """How one way of training in parallel holds its tensors; each method is collective."""

    rank: int
    world_size: int
    device: torch.device

    def gather(self, tensor: Tensor) -> Tensor:
        """The whole of a parameter or buffer; of one that trains, in the precision in which it is updated."""

    def scatter(self, target: Tensor, whole: Tensor) -> None:
        """Puts ``whole``, which every rank holds, into a parameter or buffer."""

    def gather_moment(self, optimizer: Optimizer, parameter: nn.Parameter, key: str) -> Any:
        """The whole of one entry of a parameter's optimizer state."""

    def groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """The optimizer's groups, with the module's own parameters."""

    def moments(self, optimizer: Optimizer, parameter: nn.Parameter) -> list[str]:
        """The names of the entries of a parameter's optimizer state; none before the first step."""

    def put_moments(self, optimizer: Optimizer, state: Iterator[tuple[nn.Parameter, dict[str, Any]]]) -> None:
        """Replaces the optimizer's state; every rank is given whole tensors, one parameter after the other."""


def model_state(inner: nn.Module, shards: Shards, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The state dict of ``inner`` with whole tensors on rank 0, {} elsewhere.

    Args:
        wanted: whether a name is gathered at all.
    """
    state: dict[str, Tensor] = {}
    first_name: dict[int, str] = {}
    for name, tensor in inner.state_dict(keep_vars=True).items():
        if not wanted(name):
            continue
        if id(tensor) in first_name:  # tied: the same tensor under a second name
            if shards.rank == 0:
                state[name] = state[first_name[id(tensor)]]
            continue
        first_name[id(tensor)] = name
        whole = shards.gather(tensor) if isinstance(tensor, Tensor) else tensor
        if shards.rank == 0:
            state[name] = whole
    return state


def load_model_state(inner: nn.Module, shards: Shards, state: dict[str, Tensor]) -> None:
    """Puts rank 0's ``state`` into ``inner``. What does not train may be missing: it is as it was loaded.

    Raises:
        UserError: on every rank, for a name or a shape that does not fit.
    """
    targets = inner.state_dict(keep_vars=True)
    kinds = _from_rank_0(_kinds(state) if shards.rank == 0 else None, shards)
    shapes = {name: shape for name, (shape, _, _) in kinds.items()}
    names: dict[int, str] = {}  # of tied tensors, the name that is given
    for name, target in targets.items():
        if name in shapes:
            names.setdefault(id(target), name)
    wrong = [f"{name} is not known" for name in shapes if name not in targets]
    for name, target in targets.items():
        if name in shapes and shapes[name] != whole_shape(target):
            wrong.append(f"{name} has the shape {shapes[name]} where {whole_shape(target)} is needed")
        if id(target) not in names and target.requires_grad:
            wrong.append(f"{name} is missing")
    if wrong:
        raise UserError(f"the weights do not fit this model: {wrong[0]}")
    for name in names.values():
        target = targets[name]
        shape, dtype, _ = kinds[name]
        shards.scatter(target, spread(state[name] if shards.rank == 0 else None, shape, dtype, shards))


def optimizer_state(inner: nn.Module, shards: Shards, optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's state by parameter name, with whole tensors on rank 0; names alone elsewhere.

    Returns:
        {"state": {name: {key: value}}, "param_groups": [{"lr": …, …, "params": [name, …]}]}
    """
    names = {id(parameter): name for name, parameter in inner.named_parameters()}
    state: dict[str, dict[str, Any]] = {}
    groups = []
    for group in shards.groups(optimizer):
        groups.append({key: value for key, value in group.items() if key != "params"})
        groups[-1]["params"] = [names[id(parameter)] for parameter in group["params"]]
        for parameter in group["params"]:
            keys = shards.moments(optimizer, parameter)
            values = {key: shards.gather_moment(optimizer, parameter, key) for key in keys}
            if values and shards.rank == 0:
                state[names[id(parameter)]] = values
    return {"state": state, "param_groups": groups}


def load_optimizer_state(inner: nn.Module, shards: Shards, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Puts rank 0's ``state`` into the optimizer; the settings of its groups stay as this run made them.

    Raises:
        UserError: on every rank, when the state is of other parameters.
    """
    names = {id(parameter): name for name, parameter in inner.named_parameters()}
    parameters = [parameter for group in shards.groups(optimizer) for parameter in group["params"]]
    given = state["state"] if shards.rank == 0 else {}
    kinds = _from_rank_0({name: _kinds(values) for name, values in given.items()}, shards)
    own = {names[id(parameter)]: parameter for parameter in parameters}
    if stranger := next((name for name in kinds if name not in own), None):
        raise UserError(f"the optimizer state does not fit this model: {stranger} is not trained here")
    if kinds and (missing := next((name for name in own if name not in kinds), None)):
        raise UserError(f"the optimizer state does not fit this model: it has nothing for {missing}")

    def whole_states() -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
        for name, parameter in own.items():
            values = {}
            for key, (shape, dtype, value) in kinds.get(name, {}).items():
                tensor = given[name][key] if shards.rank == 0 else None
                values[key] = value if dtype is None else spread(tensor, shape, dtype, shards)
            if values:
                yield parameter, values

    shards.put_moments(optimizer, whole_states())


def whole_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of the whole tensor, of which a ZeRO-3 parameter holds nothing here."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def spread(tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, shards: Shards) -> Tensor:
    """Rank 0's tensor on every rank, on the device that computes; with one rank, the tensor itself."""
    if shards.world_size == 1:
        return tensor
    if shards.rank == 0:
        tensor = tensor.to(shards.device, dtype).contiguous()
    else:
        tensor = torch.empty(shape, dtype=dtype, device=shards.device)
    torch.distributed.broadcast(tensor, src=0)
    return tensor


def _kinds(values: dict[str, Any]) -> dict[str, tuple[Any, Any, Any]]:
    """Of each entry: (shape, dtype, None) of a tensor, else (None, None, the value)."""
    return {
        key: (tuple(value.shape), value.dtype, None) if isinstance(value, Tensor) else (None, None, value)
        for key, value in values.items()
    }


def _from_rank_0(value: Any, shards: Shards) -> Any:
    if shards.world_size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
