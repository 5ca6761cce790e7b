"""What parts say becomes rates, remarks and tables."""

from __future__ import annotations

import io
import subprocess
from dataclasses import asdict, replace
from typing import Any

import pytest
from rich.console import Console

from open_r1.bench.cases import LARGE, SHORT
from open_r1.bench.gpu_state import GpuState, gpu_state
from open_r1.bench.parts import Part, choose_parts
from open_r1.bench.progress import BenchProgress, in_words
from open_r1.bench.reading import Origin, Reading, read_part
from open_r1.bench.remarks import busy_before, cause, lagging, share_of_peak, too_low
from open_r1.bench.runner import Done
from open_r1.bench.screen import flops_text, show
from open_r1.bench.session import Session
from open_r1.config import BenchConfig
from open_r1.doctor.gpus import Gpu, Torch
from open_r1.machine.cards import find_card
from open_r1.machine.child import Outcome
from open_r1.machine.rates import Rate, load_rates, save_rates, sft_mfu

H200 = find_card("H200")
GPU = Gpu("NVIDIA H200", int(150e9), int(149e9), (9, 0))
TORCH = Torch(version="2.11", cuda="13.0", gpus=(GPU, GPU), kernels=("fa4", "documents"), chosen="fa4")
ORIGIN = Origin("NVIDIA H200", {"torch": "2.11", "vllm": "0.26"}, "2026-01-02T00:00:00Z")
PARTS = choose_parts(TORCH, None, vllm=True)
SHORTER = replace(LARGE, length=SHORT, batch=LARGE.length // SHORT)
TIMING = {"seconds": 0.01, "spread": 0.02}
SFT = {
    "case": asdict(LARGE),
    "tokens": 100_000,
    "seconds": 2.0,
    "flops_per_token": 1e10,
    "parameters": 1_543_714_304,
    "recompute": "none",
    "compiled": True,
    "start": 20.0,
    "peak": 47 * 2**30,
}


def product(dtype: str, rate: float, shape: str = "square", spread: float = 0.01) -> dict[str, Any]:
    line = {"shape": shape, "dtype": dtype, "rows": 8192, "flops": rate, "seconds": 1.0, "spread": spread}
    return {"product": line}


LINES: dict[str, list[dict[str, Any]]] = {
    "products_probe": [
        product("bf16", 788e12),
        product("bf16", 700e12, "1.5B", spread=0.3),
        product("fp8", 1480e12),
        {"copy": {"kind": "copy", "bytes": 4.2e12, "seconds": 1.0, "spread": 0.0}},
        {"copy": {"kind": "host copy", "bytes": 52e9, "seconds": 1.0, "spread": 0.0}},
    ],
    "sft_probe": [{"sft": SFT}, {"sft": SFT | {"case": asdict(SHORTER), "start": 0.0, "seconds": 2.5}}],
    "engine_probe": [{"engine": {"tokens": 131_072, "seconds": 2.5, "start": 40.0}}],
    "attention_probe": [
        {"attention": {"kernel": "fa4", "length": 16_384, "forward_flops": 5e12, "forward": TIMING, "both": TIMING}}
    ],
    "gpus_probe": [{"rates": [780e12, 500e12]}],
    "all_reduce_probe": [{"joined": 0}, {"summed": 0}, {"bandwidth": 350e9}],
}


def done(part: Part, *lines: dict[str, Any], status: int | None = 0) -> Done:
    lines = (*(lines or LINES[part.module.rpartition(".")[2]]), {"at": ""})
    facts = {name: value for line in lines for name, value in line.items()}
    return Done(part, Outcome(facts, tuple(lines), status), 30.0)


def session(*, left_out: tuple[str, ...] = ()) -> Session:
    made = Session(BenchConfig(), TORCH, ORIGIN, H200)
    for part in PARTS:
        ended = Done(part, None) if part.name in left_out else done(part)
        made.parts.append((part, read_part(ended, ORIGIN)))
    return made


def rates_of(kind: str) -> list[Rate]:
    return [rate for rate in session().rates if rate.kind == kind]


def test_rates_have_their_values() -> None:
    assert [rate.value for rate in rates_of("product")] == [788e12, 700e12, 1480e12]
    forward, both = rates_of("attention")[:2]
    assert (forward.value, both.value) == (500e12, 1500e12)
    assert rates_of("sft")[0].value == 50_000
    assert [rate.tokens for rate in rates_of("sft")[:2]] == [LARGE.length, SHORTER.length]
    assert rates_of("sft")[1].settings["micro_batch"] == LARGE.batch * LARGE.length
    assert rates_of("engine")[0].value == pytest.approx(131_072 / 2.5)
    assert rates_of("all-reduce")[0].value == 350e9


def test_the_engines_version_belongs_to_the_engines_rate_alone() -> None:
    assert "vllm" in rates_of("engine")[0].versions
    assert "vllm" not in rates_of("sft")[0].versions


def test_all_is_kept_and_a_plan_can_reckon_with_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_R1_HOME", str(tmp_path))
    save_rates(session().rates)
    stored = load_rates()
    assert {rate.key for rate in stored} == {rate.key for rate in session().rates}
    mfu, source = sft_mfu(H200, 1_543_714_304, 16_384, stored)
    assert mfu == pytest.approx(50_000 * 1e10 / 989e12)
    assert source


def test_a_part_that_says_why_it_failed_says_it_once() -> None:
    failed = read_part(done(PARTS[1], {"failed": "out of memory"}), ORIGIN)
    assert (failed.failures, failed.rates) == (["out of memory"], [])


def test_a_death_after_all_was_said_is_none() -> None:
    assert read_part(done(PARTS[3], LINES["engine_probe"][0], status=-11), ORIGIN).failures == []


def test_shares_of_the_data_sheet() -> None:
    bf16, _, fp8 = rates_of("product")
    assert share_of_peak(bf16, H200) == pytest.approx(788 / 989)
    assert share_of_peak(fp8, H200) == pytest.approx(1480 / 1979)
    assert share_of_peak(rates_of("copy")[0], H200) == pytest.approx(4.2 / 4.8)
    assert share_of_peak(rates_of("sft")[0], H200) == pytest.approx(500 / 989)
    assert share_of_peak(rates_of("engine")[0], H200) is None
    assert share_of_peak(bf16, None) is None


def test_good_rates_are_not_remarked_on() -> None:
    assert too_low(session().rates, H200, None) == []
    assert busy_before(GPU, GpuState(busy=0.0)) == []
    assert lagging([780e12, 770e12]) == lagging([1.0]) == lagging([]) == []


def test_low_rates_come_with_a_cause() -> None:
    lines = (product("bf16", 307e12), product("bf16", 1e12, "0.5B"))
    slow = (
        *lines,
        {"copy": {"kind": "copy", "bytes": 1e12, "seconds": 1.0, "spread": 0.0}},
        {"copy": {"kind": "host copy", "bytes": 3e9, "seconds": 1.0, "spread": 0.0}},
    )
    rates = read_part(done(PARTS[0], *slow), ORIGIN).rates
    products, copies, host, why = too_low(rates, H200, GpuState(600, 1980, 345, 350, 60, 100))
    assert products == "bf16 products reach 31 % of this card's 989 TFLOP/s"
    assert copies.startswith("copies in memory reach 21 %")
    assert "3.0 GB/s" in host
    assert why.startswith("under load: 600 of 1,980 MHz, 345 of 350 W")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "does not tell"),
        (GpuState(), "does not tell"),
        (GpuState(1900, 1980, 300, 700, 50), "another process"),
        (GpuState(900, 1980, 690, 700, 50), "power holds"),
        (GpuState(900, 1980, 300, 700, 88), "heat holds"),
        (GpuState(900, 1980, 300, 700, 50), "PERFORMANCE"),
    ],
)
def test_the_cause_follows_clock_power_and_heat(state: GpuState | None, said: str) -> None:
    assert said in cause(state)


