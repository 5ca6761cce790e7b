"""The benchmark of plans runs to its table, with a tiny shape on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ["0.5b-2k", "1.5b-16k-8bit", "1.5b-lora-16k", "grpo-0.5b", "grpo-1.5b-lora"]


@pytest.mark.slow
def test_every_kind_of_case_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "planning.py"), "--tiny", "--device", "cpu"]
    command += ["--json", str(tmp_path / "out.json"), "--cases", *CASES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads((tmp_path / "out.json").read_text())
    assert [result["case"] for result in results] == ["0.5b-2k", "1.5b-16k-8bit", "1.5b-lora-16k", *CASES[3:]]
    assert all("error" not in result and result["steps"] == 3 and result["predicted_gb"] > 0 for result in results)
    assert all(f"| {name} | " in done.stdout for name in CASES)


@pytest.mark.slow
def test_a_case_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "planning.py"), "--tiny", "--device", "cpu"]
    command += ["--timeout", "0.5", "--json", str(tmp_path / "out.json"), "--cases", "0.5b-2k", "1.5b-16k-8bit"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads((tmp_path / "out.json").read_text())
    assert [result["case"] for result in results] == ["0.5b-2k", "1.5b-16k-8bit"]
    assert all(result["error"].startswith("not done in") for result in results)
    assert "0.5b-2k: not done in" in done.stdout
