"""On a GPU: every part of `open-r1 bench` measures, within what the data sheet allows, and nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from open_r1.bench.attention_probe import document_lengths, time_kernel
from open_r1.bench.cases import gpu_cases
from open_r1.bench.packs import made_up_tokens
from open_r1.bench.products_probe import state_under_load, time_copies, time_layer
from open_r1.bench.sft_probe import measure
from open_r1.bench.timing import time_calls
from open_r1.cli import main
from open_r1.machine.cards import card_named
from open_r1.machine.rates import load_rates, sft_mfu
from open_r1.model.published import SHAPES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_marks_in_the_queue_time_what_runs() -> None:
    device = torch.device("cuda")
    a = torch.randn(4096, 4096, device=device, dtype=torch.float16)
    one = time_calls(lambda: a @ a, device).seconds
    four = time_calls(lambda: [a @ a for _ in range(4)], device).seconds
    assert 3.0 < four / one < 5.0


def test_products_and_copies_are_below_the_data_sheet() -> None:
    device = torch.device("cuda")
    card = card_named(torch.cuda.get_device_name())
    timing, flops = time_layer("1.5B", 16_384, "fp16", device)
    copies = time_copies(device, 1 << 28)
    assert [kind for kind, _, _ in copies] == ["copy", "host copy"]
    if card is not None:
        assert 0.05 * card.fp16 < flops / timing.seconds < 1.1 * card.fp16
        assert copies[0][1] / copies[0][2].seconds < 1.1 * card.bandwidth
    state = state_under_load(4096, "fp16", device)
    assert state is None or state["busy"] > 0


@pytest.mark.parametrize("kernel", ["varlen", "documents", "fa4"])
def test_attention_is_timed_by_each_kernel(kernel: str) -> None:
    from open_r1.model.flash import has_flash_attention_4

    if kernel == "fa4" and not (has_flash_attention_4() and torch.cuda.get_device_capability()[0] >= 9):
        pytest.skip("flash-attn-4 does not run here")
    forward, both = time_kernel(
        kernel, SHAPES["1.5B"], document_lengths(4096, 2048), torch.bfloat16, torch.device("cuda")
    )
    assert 0 < forward.seconds < both.seconds


def test_training_is_measured_with_compiled_layers() -> None:
    free, capability = torch.cuda.mem_get_info()[0], torch.cuda.get_device_capability()
    cases = next((cases for cases in gpu_cases(free, capability) if cases[0].shape == "0.5B"), None)
    if cases is None:
        pytest.skip("0.5B does not fit here")
    stores = [made_up_tokens(SHAPES["0.5B"].vocabulary, case.tokens, case.length) for case in cases]
    for measured in measure(cases, stores, capability, lambda what: None):
        assert measured["compiled"]
        assert measured["peak"] > 2 * measured["parameters"]
        assert measured["tokens"] / measured["seconds"] > 1000


def test_the_command_measures_all_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("OPEN_R1_HOME", str(tmp_path))
    assert main(["bench", "--seconds", "400", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["failed"] == []
    assert said["left_out"] == []
    rates = load_rates()
    assert {rate.kind for rate in rates} >= {"product", "copy", "host copy", "attention", "sft", "engine"}
    card = card_named(torch.cuda.get_device_name())
    if card is not None and any(rate.kind == "sft" for rate in rates):
        mfu, _ = sft_mfu(card, 494_000_000, 2048, rates)
        assert 0.05 < mfu < 1.0