def test_somebody_else_on_the_gpu_is_said() -> None:
    computing, holding = busy_before(Gpu("NVIDIA H200", int(150e9), int(110e9)), GpuState(busy=93.0))
    assert "93 %" in computing
    assert "37.3 GiB" in holding


def test_the_gpu_that_lags_is_named() -> None:
    (line,) = lagging([780e12, 500e12])
    assert line.startswith("GPU 1 does 500 TFLOP/s where the others do 780")


def test_nvidia_smi_is_read_whatever_it_leaves_out() -> None:
    asked: list[str] = []

    def run(command: list[str]) -> str:
        asked.extend(command)
        return "1980, 1980, 690.5, [N/A], 61, 100\n"

    assert gpu_state("abc", run) == GpuState(1980, 1980, 690.5, 0.0, 61, 100)
    assert "--id=GPU-abc" in asked

    def missing(command: list[str]) -> str:
        raise FileNotFoundError

    def failing(command: list[str]) -> str:
        raise subprocess.CalledProcessError(9, command)

    assert gpu_state(run=missing) is gpu_state(run=failing) is gpu_state(run=lambda _: "") is None


def printed(made: Session) -> str:
    console = Console(file=io.StringIO(), width=110)
    show(console, made.parts, made.card, TORCH.chosen)
    return console.file.getvalue()


def test_tables_show_every_rate() -> None:
    text = printed(session())
    for shown in (
        "788 (80 %)", "700 ± 15 %", "1,480 (75 %)", "4,200.0 (88 %)", "52.0", "flash-attn-4 *", "50,000", "50.6 %",
        "47.0", "52,429", "500 TFLOP/s", "350.0 GB/s",
    ):  # fmt: skip
        assert shown in text
    assert max(map(len, text.splitlines())) <= 110


def test_what_failed_is_under_the_tables() -> None:
    made = session()
    made.parts[1] = (PARTS[1], Reading(failures=["died by SIGFPE"]))
    assert f"✗ {PARTS[1].title}: died by SIGFPE" in printed(made)


def test_what_was_left_out_can_be_asked_for() -> None:
    made = session(left_out=("sft", "engine"))
    assert {part.name for part in made.left_out} == {"sft", "engine"}
    command = made.command_for_rest()
    assert command.startswith("open-r1 bench --only sft engine --seconds ")
    assert int(command.split()[-1]) >= sum(part.usual for part in PARTS if part.name in ("sft", "engine"))


def test_progress_in_a_log_is_a_line_a_part() -> None:
    console = Console(file=io.StringIO(), width=110)
    with BenchProgress(60.0, console=console) as progress:
        for part, reading in session(left_out=("gpus",)).parts:
            progress.waiting(part, 1.0)
            progress.done(part, reading)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == len([part for part in PARTS if part.name != "gpus"])
    assert lines[0].startswith("✓ matrix products and copies: 788 TFLOP/s in bf16")
    assert "\x1b" not in console.file.getvalue()


def test_rates_in_words() -> None:
    assert in_words(Reading()) == ""
    assert in_words(read_part(done(PARTS[1]), ORIGIN)) == "50,000 tokens/s at 16,384, 40,000 tokens/s at 2,048"
    assert (flops_text(123.4e12), flops_text(0.0932e12)) == ("123 TFLOP/s", "93.2 GFLOP/s")
