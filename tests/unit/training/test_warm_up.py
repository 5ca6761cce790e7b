"""Before the first step: recomputation by the memory there is, and a pass that meets what would fail later."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_runtime import FakeRuntime
from torch import Tensor, nn

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.errors import UserError
from open_r1.model.layers import LEVELS
from open_r1.model.load import load_model
from open_r1.model.lora import add_adapters
from open_r1.model.memory import USABLE, estimate_memory
from open_r1.model.pack_model import PackModel
from open_r1.training import warm_up as module_under_test
from open_r1.training.grpo_objective import GRPOObjective
from open_r1.training.warm_up import (
    choose_how_layers_run,
    choose_packs,
    describe_work,
    full_policy_pack,
    micro_batch_tokens,
    warm_up,
)


class OneRank(FakeRuntime):
    """With what the wrapped module and its gradients need."""

    shards = (1, 1, 1)
    whole_weights = True

    def unwrap(self, module: nn.Module) -> nn.Module:
        return module

    def accumulate(self, _module: nn.Module, *, last: bool) -> nullcontext:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def settings(kind: type, checkpoint: Path, **more: Any) -> SFTConfig | GRPOConfig:
    rewards = {}
    if kind is GRPOConfig:
        rewards = {"reward_funcs": ["accuracy"], "per_device_train_batch_size": 64, "gradient_accumulation_steps": 1}
    return kind(model_name_or_path=str(checkpoint), dataset_name="d", output_dir="o", **rewards, **more)


@pytest.fixture
def pack_model(tiny_checkpoint: Path) -> PackModel:
    return PackModel(load_model(str(tiny_checkpoint)))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how many bytes the device says that it has."""
    return lambda amount: monkeypatch.setattr(module_under_test, "device_memory", lambda _device: int(amount))


def expected_peak(config: Any, runtime: FakeRuntime, pack_model: PackModel, level: str) -> float:
    return estimate_memory(*describe_work(config, runtime, pack_model), level).total


@pytest.mark.parametrize("kind", [SFTConfig, GRPOConfig])
@pytest.mark.parametrize("level", LEVELS)
def test_the_least_that_fits(
    kind: type, level: str, pack_model: PackModel, tiny_checkpoint: Path, memory: Callable, capsys: Any
) -> None:
    config, runtime = settings(kind, tiny_checkpoint), OneRank()
    peak = expected_peak(config, runtime, pack_model, level)
    memory(peak / USABLE + 100)
    choose_how_layers_run(config, runtime, pack_model)
    assert pack_model.layers.recompute == level
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"gradient_checkpointing {level}: {peak / 2**30:.1f} GiB are expected")


def test_the_most_where_nothing_fits(pack_model: PackModel, tiny_checkpoint: Path, memory: Callable) -> None:
    memory(1000)
    choose_how_layers_run(settings(SFTConfig, tiny_checkpoint), OneRank(), pack_model)
    assert pack_model.layers.recompute == "full"


def test_a_cpu_recomputes_nothing(pack_model: PackModel, tiny_checkpoint: Path, capsys: Any) -> None:
    choose_how_layers_run(settings(SFTConfig, tiny_checkpoint), OneRank(), pack_model)
    assert pack_model.layers.recompute == "none"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("said", "level"), [(True, "full"), (False, "none"), *[(level, level) for level in LEVELS]], ids=str
)
@pytest.mark.parametrize("amount", [1e3, 1e15])
def test_what_the_person_says_goes(
    said: bool | str, level: str, amount: float, pack_model: PackModel, tiny_checkpoint: Path, memory: Callable
) -> None:
    memory(amount)
    config = settings(SFTConfig, tiny_checkpoint, gradient_checkpointing=said)
    choose_how_layers_run(config, OneRank(), pack_model)
    assert pack_model.layers.recompute == level


