"""``open-r1 bench`` on a CPU, all of it: every part measures, through the commands' own code, and all is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from open_r1.cli import main
from open_r1.machine.rates import load_rates

pytestmark = pytest.mark.slow


def test_every_part_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("OPEN_R1_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["bench", "--seconds", "300", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["failed"], said["left_out"]) == ([], [])
    assert {rate["kind"] for rate in said["rates"]} == {"product", "copy", "attention", "sft", "engine"}
    assert len(load_rates()) == len(said["rates"])
    sft = next(rate for rate in said["rates"] if rate["kind"] == "sft")
    assert sft["value"] * sft["settings"]["flops_per_token"] > 1e9
