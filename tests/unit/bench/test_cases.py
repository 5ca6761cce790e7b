"""Which shapes are measured on which card, and that a case is what `open-r1 sft` would run."""

from __future__ import annotations

import pytest

from open_r1.bench.cases import ADAPTERS, LARGE, ON_CPU, SFTCase, fits, gpu_cases, settings_of
from open_r1.bench.parts import choose_parts
from open_r1.doctor.gpus import Gpu, Torch
from open_r1.model.published import SHAPES
from open_r1.model.shape import ModelShape

AMPERE, TURING = (8, 0), (7, 5)


def titles(free: float, capability: tuple[int, int] = AMPERE) -> list[str]:
    return [case.title for cases in gpu_cases(free, capability) for case in cases]


def test_a_large_card_gets_all_and_a_small_one_what_fits() -> None:
    assert titles(140e9) == ["1.5B, 16,384", "1.5B, 2,048", "0.5B, 16,384", "0.5B, 2,048", "7B LoRA, 8,192"]
    small = titles(8e9)
    assert small[0] == "0.5B, 16,384"
    assert not any(title.startswith("7B") for title in small)
    assert titles(1e9) == []


@pytest.mark.parametrize("free", [2e9, 6e9, 12e9, 16e9, 24e9, 48e9])
@pytest.mark.parametrize("capability", [AMPERE, TURING])
def test_what_is_chosen_fits_and_comes_once(free: float, capability: tuple[int, int]) -> None:
    models = gpu_cases(free, capability)
    cases = [case for model in models for case in model]
    assert all(fits(case, free, capability) for case in cases)
    assert len({case.title for case in cases}) == len(cases)
    for model in models:  # a process trains one model, whose layers are compiled for one number of tokens
        assert len({(case.shape, case.adapters, case.batch * case.length) for case in model}) == 1


def test_shapes_are_the_published_ones() -> None:
    counts = {name: ModelShape.of(shape.config()).parameters for name, shape in SHAPES.items()}
    assert counts["0.5B"] == pytest.approx(494e6, rel=0.001)
    assert counts["1.5B"] == pytest.approx(1_544e6, rel=0.001)
    assert counts["7B"] == pytest.approx(7_616e6, rel=0.001)


def test_products_of_a_layer_are_its_linear_weights() -> None:
    for shape in SHAPES.values():
        linear = sum(ins * outs for ins, outs in shape.products)
        assert linear * shape.layers == ModelShape.of(shape.config()).linear


@pytest.mark.parametrize(
    ("case", "capability", "weights", "computes"),
    [
        (LARGE, AMPERE, "bfloat16", (False, False)),
        (ADAPTERS, AMPERE, None, (True, False)),
        (LARGE, TURING, None, (False, True)),
        (ON_CPU, None, "float32", (False, False)),
    ],
)
def test_precision_is_what_the_chip_has(
    case: SFTCase, capability: tuple[int, int] | None, weights: str | None, computes: tuple[bool, bool]
) -> None:
    config = settings_of(case, capability)
    assert (config.torch_dtype, (config.bf16, config.fp16)) == (weights, computes)


def machine(*gpus: Gpu, kernels: tuple[str, ...] = ("fa4", "varlen", "documents")) -> Torch:
    return Torch(version="2.11", cuda="13.0", gpus=gpus, kernels=kernels, chosen=kernels[0])


H200 = Gpu("NVIDIA H200", int(150e9), int(149e9), (9, 0))
T4 = Gpu("Tesla T4", int(15.6e9), int(15e9), TURING)


def test_parts_follow_the_machine() -> None:
    parts = choose_parts(machine(H200), None, vllm=True)
    assert parts[2].asked["kernel"] == "fa4"
    assert [part.name for part in parts[:4]] == ["products", "sft", "attention", "engine"]
    assert parts[0].asked["dtypes"] == ["bf16", "fp16", "fp8"]
    assert [part.asked["kernel"] for part in parts if part.name == "attention"] == ["fa4", "varlen", "documents"]
    assert (parts[3].asked["vllm"], parts[3].asked["sequences"]) == (True, 512)
    assert [part.title for part in parts if part.name == "sft"] == [
        "training 1.5B, 16,384 and 2,048", "training 0.5B, 16,384 and 2,048", "training 7B LoRA, 8,192",
    ]  # fmt: skip
    assert sum(part.usual for part in parts[:4]) <= 120  # a rate of each kind in the two minutes that are the default
    assert not any(part.name == "gpus" for part in parts)


def test_an_old_card_is_asked_for_what_it_has() -> None:
    parts = choose_parts(machine(T4, kernels=("documents",)), None, vllm=False)
    assert parts[0].asked["dtypes"] == ["fp16"]
    engine = next(part for part in parts if part.name == "engine")
    assert (engine.asked["dtype"], engine.asked["vllm"], engine.asked["sequences"]) == ("float16", False, 256)


def test_several_cards_are_compared_and_their_links_measured() -> None:
    parts = choose_parts(machine(H200, H200), ["gpus"], vllm=False)
    assert [part.module.rpartition(".")[2] for part in parts] == ["gpus_probe", "all_reduce_probe"]
    assert parts[0].asked["devices"] == ["cuda:0", "cuda:1"]


def test_only_leaves_the_others_out() -> None:
    assert {part.name for part in choose_parts(Torch(version="2.11"), ["sft"])} == {"sft"}
    assert [part.name for part in choose_parts(Torch(version="2.11"), None)] == [
        "products", "attention", "sft", "engine",
    ]  # fmt: skip
