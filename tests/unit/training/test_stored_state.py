"""Models whose files have other names than the module: experts that lie apart, a prefix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from saver import Saver, weights
from tiny_checkpoint import save_tiny_moe, save_tiny_prefixed
from training_runs import assert_same_weights, load_weights

from open_r1.errors import UserError
from open_r1.parallel.runtime import Runtime
from open_r1.training.stored_state import read_weights

EXPERT = "model.layers.0.mlp.experts.0.down_proj.weight"


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_moe(tmp_path_factory.mktemp("moe") / "model")


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prefixed(tmp_path_factory.mktemp("prefixed") / "model")


@pytest.mark.parametrize(
    ("source", "name"), [("moe", EXPERT), ("prefixed", "model.language_model.layers.0.mlp.down_proj.weight")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_files_have_the_names_of_the_hub_and_come_back(
    source: str, name: str, dtype: torch.dtype, request: pytest.FixtureRequest, tmp_path: Path, runtime: Runtime
) -> None:
    one, other = (Saver(request.getfixturevalue(source), tmp_path / "run", runtime) for _ in range(2))
    one.model.to(dtype), other.model.to(dtype)
    one.step()
    assert name in load_weights(one.save(3))
    drawn = torch.get_rng_state()
    other.load()
    assert torch.equal(torch.get_rng_state(), drawn)
    assert_same_weights(weights(other.model), weights(one.model))
    one.step()
    other.step()
    assert_same_weights(weights(other.model), weights(one.model))  # Adam's moments came back too


def test_weights_of_two_dtypes_stay_exact(moe: Path, tmp_path: Path, runtime: Runtime) -> None:
    saver = Saver(moe, tmp_path / "run", runtime)
    saver.model.to(torch.bfloat16).model.norm.float()
    with torch.no_grad():
        saver.model.model.norm.weight.fill_(1 + 2**-20)
    kept = weights(saver.model)
    saver.save(3)
    saver.model.model.norm.weight.data.zero_()
    saver.load()
    assert_same_weights(weights(saver.model), kept)


def add(stored: dict[str, torch.Tensor]) -> None:
    stored["model.abacus.weight"] = torch.zeros(3)


def lose(stored: dict[str, torch.Tensor]) -> None:
    del stored["model.norm.weight"]


def lose_an_expert(stored: dict[str, torch.Tensor]) -> None:
    for part in ("gate", "up", "down"):
        del stored[f"model.layers.0.mlp.experts.3.{part}_proj.weight"]


def lose_a_layers_experts(stored: dict[str, torch.Tensor]) -> None:
    for name in [name for name in stored if name.startswith("model.layers.0.mlp.experts.")]:
        del stored[name]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (add, "model.abacus.weight is not known"),
        (lose, "model.norm.weight is missing"),
        (lose_an_expert, "model.layers.0.mlp.experts.[a-z_]* has the shape"),
        (lose_a_layers_experts, "model.layers.0.mlp.experts.[a-z_]* is missing"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Callable[[dict[str, torch.Tensor]], None], problem: str, moe: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """And nothing is drawn at random in its place."""
    saver = Saver(moe, tmp_path / "run", runtime)
    file = saver.save(3) / "model.safetensors"
    stored = load_file(file)
    change(stored)
    save_file(stored, file, metadata={"format": "pt"})
    kept = weights(saver.model)
    with pytest.raises(UserError, match=rf"the weights do not fit this model: {problem}"):
        runtime.load_model_state(saver.module, read_weights(file.parent, saver.model))
    assert_same_weights(weights(saver.model), kept)


def test_another_number_of_layers_and_experts(moe: Path, tmp_path: Path, runtime: Runtime) -> None:
    saver = Saver(moe, tmp_path / "run", runtime)
    path = saver.save(3)
    config = saver.model.config
    for name, value, problem in (
        ("num_hidden_layers", 1, "model.layers.1.* is not known"),
        ("num_experts", 8, r"model.layers.0.* has the shape \(4, .*\) where \(8, .*\) is needed"),
    ):
        other = type(saver.model)(type(config).from_pretrained(moe, **{name: value}))
        with pytest.raises(UserError, match=problem):
            runtime.load_model_state(saver.module.__class__(other), read_weights(path, other))