def test_ranks_agree_on_the_highest(
    pack_model: PackModel, tiny_checkpoint: Path, memory: Callable, capsys: Any
) -> None:
    """The other rank has a smaller card, or shares it."""

    class Other(OneRank):
        def max(self, value: float) -> float:
            return max(value, float(LEVELS.index("selective")))

    memory(1e15)
    runtime = Other(rank=1, world_size=2)
    choose_how_layers_run(settings(SFTConfig, tiny_checkpoint), runtime, pack_model)
    assert pack_model.layers.recompute == "selective"
    assert capsys.readouterr().err == ""  # the main rank speaks


def test_a_rank_counts_its_share(pack_model: PackModel, tiny_checkpoint: Path) -> None:
    config = settings(SFTConfig, tiny_checkpoint)
    alone, many = OneRank(), OneRank(world_size=4)
    many.kind, many.shards = "deepspeed", (1, 4, 4)
    whole, spread = (estimate_memory(*describe_work(config, runtime, pack_model), "full") for runtime in (alone, many))
    assert (spread.weights, spread.gradients, spread.optimizer) == (
        whole.weights,
        whole.gradients / 4,
        whole.optimizer / 4,
    )
    ddp = estimate_memory(*describe_work(config, OneRank(world_size=2), pack_model), "full")
    assert ddp.gradients == 2 * whole.gradients  # DDP exchanges them through buckets


def test_tokens_of_a_micro_batch(tiny_checkpoint: Path) -> None:
    sft = settings(SFTConfig, tiny_checkpoint, max_length=300, per_device_train_batch_size=3)
    assert micro_batch_tokens(sft) == 900
    grpo = settings(GRPOConfig, tiny_checkpoint, max_prompt_length=500, max_completion_length=9000, pack_length=2000)
    assert micro_batch_tokens(grpo) == 9500
    assert micro_batch_tokens(settings(GRPOConfig, tiny_checkpoint, pack_length=50_000)) == 50_000


class OneGPU(OneRank):
    """By name: nothing is put there."""

    device = torch.device("cuda:0")


def grpo_peak(config: GRPOConfig, pack_model: PackModel, tokens: int, level: str) -> float:
    shape, work = describe_work(config, OneGPU(), pack_model)
    return estimate_memory(shape, replace(work, tokens=tokens), level).total


@pytest.mark.parametrize(("tokens", "level"), [(16_384, "none"), (4096, "none"), (4096, "full")])
def test_grpo_takes_the_packs_that_fit(
    tokens: int, level: str, pack_model: PackModel, tiny_checkpoint: Path, memory: Callable, capsys: Any
) -> None:
    config = settings(GRPOConfig, tiny_checkpoint)
    memory(grpo_peak(config, pack_model, tokens, level) / USABLE + 100)
    assert choose_packs(config, OneGPU(), pack_model) == (tokens, level)
    assert f"gradient_checkpointing {level}: " in (said := capsys.readouterr().err)
    assert said.rstrip().endswith(f"packs of {tokens:,} tokens")


