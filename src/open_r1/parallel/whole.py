"""A whole copy of model and optimizer on every rank: one process, or DDP, as Accelerate prepares them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from open_r1.errors import UserError


class Whole:
    """How a module is wrapped, stepped and saved where nothing is sharded; the sharded ways override what differs.

    Attributes:
        sharded: whether a rank holds only its part of weights or optimizer state.
        whole_weights: whether each rank holds all weights between steps.
    """

    sharded = False
    whole_weights = True

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        if self.device.type == "cuda" and self.device.index is None:  # torch asks for the number in places
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.kind = "ddp" if self.world_size > 1 else "single"

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves and wraps the module and its optimizer."""
        # Its successor is not in every release of torch that this runs on.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return self.accelerator.prepare(module, optimizer)

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The module that was given to `prepare`."""
        return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module

    def accumulate(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: gradients are exchanged in the ``last`` one only."""
        return nullcontext() if last or self.world_size == 1 else self.accelerator.no_sync(module)

    def backward(self, loss: Tensor) -> None:
        """Backward of this rank's share of the global loss.

        DDP averages gradients over ranks, and shares are to be summed, hence the factor.
        """
        self.accelerator.backward(loss * self.world_size)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Unscales (fp16) and clips; the norm before clipping."""
        return self.accelerator.clip_grad_norm_(parameters, max_norm)

    def step(self, optimizer: Optimizer) -> None:
        """One step of the optimizer."""
        optimizer.step()

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Drops all gradients, those of an unfinished accumulation too."""
        optimizer.zero_grad(set_to_none=True)

    def scaler(self) -> Any:
        """The loss scaler of fp16; None in other types."""
        return self.accelerator.scaler

    def groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """The optimizer's groups, with the module's own parameters."""
        return optimizer.param_groups

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.detach()

    def scatter(self, target: Tensor, whole: Tensor) -> None:
        with torch.no_grad():
            target.copy_(whole)

    def whole(self, tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype | None]) -> list[Tensor]:
        return [tensor.detach() for tensor in tensors]

    def moments(self, optimizer: Optimizer, parameter: nn.Parameter) -> list[str]:
        return list(bare(optimizer).state.get(parameter, {}))

    def gather_moment(self, optimizer: Optimizer, parameter: nn.Parameter, key: str) -> Any:
        return bare(optimizer).state[parameter][key]

    def put_moments(self, optimizer: Optimizer, state: Iterator[tuple[nn.Parameter, dict[str, Any]]]) -> None:
        optimizer = bare(optimizer)
        numbers = parameter_numbers(optimizer)
        layout = optimizer.state_dict()
        layout["state"] = {numbers[id(parameter)]: values for parameter, values in state}
        optimizer.load_state_dict(layout)


def bare(optimizer: Optimizer) -> Optimizer:
    """The optimizer under Accelerate's wrapper."""
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer


def refuse_foreign_optimizer(optimizer: Optimizer, way: str) -> None:
    """Only PyTorch's optimizers can be cut: others (8-bit, paged, offloaded) lay out their state in their own way.

    Raises:
        UserError: for another one.
    """
    if not type(optimizer).__module__.startswith("torch.optim"):
        raise UserError(
            f"{way} cannot shard the optimizer {type(optimizer).__name__}: use --optim adamw_torch, "
            "or recipes/accelerate_configs/ddp.yaml"
        )


def parameter_numbers(optimizer: Optimizer) -> dict[int, int]:
    """The number of each parameter in the optimizer's state_dict, by the parameter's id."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {id(parameter): number for number, parameter in enumerate(parameters)}
