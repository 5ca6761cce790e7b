"""Child process: steps of ``open-r1 sft`` on a model with random weights, through the command's own code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from open_r1.bench.cases import SFTCase, settings_of
from open_r1.bench.gate import wait_for_gate
from open_r1.bench.packs import Repeating, made_up_tokens
from open_r1.config import SFTConfig
from open_r1.data.tokens import TokenStore
from open_r1.machine.answer import Answer
from open_r1.model.attention import NAME
from open_r1.model.load import DTYPES
from open_r1.model.lora import weights_dtype
from open_r1.model.published import SHAPES
from open_r1.parallel.runtime import Runtime
from open_r1.training.batches import Batches
from open_r1.training.meters import StepMeter
from open_r1.training.out_of_memory import is_out_of_memory
from open_r1.training.setup import prepare_model
from open_r1.training.sft_source import SFT_FORWARD, sft_objective
from open_r1.training.signals import StopSignal
from open_r1.training.step import TrainingStep
from open_r1.training.warm_up import warm_up

ROUNDS = 3
"""Times that the steps of a case are gone through under the clock; once is enough where that takes `LONG` seconds."""
LONG = 5.0
LEARNING_RATE = 1e-5


def main() -> None:
    """Tells an ``sft`` for each of the ``cases``, which are of one model: see `measure`; or ``failed``."""
    answer = Answer()
    answer.begin("made-up packs")
    cases = [SFTCase(**case) for case in answer.asked["cases"]]
    capability = answer.asked["capability"]
    stores = [made_up_tokens(SHAPES[case.shape].vocabulary, case.tokens, case.length, case.mean) for case in cases]
    wait_for_gate(answer)
    try:
        for measured in measure(cases, stores, tuple(capability) if capability else None, answer.begin):
            answer.say(sft=measured)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        answer.say(failed="out of memory")
    answer.say(at="")


def measure(
    cases: Sequence[SFTCase],
    stores: Sequence[TokenStore],
    capability: tuple[int, int] | None,
    begin: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Trains one model on the packs of each case, one case after the other.

    Args:
        cases: differ in the length of packs alone; the first says how the layers are run.
        stores: the tokens of each.
        begin: told what comes next.

    Yields:
        ``case``; ``tokens`` of a round and its ``seconds`` (the median); ``flops_per_token``, ``parameters``,
        ``recompute``, ``compiled``, ``start`` (seconds until the layers were compiled; 0 where they were already),
        ``peak`` (bytes of tensors; 0 on a CPU).
    """
    first = settings_of(cases[0], capability)
    # Closed, so that what comes next in this process may have another precision.
    with closing(Runtime("bf16" if first.bf16 else "fp16" if first.fp16 else "no", first.cpu_threads)) as runtime:
        started = time.perf_counter()
        begin("making weights")
        model = random_model(cases[0], weights_dtype(first), runtime.device)
        module, optimizer = prepare_model(first, runtime, model)
        begin("compiling")
        warm_up(first, runtime, module)
        start = time.perf_counter() - started
        for case, store in zip(cases, stores, strict=True):
            begin(f"packs of {case.length:,} tokens")
            measured = _train(case, settings_of(case, capability), runtime, module, optimizer, store)
            yield {"case": asdict(case), **measured, "start": start}
            start = 0.0


def _train(
    case: SFTCase, config: SFTConfig, runtime: Runtime, module: nn.Module, optimizer: Optimizer, store: TokenStore
) -> dict[str, Any]:
    """What `measure` says of a case, whose settings ``config`` are."""
    on_gpu = runtime.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    policy = runtime.unwrap(module)
    meter = StepMeter(policy.causal_lm, 1)
    take_step = TrainingStep(config, runtime, module, optimizer, sft_objective, SFT_FORWARD, meter)
    source = Repeating(store, config, runtime, case.steps)
    total = case.steps * (1 + ROUNDS)
    seconds: list[float] = []
    lengths: list[int] = []
    with Batches(source, total, runtime.device) as batches:
        for first in range(0, total, case.steps):
            _synchronize(runtime.device)
            began = time.perf_counter()
            for step in range(first, first + case.steps):
                batch = batches.batch(step, StopSignal())
                take_step(step, batch, LEARNING_RATE, StopSignal())
                if first == 0:
                    lengths += [length for pack in batch.packs for length in pack.lengths]
            _synchronize(runtime.device)
            if first:  # each of these packs was met in the first round
                seconds.append(time.perf_counter() - began)
            if seconds and seconds[-1] > LONG:
                break
    tokens = sum(lengths)
    return {
        "tokens": tokens,
        "seconds": float(np.median(seconds)),
        "flops_per_token": meter.flops_of(lengths) / tokens,
        "parameters": _parameters(policy.causal_lm),
        "recompute": policy.layers.recompute,
        "compiled": policy.layers.compiled,
        "peak": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }


def random_model(case: SFTCase, dtype: str, device: torch.device) -> PreTrainedModel:
    """The case's shape with seeded random weights, made on the device, led to this project's attention."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(SHAPES[case.shape].config(), dtype=DTYPES[dtype])
    model.set_attn_implementation(NAME)
    return model


def _parameters(model: nn.Module) -> int:
    """Of the model itself, without adapters."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" not in name)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