def test_an_engine_that_may_not_sleep_keeps_its_memory(
    pack_model: PackModel, tiny_checkpoint: Path, memory: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that may sleeps before anything is recomputed."""
    monkeypatch.setattr(module_under_test, "ASLEEP", 0.0)  # as small as the model
    vllm = {"use_vllm": True, "vllm_gpu_memory_utilization": 0.5}
    config = settings(GRPOConfig, tiny_checkpoint, **vllm)
    awake = settings(GRPOConfig, tiny_checkpoint, **vllm, vllm_enable_sleep_mode=False)
    alone = grpo_peak(config, pack_model, 16_384, "none") / USABLE
    memory(4 * alone)
    assert choose_packs(awake, OneGPU(), pack_model) == (16_384, "none")
    memory(grpo_peak(config, pack_model, 4096, "none") / USABLE * 1.1)
    assert choose_packs(config, OneGPU(), pack_model) == (4096, "none")
    assert choose_packs(awake, OneGPU(), pack_model)[1] == "full"


def test_all_ranks_take_the_smallest_packs(pack_model: PackModel, tiny_checkpoint: Path, memory: Callable) -> None:
    class Other(OneGPU):
        def max(self, value: float) -> float:
            return max(value, -8192.0 if value < 0 else float(LEVELS.index("selective")))

    memory(1e15)
    assert choose_packs(settings(GRPOConfig, tiny_checkpoint), Other(), pack_model) == (8192, "selective")


def test_grpo_gives_the_compiler_few_shapes(pack_model: PackModel, tiny_checkpoint: Path) -> None:
    config = settings(GRPOConfig, tiny_checkpoint, max_prompt_length=500, max_completion_length=524, pack_length=8192)
    choose_how_layers_run(config, OneRank(), pack_model)
    assert (pack_model.full, pack_model.sequences, pack_model.longest) == (8192, 32, 2048)


def test_a_full_pack_of_completions() -> None:
    pack = full_policy_pack(100, 60, reference=True)
    assert pack.lengths == (30, 30, 30, 10) and len(pack.target_index) == 96
    assert pack.reference_logprob is not None and pack.advantage is not None
    assert full_policy_pack(8, 60, reference=False).lengths == (8,)
    assert full_policy_pack(8, 60, reference=False).reference_logprob is None


def test_grpo_warms_up_with_its_objective(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is the one that a step will make: the fused head, on a pack of the full size; then memory is free."""
    config = settings(GRPOConfig, tiny_checkpoint, max_prompt_length=20, max_completion_length=30, pack_length=128)
    module = failing(tiny_checkpoint, AssertionError(), lambda level: False)
    choose_how_layers_run(config, OneRank(), module)
    calls, freed = [], []
    module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((len(args[0]), kwargs)), with_kwargs=True)
    monkeypatch.setattr(module_under_test, "empty_caches", lambda: freed.append(True))
    objective = GRPOObjective(config)
    warm_up(config, OneRank(), module, objective, {"temperature": 0.9, "entropy": True})
    assert calls == [(128, {"objective": objective, "temperature": 0.9, "entropy": True})]
    assert freed == [True]
    assert all(parameter.grad is None for parameter in module.parameters())


def two_sequences() -> Pack:
    chance = np.random.default_rng(0)
    return make_pack([TrainingSequence(chance.integers(0, 200, n), np.ones(n)) for n in (40, 23)])


def loss_and_gradients(pack_model: PackModel, level: str) -> tuple[float, dict[str, Tensor]]:
    pack_model.layers.recompute = level
    pack_model.zero_grad()
    torch.manual_seed(1)
    loss = pack_model(two_sequences(), nll=True)
    loss.backward()
    named = pack_model.named_parameters()
    return loss.item(), {name: p.grad.clone() for name, p in named if p.requires_grad}


def with_adapters(checkpoint: Path, dropout: float) -> PackModel:
    torch.manual_seed(0)
    config = settings(SFTConfig, checkpoint, use_peft=True, lora_dropout=dropout)
    pack_model = PackModel(add_adapters(load_model(str(checkpoint)), config)).train()
    for name, parameter in pack_model.named_parameters():
        if "lora_B" in name:  # at zero, nothing would reach the other half of the adapter
            nn.init.normal_(parameter, std=0.1)
    return pack_model


@pytest.mark.parametrize("dropout", [None, 0.5], ids=["all weights", "adapters with dropout"])
def test_levels_are_equal(dropout: float | None, pack_model: PackModel, tiny_checkpoint: Path) -> None:
    """Bit for bit; dropout draws the same when it is computed again."""
    module = pack_model.train() if dropout is None else with_adapters(tiny_checkpoint, dropout)
    loss, gradients = loss_and_gradients(module, "none")
    for level in ("selective", "full"):
        again, found = loss_and_gradients(module, level)
        assert again == loss
        for name, gradient in gradients.items():
            assert torch.equal(found[name], gradient), (level, name)


