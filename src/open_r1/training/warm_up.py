"""Before the first step: how the layers are run, and one pass over a full micro-batch that costs nothing later.

The pass compiles the layers (while another thread still reads the data, or before an engine takes its memory) and meets
a lack of memory when nothing has been lost yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.errors import UserError
from open_r1.generation.colocated_memory import ASLEEP
from open_r1.model.attention import NAME, choose_kernel
from open_r1.model.layers import LEVELS
from open_r1.model.memory import USABLE, ModelShape, Workload, choose_recompute, device_memory, estimate_memory
from open_r1.model.pack_model import PackModel, padded_sequences
from open_r1.parallel.runtime import Runtime
from open_r1.training.out_of_memory import empty_caches, is_out_of_memory, sharded_advice
from open_r1.training.pack_budget import (
    SMALLEST_PACK,
    choose_pack,
    engine_bytes,
    frozen_bytes,
    large_packs,
    longest_sequence,
    may_sleep,
    pack_sizes,
)
from open_r1.training.rollout_packs import shares_prompts
from open_r1.training.sft_source import SFT_FORWARD, sft_objective
from open_r1.training.step import Objective, loss_of

console = Console(stderr=True, soft_wrap=True, highlight=False)


def choose_how_layers_run(config: SFTConfig | GRPOConfig, runtime: Runtime, pack_model: PackModel) -> None:
    """Sets compilation as ``torch_compile`` says, recomputation as ``gradient_checkpointing``, and GRPO's pack size.

    Raises:
        UserError: for a model that takes several passes for a pack, where ranks gather weights together.
    """
    if not runtime.whole_weights and not pack_model.separable:
        raise UserError(
            f"{type(pack_model.causal_lm).__name__} takes several passes for a pack, not as many on every GPU, while "
            "sharded weights are gathered by all at once: launch with recipes/accelerate_configs/ddp.yaml or zero2.yaml"
        )
    gathered = runtime.kind == "deepspeed" and not runtime.whole_weights  # for each product: it cannot be compiled
    dtype = runtime.autocast_dtype or next(pack_model.parameters()).dtype
    if not gathered and compiles(config, runtime.device, pack_model, dtype):
        pack_model.layers.compile()
        pack_model.full = micro_batch_tokens(config)
    if isinstance(config, GRPOConfig):
        pack_model.full, level = choose_packs(config, runtime, pack_model)
        # Completions grow and shrink in training: what of a full pack varies with them is padded to one shape too.
        longest = longest_sequence(config)
        pack_model.longest = max(longest, pack_model.full // 4)
        pack_model.sequences = padded_sequences(pack_model.full // max(1, longest // 4))
        if not shares_prompts(config, pack_model) and config.share_prompts is None:
            _say(runtime, "[dim]each prompt is computed with every completion: the model's layers do not allow less[/]")
    else:
        level = config.recompute or least_recompute(config, runtime, pack_model)
    pack_model.layers.recompute = level


def least_recompute(config: SFTConfig, runtime: Runtime, pack_model: PackModel) -> str:
    """The least recomputation with which a step fits into this GPU's memory, on all ranks; on a CPU "none"."""
    memory = device_memory(runtime.device)
    if memory is None:
        return LEVELS[0]
    shape, work = describe_work(config, runtime, pack_model)
    level = _highest(runtime, choose_recompute(shape, work, memory))
    _say_memory(runtime, shape, work, level, memory)
    return level


def choose_packs(config: GRPOConfig, runtime: Runtime, pack_model: PackModel) -> tuple[int, str]:
    """Tokens of a pack, and the least recomputation, with which a step fits beside what else is on this GPU.

    All ranks get the same; on a CPU nothing is recomputed unless the settings say so.
    """
    sizes, memory = pack_sizes(config, runtime.device), device_memory(runtime.device)
    if memory is None:
        return sizes[0], config.recompute or LEVELS[0]
    shape, work = describe_work(config, runtime, pack_model)
    tokens, level = packs_that_fit(config, sizes, shape, work, memory)
    tokens, level = int(-runtime.max(-float(tokens))), _highest(runtime, level)
    _say_memory(runtime, shape, replace(work, tokens=tokens), level, memory, f"; packs of {tokens:,} tokens")
    return tokens, level


def packs_that_fit(
    config: GRPOConfig, sizes: Sequence[int], shape: ModelShape, work: Workload, memory: float
) -> tuple[int, str]:
    """Tokens of a pack, one of ``sizes``, and recomputation, for ``memory`` bytes that an engine shares."""
    levels = [config.recompute] if config.recompute else list(LEVELS)
    engine = engine_bytes(config, shape, work.compute_dtype.itemsize, memory)

    def fits(tokens: int, level: str) -> bool:
        return estimate_memory(shape, replace(work, tokens=tokens), level).total + engine <= USABLE * memory

    if may_sleep(config) and not any(fits(size, levels[0]) for size in large_packs(sizes)):
        engine = min(engine, ASLEEP)  # sleep takes less time than recomputation
    return choose_pack(sizes, levels, fits)


def _highest(runtime: Runtime, level: str) -> str:
    return LEVELS[int(runtime.max(float(LEVELS.index(level))))]


