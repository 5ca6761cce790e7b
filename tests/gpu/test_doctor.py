"""On a CUDA device: the probes of the doctor end well, and the checklist has no cross about the GPU."""

from __future__ import annotations

import json

import pytest
import torch

from open_r1.cli import main
from open_r1.machine.child import run_child

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_what_torch_says() -> None:
    facts = run_child("open_r1.doctor.torch_probe", {}, seconds=120).facts
    assert len(facts["gpus"]) == torch.cuda.device_count()
    assert facts["chosen"] in facts["kernels"]


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32", "fp8"])
def test_products(dtype: str) -> None:
    needed = {"bf16": (8, 0), "fp8": (8, 9)}.get(dtype, (0, 0))
    if torch.cuda.get_device_capability() < needed:
        pytest.skip(f"this chip has no {dtype}")
    outcome = run_child("open_r1.doctor.matmul_probe", {"dtype": dtype, "device": "cuda:0"}, seconds=240)
    assert outcome.ended_well, outcome.errors
    assert outcome.facts["wrong"] == [] and outcome.facts["tried"] > 40
    assert outcome.facts["cublas"]["version"]


def test_attention() -> None:
    kernels = run_child("open_r1.doctor.torch_probe", {}, seconds=120).facts["kernels"]
    for kernel in kernels:
        asked = {"kernel": kernel, "device": "cuda:0"}
        outcome = run_child("open_r1.doctor.attention_probe", asked, seconds=240)
        assert outcome.ended_well, outcome.errors
        assert outcome.facts["wrong"] == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_sums_over_gpus() -> None:
    asked = {"ranks": torch.cuda.device_count(), "backend": "nccl", "seconds": 100}
    outcome = run_child("open_r1.parallel.all_reduce_probe", asked, seconds=120)
    assert outcome.ended_well and outcome.facts["bandwidth"] > 1e9, outcome.errors


def test_the_checklist(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--only", "torch", "driver", "gpus", "precision", "links", "all_reduce", "attention", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert not [finding for finding in record["findings"] if finding["level"] == "fail"], record
