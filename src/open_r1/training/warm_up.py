"""Before the first step: how the layers are run, and one pass over a full micro-batch that costs nothing later.

The pass compiles the layers (while another thread still reads the data) and meets a lack of memory when nothing has
been lost yet.
"""

from __future__ import annotations

import numpy as np
import torch
from rich.console import Console
from torch import nn

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.errors import UserError
from open_r1.model.attention import NAME, choose_kernel
from open_r1.model.layers import LEVELS
from open_r1.model.memory import ModelShape, Workload, choose_recompute, device_memory, estimate_memory
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.training.grpo_source import SMALLEST_PACK
from open_r1.training.out_of_memory import empty_caches, is_out_of_memory, sharded_advice

console = Console(stderr=True, soft_wrap=True, highlight=False)


def choose_how_layers_run(config: SFTConfig | GRPOConfig, runtime: Runtime, pack_model: PackModel) -> None:
    """Sets compilation as ``torch_compile`` says, and recomputation as ``gradient_checkpointing`` does.

    Raises:
        UserError: for layers that are to be compiled, and whose weights are gathered for each product (ZeRO-3); for a
            model that takes several passes for a pack, where ranks gather weights together.
    """
    if not runtime.whole_weights and not pack_model.separable:
        raise UserError(
            f"{type(pack_model.causal_lm).__name__} takes several passes for a pack, not as many on every GPU, while "
            "sharded weights are gathered by all at once: launch with recipes/accelerate_configs/ddp.yaml or zero2.yaml"
        )
    gathered = runtime.kind == "deepspeed" and not runtime.whole_weights
    if gathered and config.torch_compile:
        raise UserError("torch_compile and ZeRO-3 do not go together: leave torch_compile out, or launch fsdp.yaml")
    dtype = runtime.autocast_dtype or next(pack_model.parameters()).dtype
    if not gathered and compiles(config, runtime.device, pack_model, dtype):
        pack_model.layers.compile()
        pack_model.full = micro_batch_tokens(config)
    pack_model.layers.recompute = config.recompute or least_recompute(config, runtime, pack_model)


def least_recompute(config: SFTConfig | GRPOConfig, runtime: Runtime, pack_model: PackModel) -> str:
    """The least recomputation with which a step fits into this GPU's memory, on all ranks; on a CPU "none"."""
    memory = device_memory(runtime.device)
    if memory is None:
        return LEVELS[0]
    shape, work = describe_work(config, runtime, pack_model)
    number = int(runtime.max(float(LEVELS.index(choose_recompute(shape, work, memory)))))
    level, gib = LEVELS[number], 2**30
    peak = estimate_memory(shape, work, level).total
    _say(
        runtime,
        f"[dim]gradient_checkpointing {level}: {peak / gib:.1f} GiB are expected at the peak of a step, "
        f"{memory / gib:.1f} GiB are there[/]",
    )
    return level


def describe_work(
    config: SFTConfig | GRPOConfig, runtime: Runtime, pack_model: PackModel
) -> tuple[ModelShape, Workload]:
    """What `estimate_memory` is to be asked about a step of this run on this rank."""
    model_config = pack_model.causal_lm.config
    weights, gradients, optimizer = runtime.shards
    work = Workload.of(
        config,
        model_config,
        tokens=micro_batch_tokens(config),
        compiled=pack_model.layers.compiled,
        buckets=runtime.kind == "ddp",
        weight_shards=weights,
        gradient_shards=gradients,
        optimizer_shards=optimizer,
    )
    return ModelShape.of(model_config, config.trust_remote_code), work


def micro_batch_tokens(config: SFTConfig | GRPOConfig) -> int:
    """Tokens of a full micro-batch."""
    if isinstance(config, SFTConfig):
        return config.max_length * config.per_device_train_batch_size
    return max(config.pack_length or SMALLEST_PACK, (config.max_prompt_length or 0) + config.max_completion_length)


def compiles(config: SFTConfig | GRPOConfig, device: torch.device, pack_model: PackModel, dtype: torch.dtype) -> bool:
    """Whether the layers are to be compiled: as ``torch_compile`` says, else where it is known to pay."""
    if config.torch_compile is not None:
        return config.torch_compile
    return (
        isinstance(config, SFTConfig)  # whose packs are full: few shapes to compile for
        and device.type == "cuda"
        and pack_model.causal_lm.config._attn_implementation == NAME
        and choose_kernel(device, dtype) != "documents"
        and not (config.load_in_4bit or config.load_in_8bit)
    )


def warm_up(config: SFTConfig, runtime: Runtime, module: nn.Module) -> None:
    """One forward and backward pass over a full micro-batch; its gradients are dropped.

    A compiler that fails is done without; where memory is short, more is recomputed from here on. Both are said.

    Raises:
        UserError: where memory is short, and other ranks wait for what this one cannot give (FSDP, DeepSpeed).
    """
    pack_model: PackModel = runtime.unwrap(module)
    if not pack_model.layers.compiled:
        return
    pack = full_pack(config.max_length, config.per_device_train_batch_size).to(runtime.device)
    module.train()
    while True:
        try:
            with runtime.accumulate(module, last=False):
                runtime.backward(module(pack, nll=True) / len(pack))
            break
        except UserError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                if not pack_model.layers.compiled:
                    raise
                # A pass that went through follows: after half a one, FSDP holds gathered weights in place of its parts.
                pack_model.layers.compiled = False
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                _say(runtime, f"[yellow]the layers run uncompiled, slower[/]: the compiler failed ({reason[:200]})")
            elif runtime.sharded and runtime.world_size > 1:
                raise sharded_advice(step=0) from None
            elif level := pack_model.raise_recompute():
                _say(
                    runtime, f"a full micro-batch does not fit into memory: gradient_checkpointing {level} from here on"
                )
            else:  # the loop halves micro-batches
                break
        _drop_gradients(runtime, module)
        empty_caches()
    _drop_gradients(runtime, module)


def _drop_gradients(runtime: Runtime, module: nn.Module) -> None:
    if runtime.kind == "deepspeed":  # in parts of its own
        runtime.zero_grad(module.optimizer)
    for parameter in module.parameters():
        parameter.grad = None


def full_pack(max_length: int, sequences: int) -> Pack:
    """``sequences`` sequences of ``max_length`` tokens, nearly all of them targets."""
    ids, weight = np.zeros(max_length, np.int64), np.ones(max_length, np.float32)
    return make_pack([TrainingSequence(ids=ids, loss_weight=weight)] * sequences)


def _say(runtime: Runtime, line: str) -> None:
    if runtime.is_main:
        console.print(line)
