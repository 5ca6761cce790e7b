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
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.training.out_of_memory import empty_caches, is_out_of_memory

console = Console(stderr=True, soft_wrap=True)


def choose_how_layers_run(config: SFTConfig | GRPOConfig, runtime: Runtime, pack_model: PackModel) -> None:
    """Sets recomputation as ``gradient_checkpointing`` says, and compilation as ``torch_compile`` does."""
    dtype = runtime.autocast_dtype or next(pack_model.parameters()).dtype
    pack_model.layers.recompute = config.recompute or "none"
    if compiles(config, runtime.device, pack_model, dtype):
        pack_model.layers.compile()


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
    """
    pack_model: PackModel = runtime.unwrap(module)
    if not pack_model.layers.compiled or runtime.kind == "deepspeed":
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
                pack_model.layers.compiled = False
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                _say(runtime, f"[yellow]the layers run uncompiled, slower[/]: the compiler failed ({reason[:200]})")
                break
            level = pack_model.raise_recompute()
            if level is None:  # the loop halves micro-batches
                break
            _say(runtime, f"a full micro-batch does not fit into memory: gradient_checkpointing {level} from here on")
        for parameter in module.parameters():
            parameter.grad = None
        empty_caches()
    for parameter in module.parameters():
        parameter.grad = None


def full_pack(max_length: int, sequences: int) -> Pack:
    """``sequences`` sequences of ``max_length`` tokens, nearly all of them targets."""
    ids, weight = np.zeros(max_length, np.int64), np.ones(max_length, np.float32)
    return make_pack([TrainingSequence(ids=ids, loss_weight=weight)] * sequences)


def _say(runtime: Runtime, line: str) -> None:
    if runtime.is_main:
        console.print(line)
