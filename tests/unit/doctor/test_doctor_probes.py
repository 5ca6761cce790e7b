"""What runs in children: right here, and able to see what is wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from open_r1.doctor import attention_probe, matmul_probe
from open_r1.doctor.matmul_shapes import GPU_ROWS, LAYOUTS, Product, products
from open_r1.machine.child import run_child

CPU = torch.device("cpu")
TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn]
SMALL = [Product("small", layout, 48, 64, 80) for layout in LAYOUTS]
SMALL += [Product("small", "batched scores", 33, 16, 33, 3), Product("small", "batched values", 33, 33, 16, 3)]


CASES = [(product, dtype) for product in SMALL for dtype in TYPES[:3]] + [(SMALL[0], TYPES[3])]


@pytest.mark.parametrize(("product", "dtype"), CASES, ids=lambda value: getattr(value, "layout", str(value)))
def test_right_products_are_within_what_rounding_allows(product: Product, dtype: torch.dtype) -> None:
    assert matmul_probe.relative_error(product, dtype, CPU) < 0.5


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("fault", ["one tile", "zeros", "not a number", "a product in fewer bits"])
def test_wrong_products_are_not(fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    right = matmul_probe.multiply

    def wrong(a, b):
        result = right(a, b)
        if fault == "one tile":
            result[16:32, 16:32] = result[16:32, 32:48].clone()
        elif fault == "zeros":
            result[-1] = 0
        elif fault == "not a number":
            result[3, 5] = float("nan")
        else:
            result = (result.float() * 4 / a.shape[-1]).round().to(result.dtype) * a.shape[-1] / 4
        return result

    monkeypatch.setattr(matmul_probe, "multiply", wrong)
    assert not matmul_probe.relative_error(SMALL[0], dtype, CPU) <= 1.0


def test_long_results_are_compared_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    right = matmul_probe.multiply

    def wrong(a, b):
        result = right(a, b)
        result[-1, 0] += 1e3
        return result

    monkeypatch.setattr(matmul_probe, "multiply", wrong)
    tall = dataclasses.replace(SMALL[0], m=2100)
    for dtype in (torch.bfloat16, torch.float32):
        assert matmul_probe.relative_error(tall, dtype, CPU) > 1.0


def test_operands_lie_as_in_training() -> None:
    for product, (a_rows, b_rows) in zip(SMALL[:3], ((True, False), (True, True), (False, True)), strict=True):
        a, b = matmul_probe.operands(product, torch.float32, CPU)
        assert (a.shape, b.shape) == ((48, 64), (64, 80))
        assert (a.is_contiguous(), b.is_contiguous()) == (a_rows, b_rows)


def test_the_products_are_those_of_qwen() -> None:
    tried = list(products(True))
    assert {product.m for product in tried if product.layout == "forward"} == set(GPU_ROWS)
    assert Product("7B", "forward", 16_384, 3584, 152_064) in tried
    assert Product("0.5B", "gradient of weights", 4864, 16_384, 896) in tried
    assert any(product.batch > 1 for product in tried)
    assert all(product.k % 16 == 0 and product.n % 16 == 0 for product in products(True, ("forward",)))


def test_attention_agrees_and_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = attention_probe.kernel_errors("documents", CPU, 4, 2, 16)
    assert set(errors) == {"output", "gradient of queries", "gradient of keys", "gradient of values"}
    assert max(errors.values()) < attention_probe.allowed_error(torch.float32)
    right = attention_probe.attend
    monkeypatch.setattr(attention_probe, "attend", lambda kernel, q, k, v: right(kernel, q, k, v.roll(1, 0)))
    assert attention_probe.kernel_errors("documents", CPU, 4, 2, 16)["output"] > 0.1


def test_the_probes_answer_from_a_child() -> None:
    assert run_child("open_r1.doctor.torch_probe", {}, seconds=120).facts["version"] == torch.__version__
    outcome = run_child("open_r1.doctor.attention_probe", {"kernel": "documents", "device": "cpu"}, seconds=120)
    assert outcome.ended_well and outcome.facts["wrong"] == []
    outcome = run_child("open_r1.doctor.matmul_probe", {"dtype": "bf16", "device": "cpu"}, seconds=120)
    assert outcome.ended_well and outcome.facts["wrong"] == [] and outcome.facts["tried"] > 30
    outcome = run_child("open_r1.doctor.import_probe", {"module": "no_such_library"}, seconds=120)
    assert not outcome.ended_well and "no_such_library" in outcome.last_error
