"""The last part of a step: the gradient's norm, clipping, and the optimizer, unless loss or gradient is not finite.

Two ways, alike for who calls them. `FusedUpdate` leaves the decision to the GPU, so that the host runs ahead;
`HostUpdate` waits for the numbers and decides, which every optimizer, loss scaler and way of sharding allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Adam, AdamW, Optimizer

from open_r1.parallel.runtime import Runtime
from open_r1.parallel.whole import bare
from open_r1.training.out_of_memory import empty_caches, is_out_of_memory, optimizer_advice


class Update(Protocol):
    """Takes the optimizer's step. `measure` comes before each `apply`."""

    def measure(self) -> Tensor:
        """The norm of all gradients before clipping, a scalar."""

    def apply(self, step: int, healthy: Tensor) -> Tensor:
        """Clips and steps where the boolean scalar ``healthy`` holds and the norm is finite; whether it did, a scalar.

        Raises:
            UserError: the optimizer's state does not fit into memory.
        """


def choose_update(
    runtime: Runtime, optimizer: Optimizer, parameters: Sequence[nn.Parameter], max_norm: float
) -> Update:
    """The way that does not wait, where the optimizer's kernel can decide by itself."""
    inner = bare(optimizer)
    fused = isinstance(inner, (Adam, AdamW)) and all(group["fused"] for group in inner.param_groups)
    if fused and runtime.kind in ("single", "ddp") and not is_scaled(runtime):
        return FusedUpdate(runtime, optimizer, parameters, max_norm)
    return HostUpdate(runtime, optimizer, parameters, max_norm)


def is_scaled(runtime: Runtime) -> bool:
    """Whether the loss is scaled (fp16): a gradient that overflows then lowers the scale, and no batch is to blame."""
    return runtime.loss_scaler is not None or runtime.autocast_dtype == torch.float16


class FusedUpdate:
    """AdamW's fused kernel divides gradients by ``grad_scale`` and does nothing where ``found_inf`` is 1.

    These are the attributes by which `torch.amp.GradScaler` speaks to it; here they clip, and keep a poisoned step out,
    without another pass over the gradients and without a number read back.
    """

    def __init__(
        self, runtime: Runtime, optimizer: Optimizer, parameters: Sequence[nn.Parameter], max_norm: float
    ) -> None:
        self._runtime, self._optimizer, self._parameters, self._max_norm = runtime, optimizer, parameters, max_norm
        self._inner = bare(optimizer)
        self._norm: Tensor | None = None

    def measure(self) -> Tensor:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self._norm = get_total_norm(gradients).float()
        return self._norm

    def apply(self, step: int, healthy: Tensor) -> Tensor:
        admitted = healthy & self._norm.isfinite()
        self._inner.found_inf = (~admitted).float()
        # 1 / the clip coefficient of torch.nn.utils.clip_grad_norm_
        self._inner.grad_scale = ((self._norm + 1e-6) / self._max_norm).clamp(min=1.0) if self._max_norm > 0 else None
        try:
            take_step(self._runtime, self._optimizer, step)
        finally:
            del self._inner.found_inf, self._inner.grad_scale
        return admitted


class HostUpdate:
    """The runtime clips, the host looks at the numbers, the optimizer steps or does not."""

    def __init__(
        self, runtime: Runtime, optimizer: Optimizer, parameters: Sequence[nn.Parameter], max_norm: float
    ) -> None:
        self._runtime, self._optimizer, self._parameters, self._max_norm = runtime, optimizer, parameters, max_norm
        self._norm: Tensor | None = None

    def measure(self) -> Tensor:
        self._norm = self._runtime.clip_gradients(self._parameters, self._max_norm)
        return self._norm

    def apply(self, step: int, healthy: Tensor) -> Tensor:
        finite = healthy & self._norm.isfinite()
        # A scaler has to see a gradient that overflowed: it steps over it, and lowers its scale.
        if bool(healthy if is_scaled(self._runtime) else finite):
            take_step(self._runtime, self._optimizer, step)
        else:
            if self._runtime.loss_scaler is not None:  # it takes no other step before this one is ended
                self._runtime.loss_scaler.update()
            self._runtime.zero_grad(self._optimizer)
        return finite


def take_step(runtime: Runtime, optimizer: Optimizer, step: int) -> None:
    """One step of the optimizer. The first one allocates its state: if that fails, once more with empty caches.

    Raises:
        UserError: it does not fit.
    """
    state = bare(optimizer).state
    first = not state and not runtime.sharded
    for again in (True, False):
        try:
            runtime.optimizer_step(optimizer)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # Every group of parameters counts its step before it changes a weight.
            untouched = first and not any(float(values.get("step", 1)) for values in state.values() if values)
        if not (again and untouched):
            break
        state.clear()
        empty_caches()
    raise optimizer_advice(step)
