from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from open_r1.doctor.gpu_checks import check_driver, check_gpus, check_links, check_precision, check_torch, link_kinds
from open_r1.doctor.gpus import Driver, Gpu, Torch, ask_driver, torch_from
from open_r1.doctor.situation import torch_on_disk
from open_r1.machine.child import Outcome

GB = 10**9
H200 = Gpu("NVIDIA H200", 150 * GB, 149 * GB, (9, 0))
DRIVER = Driver("580.65.06", (H200,))
TORCH = Torch("2.11.0+cu130", "13.0", gpus=(H200,), built_for=("sm_80", "sm_90"))

TOPOLOGY = """\
\x1b[4m\tGPU0\tGPU1\tGPU2\tCPU Affinity\tNUMA Affinity\x1b[0m
GPU0\t X \tNV18\tSYS\t0-63\t0
GPU1\tNV18\t X \tSYS\t0-63\t0
GPU2\tSYS\tSYS\t X \t64-127\t1

Legend:
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def test_torch_that_fits_is_well() -> None:
    assert check_torch(TORCH, DRIVER).level == "ok"
    assert check_torch(Torch("2.13.0+cpu"), Driver()).summary == "2.13.0 (for CPUs only)"


def test_a_build_for_cpus_on_a_gpu_machine() -> None:
    found = check_torch(Torch("2.13.0+cpu"), DRIVER)
    assert found.level == "fail" and "cannot use the 1 GPU" in found.summary and "uninstall -y torch" in found.fix


def test_torch_finds_no_gpu_though_the_driver_does() -> None:
    blind = Torch("2.11.0", "13.0", error="The NVIDIA driver on your system is too old (found version 12020).\nMore.")
    found = check_torch(blind, DRIVER)
    assert found.level == "fail" and "too old (found version 12020)" in found.summary and "More." in found.detail
    hidden = check_torch(Torch("2.11.0", "13.0"), DRIVER, visible_devices="")
    assert hidden.level == "warn" and hidden.fix == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("name", "capability", "level"),
    [("L40S", (8, 9), "ok"), ("RTX 5090", (12, 0), "fail"), ("T4", (7, 5), "fail"), ("H200", (9, 0), "ok")],
)
def test_kernels_for_the_chip(name: str, capability: tuple[int, int], level: str) -> None:
    gpu = Gpu(name, GB, GB, capability)
    assert (
        check_torch(Torch("2.11.0", "13.0", gpus=(gpu,), built_for=("sm_80", "sm_86", "sm_90a")), DRIVER).level == level
    )
    compiled = Torch("2.11.0", "13.0", gpus=(gpu,), built_for=("sm_80", "compute_75"))
    assert check_torch(compiled, DRIVER).level == "ok"


def test_torch_that_dies_or_is_damaged() -> None:
    killed = torch_from(Outcome({"at": "import torch"}, status=-4))
    found = check_torch(killed, Driver())
    assert found.level == "fail" and "import torch dies by SIGILL" in found.summary
    assert "ATEN_CPU_CAPABILITY" in found.fix
    broken = torch_from(Outcome({"at": "import torch"}, status=1, errors="ImportError: libcudart.so.13: cannot open"))
    assert "libcudart.so.13" in check_torch(broken, Driver()).summary
    hanging = torch_from(Outcome({"at": "CUDA initialisation", "version": "2.11.0", "cuda": "13.0"}, status=None))
    assert "CUDA initialisation does not end" in check_torch(hanging, Driver()).summary


def test_a_driver_too_old_for_torchs_cuda() -> None:
    found = check_driver(Torch("2.11.0+cu130", "13.0", error="too old"), Driver("535.129.03", (H200,)))
    assert found.level == "fail" and "CUDA 13.0" in found.summary and "580" in found.fix
    started = check_driver(TORCH, Driver("535.129.03", (H200,)))
    assert started.level == "ok" and "CUDA starts all the same" in started.summary
    assert check_driver(Torch("2.6.0", "12.4"), Driver("535.129.03", (H200,))).level == "ok"
    assert check_driver(TORCH, DRIVER).summary == "580.65.06"
    assert check_driver(TORCH, Driver()).summary.startswith("its version is not known")
    assert check_driver(Torch("2.13.0+cpu"), Driver()).level == "skip"


def test_nvidia_smi_that_fails_is_said() -> None:
    def mismatch(command: list[str]) -> str:
        raise subprocess.CalledProcessError(18, command, "Failed to initialize NVML: Driver/library version mismatch\n")

    driver = ask_driver(mismatch, Path("/nowhere"))
    found = check_driver(TORCH, driver)
    assert found.level == "fail" and "Driver/library version mismatch" in found.summary and "reboot" in found.fix


def test_what_nvidia_smi_lists(tmp_path: Path) -> None:
    rows = "580.65.06, NVIDIA H200, 143771, 143000\n580.65.06, NVIDIA H200, 143771, 20\n"
    driver = ask_driver(lambda command: TOPOLOGY if "topo" in command else rows)
    assert driver.version == "580.65.06" and driver.topology == TOPOLOGY
    assert [gpu.memory for gpu in driver.gpus] == [143771 << 20] * 2

    def absent(command: list[str]) -> str:
        raise FileNotFoundError(command[0])

    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n")
    assert ask_driver(absent, tmp_path / "version") == Driver("550.54.15")
    assert ask_driver(absent, tmp_path / "gone") == Driver()


def test_memory_that_others_have() -> None:
    busy = Gpu("NVIDIA H200", 150 * GB, 20 * GB, (9, 0))
    (found,) = check_gpus((H200, busy))
    assert found.level == "warn" and "GPU 1" in found.summary and "130 GB of 150 GB" in found.summary
    assert check_gpus((H200, H200))[0].summary == "2 × NVIDIA H200, 150 GB"
    mixed = check_gpus((H200, Gpu("T4", 15 * GB, 15 * GB, (7, 5))))
    assert mixed[0].level == "warn" and "several kinds" in mixed[0].summary


def test_types_by_generation() -> None:
    assert check_precision((H200,)).summary == "bf16, fp16, fp8"
    found = check_precision((H200, Gpu("Tesla T4", 15 * GB, 15 * GB, (7, 5))))
    assert found.level == "warn" and "--fp16 true" in found.fix
    assert check_precision((Gpu("A100", GB, GB, (8, 0)),)).summary == "bf16, fp16"


def test_links() -> None:
    assert link_kinds(TOPOLOGY) == {"NVLink": 1, "PCIe": 2}
    assert check_links(3, TOPOLOGY, True).summary == "PCIe (2 of 3 pairs), NVLink (1 of 3 pairs)"
    found = check_links(3, TOPOLOGY, False)
    assert found.level == "warn" and "zero2.yaml" in found.fix
    assert (Path(__file__).resolve().parents[3] / "recipes/accelerate_configs/zero2.yaml").is_file()
    assert check_links(1, "", True).level == "skip"
    assert check_links(2, "", True).level == "ok"


def test_torch_is_read_from_its_file_without_an_import(tmp_path: Path) -> None:
    text = "__version__ = '2.11.0+cu130'\ndebug = False\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
    (tmp_path / "version.py").write_text(text)
    torch = torch_on_disk(Driver("580.1", (Gpu("NVIDIA H200", 150 * GB, 149 * GB),)), tmp_path)
    assert (torch.version, torch.cuda, torch.hip) == ("2.11.0+cu130", "13.0", None)
    assert torch.gpus[0].capability == (9, 0)
    assert torch_on_disk(Driver()).version
    assert "damaged" in torch_on_disk(Driver(), tmp_path / "gone").error
