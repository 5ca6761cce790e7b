"""``open-r1 bench`` as a person calls it, on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from open_r1.bench.reading import Origin
from open_r1.cli import main
from open_r1.commands.bench import counts_for_plans, versions_of
from open_r1.config import BenchConfig, parse
from open_r1.doctor.gpus import Gpu, Torch
from open_r1.errors import UserError
from open_r1.machine.cards import card_named
from open_r1.machine.limits import processor
from open_r1.machine.rates import Rate, load_rates


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPEN_R1_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path / "home"


def test_one_part_is_measured_printed_and_kept(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--only", "attention", "--seconds", "100", "--json"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert "✓ attention, documents" in err
    assert [rate["kind"] for rate in said["rates"]] == ["attention"] * 4
    assert all(rate["value"] > 0 for rate in said["rates"])
    assert (said["failed"], said["left_out"], said["remarks"]) == ([], [], [])
    assert [rate.value for rate in load_rates()] == [rate["value"] for rate in said["rates"]]
    assert said["saved"].endswith("rates.json")


def test_without_time_it_says_how_to_go_on(own_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--only", "sft", "--seconds", "1"]) == 1
    out = capsys.readouterr().out
    assert "No time was left for: training demo, 256" in out
    assert "    open-r1 bench --only sft --seconds 30\n" in out
    assert not own_folder.exists()


def test_nothing_is_kept_where_that_is_asked(own_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "products", "--no_save", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["saved"] is None
    assert not own_folder.exists()


def test_a_place_that_cannot_be_written_loses_no_screen(own_folder: Path, capsys: pytest.CaptureFixture) -> None:
    own_folder.write_text("a file")
    assert main(["bench", "products"]) == 0
    out = capsys.readouterr().out
    assert "matrix products, " in out
    assert "the rates are not kept" in out


@pytest.mark.parametrize(
    ("device", "kinds", "counts"),
    [
        ("NVIDIA H200", {"product", "attention"}, False),
        ("NVIDIA H200", {"engine"}, True),
        ("NVIDIA GeForce RTX 4080", {"product", "engine"}, True),
        ("NVIDIA GeForce RTX 4080", {"engine"}, False),
        ("NVIDIA GeForce RTX 4080", {"sft"}, True),
        ("", {"product", "engine"}, False),
        ("", {"sft"}, True),
    ],
)
def test_plans_are_only_promised_what_they_reckon_with(device: str, kinds: set[str], counts: bool) -> None:
    gpus = (Gpu(device, 17 * 10**9, 17 * 10**9, (8, 9)),) if device else ()
    sft = {"parameters": 1e9, "flops_per_token": 1e10, "adapters": False, "recompute": "none"}
    settings = {"product": {"dtype": "bf16"}, "sft": sft}
    common = {"card": device, "tokens": 1, "value": 1e3, "unit": "", "versions": {}, "date": ""}
    rates = [Rate(kind=kind, shape="square", settings=settings.get(kind, {}), **common) for kind in kinds]
    session = SimpleNamespace(
        torch=Torch(gpus=gpus), origin=Origin(device, {}, ""), card=card_named(device), rates=rates
    )
    assert counts_for_plans(session) is counts


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--only", "everything"], ["--only"]])
def test_impossible_settings_are_one_line(words: list[str]) -> None:
    with pytest.raises(UserError):
        parse(BenchConfig, words, prog="open-r1 bench")


def test_the_processor_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("vendor_id\t: X\nmodel name\t: AMD EPYC 9B14\nmodel name\t: AMD EPYC 9B14\n")
    assert processor(tmp_path / "cpuinfo").startswith("AMD EPYC 9B14, ")
    assert processor(tmp_path / "missing").endswith(" cores")


def test_versions_are_those_of_what_computes() -> None:
    versions = versions_of("2.13.0+cpu")
    assert versions["torch"] == "2.13.0+cpu"
    assert set(versions) >= {"open-r1", "transformers"}
