"""AdamW with a small state: moments in 8 bits or 32, on the device or in the host's memory, over bf16 weights that are
trained as if they were float32.

A bf16 weight has 8 bits of precision: an update below 1/512 of it is lost, which at learning rates of 1e-5 is nearly
all of them. A float32 number is a bf16 number and 16 further bits, so keeping those bits beside the weight (2 bytes)
makes the update exact; a separate float32 copy would take 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from open_r1.training.block_quantization import BLOCK, dequantize, dynamic_codes, quantize

SLICE = 2**24  # elements updated at a time, so that float32 intermediates stay small; a multiple of BLOCK
SMALLEST_8BIT = 4096  # tensors of fewer elements keep float32 moments, as in bitsandbytes


class LowMemoryAdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019) over float32 or bf16 weights.

    Args:
        groups: parameter groups; a group's ``moment_bits`` (8 or 32) goes before the argument of that name.
        moment_bits: 8 keeps the moments of large tensors block-wise in a byte each.
        offload: the state lies in the host's memory and visits the device slice by slice.
        compiled: fuse the update of a slice into one kernel.

    The state of a parameter is tensors only, in dtypes that `load_state_dict` keeps: ``step``, ``exp_avg``,
    ``exp_avg_sq`` (uint8 or float32, of the parameter's shape), for uint8 their ``…_scale`` (float32, one for 256
    elements), for a bf16 parameter ``low_bits`` (int16, of the parameter's shape).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        *,
        moment_bits: int = 32,
        offload: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__(
            groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "moment_bits": moment_bits}
        )
        self._offload = offload
        self._update = torch.compile(_update, dynamic=True) if compiled else _update

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient."""
        work = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter, group in work:  # all of it before a weight changes: here memory may run out
            if not self.state.get(parameter):
                self.state[parameter] = self._fresh_state(parameter, group["moment_bits"])
        for parameter, group in work:
            self._step(parameter, group)
        if self._offload and torch.cuda.is_available():
            torch.cuda.synchronize()  # the state may be read from here on

    def _step(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] += 1
        step, device = state["step"].item(), parameter.device
        beta1, beta2 = group["betas"]
        signed, unsigned = dynamic_codes(True, device), dynamic_codes(False, device)
        # Numbers that change from step to step are a tensor, so that a compiled update stays valid.
        rates = torch.tensor([group["lr"], 1 - beta1**step, math.sqrt(1 - beta2**step)], device=device)
        weight_N, grad_N = parameter.data.view(-1), parameter.grad.reshape(-1)
        for start in range(0, len(weight_N), SLICE):
            part = slice(start, start + SLICE)
            stored = dict(_slices(state, part))
            local = {name: tensor.to(device, non_blocking=True) for name, tensor in stored.items()}
            constants = (beta1, beta2, group["eps"], group["weight_decay"])
            self._update(weight_N[part], grad_N[part], local, rates, constants, signed, unsigned)
            for name, tensor in stored.items():
                if local[name] is not tensor:
                    tensor.copy_(local[name], non_blocking=True)

    def _fresh_state(self, parameter: nn.Parameter, moment_bits: int) -> dict[str, Tensor]:
        parameter.data = parameter.data.contiguous()
        eight = moment_bits == 8 and parameter.numel() >= SMALLEST_8BIT and parameter.numel() % BLOCK == 0
        state = {"step": torch.zeros(())}
        for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
            state[name] = self._zeros(parameter.shape, torch.uint8 if eight else torch.float32, parameter.device)
            if eight:
                codes, _ = dynamic_codes(signed, torch.device("cpu"))
                state[name].fill_(int(codes.tolist().index(0.0)))
                state[f"{name}_scale"] = self._zeros((parameter.numel() // BLOCK,), torch.float32, parameter.device)
        if parameter.dtype is torch.bfloat16:
            state["low_bits"] = self._zeros(parameter.shape, torch.int16, parameter.device)
        return state

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        if self._offload and device.type == "cuda":
            return torch.zeros(shape, dtype=dtype, pin_memory=True)
        return torch.zeros(shape, dtype=dtype, device=device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a saved state over in its own dtypes; torch's method would cast them to the parameter's.

        The state of torch's AdamW is taken over too.
        """
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = dict(zip(saved, chain.from_iterable(g["params"] for g in self.param_groups), strict=True))
        for number, values in state_dict["state"].items():
            parameter = parameters[number]
            parameter.data = parameter.data.contiguous()
            state = {"step": torch.as_tensor(values["step"]).detach().float().cpu().clone()}
            for name in values.keys() - {"step"}:
                dtype = torch.float32 if values[name].is_floating_point() else values[name].dtype
                state[name] = self._zeros(values[name].shape, dtype, parameter.device).copy_(values[name])
            if parameter.dtype is torch.bfloat16 and "low_bits" not in state:
                state["low_bits"] = self._zeros(parameter.shape, torch.int16, parameter.device)
            self.state[parameter] = state


def _slices(state: dict[str, Tensor], part: slice) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        if name.endswith("_scale"):
            yield name, tensor[part.start // BLOCK : part.stop // BLOCK]
        elif name != "step":
            yield name, tensor.view(-1)[part]


def _update(
    weight_N: Tensor,
    grad_N: Tensor,
    state: dict[str, Tensor],
    rates: Tensor,
    constants: tuple[float, float, float, float],
    signed: tuple[Tensor, Tensor],
    unsigned: tuple[Tensor, Tensor],
) -> None:
    """AdamW on one slice, in place."""
    beta1, beta2, epsilon, decay = constants
    rate, correction1, root_correction2 = rates.unbind()
    eight, split = "exp_avg_scale" in state, "low_bits" in state
    grad = grad_N.float()
    if eight:
        mean = dequantize(state["exp_avg"], state["exp_avg_scale"], signed[0])
        square = dequantize(state["exp_avg_sq"], state["exp_avg_sq_scale"], unsigned[0])
    else:
        mean, square = state["exp_avg"], state["exp_avg_sq"]
    mean = mean + (grad - mean) * (1 - beta1)
    square = square * beta2 + grad * grad * (1 - beta2)
    weight = join_bits(weight_N, state["low_bits"]) if split else weight_N.float()
    weight = weight * (1 - rate * decay) - rate / correction1 * (mean / (square.sqrt() / root_correction2 + epsilon))
    if eight:
        for name, value, midpoints in (("exp_avg", mean, signed[1]), ("exp_avg_sq", square, unsigned[1])):
            codes, scale = quantize(value, midpoints)
            state[name].copy_(codes)
            state[f"{name}_scale"].copy_(scale)
    else:
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
    if split:
        high, low = split_bits(weight)
        weight_N.copy_(high)
        state["low_bits"].copy_(low)
    else:
        weight_N.copy_(weight)


def split_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 tensor as its nearest bf16 (ties away from zero) and the int16 difference of their bits."""
    bits = values.view(torch.int32)
    high = (bits + 0x8000) >> 16
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)


def join_bits(high: Tensor, low: Tensor) -> Tensor:
    """The float32 tensor that `split_bits` took apart, bit for bit."""
    return ((high.view(torch.int16).to(torch.int32) << 16) + low.to(torch.int32)).view(torch.float32)
