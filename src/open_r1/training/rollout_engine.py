"""The engine that draws a run's completions, as its settings ask for it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedConfig

from open_r1.config import GRPOConfig
from open_r1.errors import UserError
from open_r1.generation.colocated_engine import ColocatedEngine, ColocatedOptions
from open_r1.generation.colocated_memory import Share, cache_bytes_per_token, share_memory
from open_r1.generation.engine import SamplingParams, TrainableEngine
from open_r1.generation.served import Trainer, open_served, start_served
from open_r1.generation.server_protocol import sizes_of
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.generation.vllm_process import check_machine
from open_r1.model.load import load_frozen
from open_r1.model.memory import MemoryEstimate, ModelShape, Workload, device_memory, estimate_memory
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.training.setup import Policy
from open_r1.training.warm_up import describe_work

MOST_SEQUENCES = 1024
LOG = "vllm-rank-{rank}.log"
SERVER_LOG = "server.log"
console = Console(stderr=True, soft_wrap=True, highlight=False)


def check_engine(config: GRPOConfig, runtime: Runtime) -> None:
    """Raises UserError for an engine that this machine cannot have, before anything is prepared. Collective."""
    if config.use_vllm and config.vllm_mode == "colocate":
        check_machine("use_vllm")
    elif config.use_vllm and config.vllm_server_devices and runtime.device.type == "cuda":
        trained_on = runtime.gather([(platform.node(), runtime.device.index or 0)])
        here = [index for node, index in trained_on if node == trained_on[0][0]]  # where the server is started
        check_server_devices(config.vllm_server_devices, here)


def check_server_devices(numbers: str, trained_on: Sequence[int]) -> None:
    """Raises UserError where a server would share a GPU with a process that trains: neither leaves room for the other.

    Args:
        numbers: as `vllm_server_devices`; ``trained_on``: GPUs of the processes that train on the server's machine.
    """
    shared = sorted({int(number) for number in numbers.split(",") if number.strip().isdigit()} & set(trained_on))
    if shared:
        raise UserError(
            f"vllm_server_devices {numbers}: this run trains on GPU {', '.join(map(str, shared))} itself (processes on "
            f"{', '.join(map(str, sorted(trained_on)))}): give the server other GPUs, or launch fewer processes "
            "(accelerate launch --num_processes)"
        )


def build_engine(
    config: GRPOConfig, runtime: Runtime, policy: Policy, longest_prompt: int, completions: int
) -> TrainableEngine:
    """The engine, up and waiting for weights.

    Args:
        longest_prompt: tokens.
        completions: of one step on this rank.

    Raises:
        UserError: it cannot be had here; says why, and what to change.
    """
    _check_room(config, runtime.unwrap(policy.module).causal_lm.config, longest_prompt)
    if not config.use_vllm:
        return _transformers(config, runtime, policy)
    if config.vllm_mode == "colocate":
        return _colocated(config, runtime, policy, longest_prompt, completions)
    return _served(config, runtime, policy, longest_prompt)


def sampling_params(config: GRPOConfig, policy: Policy) -> SamplingParams:
    """How completions are drawn."""
    return SamplingParams(
        config.max_completion_length, config.temperature, config.top_p, config.top_k, policy.stop_token_ids
    )


def engine_dtype(config: GRPOConfig, runtime: Runtime, policy: Policy) -> torch.dtype:
    """The dtype in which the policy computes, and so the engine."""
    return runtime.autocast_dtype or next(policy.module.parameters()).dtype


def _check_room(config: GRPOConfig, model_config: PreTrainedConfig, longest_prompt: int) -> None:
    """Raises UserError for a prompt that fills the context by itself: it would end the run when its turn comes.

    vLLM knows of contexts that are stretched, and refuses at its start what is longer than it can have.
    """
    name, context = "the model's context", getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if config.use_vllm:
        name, context = "vllm_max_model_length", config.vllm_max_model_length
    if context and longest_prompt >= context:
        raise UserError(
            f"the longest prompt has {longest_prompt:,} tokens, which leaves no room for an answer in {name} "
            f"({context:,}): leave out such rows with --max_prompt_length "
            f"{max(context // 2, context - config.max_completion_length)}"
        )


def _transformers(config: GRPOConfig, runtime: Runtime, policy: Policy) -> TransformersEngine:
    model = runtime.unwrap(policy.module).model
    if config.async_steps:  # the policy changes while completions are drawn
        model = load_frozen(config, runtime.device)
    return TransformersEngine(
        model,
        # Never attended to; a tokenizer's own padding token may lie outside the model's embedding.
        pad_token_id=policy.stop_token_ids[0],
        batch_size=config.generation_batch_size,
        device=runtime.device,
        dtype=runtime.autocast_dtype,
        shares_weights=not config.async_steps,
    )


def _colocated(
    config: GRPOConfig, runtime: Runtime, policy: Policy, longest_prompt: int, completions: int
) -> TrainableEngine:
    pack_model = runtime.unwrap(policy.module)
    dtype = engine_dtype(config, runtime, policy)
    longest = config.vllm_max_model_length or longest_prompt + config.max_completion_length
    sequences = config.vllm_max_num_seqs or min(completions, MOST_SEQUENCES)
    memory = device_memory(runtime.device)
    share, training = colocated_share(
        config, runtime, pack_model, memory=memory, longest=longest, sequences=sequences, width=dtype.itemsize
    )
    if runtime.is_main:
        sleeps = ", and sleeps while the policy trains" if share.sleeps else ""
        console.print(
            f"[dim]vLLM takes {share.engine / 2**30:.1f} of {memory / 2**30:.1f} GiB ({share.cache / 2**30:.1f} of it "
            f"for keys and values of {sequences:,} completions at once){sleeps}; training is expected to take "
            f"{training / 2**30:.1f}[/]"
        )
    options = ColocatedOptions(
        max_model_length=longest,
        max_num_seqs=sequences,
        cache_bytes=share.cache,
        dtype=str(dtype).removeprefix("torch."),
        revision=config.model_revision,
        sleeps=share.sleeps,
        processes=runtime.world_size,
        enforce_eager=config.vllm_enforce_eager,
        trust_remote_code=config.trust_remote_code,
        own_stream=bool(config.async_steps),
    )
    log = Path(config.output_dir) / LOG.format(rank=runtime.rank)
    return ColocatedEngine(config.model_name_or_path, options, log=log)


def colocated_share(
    config: GRPOConfig,
    runtime: Runtime,
    pack_model: PackModel,
    *,
    memory: float,
    longest: int,
    sequences: int,
    width: int,
) -> tuple[Share, float]:
    """What the engine gets of ``memory`` bytes beside the policy, and the bytes of a training step at its peak.

    Args:
        longest: prompt and completion together, in tokens; ``sequences``: completions decoded at once.
        width: bytes of an element of the engine's weights and cache.

    Raises:
        UserError: what is left does not hold the longest completion.
    """
    shape, work = describe_work(config, runtime, pack_model)
    training = estimate_memory(shape, work, pack_model.layers.recompute)
    share = share_beside(
        config, shape, work, training, memory=memory, longest=longest, sequences=sequences, width=width
    )
    return share, training.total


def share_beside(
    config: GRPOConfig,
    shape: ModelShape,
    work: Workload,
    training: MemoryEstimate,
    *,
    memory: float,
    longest: int,
    sequences: int,
    width: int,
) -> Share:
    """What the engine gets beside a training step that takes ``training``; the rest as of `colocated_share`."""
    a_token = cache_bytes_per_token(shape.layers, shape.key_value, width)
    return share_memory(
        memory=memory,
        training=training.total,
        # Gradients are gone between steps, but for DDP's buckets.
        resident=training.weights + training.optimizer + work.reserved + (training.gradients if work.buckets else 0.0),
        weights=width * shape.parameters,
        wanted=1.05 * a_token * sequences * longest,
        least=1.05 * a_token * longest,
        share=config.vllm_gpu_memory_utilization,
        sleeps=False if config.async_steps else config.vllm_enable_sleep_mode,
    )


def _served(config: GRPOConfig, runtime: Runtime, policy: Policy, longest_prompt: int) -> TrainableEngine:
    sizes = sizes_of(runtime.unwrap(policy.module).causal_lm.config.get_text_config())
    trainer = Trainer(runtime.device, sizes, sends_weights=runtime.is_main, parties=runtime.world_size)
    waits = {"start_timeout": config.vllm_server_timeout, "group_port": config.vllm_group_port}
    if config.vllm_server_devices is None:
        url = config.vllm_server_base_url or f"http://{config.vllm_server_host}:{config.vllm_server_port}"
        return open_served(url, trainer, **waits)
    on_gpu = runtime.device.type == "cuda"
    settings = {
        "model": config.model_name_or_path,
        "revision": config.model_revision,
        "port": config.vllm_server_port,
        "engine": "vllm" if on_gpu else "transformers",
        "dtype": str(engine_dtype(config, runtime, policy)).removeprefix("torch."),
        "max_model_len": config.vllm_max_model_length or longest_prompt + config.max_completion_length,
        "max_num_seqs": config.vllm_max_num_seqs,
        "tensor_parallel_size": config.vllm_server_devices.count(",") + 1 if on_gpu else 1,
        "enforce_eager": config.vllm_enforce_eager,
        "trust_remote_code": config.trust_remote_code,
    }
    log, devices = Path(config.output_dir) / SERVER_LOG, config.vllm_server_devices if on_gpu else None
    return start_served(settings, trainer, log=log, devices=devices, **waits)