def _say_memory(runtime: Runtime, shape: ModelShape, work: Workload, level: str, memory: int, more: str = "") -> None:
    gib = 2**30
    peak = estimate_memory(shape, work, level).total
    _say(
        runtime,
        f"[dim]gradient_checkpointing {level}: {peak / gib:.1f} GiB are expected at the peak of a step, "
        f"{memory / gib:.1f} GiB are there{more}[/]",
    )


def describe_work(
    config: SFTConfig | GRPOConfig, runtime: Runtime, pack_model: PackModel
) -> tuple[ModelShape, Workload]:
    """What `estimate_memory` is to be asked about a step of this run on this rank, whatever draws its completions."""
    model_config = pack_model.causal_lm.config
    weights, gradients, optimizer = runtime.shards
    shape = ModelShape.of(model_config, config.trust_remote_code)
    stored = getattr(model_config, "dtype", None) or torch.float32
    work = Workload.of(
        config,
        model_config,
        tokens=pack_model.full or micro_batch_tokens(config),
        compiled=pack_model.layers.compiled,
        buckets=runtime.kind == "ddp",
        reserved=frozen_bytes(config, shape, stored) if isinstance(config, GRPOConfig) else 0.0,
        weight_shards=weights,
        gradient_shards=gradients,
        optimizer_shards=optimizer,
    )
    return shape, work


def micro_batch_tokens(config: SFTConfig | GRPOConfig) -> int:
    """Tokens of a full micro-batch; GRPO's where memory does not decide."""
    if isinstance(config, SFTConfig):
        return config.max_length * config.per_device_train_batch_size
    return max(config.pack_length or SMALLEST_PACK, longest_sequence(config))


def compiles(config: SFTConfig | GRPOConfig, device: torch.device, pack_model: PackModel, dtype: torch.dtype) -> bool:
    """Whether the layers are to be compiled: as ``torch_compile`` says, else where it is known to pay."""
    if config.torch_compile is not None:
        return config.torch_compile
    return (
        device.type == "cuda"
        and pack_model.causal_lm.config._attn_implementation == NAME
        and choose_kernel(device, dtype) != "documents"
        and not (config.load_in_4bit or config.load_in_8bit)
    )


def warm_up(
    config: SFTConfig | GRPOConfig,
    runtime: Runtime,
    module: nn.Module,
    objective: Objective = sft_objective,
    forward: dict[str, Any] = SFT_FORWARD,
) -> None:
    """One forward and backward pass over a full micro-batch; its gradients are dropped.

    A compiler that fails is done without; where memory is short, more is recomputed from here on. Both are said. Memory
    that is free afterwards is given back where an engine is to have it.

    Args:
        objective, forward: as `TrainingStep` has them.

    Raises:
        UserError: where memory is short, and other ranks wait for what this one cannot give (FSDP, DeepSpeed).
    """
    pack_model: PackModel = runtime.unwrap(module)
    if not pack_model.layers.compiled:
        return
    if isinstance(config, GRPOConfig):
        pack = full_policy_pack(
            pack_model.full,
            longest_sequence(config),
            reference=bool(config.beta),
            share_prompts=shares_prompts(config, pack_model),
        )
    else:
        pack = full_pack(config.max_length, config.per_device_train_batch_size)
    pack = pack.to(runtime.device)
    module.train()
    while True:
        try:
            with runtime.accumulate(module, last=False):
                loss, _ = loss_of(module, pack, objective, forward)
                runtime.backward(loss / len(pack))
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
    if isinstance(config, GRPOConfig):
        empty_caches()


def _drop_gradients(runtime: Runtime, module: nn.Module) -> None:
    if runtime.kind == "deepspeed":  # in parts of its own
        runtime.zero_grad(module.optimizer)
    for parameter in module.parameters():
        parameter.grad = None


def full_pack(max_length: int, sequences: int) -> Pack:
    """``sequences`` sequences of ``max_length`` tokens, nearly all of them targets."""
    ids, weight = np.zeros(max_length, np.int64), np.ones(max_length, np.float32)
    return make_pack([TrainingSequence(ids=ids, loss_weight=weight)] * sequences)


def full_policy_pack(tokens: int, longest: int, *, reference: bool, share_prompts: bool = False) -> Pack:
    """A pack of ``tokens`` tokens as completions make it, of half of the longest length; nearly all of them targets.

    Args:
        reference: whether it carries log-probabilities of a reference.
        share_prompts: whether layers get it in the shape that packs with shared prompts have.
    """
    length = min(tokens, max(2, longest // 2))
    whole, rest = divmod(tokens, length)

    def sequence(size: int) -> TrainingSequence:
        zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
        return TrainingSequence(
            ids=np.zeros(size, np.int64),
            loss_weight=ones,
            advantage=ones,
            behaviour_logprob=zeros,
            reference_logprob=zeros if reference else None,
        )

    lengths = [length] * whole + [rest] * bool(rest)
    return make_pack([sequence(size) for size in lengths], [0] * len(lengths) if share_prompts else None)


def _say(runtime: Runtime, line: str) -> None:
    if runtime.is_main:
        console.print(line)
