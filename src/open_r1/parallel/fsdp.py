"""Weights, gradients and optimizer state cut into one part a rank: PyTorch's FSDP2 (`fully_shard`).

Each decoder layer is gathered for its own forward and backward pass. What lies outside the layers (the final norm, the
head, tied embeddings) is gathered for the whole of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from open_r1.errors import UserError
from open_r1.parallel.launcher import LaunchPlan
from open_r1.parallel.whole import Whole, bare, refuse_foreign_optimizer

COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FSDP(Whole):
    """FSDP2 over all ranks."""

    sharded = True
    whole_weights = False

    def __init__(self, accelerator: Accelerator, plan: LaunchPlan) -> None:
        super().__init__(accelerator)
        self.kind, self._plan = "fsdp", plan

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        refuse_foreign_optimizer(optimizer, "FSDP")
        for name, parameter in module.named_parameters():
            if not parameter.is_floating_point():
                raise UserError(f"{name} is quantised, which FSDP cannot shard: take accelerate_configs/ddp.yaml")
        compute_dtype = COMPUTE_DTYPES.get(self.accelerator.mixed_precision)
        settings = {
            "mesh": init_device_mesh(self.device.type, (self.world_size,)),
            # Weights travel in the type that computes, gradients in float32.
            "mp_policy": MixedPrecisionPolicy(compute_dtype, torch.float32, cast_forward_inputs=False),
        }
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        groups = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
        for unit in _units(module, self._plan.layers):
            fully_shard(unit, reshard_after_forward=self._plan.reshard, **settings)
        fully_shard(module, **settings)

        sharded = dict(module.named_parameters())
        for group, members in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = [sharded[name] for name in members]
        if compute_dtype is not None:
            module.forward = torch.autocast(self.device.type, compute_dtype)(module.forward)
        return module, self.accelerator.prepare_optimizer(optimizer)

    def unwrap(self, module: nn.Module) -> nn.Module:
        return module

    def accumulate(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Every micro-batch reduces its gradients: kept back, they would be whole, which is what sharding avoids."""
        return nullcontext()

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        norm = self.accelerator.clip_grad_norm_(parameters, max_norm)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def gather(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return whole.cpu() if self.rank == 0 else whole

    def scatter(self, target: Tensor, whole: Tensor) -> None:
        with torch.no_grad():
            if hasattr(target, "to_local"):
                part = _part(whole.to(target.dtype), target)
                target.to_local().copy_(part.to_local())
            else:
                target.copy_(whole)

    def whole(self, tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype | None]) -> list[Tensor]:
        parts = [
            tensor.detach() if dtype is None else tensor.detach().to(dtype)
            for tensor, dtype in zip(tensors, dtypes, strict=True)
        ]
        return [part.full_tensor() if hasattr(part, "full_tensor") else part for part in parts]

    def gather_moment(self, optimizer: Optimizer, parameter: nn.Parameter, key: str) -> Any:
        value = bare(optimizer).state[parameter][key]
        return self.gather(value) if isinstance(value, Tensor) else value

    def put_moments(self, optimizer: Optimizer, state: Iterator[tuple[nn.Parameter, dict[str, Any]]]) -> None:
        super().put_moments(optimizer, ((parameter, _parts(values, parameter)) for parameter, values in state))


def _units(module: nn.Module, wanted: tuple[str, ...]) -> list[nn.Module]:
    """What is gathered by itself: every decoder layer, and input embeddings that are not tied to the head.

    Raises:
        UserError: when no layer is found.
    """
    causal_lm = module.causal_lm
    names = set(wanted or getattr(causal_lm, "_no_split_modules", None) or ())
    layers = [layer for layer in causal_lm.modules() if type(layer).__name__ in names]
    if not layers:
        raise UserError(
            f"FSDP finds no layer of {', '.join(sorted(names)) or 'a known class'} in {type(causal_lm).__name__}: "
            "name its class by fsdp_transformer_layer_cls_to_wrap in the launcher's file"
        )
    embeddings, head = causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()
    tied = head is not None and getattr(head, "weight", None) is getattr(embeddings, "weight", None)
    return layers if tied or embeddings is None else [*layers, embeddings]


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank holds, cut as the sharded tensor ``like``."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _parts(values: dict[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
    return {
        key: _part(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for key, value in values.items()
    }
