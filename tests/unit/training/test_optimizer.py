"""What is decayed and what is not."""

from __future__ import annotations

import torch
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM

from open_r1.config import TrainingConfig
from open_r1.training.optimizer import build_optimizer


def test_groups_and_settings() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "linear": nn.Linear(4, 3), "norm": nn.LayerNorm(3)})
    frozen = model["embed"].requires_grad_(False)
    config = TrainingConfig(
        output_dir="out", weight_decay=0.3, learning_rate=0.02, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6
    )
    optimizer = build_optimizer(model, config)
    decayed, others = optimizer.param_groups
    assert [id(parameter) for parameter in decayed["params"]] == [id(model["linear"].weight)]
    assert {id(parameter) for parameter in others["params"]} == {
        id(model["linear"].bias),
        *map(id, model["norm"].parameters()),
    }
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.8, 0.95), 1e-6)
    assert all(parameter is not frozen.weight for group in optimizer.param_groups for parameter in group["params"])


def test_decay_by_hand() -> None:
    model = nn.Linear(2, 2)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    optimizer = build_optimizer(model, TrainingConfig(output_dir="out", weight_decay=0.5, learning_rate=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight, torch.full((2, 2), 0.95))  # 1 - rate · decay
    torch.testing.assert_close(model.bias, torch.ones(2))


def test_biases_of_experts_are_not_decayed() -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8, "num_local_experts": 4}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts_per_tok": 2}
    model = GptOssForCausalLM(GptOssConfig(**sizes))
    optimizer = build_optimizer(model, TrainingConfig(output_dir="out", weight_decay=0.5))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in decayed]
    assert {name for name in names if "bias" in name or "norm" in name} == set()
    assert any(name.endswith("experts.gate_up_proj") for name in names)


def test_a_model_of_vectors_alone() -> None:
    assert len(build_optimizer(nn.LayerNorm(3), TrainingConfig(output_dir="out")).param_groups) == 1


def test_low_memory_optimizers_by_name() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(80, 64), "linear": nn.Linear(64, 64)}).bfloat16()
    for name, dtype in (("adamw_8bit", torch.uint8), ("paged_adamw_32bit", torch.float32)):
        optimizer = build_optimizer(model, TrainingConfig(output_dir="out", optim=name))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert optimizer.state[model["linear"].weight]["exp_avg"].dtype == dtype
        assert optimizer.state[model["embed"].weight]["exp_avg"].dtype == torch.float32
        assert optimizer.state[model["linear"].bias]["exp_avg"].dtype == torch.float32
