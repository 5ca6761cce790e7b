"""The processes of a run: which device, how many ranks, how a module is wrapped, how numbers are summed over ranks.

Hugging Face Accelerate decides, from the launcher's environment; no other module asks for a rank.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer

from open_r1.errors import UserError
from open_r1.parallel import state
from open_r1.parallel.fsdp import FSDP
from open_r1.parallel.launcher import LaunchPlan, take_plan
from open_r1.parallel.weights import whole_weights
from open_r1.parallel.whole import Whole
from open_r1.parallel.zero import ZeRO

console = Console(stderr=True, soft_wrap=True)
PROCESS_GROUP_TIMEOUT = timedelta(hours=2)  # one rank may tokenise, or decode, while the others wait


class Runtime:
    """This process's place among the processes of the run.

    Args:
        mixed_precision: "no", "bf16" or "fp16": the autocast of forward passes.
        cpu_threads: intra-op threads on the CPU; None leaves torch's choice.
    """

    def __init__(
        self,
        mixed_precision: str = "no",
        cpu_threads: int | None = None,
    ) -> None:
        if cpu_threads:
            torch.set_num_threads(cpu_threads)
        on_cpu = not torch.cuda.is_available() and not torch.backends.mps.is_available()
        if mixed_precision == "fp16" and on_cpu:
            raise UserError("fp16 needs a GPU: leave --fp16 out, or set --bf16, on a CPU")
        if on_cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, says that it looked
        plan = take_plan()
        self._accelerator = Accelerator(
            mixed_precision=mixed_precision,
            cpu=on_cpu,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT),
                # Every parameter gets a gradient from every pack, so nothing has to be searched for.
                DistributedDataParallelKwargs(
                    find_unused_parameters=False, broadcast_buffers=False, gradient_as_bucket_view=True
                ),
            ],
        )
        self._way = _way(plan, self._accelerator)
        if not self.is_main:
            logging.getLogger("transformers").setLevel(logging.ERROR)

    @property
    def device(self) -> torch.device:
        """Where this rank computes; a GPU by its number."""
        return self._way.device

    @property
    def rank(self) -> int:
        """This process's number, 0 to world_size - 1."""
        return self._way.rank

    @property
    def world_size(self) -> int:
        """How many processes train together."""
        return self._way.world_size

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the person."""
        return self.rank == 0

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What forward passes are autocast to; None computes in the weights' own dtype."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._accelerator.mixed_precision)

    @property
    def kind(self) -> str:
        """How the run is parallel: "single", "ddp", "fsdp" or "deepspeed"."""
        return self._way.kind

    @property
    def sharded(self) -> bool:
        """Whether a rank holds only its part of the weights or of the optimizer's state."""
        return self._way.sharded

    @property
    def shards(self) -> tuple[int, int, int]:
        """Over how many ranks weights, gradients and optimizer state are spread; 1 is whole on each."""
        if not self.sharded:
            return 1, 1, 1
        return 1 if self.whole_weights else self.world_size, self.world_size, self.world_size

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves the module and its optimizer, and wraps them as the launcher asks; autocast where asked."""
        return self._way.prepare(module, optimizer)

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The module that was given to `prepare`."""
        return self._way.unwrap(module)

    @contextmanager
    def accumulate(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: gradients are exchanged only in the ``last`` of a step."""
        with self._way.accumulate(module, last):
            yield

    def autocast(self) -> Any:
        """The context in which forward passes outside the wrapped module are computed."""
        return self._accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        """Backward of a loss that is this rank's share of the global one: gradients are summed over ranks."""
        self._way.backward(loss)

    def clip_gradients(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Unscales (fp16) and clips to ``max_norm`` (0: measures only); the norm before clipping, a scalar tensor."""
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        return self._way.clip(parameters, max_norm if max_norm > 0 else float("inf"))

    def optimizer_step(self, optimizer: Optimizer) -> None:
        """One step of the optimizer, after `clip_gradients`."""
        self._way.step(optimizer)

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Drops all gradients, those of an unfinished step too."""
        self._way.zero_grad(optimizer)

    @property
    def whole_weights(self) -> bool:
        """Whether each rank holds all weights between steps, as the engines that generate need them."""
        return self._way.whole_weights

    def model_state(self, module: nn.Module, trainable_only: bool = False) -> dict[str, Tensor]:
        """Whole weights by the names of the state dict of ``module``'s `model`; collective.

        On rank 0 (CPU copies where they were sharded, references where not); {} elsewhere.

        Args:
            trainable_only: leaves out what is frozen, as the weights under LoRA.
        """
        inner = self._inner(module)
        trained = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
        return state.model_state(inner, self._way, trained.__contains__ if trainable_only else lambda name: True)

    def whole_weights_of(self, module: nn.Module, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """The policy as an engine loads it: (name in a checkpoint of `transformers`, whole tensor on `device`).

        Adapters are added in, and weights gathered layer by layer, on every rank: collective, so all ranks take all of
        it, or none begins. What is yielded is to be copied before the next step, and not to be written.

        Args:
            dtype: cast floating-point weights to this, one layer at a time.

        Raises:
            UserError: adapters that cannot be added into the weights.
        """
        return whole_weights(self._inner(module), self._way, dtype)

    def load_model_state(self, module: nn.Module, weights: dict[str, Tensor]) -> None:
        """Puts rank 0's ``weights`` into the module; what is frozen may be missing. Collective.

        Raises:
            UserError: on every rank, when they do not fit.
        """
        state.load_model_state(self._inner(module), self._way, weights)

    def optimizer_state(self, module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state by parameter name, independent of ranks and sharding; whole on rank 0. Collective.

        Returns:
            {"state": {name: {key: tensor}}, "param_groups": [{"lr": …, "params": [name, …]}]}
        """
        return state.optimizer_state(self._inner(module), self._way, optimizer)

    def load_optimizer_state(self, module: nn.Module, optimizer: Optimizer, stored: dict[str, Any]) -> None:
        """Puts rank 0's stored state into the optimizer, whose settings stay as this run made them. Collective.

        Raises:
            UserError: on every rank, when it is of other parameters.
        """
        state.load_optimizer_state(self._inner(module), self._way, optimizer, stored)

    def _inner(self, module: nn.Module) -> nn.Module:
        return self.unwrap(module).model

    @property
    def loss_scaler(self) -> torch.amp.GradScaler | None:
        """The scaler of fp16 training, or what stands for DeepSpeed's own."""
        return self._way.scaler()

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over ranks."""
        return self._accelerator.reduce(values.to(self.device), reduction="sum") if self.world_size > 1 else values

    def max(self, value: float) -> float:
        """The largest value over ranks."""
        if self.world_size == 1:
            return value
        gathered = self._accelerator.gather(torch.tensor([value], dtype=torch.float64, device=self.device))
        return float(gathered.max())

    def gather(self, items: list[Any]) -> list[Any]:
        """All ranks' items, rank 0's first, on every rank."""
        return gather_object(items) if self.world_size > 1 else items

    def barrier(self) -> None:
        """Waits for every rank."""
        if self.world_size > 1:
            self._accelerator.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 goes first (it fills a cache); the others follow and find the work done."""
        with self._accelerator.main_process_first() if self.world_size > 1 else nullcontext():
            yield

    def close(self) -> None:
        """Ends the process group; a further run in this process may choose its own precision."""
        self._accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def _way(plan: LaunchPlan, accelerator: Accelerator) -> Whole:
    """What wraps modules; FSDP over one process would cut nothing and only cost, so there it is left out."""
    if plan.kind == "deepspeed":
        return ZeRO(accelerator, plan)
    if plan.kind == "fsdp" and accelerator.num_processes > 1:
        return FSDP(accelerator, plan)
    if plan.kind == "fsdp":
        console.print("[dim]note: FSDP of one process has nothing to shard; the model is trained whole[/]")
    return Whole(accelerator)
