"""Run by torchrun: training runs that change their way of being parallel after every step.

torchrun --nproc_per_node 2 ranks_states.py CHECKPOINT full:ddp,fsdp,zero2,zero3,ddp lora:zero3,ddp …

Each way takes over weights and optimizer state from the one before, whole and by name. What is taken over must be equal
bit for bit; after the last step rank 0 compares with plain PyTorch. ``untied`` has a head of its own, ``compiled`` goes
through compiled layers, by another graph on each rank, since their packs have different lengths. ``logprobs`` and
``pointwise`` train as reinforcement does: on log-probabilities and entropies, and by an objective inside the head.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from ranks_cases import one_process_group, set_launcher
from torch import Tensor, nn

from open_r1.config import SFTConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.model.load import load_model
from open_r1.model.lora import add_adapters
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime

MAX_NORM = 0.5


def objective(predicted: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Likelihood and a little entropy; each target by itself, as the head may ask for some at a time."""
    loss = ((0.1 * predicted.entropy - predicted.logprobs) * targets.loss_weight).sum()
    return loss, {"entropy": predicted.entropy.detach().sum()}


def loss_of(module: nn.Module, pack: Pack, variant: str) -> Tensor:
    """The share of a micro-batch in the loss of a step."""
    if variant == "logprobs":
        loss = objective(module(pack, temperature=0.9, entropy=True), pack)[0]
    elif variant == "pointwise":
        loss = module(pack, temperature=0.9, objective=objective)[0]
    else:
        loss = module(pack, nll=True)
    return loss / 78


def build(checkpoint: str, variant: str) -> tuple[PackModel, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = load_model(checkpoint, dtype="float32")
    if variant == "untied":
        model.config.tie_word_embeddings = False
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 0.5)
    if variant == "lora":
        needed = {"model_name_or_path": checkpoint, "dataset_name": "none", "output_dir": "none"}
        model = add_adapters(model, SFTConfig(**needed, use_peft=True, lora_r=4))
    module = PackModel(model)
    if variant == "compiled":
        module.layers.compile(backend="aot_eager")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": 0.1},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return module, torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-2, eps=1e-4)


def packs(step: int, rank: int) -> list[Pack]:
    """Two micro-batches of a rank."""
    rng = np.random.default_rng((step, rank))
    made = []
    for length in ((24, 17), (9, 40))[rank]:
        weight = np.ones(length, np.float32)
        weight[0] = 0
        made.append(make_pack([TrainingSequence(ids=rng.integers(0, 60, length), loss_weight=weight)]))
    return made


def train_step(
    runtime: Runtime, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, variant: str = "full"
) -> tuple[float, float]:
    """One step; before it one that is dropped half-way, of which nothing may remain."""
    mine = packs(step, runtime.rank)
    runtime.zero_grad(optimizer)
    for attempt, members in (("dropped", packs(99, runtime.rank)), ("taken", mine)):
        total = 0.0
        for number, pack in enumerate(members, start=1):
            with runtime.accumulate(module, last=number == len(members)):
                loss = loss_of(module, pack, variant)
                runtime.backward(loss)
                total += float(loss.detach())
        norm = runtime.clip_gradients(module.parameters(), MAX_NORM)
        if attempt == "dropped":
            runtime.zero_grad(optimizer)
    runtime.optimizer_step(optimizer)
    return float(runtime.sum(torch.tensor(total, dtype=torch.float64))), float(norm)


def plain(checkpoint: str, variant: str, steps: int) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    module, optimizer = build(checkpoint, "full" if variant == "compiled" else variant)
    variant = "logprobs" if variant == "pointwise" else variant
    seen = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = sum(loss_of(module, pack, variant) for rank in (0, 1) for pack in packs(step, rank))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), MAX_NORM)
        optimizer.step()
        seen.append((float(loss.detach()), float(norm)))
    return module.model.state_dict(), seen


def assert_equal_states(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and one, "other names"
    for name, value in one.items():
        if isinstance(value, dict):
            assert_equal_states(value, other[name])
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


def chain(checkpoint: str, variant: str, kinds: list[str]) -> None:
    weights: dict[str, Tensor] = {}
    moments: dict = {}
    seen = []
    for step, kind in enumerate(kinds):
        set_launcher(kind)
        runtime = Runtime(cpu_threads=1)
        module, optimizer = build(checkpoint, variant)
        if step:  # other ranks than the first, and what was drawn or loaded before, must not matter
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.add_(runtime.rank + 1.0)
        module, optimizer = runtime.prepare(module, optimizer)
        if step:
            runtime.load_model_state(module, weights)
            runtime.load_optimizer_state(module, optimizer, moments)
            again = runtime.model_state(module), runtime.optimizer_state(module, optimizer)
            if runtime.is_main:
                assert_equal_states(again[0], weights)
                assert_equal_states(again[1]["state"], moments["state"])
        seen.append(train_step(runtime, module, optimizer, step, variant))
        weights = {name: tensor.clone() for name, tensor in runtime.model_state(module).items()}
        moments = runtime.optimizer_state(module, optimizer)
        moments["state"] = {
            name: {key: torch.as_tensor(value).clone() for key, value in values.items()}
            for name, values in moments["state"].items()
        }
        adapters = runtime.model_state(module, trainable_only=True)
        if runtime.is_main:
            assert all(("lora_" in name) == (variant == "lora") for name in adapters)
            assert adapters.keys() <= weights.keys()
        else:
            assert not weights and not moments["state"] and not adapters
        rank = runtime.rank
        AcceleratorState._reset_state(reset_partial_state=True)
    if rank == 0:
        wanted, numbers = plain(checkpoint, variant, len(kinds))
        assert wanted.keys() == weights.keys()
        for kind, one, other in zip(kinds, seen, numbers, strict=True):
            assert all(abs(a - b) < 1e-5 for a, b in zip(one, other, strict=True)), (kind, one, other)
        for name, tensor in wanted.items():
            assert (tensor - weights[name]).abs().max() < 1e-5, name


if __name__ == "__main__":
    checkpoint, *chains = sys.argv[1:]
    with one_process_group():
        for words in chains:
            variant, _, kinds = words.partition(":")
            chain(checkpoint, variant, kinds.split(","))
            print(f"equal: {words}\n", end="", flush=True)  # in one piece: two ranks write into one file
