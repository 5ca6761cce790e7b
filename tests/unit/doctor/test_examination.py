"""The checks together: order, what is left out, defects, exit status, and what a person and a program read."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from open_r1.cli import main
from open_r1.commands import doctor
from open_r1.config import DoctorConfig
from open_r1.config.doctor import CheckName
from open_r1.doctor.examination import Examination, examine, selected
from open_r1.doctor.finding import Finding
from open_r1.doctor.gpus import Driver, Gpu, Torch
from open_r1.doctor.hub import Reply
from open_r1.doctor.registry import CAUSES, CHECKS, Check
from open_r1.doctor.screen import closing_lines, finding_lines
from open_r1.machine.child import Outcome

GB = 10**9
H20 = Gpu("NVIDIA H20", 102 * GB, 101 * GB, (9, 0))
TOPOLOGY = "\tGPU0\tGPU1\nGPU0\t X \tNV18\nGPU1\tNV18\t X \n"


class Made:
    """A made-up machine with two H20s, on which bf16 products die."""

    device = "cuda:0"
    reply = Reply(200, 0.2, 0.0)
    model = None

    def __init__(self, config: DoctorConfig, gpus: tuple[Gpu, ...] = (H20, H20)) -> None:
        self.config, self.gpus = config, gpus
        self.driver = Driver("580.65.06", gpus, TOPOLOGY) if gpus else Driver()
        kernels = ("fa4", "varlen", "documents") if gpus else ("documents",)
        cuda = "13.0" if gpus else None
        self.torch = Torch("2.11.0", cuda, None, gpus, ("sm_90",), True, kernels, kernels[0])

    def child(self, module: str, asked: dict[str, Any], **how: Any) -> Outcome:
        if module.endswith("matmul_probe"):
            if asked["dtype"] == "bf16" and self.gpus:
                cublas = {"file": "/venv/site-packages/nvidia/cublas/lib/libcublas.so.12", "version": "12.1.3"}
                return Outcome({"at": "[2 × 1024]·[1024 × 18432]", "cublas": cublas}, status=-8)
            return Outcome({"tried": 9, "wrong": [], "too_large": 0})
        if module.endswith("attention_probe"):
            return Outcome({"wrong": []})
        if module.endswith("all_reduce_probe"):
            return Outcome({"bandwidth": 2e11}, tuple({"joined": rank} for rank in range(2)))
        return Outcome({"version": "0.26.0"})


def done(config: DoctorConfig, situation: Any, checks: list[Check] | None = None, seconds: float = 45.0) -> Examination:
    found = examine(config, situation, selected(config) if checks is None else checks, seconds)
    return Examination([(check.group, findings) for check, findings in found if findings is not None])


def by_check(examination: Examination) -> dict[str, Finding]:
    return {finding.check: finding for finding in examination.findings}


def test_every_name_is_a_check_and_every_group_stands_together() -> None:
    assert sorted(check.name for check in CHECKS) == sorted(get_args(CheckName))
    groups = list(dict.fromkeys(check.group for check in CHECKS))
    assert [check.group for check in CHECKS] == [group for group in groups for check in CHECKS if check.group == group]
    assert set(CAUSES) <= set(get_args(CheckName))


def test_a_machine_with_gpus() -> None:
    config = DoctorConfig(skip=["packages", "cache_disks", "output_disk"])
    examination = done(config, Made(config))
    found = by_check(examination)
    assert set(found) == {check.name for check in selected(config)}
    assert found["matmul_bf16"].level == "fail" and "SIGFPE" in found["matmul_bf16"].summary
    for name in ("driver", "gpus", "precision", "links", "matmul_fp8", "attention", "all_reduce"):
        assert found[name].level == "ok", found[name]
    assert found["links"].summary == "NVLink"
    assert examination.first.check == "matmul_bf16" and "12.4.5.8" in examination.first.fix
    assert examination.failed(strict=False)


def test_without_a_gpu_there_is_one_line_about_gpus() -> None:
    config = DoctorConfig(only=[check.name for check in CHECKS if check.gpu or check.group == "arithmetic"])
    found = by_check(done(config, Made(config, ())))
    assert set(found) == {"gpus", "matmul_bf16", "matmul_fp32", "attention"}
    assert found["gpus"].level == "skip" and "all_reduce" in found["gpus"].detail
    alone = DoctorConfig(only=["matmul_fp8"])
    assert [finding.check for finding in done(alone, Made(alone, ())).findings] == ["matmul_fp8"]


def test_gpus_that_torch_does_not_see_are_not_computed_on() -> None:
    class Hidden(Made):
        device = "cpu"

    config = DoctorConfig(only=["torch", "gpus", "precision", "matmul_bf16", "matmul_fp16", "matmul_fp8", "all_reduce"])
    situation = Hidden(config)
    situation.torch = Torch("2.11.0", "13.0", error="no driver")
    situation.gpus = (Gpu("NVIDIA H20", 102 * GB, 101 * GB),)
    found = by_check(done(config, situation))
    assert found["torch"].level == "fail" and found["gpus"].level == "ok"
    assert {found[name].level for name in ("precision", "matmul_fp16", "matmul_fp8", "all_reduce")} == {"skip"}


def test_quick_starts_no_children() -> None:
    config = DoctorConfig(quick=True, skip=["packages"])

    class Childless(Made):
        def child(self, *words: Any, **how: Any) -> Outcome:
            raise AssertionError("a child was started")

    found = by_check(done(config, Childless(config)))
    assert [finding.level for finding in found.values() if "--quick" in finding.summary] == ["skip"]
    assert "attention" not in found and "gpus" in found


def test_a_check_with_a_defect_is_a_finding() -> None:
    def broken(situation: Any) -> Finding:
        raise KeyError("frobnicate")

    config = DoctorConfig()
    (finding,) = done(config, Made(config), [Check("cpu", "machine", broken)]).findings
    assert finding.level == "fail" and "KeyError: 'frobnicate'" in finding.summary
    assert "in broken" in finding.detail and "--skip cpu" in finding.fix


def test_a_check_that_hangs_is_a_finding() -> None:
    config = DoctorConfig()
    hanging = Check("cache_disks", "disk", lambda situation: time.sleep(30))
    (finding,) = done(config, Made(config), [hanging], seconds=0.3).findings
    assert finding.level == "fail" and "does not end" in finding.summary


def findings(*levels: str) -> Examination:
    names = ["memory", "hub", "driver", "cpu"]
    each = zip(levels, names, strict=False)
    return Examination([("machine", [Finding(level, name, name, fix=f"mend {name}") for level, name in each])], 3.0)


@pytest.mark.parametrize(
    ("levels", "worst", "first", "failed", "strict"),
    [
        (("ok", "skip"), "ok", None, False, False),
        (("ok", "warn"), "warn", "hub", False, True),
        (("warn", "fail"), "fail", "hub", True, True),
        (("fail", "ok", "fail"), "fail", "driver", True, True),
    ],
)
def test_the_worst_decides(levels: tuple[str, ...], worst: str, first: str | None, failed: bool, strict: bool) -> None:
    examination = findings(*levels)
    assert examination.worst == worst
    assert (examination.first.check if examination.first else None) == first
    assert (examination.failed(strict=False), examination.failed(strict=True)) == (failed, strict)


def test_what_a_person_reads() -> None:
    finding = Finding(
        "fail", "matmul_bf16", "products " * 30, "\n".join(f"line {n}" for n in range(9)), "pip install " * 12
    )
    lines = [line.plain for line in finding_lines(finding, 100, details=False)]
    *text, fix = lines
    assert max(map(len, text)) <= 100 and text[0].startswith("  ✗ matmul_bf16    products")
    assert "line 8" in text[-1] and not any("line 1" in line for line in text)
    assert fix.strip() == f"→ {finding.fix}".strip(), "one line, ready to be pasted"
    assert any("line 1" in line.plain for line in finding_lines(finding, 100, details=True))
    well = Finding("ok", "cpu", "8 CPUs", "of which")
    assert [line.plain for line in finding_lines(well, 100, details=False)] == ["  ✓ cpu            8 CPUs"]


def test_the_last_line_names_what_to_do_first() -> None:
    count, first = (line.plain for line in closing_lines(findings("fail", "warn", "fail", "ok")))
    assert count == "1 well, 1 warning, 2 failed in 3.0 s"
    assert "mend driver" in first and "(driver)" in first
    assert len(list(closing_lines(findings("ok")))) == 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Situation", Made)


def test_the_command(made: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--only", "python", "matmul_bf16"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "machine" and "arithmetic" in out and "\x1b" not in out
    assert 'first of all: pip install "nvidia-cublas-cu12==12.4.5.8"  (matmul_bf16)' in out
    assert main(["doctor", "--only", "python"]) == 0


def test_json(made: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--only", "python", "matmul_bf16", "--json"]) == 1
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record["status"] == "fail" and record["counts"] == {"ok": 1, "warn": 0, "fail": 1, "skip": 0}
    assert record["first"]["check"] == "matmul_bf16"
    assert set(record["findings"][0]) == {"group", "check", "level", "summary", "detail", "fix"}


def test_strict(made: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor", "--only", "hub"]) == 0
    assert main(["doctor", "--only", "hub", "--strict"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "matmul"], "did you mean matmul_fp8"),
        (["--only", "hub", "--skip", "hub"], "only and skip both name hub"),
        (["--skip", *get_args(CheckName)], "leave no check"),
    ],
)
def test_what_cannot_be_asked_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_this_machine(capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path) -> None:
    """Everything that starts no child, for real."""
    assert main(["doctor", "--quick", "--json", "--model", str(tiny_checkpoint), "--skip", "driver"]) in (0, 1)
    record = json.loads(capsys.readouterr().out)
    assert not [finding for finding in record["findings"] if "defect" in finding["summary"]]
    assert any(str(tiny_checkpoint) in finding["summary"] for finding in record["findings"])


def test_a_model_without_a_vocabulary(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_checkpoint / "model.safetensors", tmp_path)
    said = f"{tmp_path}: its tokenizer has no tokens: tokenizer.json is missing"
    for words in ((), ("tokenizer.json",)):
        for name in words:
            shutil.copy(tiny_checkpoint / name, tmp_path)
        main(["doctor", "--quick", "--json", "--model", str(tmp_path), "--only", "cache_disks"])
        findings = json.loads(capsys.readouterr().out)["findings"]
        assert (said in [finding["summary"] for finding in findings]) == (not words)


def test_a_torch_that_dies_takes_nothing_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For real: the import of torch dies by an illegal instruction, as builds for another CPU do."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    assert main(["doctor", "--only", "python", "torch", "matmul_fp32", "attention", "--json"]) == 1
    found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert "import torch dies by SIGILL" in found["torch"]["summary"] and "ATEN_CPU_CAPABILITY" in found["torch"]["fix"]
    assert (found["python"]["level"], found["matmul_fp32"]["level"], found["attention"]["level"]) == (
        "ok",
        "skip",
        "skip",
    )


def test_a_folder_without_weights_is_not_looked_for_at_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["doctor", "--only", "cache_disks", "--model", str(tmp_path), "--json"])
    main(["doctor", "--only", "cache_disks", "--model", str(tmp_path / "gone"), "--json"])
    said = capsys.readouterr().out
    assert f"{tmp_path} holds no safetensors files" in said and f"{tmp_path / 'gone'} is no folder" in said
    assert "the hub reachable" not in said