def test_compiled_levels_are_equal_under_adapters(tiny_checkpoint: Path) -> None:
    """Those of all weights are in tests/golden/test_compiled.py."""
    torch._dynamo.reset()
    module = with_adapters(tiny_checkpoint, 0.0)
    loss, gradients = loss_and_gradients(module, "none")
    module.layers.compile(backend="aot_eager")
    for level in LEVELS:
        again, found = loss_and_gradients(module, level)
        assert again == pytest.approx(loss, rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


class Failing(PackModel):
    """Raises ``error`` for as long as ``when(level)`` holds."""

    error: Exception
    when: Callable[[str], bool]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.when(self.layers.recompute):
            raise self.error
        return super().forward(*args, **kwargs)


def failing(checkpoint: Path, error: Exception, when: Callable[[str], bool]) -> Failing:
    module = Failing(load_model(str(checkpoint)))
    module.error, module.when = error, when
    module.layers.compiled = True  # nothing is: `compile` was not called, and the layers' own code is found
    module.layers._compiled_forwards = {n: layer.forward.args[1] for n, layer in enumerate(module.layers._layers)}
    return module


NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


def test_the_pass_raises_recomputation(tiny_checkpoint: Path, capsys: Any) -> None:
    module = failing(tiny_checkpoint, NO_MEMORY, lambda level: level != "full")
    capsys.readouterr()  # the bar of loading
    warm_up(settings(SFTConfig, tiny_checkpoint, max_length=64), OneRank(), module)
    assert module.layers.recompute == "full"
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        f"gradient_checkpointing {level} from here on" for level in ("selective", "full")
    ]
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_pass_leaves_to_the_loop_what_it_cannot_mend(tiny_checkpoint: Path) -> None:
    """Micro-batches are halved there."""
    module = failing(tiny_checkpoint, NO_MEMORY, lambda level: True)
    warm_up(settings(SFTConfig, tiny_checkpoint, max_length=64), OneRank(), module)
    assert module.layers.recompute == "full" and module.layers.compiled


def test_a_compiler_that_fails_is_done_without(tiny_checkpoint: Path, capsys: Any) -> None:
    module = failing(tiny_checkpoint, ValueError("no C compiler\nmore"), lambda level: module.layers.compiled)
    warm_up(settings(SFTConfig, tiny_checkpoint, max_length=64), OneRank(), module)
    assert not module.layers.compiled
    said = capsys.readouterr().err
    assert "uncompiled, slower: the compiler failed (no C compiler)" in said and "more" not in said
    assert np.isfinite(module(two_sequences(), nll=True).item())


def test_the_persons_mistakes_stay_errors(tiny_checkpoint: Path) -> None:
    module = failing(tiny_checkpoint, UserError("not so"), lambda level: True)
    with pytest.raises(UserError, match="not so"):
        warm_up(settings(SFTConfig, tiny_checkpoint, max_length=64), OneRank(), module)


def test_the_pass_is_for_compiled_layers_alone(tiny_checkpoint: Path) -> None:
    module = failing(tiny_checkpoint, AssertionError("ran"), lambda level: True)
    module.layers.compiled = False
    warm_up(settings(SFTConfig, tiny_checkpoint, max_length=64), OneRank(), module)


def test_models_that_cannot_share_prompts_say_so(pack_model: PackModel, tiny_checkpoint: Path, capsys: Any) -> None:
    def said(**more: Any) -> bool:
        choose_how_layers_run(settings(GRPOConfig, tiny_checkpoint, **more), OneRank(), pack_model)
        return "each prompt is computed with every completion" in capsys.readouterr().err

    assert not said()
    pack_model.separable = False
    assert said() and not said(share_prompts=False)
    with pytest.raises(UserError, match="leave share_prompts out"):
        said(share_prompts=True)
