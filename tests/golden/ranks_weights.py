"""Run by torchrun: after a step of training, an engine with a model of its own gets the policy's weights.

torchrun --nproc_per_node 2 ranks_weights.py CHECKPOINT full:fsdp lora:zero3 …

Every rank's engine must hold what rank 0 would export, bit for bit, and the module must be as it was and train on.
"""

from __future__ import annotations

import sys

import torch
from accelerate.state import AcceleratorState
from ranks_cases import one_process_group, set_launcher
from ranks_states import assert_equal_states, build, packs, train_step
from torch import Tensor, nn

from open_r1.generation.engine import Request, SamplingParams
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.model.load import load_model
from open_r1.model.merge import merged_weights
from open_r1.parallel.runtime import Runtime

REQUESTS = [Request(number, (3, 5 + number), seed=number) for number in range(3)]


def exported(runtime: Runtime, module: nn.Module) -> dict[str, Tensor]:
    """What rank 0 would export, by the names of the files; {} elsewhere."""
    state = runtime.model_state(module)
    inner = runtime.unwrap(module).model
    if runtime.is_main and hasattr(inner, "get_base_model"):
        return merged_weights(inner, state)[1]
    return state


def own_engine(checkpoint: str, variant: str) -> TransformersEngine:
    """An engine whose model is none of the policy's."""
    model = load_model(checkpoint, dtype="float32")
    if variant == "untied":
        model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    return TransformersEngine(model, pad_token_id=0, shares_weights=False)


def reference(runtime: Runtime, module: nn.Module, step: int) -> Tensor:
    """Log-probabilities without the adapters, as `open_r1.training.reference` takes them: of a pack of this rank."""
    inner = runtime.unwrap(module)
    inner.eval()
    with torch.no_grad(), inner.model.disable_adapter():
        return inner(packs(step, runtime.rank)[0]).logprobs


def check(checkpoint: str, variant: str, kind: str) -> None:
    set_launcher(kind)
    runtime = Runtime(cpu_threads=1)
    module, optimizer = runtime.prepare(*build(checkpoint, variant))
    engine = own_engine(checkpoint, variant)
    before = reference(runtime, module, step=0) if variant == "lora" else None
    for step in range(2):
        module.train()
        train_step(runtime, module, optimizer, step)
        if variant == "lora":  # leaves the root's weights gathered, under FSDP
            assert torch.equal(reference(runtime, module, step=0), before)
        wanted = exported(runtime, module)
        state = {name: tensor.clone() for name, tensor in runtime.model_state(module).items()}
        engine.load_weights(runtime.whole_weights_of(module))
        for name, tensor in runtime.whole_weights_of(module, torch.bfloat16):
            assert torch.equal(tensor, engine.model.get_parameter(name).bfloat16()), name
        again = runtime.model_state(module)
        held = engine.model.state_dict()
        if runtime.is_main:
            assert_equal_states({name: held[name] for name in wanted}, wanted)
            assert_equal_states(again, state)
        drawn = [sorted((one.request_id, one.token_ids) for one in engine.generate(REQUESTS, SamplingParams(6)))]
        everyone = runtime.gather(drawn)
        assert everyone == drawn * 2, "ranks hold different weights"
    AcceleratorState._reset_state(reset_partial_state=True)


if __name__ == "__main__":
    checkpoint, *cases = sys.argv[1:]
    with one_process_group():
        for words in cases:
            variant, _, kind = words.partition(":")
            check(checkpoint, variant, kind)
            print(f"equal: {words}\n", end="", flush=True)  # in one piece: two ranks write into one file
