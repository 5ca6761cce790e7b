"""DeepSpeed's ZeRO 2 (gradients and optimizer state in parts) and ZeRO 3 (weights too).

Only the sharding is DeepSpeed's: the optimizer is PyTorch's (nothing is compiled), and loss, learning rate, clipping
and accumulation are those of the loop, so that losses equal those of one process.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from open_r1.errors import UserError
from open_r1.parallel.launcher import LaunchPlan
from open_r1.parallel.whole import Whole, refuse_foreign_optimizer
from open_r1.parallel.zero_order import reduce_in_order


class ZeRO(Whole):
    """DeepSpeed's engine around the module; ``optimizer`` is DeepSpeed's from `prepare` on."""

    sharded = True

    def __init__(self, accelerator: Accelerator, plan: LaunchPlan) -> None:
        super().__init__(accelerator)
        self.kind, self._plan = "deepspeed", plan
        self.whole_weights = plan.zero["stage"] < 3
        self._engine: Any = None
        self._groups: list[dict[str, Any]] = []
        self._linked = False

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        deepspeed = _deepspeed(self.device)
        refuse_foreign_optimizer(optimizer, "DeepSpeed")
        if not torch.distributed.is_initialized():  # one process
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        self._groups = [{"params": list(group["params"])} for group in optimizer.param_groups]
        engine, wrapped, _, _ = deepspeed.initialize(
            model=module.to(self.device), optimizer=optimizer, config=self._settings()
        )
        self._engine = engine
        if self.whole_weights:
            reduce_in_order(wrapped, [parameter for parameter in module.parameters() if parameter.requires_grad])
        return engine, wrapped

    def _settings(self) -> dict[str, Any]:
        precision = self.accelerator.mixed_precision
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "zero_optimization": {"overlap_comm": self.device.type == "cuda", **self._plan.zero},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**62,
            "bf16": {"enabled": precision == "bf16"},
            "fp16": {"enabled": precision == "fp16"},
            "data_types": {"grad_accum_dtype": "fp32"},
        }

    def unwrap(self, module: nn.Module) -> nn.Module:
        return module.module if module is self._engine else module

    @contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        """Every micro-batch reduces its gradients into the parts; the last one makes them ready for a step."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """DeepSpeed averages gradients over ranks as DDP does."""
        self._engine.backward(loss * self.world_size)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """The norm of the gradients; they are clipped within the step. An overflow in fp16 is infinite."""
        optimizer = self._engine.optimizer
        norms = [optimizer.scaled_global_norm()] if self.whole_weights else optimizer._get_norm_groups()
        stacked = torch.stack([torch.as_tensor(norm, dtype=torch.float32, device=self.device) for norm in norms])
        valid = torch.isfinite(stacked).all() & (stacked >= 0).all()  # DeepSpeed writes -1 for what is not finite
        scaled = torch.where(valid, torch.linalg.vector_norm(stacked), float("inf"))
        optimizer.clip_grad = 0.0 if max_norm == float("inf") else max_norm
        return scaled / optimizer.loss_scale

    def step(self, optimizer: Optimizer) -> None:
        self._engine.step()
        if self.whole_weights and not self._linked:
            self._link_moments()

    def _link_moments(self) -> None:
        """Lets each parameter find its moments: DeepSpeed does so once one group has stepped, and only that has any."""
        shared = self._engine.optimizer
        if all(shared.optimizer.state.get(flat) for flat in shared.single_partition_of_fp32_groups):
            shared._hp_optimizer_states_linked = False
            shared._lazy_init_hp_params_optimizer_state()
            self._linked = True

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Drops what was reduced into the parts too, as DeepSpeed does after an overflow."""
        optimizer = self._engine.optimizer
        optimizer.zero_grad(set_to_none=True)
        if self.whole_weights:
            optimizer.micro_step_id = -1
            optimizer._release_preflattened_grad_buffers()
            for gradients in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
                for key in gradients:
                    gradients[key] = None
        else:
            optimizer.averaged_gradients = {}

    def scaler(self) -> LossScale | None:
        """The loss scale of fp16, which DeepSpeed keeps; None in other types."""
        return LossScale(self._engine.optimizer) if self.accelerator.mixed_precision == "fp16" else None

    def groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """DeepSpeed's groups hold flat parts; these hold the module's parameters."""
        settings = self._engine.optimizer.param_groups
        return [{**group, "params": own["params"]} for group, own in zip(settings, self._groups, strict=True)]

    def gather(self, tensor: Tensor) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        whole = safe_get_full_fp32_param(tensor) if getattr(tensor, "requires_grad", False) else None
        if whole is None:  # frozen, or a buffer
            with self._gathered(tensor):
                whole = tensor.detach().cpu() if self.rank == 0 else tensor.detach()
        return whole.cpu() if self.rank == 0 else whole

    def scatter(self, target: Tensor, whole: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        with torch.no_grad(), self._gathered(target, write=True):
            target.copy_(whole)
        if target.requires_grad:
            safe_set_full_fp32_param(target, whole.to(self.device, torch.float32))

    def whole(self, tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype | None]) -> list[Tensor]:
        import deepspeed

        sharded = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
        with deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
            return [tensor.detach() for tensor in tensors]  # these outlive what the parameters hold here

    def _gathered(self, tensor: Tensor, write: bool = False) -> AbstractContextManager[Any]:
        import deepspeed

        sharded = hasattr(tensor, "ds_id")
        return deepspeed.zero.GatheredParameters([tensor], modifier_rank=0 if write else None, enabled=sharded)

    def moments(self, optimizer: Optimizer, parameter: nn.Parameter) -> list[str]:
        states = self._engine.optimizer.optimizer.state
        return list(next(iter(states.values()))) if states else []

    def gather_moment(self, optimizer: Optimizer, parameter: nn.Parameter, key: str) -> Any:
        from deepspeed.utils import safe_get_full_optimizer_state

        flat, value = next((flat, state[key]) for flat, state in self._engine.optimizer.optimizer.state.items())
        if not isinstance(value, Tensor) or value.shape != flat.shape:  # the number of steps, alike for all
            return value.detach().cpu() if isinstance(value, Tensor) else value
        whole = safe_get_full_optimizer_state(parameter, key)
        return whole.cpu() if self.rank == 0 else whole

    def put_moments(self, optimizer: Optimizer, state: Iterator[tuple[nn.Parameter, dict[str, Any]]]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        shared = self._engine.optimizer
        base = shared.optimizer
        flats = shared.single_partition_of_fp32_groups if self.whole_weights else shared.fp32_partitioned_groups_flat
        base.state.clear()
        for parameter, values in state:
            if not base.state:
                for flat in flats:
                    base.state[flat] = {key: _flat(value, parameter, flat, base) for key, value in values.items()}
                if self.whole_weights:
                    self._link_moments()
            for key, value in values.items():
                if _of_elements(value, parameter):
                    safe_set_full_optimizer_state(parameter, value.to(self.device, torch.float32), key)


class LossScale:
    """DeepSpeed's loss scale, as far as the loop and checkpoints deal with torch's `GradScaler`."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def update(self) -> None:
        """Nothing: the scale follows in DeepSpeed's step."""

    def state_dict(self) -> dict[str, Any]:
        """The scale alone."""
        return {"scale": float(self._optimizer.loss_scale)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the scale of a `GradScaler` as well."""
        self._optimizer.loss_scaler.cur_scale = float(state["scale"])


def _of_elements(value: Any, parameter: nn.Parameter) -> bool:
    shape = getattr(parameter, "ds_shape", parameter.shape)
    return isinstance(value, Tensor) and value.shape == shape


def _flat(value: Any, parameter: nn.Parameter, flat: Tensor, optimizer: Optimizer) -> Any:
    """One entry of the state of a flat part, still without what the elements' entries hold."""
    if _of_elements(value, parameter):
        return torch.zeros_like(flat)
    if not isinstance(value, Tensor):
        return value
    group = optimizer.param_groups[0]
    on_device = group.get("fused") or group.get("capturable")
    return value.detach().to(flat.device if on_device else "cpu", copy=True)


def _deepspeed(device: torch.device) -> Any:
    """The library, quiet, and without its operators that would be compiled at run time.

    Raises:
        UserError: when it is not installed.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(
            "the launcher asks for DeepSpeed, which is not installed: run pip install 'open-r1[deepspeed]', "
            f"or use recipes/accelerate_configs/fsdp.yaml [{error}]"
        ) from error
    deepspeed.utils.logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)  # names that DeepSpeed still calls
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
